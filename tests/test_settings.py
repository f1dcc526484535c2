"""Settings: from the command line before the environment before .env before the default, and refused by name."""

import argparse
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.commands.options import read_settings
from app.errors import StartupError
from app.settings import Settings
from app.unread_settings import unread

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch, tmp_path):
    import os

    for name in [name for name in os.environ if name.startswith("GPT2_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_every_setting_has_a_default_and_a_description():
    assert Settings().model_dump()
    assert all(field.description and field.description.endswith(".") for field in Settings.model_fields.values())


def test_the_environment_goes_before_the_file_and_a_value_given_before_both(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("GPT2_PORT=1001\nGPT2_MAX_RUNNING=11\nGPT2_THREADS=2\n")
    monkeypatch.setenv("GPT2_MAX_RUNNING", "12")
    monkeypatch.setenv("GPT2_THREADS", "3")
    settings = Settings(threads="4")
    assert (settings.port, settings.max_running, settings.threads) == (1001, 12, 4)


def test_an_empty_variable_is_as_good_as_none(monkeypatch):
    monkeypatch.setenv("GPT2_PORT", "")
    monkeypatch.setenv("GPT2_CORS_ORIGINS", "")
    assert Settings() == Settings(_env_file=None)
    assert Settings().cors_origins == ()


def test_origins_are_parted_by_commas(monkeypatch):
    monkeypatch.setenv("GPT2_CORS_ORIGINS", "https://a.example, https://b.example,,")
    assert Settings().cors_origins == ("https://a.example", "https://b.example")


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("max_running", "-1"),
        ("max_waiting", "-1"),
        ("max_queued_tokens", "-1"),
        ("max_wait_seconds", "-1"),
        ("max_wait_seconds", "inf"),
        ("timeout_seconds", "nan"),
        ("max_timeout_seconds", "-0.1"),
        ("max_batch_tokens", "-1"),
        ("prefill_chunk", "0"),
        ("max_body_bytes", "1"),
        ("keep_alive_seconds", "0"),
        ("keep_alive_seconds", "1.5"),
        ("drain_seconds", "-1"),
        ("drain_seconds", "nan"),
        ("drain_seconds", "inf"),
        ("threads", "many"),
        ("device", "tpu"),
        ("dtype", "float16"),
        ("log_format", "xml"),
    ],
)
def test_a_wrong_value_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"GPT2_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_no_request_gets_a_longer_deadline_by_default_than_it_may_name():
    with pytest.raises(ValidationError, match="it is below timeout_seconds, 30"):
        Settings(timeout_seconds=30, max_timeout_seconds=20)
    assert Settings(timeout_seconds=30, max_timeout_seconds=0).timeout_seconds == 30
    assert Settings(timeout_seconds=30, max_timeout_seconds=30).max_timeout_seconds == 30


def refusal():
    with pytest.raises(StartupError) as caught:
        read_settings(argparse.Namespace())
    return str(caught.value)


def test_a_file_that_cannot_be_read_is_refused_in_a_line(monkeypatch, tmp_path):
    (tmp_path / ".env").write_bytes(b"GPT2_PORT=1\n\xff")
    assert refusal() == ".env cannot be read: it is not UTF-8 (byte 12); save it as UTF-8"
    really_open = open

    def not_allowed(file, *arguments, **more):
        if str(file).endswith(".env"):
            raise PermissionError(13, "Permission denied", str(file))
        return really_open(file, *arguments, **more)

    monkeypatch.setattr("builtins.open", not_allowed)  # of root, every file can be read
    assert refusal() == ".env cannot be read: Permission denied; let this user read it, or take it away"


def test_a_refusal_has_our_own_words_alone(monkeypatch):
    monkeypatch.setenv("GPT2_TIMEOUT_SECONDS", "5")
    monkeypatch.setenv("GPT2_MAX_TIMEOUT_SECONDS", "1")
    assert refusal().startswith("GPT2_MAX_TIMEOUT_SECONDS: '1' is refused: it is below timeout_seconds, 5, ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("GPT2_MAX_RUNING=4", ["GPT2_MAX_RUNING in .env is no setting; the nearest is GPT2_MAX_RUNNING"]),
        ("gpt2_modle=x", ["gpt2_modle in .env is no setting; the nearest is GPT2_MODEL"]),
        ("GPT2_QQ=x", ["GPT2_QQ in .env is no setting"]),
        ("\ufeffGPT2_PORT=8001", []),
        ("gpt2_port=1\nexport GPT2_THREADS=2\n# GPT2_X=1\nOTHER=3\nGPT2_HOST='a'\n", []),
        ("GPT2_WEB_PORT=tcp://10.0.0.1:80\nGPT2_SERVICE_HOST=1\nGPT2_PORT_80_TCP_ADDR=1\nGPT2_WEB_SERVICE_PORT_HTTP=80", []),
        ("\nGPT2_PORT: 8001\nGPT2_THREADS=2", ["line 2 of .env cannot be parsed"]),
        ('GPT2_PORT="8001\nGPT2_THREADS=2\n', ["line 1 of .env cannot be parsed"]),
        ('GPT2_PORT="8001\nGPT2_THREADS="2"\n', ["lines 1 to 2 of .env cannot be parsed"]),
    ],
)
def test_what_nothing_reads_is_told(tmp_path, text, told):
    (tmp_path / ".env").write_text(text)
    lines = unread({})
    assert len(lines) == len(told), lines
    assert all(line.startswith(start) for line, start in zip(lines, told, strict=True)), lines


def test_what_is_read_elsewhere_in_this_repository_is_no_mistake():
    files = [*ROOT.glob("*.yml"), *(ROOT / "deploy").rglob("*.y*ml"), *(ROOT / "examples").glob("*.py"), ROOT / "Dockerfile"]
    files += [ROOT / "Makefile", ROOT / "setup.py", ROOT / "app/commands/bench.py"]
    names = {name for file in files for name in re.findall(r"\bGPT2_[A-Z_]*[A-Z]\b", file.read_text())}
    assert {"GPT2_TARGET", "GPT2_API_KEY", "GPT2_PROXY_ADDRESS"} <= names
    assert unread(dict.fromkeys(names, "1")) == []
