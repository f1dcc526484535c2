"""examples/heads.py: heads that are made to look somewhere are found there, and what is lost without them is told."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from model.bpe import BPETokenizer
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import save_checkpoint

EXAMPLES = Path(__file__).parent.parent / "examples"
ROOM, LENGTH = 512, 24  # numbers of a head; tokens that are repeated


@pytest.fixture(scope="module")
def heads() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module("heads")


@pytest.fixture(scope="module")
def made_checkpoint(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: BPETokenizer) -> Path:
    """One layer of three heads: 0 looks at the position before, 1 at its own token, 2 back by one less than what is repeated.

    The stream has positions in its first 512 numbers and tokens in the next ones, each as one number that is not zero.
    """
    config = GPT2Config(vocab_size=500, n_positions=ROOM, n_embd=3 * ROOM, n_layer=1, n_head=3, n_inner=4, eos_token_ids=(499,))
    network = GPT2(config).init_weights(torch.Generator().manual_seed(0))
    one_each = torch.eye(ROOM)
    with torch.no_grad():
        for parameter in (network.wpe.weight, network.wte.weight, network.h[0].attn.c_attn.weight):
            parameter.zero_()
        network.wpe.weight[:, :ROOM] = one_each
        network.wte.weight[:, ROOM : 2 * ROOM] = one_each[:500]
        q, k, _ = network.h[0].attn.c_attn.weight.view(3, 3, ROOM, 3 * ROOM)  # (head, D, C)
        q[0, :, :ROOM], k[0, :, :ROOM] = one_each, one_each.roll(1, 0)  # the key of p answers the query of p + 1
        q[1, :, ROOM : 2 * ROOM] = k[1, :, ROOM : 2 * ROOM] = one_each
        q[2, :, :ROOM], k[2, :, :ROOM] = one_each, one_each.roll(LENGTH - 1, 0)
    directory = tmp_path_factory.mktemp("checkpoint") / "made"
    save_checkpoint(directory, network, small_tokenizer, torch.float32)
    return directory


@pytest.fixture(scope="module")
def found(heads: ModuleType, made_checkpoint: Path) -> dict[str, Any]:
    return heads.look_for_heads(str(made_checkpoint), seed=0, length=LENGTH, num_sequences=2)


def test_a_head_scores_where_it_was_made_to_look_and_nowhere_else(found: dict[str, Any]) -> None:
    ((previous, other, far),) = found["scores"]["previous"]
    assert previous > 0.95
    assert max(other, far) < 0.1
    ((before, duplicate, _),) = found["scores"]["duplicate"]
    assert before < 0.05
    assert duplicate == pytest.approx(0.5, abs=0.05)  # the other half is on the same token's own place
    ((before, same, induction),) = found["scores"]["induction"]
    assert induction > 0.95
    assert max(before, same) < 0.05


def test_the_losses_are_those_of_the_network_without_the_heads(
    found: dict[str, Any], heads: ModuleType, made_checkpoint: Path
) -> None:
    rows = {row["zeroed"]: row for row in found["losses"]}
    assert rows["previous, the best"]["heads"] == [(0, 0)]
    assert rows["induction, the best"]["heads"] == [(0, 2)]
    assert rows["no head"]["heads"] == []
    for row in rows.values():  # values are zero here, so that nothing is lost
        assert row["text"] == pytest.approx(rows["no head"]["text"], rel=1e-5)


def test_the_seed_makes_the_scores_the_same(heads: ModuleType, tiny_checkpoint: Path) -> None:
    def scores(seed: int) -> Any:
        return heads.look_for_heads(str(tiny_checkpoint), seed, 16, 1)["scores"]

    assert scores(1) == scores(1)
    assert scores(1)["induction"] != scores(2)["induction"]


def test_a_zeroed_head_is_missed(heads: ModuleType, tiny_checkpoint: Path) -> None:
    found = heads.look_for_heads(str(tiny_checkpoint), 0, 16, 1)
    plain, *without = found["losses"]
    assert plain["zeroed"] == "no head"
    assert all(row["text"] != plain["text"] for row in without)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "utf8", "-W", "error", EXAMPLES / "heads.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)


def test_it_is_a_script_that_prints_a_table_or_json(tiny_checkpoint: Path) -> None:
    given = ("--model", tiny_checkpoint, "--length", 12, "--sequences", 1)
    table = run(*given)
    assert table.returncode == 0, table.stderr
    assert table.stderr == ""
    assert table.stdout.startswith("tiny-gpt2: mean attention weight, by layer.head\n")
    assert "what followed it before" in table.stdout
    found = json.loads(run(*given, "--json").stdout)
    (best, _), *_ = sorted(((score, i) for i, score in enumerate(found["scores"]["previous"][0])), reverse=True)
    assert f"{best:.3f}" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--length", 600), "--length is 600; this checkpoint takes from 2 to 499"),
        (("--sequences", 0), "--sequences is 0; it must be at least 1"),
        (("--model", "/nowhere"), "no such directory: '/nowhere'"),
    ],
)
def test_what_cannot_be_done_gets_one_line(arguments: tuple[object, ...], message: str, tiny_checkpoint: Path) -> None:
    result = run("--model", tiny_checkpoint, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"heads.py: {message}\n"
