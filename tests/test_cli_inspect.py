"""`gpt2 inspect`: what it prints of a text, what it saves, and what it refuses."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress

import pytest
import torch
from safetensors import safe_open

from app.cli import main
from app.commands import waiting
from app.commands.inspect_cells import width_of
from model.checkpoint import load_tokenizer
from model.network_files import load_model

TEXT = "The old man looked at the sea and the old man"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def inspect(tiny_checkpoint, capsys, monkeypatch, tmp_path):
    """Run `gpt2 inspect` on the tiny checkpoint, in an empty directory; the result is what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments, model=tiny_checkpoint):
        assert main(["inspect", *map(str, arguments), "--model", str(model), "--threads", "1"]) == 0
        output, error = capsys.readouterr()
        assert error == ""
        return output

    return run


@pytest.fixture
def answer(inspect, tmp_path):
    def run(*arguments):
        inspect(*arguments, "--json", tmp_path / "answer.json")
        return json.loads((tmp_path / "answer.json").read_text())

    return run


@pytest.fixture
def complaint(tiny_checkpoint, capsys, monkeypatch, tmp_path):
    """The one line with which it refuses; nothing is printed or written."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=tiny_checkpoint):
        assert main(["inspect", *map(str, arguments), "--model", str(model)]) == 2
        output, error = capsys.readouterr()
        assert output == ""
        assert list(tmp_path.iterdir()) == []
        assert error.count("\n") == 1
        return error.removeprefix("gpt2: ").rstrip("\n")

    return run


def test_what_it_tells_is_what_the_network_computes(answer, tiny_checkpoint):
    told = answer(TEXT, "--max-new-tokens", "3")
    ids = load_tokenizer(tiny_checkpoint).encode(TEXT)
    logprobs = load_model(tiny_checkpoint)(torch.tensor([ids]))[0].log_softmax(-1)
    expected = [logprobs[i - 1, ids[i]].item() for i in range(1, len(ids))]
    assert [token["id"] for token in told["tokens"]] == ids
    assert told["run"]["logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    assert told["run"]["next"][0]["id"] == logprobs[-1].argmax().item()
    assert len(told["run"]["continuation"]["tokens"]) == 3
    assert (told["model"], told["dtype"], told["ablated"], told["served"]) == ("tiny-gpt2", "float32", None, None)


def test_the_screen_shows_tokens_next_layers_logit_and_heads(inspect, answer):
    screen = inspect(TEXT)
    told = answer(TEXT)
    assert screen.startswith(f"tiny-gpt2, float32: {len(told['tokens'])} tokens, loss {told['run']['loss']:.4f} nats a token\n")
    assert f"{-told['run']['logprobs'][1]:.2f}" in screen
    assert json.dumps(told["run"]["next"][0]["text"]) in screen
    for title in ("the tokens:", "what comes next", "norms and logit lens", "what makes the logit of", "heads that look most at"):
        assert f"\n{title}" in screen
    best = max(weight for heads in told["run"]["summaries"]["attention"]["previous"] for weight in heads)
    assert f"{100 * best:.0f} %" in screen


@pytest.mark.parametrize("text", [TEXT, "你好, 世界 e\u0301 🙂", "a", "", "tab\tand\nline", "word " * 100])
@pytest.mark.parametrize("ablated", [(), ("--ablate", "positions=none", "--layer-norm-order")])
def test_it_fits_80_columns_and_has_no_colours_where_there_is_no_terminal(inspect, text, ablated):
    if len(text) < 2:
        ablated = ablated[:2]  # of one token there is no loss, and so no gradient
    screen = inspect(text, *ablated)
    assert max(width_of(line) for line in screen.splitlines()) <= 80
    assert "\x1b" not in screen


@pytest.mark.parametrize("columns", [44, 45, 60, 79])
@pytest.mark.parametrize("options", [(), ("--ablate", "positions=none", "--layer-norm-order", "--names", "*")])
def test_it_fits_a_narrow_terminal(inspect, monkeypatch, columns, options):
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = inspect(TEXT + " 你好, 世界" + " word" * 60, *options, "--target", "e")
    assert max(width_of(line) for line in screen.splitlines()) <= columns


def test_the_terminal_itself_is_asked_for_its_columns(tiny_checkpoint):
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
    command = [sys.executable, "-m", "app", "inspect", "a b", "--model", str(tiny_checkpoint), "--max-new-tokens", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"NO_COLOR": "1"}
    with subprocess.Popen(command, stdout=secondary, env=environment) as process:
        os.close(secondary)
        screen = b""
        with suppress(OSError), os.fdopen(primary, "rb", buffering=0) as terminal:  # its end is an error of input
            while read := terminal.read(4096):
                screen += read
    assert process.returncode == 0
    assert 44 < max(width_of(line) for line in screen.decode().splitlines()) <= 50


def test_one_token_is_not_many(inspect):
    assert inspect("").startswith("tiny-gpt2, float32: 1 token, which nothing predicts\n")


def test_what_an_ablation_changes_stands_beside_the_rest(inspect, answer):
    forms = ("--ablate", "head:0=zero", "--ablate", "window:2")
    told = answer(TEXT, *forms)
    screen = inspect(TEXT, *forms)
    assert told["ablated"]["loss"] != told["run"]["loss"]
    assert "\nwith head:0=zero, window:2\n" in screen
    assert f"loss {told['run']['loss']:.4f} becomes {told['ablated']['loss']:.4f}" in screen
    assert f"({told['ablated']['loss'] - told['run']['loss']:+.4f})" in screen
    assert json.dumps(told["ablated"]["next"][0]["text"]) in screen
    assert "goes on, as it is:" in screen
    assert "goes on, ablated:" in screen


def test_a_short_form_and_its_json_do_the_same(answer):
    short = answer(TEXT, "--ablate", "head:1.2=zero")
    whole = answer(TEXT, "--ablate", '{"kind": "head", "layer": 1, "head": 2, "mode": "zero"}')
    assert short["ablated"]["logprobs"] == whole["ablated"]["logprobs"]


def test_a_patch_and_a_steering_read_their_texts(answer):
    forms = ("--ablate", "patch:blocks.0.hook_resid_post=The new woman", "--ablate", "steer:blocks.1.hook_resid_pre:50=e")
    told = answer(TEXT, *forms, "--target", "e")
    assert told["ablated"]["loss"] != told["run"]["loss"]
    told_token = told["run"]["summaries"]["attribution"]["token"]
    assert told_token["text"] == "e"


def test_target_and_position_choose_the_logit_that_is_explained(inspect, answer):
    told = answer(TEXT, "--target", "id:7", "--target-position", "2")["run"]["summaries"]["attribution"]
    assert (told["token"]["id"], told["position"]) == (7, 2)
    assert told["sum"] == pytest.approx(told["logit"], abs=1e-3)
    assert f" {told['logit']:.2f} at position 2" in inspect(TEXT, "--target", "id:7", "--target-position", "2")


def test_standard_input_is_read_without_a_text_and_as_a_hyphen(inspect, monkeypatch):
    whole = inspect(TEXT)
    for arguments in ((), ("-",)):
        monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
        assert inspect(*arguments) == whole


def test_activations_are_saved_as_json_and_as_tensors(inspect, tmp_path):
    names = "blocks.*.attn.hook_pattern,hook_embed"
    screen = inspect(TEXT, "--names", names, "--positions=-1,0", "--json", "a.json", "--safetensors", "a.safetensors")
    told = json.loads((tmp_path / "a.json").read_text())
    activations = told["run"]["activations"]
    assert list(activations) == ["hook_embed", "blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]
    with safe_open(tmp_path / "a.safetensors", "pt") as tensors:
        for name, activation in activations.items():
            assert torch.equal(tensors.get_tensor(name), torch.tensor(activation["data"]))
            assert f"{name} " in screen
        assert json.loads(tensors.metadata()["inspection"])["run"]["loss"] == told["run"]["loss"]
    assert activations["hook_embed"]["shape"] == [2, 100]


def test_json_on_standard_output_leaves_the_screen_to_standard_error(tiny_checkpoint):
    command = [sys.executable, "-W", "error", "-m", "app", "inspect", TEXT, "--model", str(tiny_checkpoint), "--json", "-"]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=True)
    assert json.loads(result.stdout)["object"] == "inspection"
    assert result.stderr.startswith("tiny-gpt2, float32: ")


@pytest.mark.parametrize("options", [(), ("--map", "1"), ("--map", "1.2"), ("--ablate", "head:0=zero")])
def test_a_picture_is_drawn(inspect, tmp_path, options):
    inspect("é $x$ \\alpha", "--png", "a.png", *options)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_characters_that_no_font_has_are_told_in_a_line(tiny_checkpoint, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.commands.inspect_picture.fonts_for", lambda text: (["DejaVu Sans"], "你好" if "你" in text else ""))
    assert main(["inspect", "你好", "--model", str(tiny_checkpoint), "--png", "a.png"]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    told = "a.png has boxes: no font here has 你 and 1 more; Noto Sans CJK has Chinese\n"
    assert capsys.readouterr().err == told


def test_a_long_text_is_drawn_too(inspect, tmp_path):
    screen = inspect("word " * 100, "--png", "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    assert "are left out here; --json has them" in screen


def test_a_file_that_is_there_is_replaced(inspect, tmp_path):
    (tmp_path / "a.json").write_text("old")
    inspect(TEXT, "--json", "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["object"] == "inspection"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ablate", "head:2.0=zero"), "--ablate head:2.0=zero, layer: the layer is 2; it must be from 0 to 1"),
        (
            ("--ablate", "head:0=zero", "--ablate", "head:1.4=zero"),
            "--ablate head:1.4=zero, head: the head is 4; it must be from 0 to 3",
        ),
        (("--ablate", "headless"), "--ablate 'headless' is none of the forms"),
        (("--ablate", '{"kind": "head", "layr": 1}'), "layr: there is no such field; did you mean layer?"),
        (("--ablate", "patch:blocks.0.hook_resid_pos=a"), "the nearest is 'blocks.0.hook_resid_post'"),
        (("--names", "hook_embedd"), "--names: 'hook_embedd' is no activation; the nearest is 'hook_embed'"),
        (("--positions", "99"), "--positions: the position is 99; it must be from "),
        (("--target", "id:500"), "--target: the token id is 500; it must be from 0 to 499"),
        (("--target", "two words"), "--target: 'two words' is "),
        (("--top-n", "50"), "--top-n: 50 is refused"),
        (("--max-new-tokens", "-1"), "--max-new-tokens: -1 is refused"),
        (("--map", "2", "--png", "a.png"), "--map: the layer is 2; it must be from 0 to 1"),
        (("--map", "1.4", "--png", "a.png"), "--map: the head is 4; it must be from 0 to 3"),
        (("--png", "a.gif"), "--png is a.gif; its name must end in .png, .svg, .pdf"),
        (("--json", "nowhere/a.json"), "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_is_told_in_a_line_that_names_the_option(complaint, arguments, message):
    assert message in complaint(TEXT, *arguments)


def test_a_text_over_the_context_and_one_that_is_none_are_refused(complaint, monkeypatch):
    assert complaint("word " * 1100) == "the text: the number of tokens is 2202; it must be from 1 to 1024"
    assert complaint("\udcff") == "'\\udcff' is no UTF-8"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8"))
    assert complaint("-") == "standard input is no UTF-8 (byte 1)"


def test_a_checkpoint_that_is_none_is_refused(complaint, tmp_path):
    assert complaint(TEXT, model="/nowhere") == "no such directory: '/nowhere'"


def test_a_picture_without_matplotlib_is_refused_before_anything_is_computed(complaint, monkeypatch):
    monkeypatch.setattr("app.commands.outputs.find_spec", lambda name: None)
    assert complaint(TEXT, "--png", "a.png") == "--png needs matplotlib; pip install 'gpt2-service[train]'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--positions", "1,x"), "--positions: '1,x' is no list of positions, as 0,3,-1"),
        (("--map", "x"), "--map: 'x' is no layer and no head, as 3 or 3.5"),
        (("--top-n", "x"), "--top-n: invalid int value: 'x'"),
    ],
)
def test_numbers_that_are_none_are_told_in_a_line_too(complaint, arguments, message):
    assert complaint(TEXT, *arguments).startswith(message)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_colours_are_for_a_terminal_and_no_color_takes_them_away(monkeypatch, tiny_checkpoint):
    def screen():
        terminal = Terminal()
        monkeypatch.setattr("sys.stdout", terminal)
        assert main(["inspect", TEXT, "--model", str(tiny_checkpoint)]) == 0
        return terminal.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = screen()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = screen()
    assert "\x1b[1m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain


def test_an_encoding_without_blocks_gets_signs(tiny_checkpoint):
    command = [sys.executable, "-m", "app", "inspect", "你好 é", "--model", str(tiny_checkpoint)]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(command, capture_output=True, env=environment, timeout=300, check=True)
    assert b"###" in result.stdout


def test_what_takes_long_is_told_on_a_terminal_and_taken_away_again(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.01)
    with waiting.waiting_for("thinking"):
        while "thinking: 0 s" not in terminal.getvalue():
            pass
    assert terminal.getvalue().endswith("\r" + " " * len("thinking: 0 s") + "\r")


def test_nothing_is_told_of_it_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.0)
    with waiting.waiting_for("thinking"):
        pass
    assert capsys.readouterr().err == ""
