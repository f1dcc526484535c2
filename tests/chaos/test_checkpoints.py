"""Corrupt and malicious checkpoints: each is refused in one line, at once, and nothing of it is run."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import StartupError
from tests.chaos.checkpoints import CORRUPTIONS
from tests.chaos.startups import MAX_MESSAGE, start

THROUGH_THE_COMMAND = ("config.json is a pipe", "merges.txt is cut at a line's end", "layer_norm_epsilon of 400 digits", "a pickle")


@pytest.fixture
def corrupt(tiny_checkpoint: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the tiny checkpoint, corrupted in a way by its name."""

    def make(name: str) -> Path:
        directory = tmp_path / "checkpoint"
        shutil.copytree(tiny_checkpoint, directory)
        CORRUPTIONS[name](directory)
        return directory

    return make


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupt_checkpoint_is_refused_in_a_line(corrupt: Callable[[str], Path], name: str) -> None:
    directory = corrupt(name)
    began = time.thread_time()
    with pytest.raises(StartupError) as refusal:
        start(directory)
    assert time.thread_time() - began < 5, "of computing, which is not what others leave of the machine"
    message = str(refusal.value)
    assert 0 < len(message) <= MAX_MESSAGE
    assert "\n" not in message
    assert not (directory / "code-was-run").exists()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("a weight is NaN", "transformer.h.0.mlp.c_fc.weight"),
        ("a float64 beyond float32", "transformer.h.0.mlp.c_fc.weight"),
        ("a weight that overflows when it is used", "transformer.h.0.mlp.c_fc.weight has values up to 3e+38"),
        ("a gain that overflows when it is used", "transformer.ln_f.weight has values up to 3e+38"),
    ],
)
def test_weights_that_come_to_no_numbers_are_named(
    corrupt: Callable[[str], Path], name: str, tensor: str, needs_native: None
) -> None:
    with pytest.raises(StartupError, match=re.escape(tensor)):
        start(corrupt(name))


def test_the_checkpoint_itself_is_not(tiny_checkpoint: Path) -> None:
    start(tiny_checkpoint)


@pytest.mark.parametrize("name", THROUGH_THE_COMMAND)
def test_the_command_ends_with_78_and_one_line(corrupt: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "app", "serve", "--port", "0", "--log-format", "console"]
    environment = os.environ | {"GPT2_MODEL": str(corrupt(name))}  # as an option it would be a wrong call, with 2
    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, env=environment)
    assert result.returncode == 78, result.stderr
    assert result.stdout == ""
    *progress, refusal = result.stderr.splitlines()
    assert all(line.startswith(("gpt2: loading ", "gpt2: no CUDA device")) for line in progress), result.stderr
    assert refusal.startswith("gpt2: ")
    assert str(tmp_path) in refusal
