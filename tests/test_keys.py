"""API keys by themselves: what is taken, what is refused and how, and a file that changes under a running service."""

import hashlib
import logging
import os
from pathlib import Path

import pytest

from app.keys import MAX_FILE_BYTES, MAX_KEYS, Keys, KeysError

ALICE, BOB = "alices-key-0123456789", "bobs-key-0123456789:with=signs"


@pytest.fixture
def key_file(tmp_path):
    """Write a file of keys that nobody else may read."""

    def write(text):
        path = tmp_path / "keys"
        path.write_text(text)
        path.chmod(0o600)
        return path

    return write


def test_each_form_of_a_key_is_found_under_its_name():
    digest = hashlib.sha256(b"a key that only its holder has".replace(b" ", b"-")).hexdigest()
    keys = Keys(f"alice:{ALICE}, {ALICE[::-1]} ,bob:{BOB},carol:sha256:{digest.upper()},sha256:{'0' * 64},", None)
    assert len(keys) == 5
    assert [keys.holder(key.encode()) for key in (ALICE, ALICE[::-1], BOB)] == ["alice", "key-2", "bob"]
    assert keys.holder(b"a-key-that-only-its-holder-has") == "carol"


@pytest.mark.parametrize("wrong", ["", ALICE[:-1], ALICE + "x", ALICE.upper(), f"alice:{ALICE}", "alice", "sha256", ALICE + " "])
def test_what_is_no_key_is_nobodys(wrong):
    assert Keys(f"alice:{ALICE}", None).holder(wrong.encode()) is None


def test_the_digest_of_a_key_is_no_key():
    digest = hashlib.sha256(ALICE.encode()).hexdigest()
    assert Keys(f"alice:sha256:{digest}", None).holder(digest.encode()) is None


def test_a_key_is_compared_with_all_without_an_early_end(monkeypatch):
    compared = []
    monkeypatch.setattr("app.keys.hmac.compare_digest", lambda a, b: compared.append(a) or a == b)
    keys = Keys(f"alice:{ALICE},bob:{BOB},{ALICE[::-1]}", None)
    for key in (ALICE, BOB, "wrong"):
        keys.holder(key.encode())
    assert len(compared) == 9


def test_no_key_is_kept_as_it_is():
    keys = Keys(f"alice:{ALICE}", None)
    assert ALICE not in repr(vars(keys))


def test_a_file_and_a_setting_go_together(key_file):
    path = key_file(f"# who asks\n\nalice:{ALICE}\n  {BOB.replace(':', '')}  \n")
    keys = Keys("carols-key-0123456789", path)
    assert [keys.holder(key.encode()) for key in (ALICE, BOB.replace(":", ""), "carols-key-0123456789")] == [
        "alice",
        "key-3",
        "key-1",
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (",", "GPT2_API_KEYS has no key"),
        ("alice:short", "GPT2_API_KEYS, entry 1: a key has 16 to 512 characters of ASCII and no space; this one has 5"),
        (f"{ALICE},bob:" + "b" * 513, "entry 2: .* this one has 513"),
        ("alice:with a space in the middle of it", "entry 1: a key has 16 to 512 characters of ASCII and no space"),
        ("alice:schlüssel-der-lang-genug-ist", "entry 1: a key has"),
        (f"al ice:{ALICE}", "entry 1: a key's name is up to 64 letters"),
        (f":{ALICE}", "entry 1: a key's name"),
        ("a" * 65 + f":{ALICE}", "entry 1: a key's name"),
        ("alice:sha256:abc", "entry 1: behind sha256: come 64 hexadecimal digits, not these 3 characters"),
        ("sha256:" + "g" * 64, "entry 1: behind sha256:"),
        (f"alice:{ALICE},alice:{BOB}", "the name of the API key alice stands there twice"),
        (f"alice:{ALICE},bob:{ALICE}", "the key of the API key bob stands there twice"),
        (",".join(f"key-of-a-whole-army-{i}" for i in range(MAX_KEYS + 1)), "there are 1001 API keys; at most 1000 are taken"),
    ],
)
def test_what_cannot_be_a_key_is_refused_without_being_told(entries, message):
    with pytest.raises(KeysError, match=message) as refusal:
        Keys(entries, None)
    for key in (ALICE, BOB, "short", "schlüssel", "b" * 513, "g" * 64):
        assert key not in str(refusal.value)


def test_a_file_that_holds_no_keys_is_refused_by_what_is_wrong_with_it(key_file, tmp_path):
    cases = {
        "# nobody\n": "has no key",
        f"alice:{ALICE}\nbob:short\n": "line 2: a key has 16 to 512",
        "#" * (MAX_FILE_BYTES + 1): f"is larger than {MAX_FILE_BYTES} bytes",
    }
    for text, message in cases.items():
        with pytest.raises(KeysError, match=message):
            Keys("", key_file(text))
    key_file("").write_bytes(b"\xff\xfe")
    with pytest.raises(KeysError, match="is not UTF-8 text: invalid start byte at byte 0"):
        Keys("", tmp_path / "keys")
    with pytest.raises(KeysError, match=r"No such file: .*absent"):
        Keys("", tmp_path / "absent")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, make):
    make(tmp_path / "keys")
    with pytest.raises(KeysError, match=r"keys is no file but a (pipe|directory)"):
        Keys("", tmp_path / "keys")


def test_an_endless_file_is_refused():
    with pytest.raises(KeysError, match="/dev/zero is no file but a device"):
        Keys("", Path("/dev/zero"))


def test_a_file_that_others_may_read_is_used_and_said_so(key_file, caplog):
    path = key_file(f"alice:{ALICE}")
    Keys("", path)
    assert caplog.messages == []
    path.chmod(0o644)
    assert Keys("", path).holder(ALICE.encode()) == "alice"
    assert caplog.messages == [f"{path} can be read by every user of this machine; chmod o-r takes that away"]


def test_a_file_read_anew_takes_keys_away_and_adds_some(key_file, caplog):
    caplog.set_level(logging.INFO)
    keys = Keys("", key_file(f"alice:{ALICE}"))
    key_file(f"bob:{BOB}\ncarol:carols-key-0123456789")
    keys.reload()
    assert [keys.holder(key.encode()) for key in (ALICE, BOB)] == [None, "bob"]
    assert caplog.messages == ["2 API keys are known now"]


@pytest.mark.parametrize("broken", ["", "alice:short", f"bob:{BOB}\nbob:{ALICE}", None], ids=["empty", "short", "twice", "gone"])
def test_a_broken_file_read_anew_changes_nothing_and_says_so_in_one_line(key_file, caplog, broken):
    path = key_file(f"alice:{ALICE}")
    keys = Keys("", path)
    if broken is None:
        path.unlink()
    else:
        key_file(broken)
    keys.reload()
    assert keys.holder(ALICE.encode()) == "alice"
    assert len(keys) == 1
    (line,) = caplog.messages
    assert line.startswith("the API keys stay as they were: ")
    assert "\n" not in line
    assert not [key for key in (ALICE, BOB) if key in line]
