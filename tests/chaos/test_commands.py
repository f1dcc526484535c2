"""What the commands are given by strangers, texts, checkpoints and adapters: refused with exit code 2 and one line."""

import json
import lzma
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.cli import main
from model.training.data import text_blocks
from tests.chaos.checkpoints import CORRUPTIONS, HUGE, LONG, Corruption, content, cut_to, device, folder, pipe, sparse

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "base_model_name_or_path": "gpt2"}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused; the line that it says so in."""

    def run(*arguments: object) -> str:
        code = main([str(argument) for argument in arguments])
        error = capsys.readouterr().err.strip()
        assert code == 2, error
        *progress, line = error.splitlines()
        assert line.startswith("gpt2: ")
        assert len(line) < 5000
        assert not any("Traceback" in other for other in progress)
        return line

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("The old man looked at the sea.\n" * 50)
    return file


def a_pipe(file: Path) -> None:
    os.mkfifo(file)


def a_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def nowhere(file: Path) -> None:
    file.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "told"), [(a_pipe, "a pipe"), (a_device, "a device"), (nowhere, "a link to a file that is missing")]
)
@pytest.mark.parametrize("command", [("eval",), ("train", "tokenizer"), ("train", "pretrain"), ("train", "finetune")])
@pytest.mark.timeout(60)
def test_a_text_that_is_no_file_is_refused(
    refused: Callable[..., str],
    tiny_checkpoint: Path,
    tmp_path: Path,
    command: tuple[str, ...],
    make: Callable[[Path], None],
    told: str,
) -> None:
    """A pipe was waited for without an end; from a device the memory was filled."""
    make(tmp_path / "text.txt")
    options = ("--model", tiny_checkpoint) if command == ("eval",) else ("--out", tmp_path / "out")
    assert told in refused(*command, tmp_path / "text.txt", *options)


def test_a_record_without_an_end_is_refused_before_it_is_all_in_memory(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_blocks, "MAX_LINE_CHARS", 1000)
    file = tmp_path / "text.jsonl.xz"
    file.write_bytes(lzma.compress(b'{"text": "' + b"x" * 10_000))
    assert re.search(r"line 1 has more than 1000 characters", refused("train", "tokenizer", file, "--out", tmp_path / "out"))


@pytest.mark.parametrize(
    "contents",
    [
        b'{"text": ' + b"9" * 5000 + b"}\n",
        b"[" * 100_000 + b"\n",
        b'{"text": "\\ud800"}\n',
        b'{"text": ["' + b"x" * 100_000 + b'"]}\n',
        b'{"prompt": "a", "completion": 1e400}\n',
        b'{"prompt": "\\ud800", "completion": "b"}\n',
        b"\xff\xfe\n",
        b"\0\n",
    ],
)
def test_examples_that_are_none_are_refused(
    refused: Callable[..., str], tiny_checkpoint: Path, tmp_path: Path, contents: bytes
) -> None:
    file = tmp_path / "text.jsonl"
    file.write_bytes(contents)
    line = refused("train", "finetune", file, "--model", tiny_checkpoint, "--out", tmp_path / "out", "--steps", 1)
    assert f"{file}" in line


SOME = (
    "config.json is a pipe",
    "merges.txt is cut at a line's end",
    "layer_norm_epsilon of 400 digits",
    "a weight is NaN",
    "a pickle",
    "a header of 2^62",
)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("command", ["eval", "finetune", "merge"])
@pytest.mark.timeout(60)
def test_a_corrupt_checkpoint_is_refused_by_every_command(
    refused: Callable[..., str], tiny_checkpoint: Path, tmp_path: Path, text: Path, adapter: Path, name: str, command: str
) -> None:
    directory = tmp_path / "corrupt"
    shutil.copytree(tiny_checkpoint, directory)
    CORRUPTIONS[name](directory)
    out = ("--out", tmp_path / "out")
    commands: dict[str, tuple[object, ...]] = {
        "eval": ("eval", text),
        "finetune": ("train", "finetune", text, "--steps", 1, *out),
        "merge": ("train", "merge", "--adapter", adapter, *out),
    }
    assert str(directory) in refused(*commands[command], "--model", directory)
    assert not (directory / "code-was-run").exists()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """One of a rank of 2 on the first block's first projection of the tiny model."""
    directory = tmp_path / "adapter"
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps(ADAPTER_CONFIG))
    name = "base_model.model.transformer.h.{}.attn.c_attn.lora_{}.weight"
    shapes = {"A": (2, 100), "B": (300, 2)}
    matrices = {name.format(i, matrix): np.zeros(shape, np.float32) for i in range(2) for matrix, shape in shapes.items()}
    save_file(matrices, directory / ADAPTER)
    return directory


def test_the_adapter_itself_is_merged(adapter: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["train", "merge", "--adapter", str(adapter), "--model", str(tiny_checkpoint), "--out", str(out)]) == 0
    assert (out / "model.safetensors").exists()


NO_NUMBERS = (HUGE, -1, 0, float("nan"), LONG[:5000], [1], 1 << 40)


def config(**fields: object) -> Corruption:
    return content("adapter_config.json", json.dumps(ADAPTER_CONFIG | fields))


@pytest.mark.parametrize(
    "corrupt",
    [
        *(make(name) for make in (pipe, device, folder, sparse) for name in ("adapter_config.json", ADAPTER)),
        *(
            config(**{name: value})
            for name in ("r", "lora_alpha")
            for value in (HUGE, -1, 0, float("nan"), LONG[:5000], [1], 1 << 40)
        ),
        config(peft_type=LONG[:5000]),
        config(bias=LONG[:5000]),
        config(use_dora=LONG[:5000]),
        config(r=3),
        content("adapter_config.json", b"[" * 100_000),
        content("adapter_config.json", b'{"peft_type": "LORA", "peft_type": "LORA"}'),
        content(ADAPTER, b""),
        content(ADAPTER, LONG),
        cut_to(ADAPTER, 0.5),
    ],
)
@pytest.mark.timeout(60)
def test_a_corrupt_adapter_is_refused(
    refused: Callable[..., str], adapter: Path, tiny_checkpoint: Path, tmp_path: Path, corrupt: Corruption
) -> None:
    corrupt(adapter)
    line = refused("train", "merge", "--adapter", adapter, "--model", tiny_checkpoint, "--out", tmp_path / "out")
    assert str(adapter) in line
    assert not (tmp_path / "out").exists()
