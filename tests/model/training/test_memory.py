"""The memory of a step: what is foretold of it, the parts that follow from it, and that a run does not grow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app import environment
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import save_checkpoint
from model.training.errors import TrainingError
from model.training.memory import PART_BYTES, bytes_per_token, check_room, num_parts
from model.training.objective import NextTokenLoss
from model.training.recipe import Recipe

CPU = torch.device("cpu")
LARGE = GPT2Config(vocab_size=8192, n_positions=512, n_embd=512, n_layer=8, n_head=8, eos_token_ids=(0,))


def config(width, layers, length):
    return GPT2Config(
        vocab_size=50, n_positions=length, n_embd=width, n_layer=layers, n_head=max(1, width // 64), eos_token_ids=(0,)
    )


def saved_bytes(sizes, num_rows, bfloat16, dropout, checkpointed):
    """What autograd holds after a forward pass over whole rows, the weights and their copies in bfloat16 left out."""
    model = GPT2(sizes, dropout).init_weights(torch.Generator().manual_seed(0))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage
        return tensor

    tokens = torch.randint(50, (num_rows, sizes.n_positions), generator=torch.Generator().manual_seed(1))
    loss = NextTokenLoss(model, bfloat16, compiled=False, checkpointed=checkpointed).train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = loss._hidden_states(tokens)
    copies = 2 * sum(parameter.numel() for parameter in model.parameters()) if bfloat16 else 0
    assert hidden.requires_grad
    return sum(storage.nbytes() for storage in held.values()) - copies


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("width", "layers"), [(64, 2), (128, 3)])
def test_what_a_step_keeps_is_foretold(width, layers, dropout, bfloat16):
    sizes = config(width, layers, 64)
    measured = saved_bytes(sizes, 32, bfloat16, dropout, checkpointed=False) / (32 * 64)
    assert bytes_per_token(sizes, 64, bfloat16, dropout) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("num_rows", [1, 7, 16, 36, 1 << 20])
def test_the_parts_are_the_fewest_equal_ones_that_fit(num_rows):
    a_row = 64 * bytes_per_token(LARGE, 64, bfloat16=False)
    for fitting in (1, 3, 5, 100):
        parts = num_parts(num_rows, 64, LARGE, Recipe(max_steps=1), CPU, part_bytes=fitting * a_row)
        fewest = next(parts for parts in range(1, num_rows + 1) if num_rows % parts == 0 and num_rows // parts <= fitting)
        assert parts == fewest


def test_a_network_that_the_machine_cannot_hold_is_refused_with_the_sizes_of_both(monkeypatch):
    monkeypatch.setattr("model.training.memory.available_bytes", lambda: 300_000_000)
    check_room(config(256, 8, 64), CPU)
    with pytest.raises(
        TrainingError, match=r"a network of 30 M parameters takes 356 MB and more .*, 300 MB are available; a smaller"
    ):
        check_room(LARGE, CPU)


def test_checkpointed_blocks_keep_their_inputs_alone():
    sizes = config(64, 4, 64)
    kept, whole = (saved_bytes(sizes, 32, False, 0.0, checkpointed) / (32 * 64) for checkpointed in (True, False))
    one_block = bytes_per_token(sizes, 64, bfloat16=False) / 4
    assert bytes_per_token(sizes, 64, bfloat16=False, checkpointed=True) == pytest.approx(kept + one_block, rel=0.2)
    assert kept < whole / 8


def test_a_step_on_a_cpu_never_holds_all_its_logits():
    vocabulary = 4000
    model = GPT2(GPT2Config(vocab_size=vocabulary, n_positions=512, n_embd=64, n_layer=1, n_head=1, eos_token_ids=(0,)))
    loss, held = NextTokenLoss(model.init_weights(), bfloat16=False, compiled=False).train(), []
    tokens = torch.randint(vocabulary, (4, 512), generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: held.append(tensor.shape) or tensor, lambda tensor: tensor):
        loss(tokens, tokens)
    assert held
    assert (4 * 512, vocabulary) not in held


def test_parts_follow_the_activations():
    def parts(num_rows, sizes=LARGE, **recipe):
        return num_parts(num_rows, 512, sizes, Recipe(max_steps=1, **recipe), CPU)

    assert parts(8, bfloat16=True) == 8
    assert parts(32, bfloat16=True) == 32, "more rows make more parts, not larger ones"
    assert parts(8, bfloat16=True, checkpoint_activations=True) < 8
    assert parts(8, config(64, 2, 512), bfloat16=True) == 1
    assert parts(7, bfloat16=True) == 7, "all parts are equal"
    a_part = 8 / parts(8, bfloat16=True) * 512 * bytes_per_token(LARGE, 512, bfloat16=True)
    assert a_part <= PART_BYTES["cpu"]


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_activation_checkpointing_changes_no_bit(dropout, bfloat16):
    tokens = torch.randint(50, (4, 33), generator=torch.Generator().manual_seed(1))
    results = []
    for checkpointed in (False, True):
        model = GPT2(config(64, 3, 32), dropout).init_weights(torch.Generator().manual_seed(0))
        loss = NextTokenLoss(model, bfloat16, compiled=False, checkpointed=checkpointed).train()
        torch.manual_seed(5)
        value = loss(tokens[:, :-1], tokens[:, 1:])
        value.backward()
        results.append([value.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("said", "is_kept"), [("always [madvise] never", False), ("always madvise [never]", True), (None, True)], ids=str
)
def test_memory_is_kept_during_a_part_of_a_step_where_there_are_no_huge_pages(tmp_path, monkeypatch, said, is_kept):
    if said is not None:
        (tmp_path / "enabled").write_text(said)
    monkeypatch.setattr(environment, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    settings = []
    library = type("Library", (), {"mallopt": lambda self, parameter, value: settings.append(parameter)})()
    monkeypatch.setattr(environment.ctypes, "CDLL", lambda name: library)
    environment.prepare_for_training()
    assert bool(settings) == is_kept


PEAKS = """
import re, sys
from pathlib import Path
from app.cli import main
from model.training.run import ProgressLine

def on_step(self, step):
    if step.number in (10, 40):
        print("peak", re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

ProgressLine.on_step = on_step
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts a process's peak there")
def test_a_run_takes_no_more_memory_at_its_end_than_at_its_beginning(tmp_path, small_tokenizer):
    sizes = GPT2Config(vocab_size=500, n_positions=64, n_embd=64, n_layer=2, n_head=1, eos_token_ids=(499,))
    save_checkpoint(tmp_path / "base", GPT2(sizes).init_weights(), small_tokenizer, torch.float32)
    (tmp_path / "text.txt").write_text("The sea was calm and grey today. " * 2000)
    command = ["train", "finetune", tmp_path / "text.txt", "--model", tmp_path / "base", "--out", tmp_path / "out", "--steps", "40"]
    child = subprocess.run(
        [sys.executable, "-c", PEAKS, *command], capture_output=True, encoding="utf-8", env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert child.returncode == 0, child.stderr
    early, late = (int(line.split()[1]) for line in child.stdout.splitlines() if line.startswith("peak"))
    assert late - early < 30_000, "kilobytes; validation and saving lie in between"


def test_compiling_and_activation_checkpointing_at_once_are_refused():
    with pytest.raises(TrainingError, match="compiling keeps what activation checkpointing computes again; leave out --compile"):
        Recipe(max_steps=1, compiled=True, checkpoint_activations=True)
