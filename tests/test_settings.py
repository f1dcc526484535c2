"""Settings: from the command line before the environment before .env before the default, and refused by name."""

import pytest
from pydantic import ValidationError

from app.settings import Settings


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
