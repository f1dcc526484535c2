"""benchmarks/gpu as far as a CPU can try it: each stage on a tiny model, limits, what is missing, the table, parts of a model."""

import importlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.bench.prompts import COMMON_WORDS, Vocabulary
from benchmarks.gpu import missing, parts
from benchmarks.gpu.http_load import bodies_of_loads
from benchmarks.gpu.results import Results
from benchmarks.gpu.table import as_table, floor_seconds, lines, stage_lines
from model.checkpoint import load_tokenizer
from model.network_files import load_model

ROOT = Path(__file__).parent.parent
GPU = ROOT / "benchmarks" / "gpu"
TEXTS = ROOT / "tests" / "data" / "texts"
# A step of GPT-2 124M in bfloat16 at a context of 256, on a card that copies 4.4 TB/s.
DECODE = {"context": 256, "weight_bytes": 247_306_752, "row_bytes": 9_437_184, "row_flops": 256_744_000}
CEILINGS = {"copy_bytes_per_second": 4.4e12, "bfloat16_flops": 7.9e14, "graph_node_seconds": 1.1e-6}


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """One thread: others may be busy on this machine."""
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([*map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)


def run_module(name: str, *options: object) -> str:
    return output_of("-m", f"benchmarks.gpu.{name}", *options)


def output_of(*options: object) -> str:
    done = run(sys.executable, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def measure(tmp_path: Path, tiny_checkpoint: Path) -> Any:
    """Runs a stage on the tiny model; what it has put into the results."""

    def measure(module: str, key: str, *options: object) -> Any:
        run_module(module, "--out", tmp_path, "--device", "cpu", "--checkpoint", tiny_checkpoint, *options)
        return Results(tmp_path / "results.json").read()[key]

    return measure


def test_kernels_that_start_early_are_held_against_the_others(measure: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    rows = measure("early", "early", "--dtype", "float32", "--batches", 1, 3, "--context", 20, "--new-tokens", 8, "--rounds", 1)
    assert [(row["rows"], row["same_bits"]) for row in rows] == [(1, True), (3, True)]
    assert all(row["late"] > 0 and row["early"] > 0 for row in rows)


def test_the_ladder_has_our_errors_beside_those_of_pytorch(measure: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    rungs = measure("ladder", "ladder", "--dtypes", "float32", "--tokens", 24)
    assert [(rung["who"], rung["dtype"]) for rung in rungs] == [
        ("PyTorch on the CPU", "float32"),
        ("PyTorch", "float32"),
        ("ours", "float32"),
    ]
    assert all(0 < rung["error"] < 1e-4 for rung in rungs)
    assert rungs[-1]["same_bits_decoded"]
    assert rungs[-1]["failures"] == []


def test_decoding_is_measured_by_rows_by_contexts_by_draws_and_by_kernels(measure: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    sizes = ("--dtype", "float32", "--batches", 1, 2, "--context", 20, "--contexts", 20, 28, "--new-tokens", 8, "--rounds", 1)
    found = measure("decode", "decode", *sizes)
    assert [row["rows"] for row in found["by_batch"]] == [1, 2]
    assert all(row["tokens_per_second"] == pytest.approx(row["rows"] / row["step_seconds"], rel=0.01) for row in found["by_batch"])
    assert [row["context"] for row in found["by_context"]] == [20, 28]
    assert all(row["step_seconds"] > 0 for row in found["by_context"])
    assert set(found["by_kind"]["step_seconds"]) == {"greedy", "sampled", "top_p", "all filters", "penalties"}
    assert found["prefill"]["tokens"] == 16
    assert all(found["kernels"][rows] for rows in ("1", "2"))


def test_transformers_is_measured_as_it_comes_and_with_a_static_cache(measure: Any) -> None:
    rows = measure("transformers_generate", "transformers", "--dtype", "float32", "--batches", 1, "--context", 48)
    assert [(row["rows"], row["mode"]) for row in rows] == [(1, "eager"), (1, "compiled")]
    assert all(row["step_seconds"] > 0 for row in rows)


def test_the_service_is_measured_over_http_by_clients_in_several_processes(measure: Any) -> None:
    sizes = ("--dtype", "float32", "--clients", 1, 3, "--processes", 2, "--prompt-tokens", 8, "--output-tokens", 8)
    rows = measure("http_load", "http", *sizes)["rows"]
    assert [(row["clients"], row["requests"]) for row in rows] == [(1, 16), (3, 16)]
    assert all(row["tokens_per_second"] > 0 and row["first_token_ms_p50"] <= row["first_token_ms_p99"] for row in rows)


def test_no_prompt_of_a_load_was_sent_before() -> None:
    """A prompt that was would be found in the cache, and the time to its first token would be that of a hit."""
    loads = bodies_of_loads(Vocabulary(COMMON_WORDS.split(), is_exact=True), 128, 256, [16, 16, 32, 256, 1024])
    assert [len(bodies) for bodies in loads] == [16, 16, 32, 256, 1024]
    beginnings = {tuple(body["inputs"].split()[:16]) for bodies in loads for body in bodies}
    assert len(beginnings) == 16 + 16 + 32 + 256 + 1024


def test_the_tax_names_the_fastest_tiles_of_each_product(measure: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    (row,) = measure("tax", "tax", "--dtype", "float32", "--rows", 1, "--candidates", 1)["by_rows"]
    assert row["tax_percent"] >= 0
    assert set(row["products"]) == {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "lm_head"}
    assert all(product["fastest_seconds"] <= product["fixed_seconds"] for product in row["products"].values())


def test_the_ceilings_are_those_of_the_device(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    run_module("ceilings", "--out", tmp_path, "--device", "cpu", "--copy-megabytes", 1, "--side", 64)
    results = Results(tmp_path / "results.json").read()
    found = results["ceilings"]
    assert results["machine"]["card"] == "none"
    assert found["copy_bytes_per_second"] > 0
    assert found["bfloat16_flops"] > 0
    assert found["graph_node_seconds"] is None


def test_a_stage_that_overruns_is_ended_with_its_children_and_the_next_one_begins(tmp_path: Path) -> None:
    slow = f"sleep 100 & echo $! > {tmp_path}/child; wait"
    script = f"OUT={tmp_path}; source {GPU}/stage.sh; stage slow 1 bash -c '{slow}'; stage bad 9 false; stage fine 9 echo well"
    done = run("bash", "-euc", script)
    assert done.returncode == 0, done.stderr
    ended = [line.split("\t")[:3] for line in (tmp_path / "stages.tsv").read_text().splitlines()]
    assert ended == [["slow", "overran", "124"], ["bad", "failed", "1"], ["fine", "done", "0"]]
    assert "fine done: well" in done.stdout
    assert "well" in (tmp_path / "log.txt").read_text()
    wait_for_end(int((tmp_path / "child").read_text()))


def wait_for_end(pid: int) -> None:
    """Fails only if the process stays; one that has ended may wait a moment to be collected."""
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "the child runs on"
        time.sleep(0.05)


def test_all_stages_fit_into_eight_minutes_with_what_goes_before_them() -> None:
    limits = [int(limit) for limit in re.findall(r"^ *stage [a-z-]+ (\d+)", (GPU / "run.sh").read_text(), re.MULTILINE)]
    to_kill = re.search(r"--kill-after=(\d+)", (GPU / "stage.sh").read_text())
    assert to_kill is not None
    assert len(limits) == 11
    assert sum(limits) + len(limits) * int(to_kill[1]) < 480


def test_a_package_that_is_missing_is_named_with_the_line_that_fetches_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = importlib.import_module

    def without_structlog(module: str) -> object:
        if module == "structlog":
            raise ModuleNotFoundError("No module named 'structlog'")
        return here(module)

    monkeypatch.setattr(missing, "MACHINE", ("torch",))
    monkeypatch.setattr(missing, "NEEDED", {"run": missing.TRAINING | missing.SERVICE})
    monkeypatch.setattr(missing, "_lacking_machine", list)
    monkeypatch.setattr(importlib, "import_module", without_structlog)
    assert missing.main(["run", "wheels of ours"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "missing: structlog: ModuleNotFoundError: No module named 'structlog'"
    assert re.fullmatch(r"pip download --no-deps .* -d 'wheels of ours' structlog==[0-9.]+", said[-1])


def test_all_wheels_are_named_for_the_python_of_a_machine_that_cannot_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert missing.main(["run", "wheels", "--python", "3.12"]) == 0
    line = capsys.readouterr().out
    assert "--python-version=3.12" in line
    assert all(f" {name}" in line for name in missing.NEEDED["run"])


COLLECT_AS_WITH_A_CARD = """
import sys, pytest, torch
torch.cuda.is_available = lambda: True
sys.exit(pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def test_on_a_card_all_tests_of_the_kernels_are_among_those_that_need_one() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    others = ROOT / "tests" / "model" / "test_philox.py"
    said = output_of("-c", COLLECT_AS_WITH_A_CARD, "-m", "gpu", ROOT / "tests" / "model" / "cuda" / "test_choice.py", others)
    assert "tests/model/cuda/test_choice.py::" in said
    assert "test_philox.py::" not in said


def test_everything_that_the_service_is_made_of_is_looked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # torch is the machine's; the hub's client, which no checkpoint on disk needs, comes with transformers.
    needed = {canonicalize_name(name) for name in requirements(project["dependencies"], without={"torch", "huggingface-hub"})}
    assert needed == set(missing.TRAINING | missing.SERVICE)


def requirements(wanted: list[str], without: set[str]) -> Iterator[str]:
    """The distributions that these need, themselves among them, as they are installed here."""
    seen, todo = set(without), [Requirement(one) for one in wanted]
    while todo:
        one = todo.pop()
        if canonicalize_name(one.name) in seen or not (one.marker is None or one.marker.evaluate({"extra": ""})):
            continue
        seen.add(canonicalize_name(one.name))
        yield one.name
        todo += [Requirement(text) for text in metadata.requires(one.name) or []]


# Hides from Python what `missing.py train` does not look for.
AS_ON_A_MACHINE_TO_TRAIN_ON = """
import runpy, sys
from importlib.machinery import PathFinder

lacking, run_name, sys.argv = set(sys.argv[1].split(",")), sys.argv[2], sys.argv[3:]

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in lacking else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
runpy.run_module(sys.argv[0], run_name=run_name, alter_sys=True)
"""


def run_to_train(name: str, *options: object, run_name: str = "__main__") -> str:
    """The module on a machine that has torch and Triton with what they need, and the packages that training is said to need."""
    brought = {canonicalize_name(name) for name in requirements(["torch", "triton"], without=set())}
    there = brought | set(missing.TRAINING) | {tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]}
    lacking = [
        module
        for module, names in metadata.packages_distributions().items()
        if not there & {canonicalize_name(name) for name in names}
    ]
    assert "pydantic" in lacking
    return output_of("-c", AS_ON_A_MACHINE_TO_TRAIN_ON, ",".join(lacking), run_name, f"benchmarks.gpu.{name}", *options)


@pytest.mark.parametrize("name", ["missing", "train", "parts"])
def test_what_trains_needs_no_package_that_is_not_looked_for(name: str) -> None:
    run_to_train(name, run_name="imported")


def test_the_floor_of_a_step_is_what_the_card_must_copy_or_multiply() -> None:
    assert floor_seconds(1, DECODE, CEILINGS) == pytest.approx(58.4e-6, rel=0.01)
    assert floor_seconds(256, DECODE, CEILINGS) == pytest.approx(605e-6, rel=0.01)
    slow = CEILINGS | {"bfloat16_flops": 1e12}
    assert floor_seconds(256, DECODE, slow) == pytest.approx(256 * DECODE["row_flops"] / 1e12)


def test_the_table_has_each_figure_with_its_goal_and_its_share_of_the_floor(tmp_path: Path) -> None:
    by_batch = [{"rows": 64, "step_seconds": 4e-4, "tokens_per_second": 160_000}]
    by_context = [{"context": 992, "step_seconds": 2e-4, "tokens_per_second": 5_000}]
    http = {"clients": 64, "tokens_per_second": 80_000, "first_token_ms_p50": 4.2, "first_token_ms_p99": 9.0}
    found = {
        "machine": {"card": "one of eighty gigabytes"},
        "ladder": [{"who": "ours", "dtype": "float32", "error": 2e-6, "failures": []}],
        "ceilings": CEILINGS,
        "decode": DECODE | {"by_batch": by_batch, "by_context": by_context},
        "early": [{"rows": 64, "same_bits": True, "late": 732e-6, "early": 672e-6}],
        "transformers": [{"mode": "eager", "rows": 64, "step_seconds": 8e-3, "tokens_per_second": 8_000}],
        "http": {"rows": [http]},
        "tax": {"by_rows": [{"rows": 64, "tax_percent": 3.1}]},
    }
    (tmp_path / "stages.tsv").write_text("ladder\toverran\t124\t40\t40\n")
    text = as_table([*stage_lines(tmp_path / "stages.tsv"), *lines(found)])
    rows = {cells[1]: cells[2:-1] for line in text.splitlines() if (cells := [cell.strip() for cell in line.split("|")])}
    assert rows["card"] == ["one of eighty gigabytes", "", ""]
    assert rows["stage ladder"] == ["overran (124)", "<= 40 s", "40 s"]
    assert rows["ours, 64 rows"] == ["160,000 tokens/s", "150,000 tokens/s: met", "48 %"]
    assert rows["ours, 1 row, context 992"] == ["5,000 tokens/s", "", "32 %"]
    assert rows["starting kernels early, 64 rows"] == ["732 us a step -> 672 us", "the same bits: met", ""]
    assert rows["transformers, 64 rows, eager"][0] == "8,000 tokens/s, ours 20.0 times as fast"
    assert rows["HTTP, 64 clients"] == ["80,000 tokens/s", "100,000 tokens/s: missed", "50 % of ours without HTTP"]
    assert rows["tax of invariance on products, 64 rows"] == ["3.1 %", "<= 5 %: met", ""]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_a_table_of_what_is_there_is_printed_when_stages_have_failed(tmp_path: Path) -> None:
    Results(tmp_path / "results.json").put("decode", {"by_batch": [{"rows": 1, "step_seconds": 2e-4, "tokens_per_second": 5_000}]})
    assert "5,000 tokens/s: met" in run_module("table", tmp_path)


def test_packed_text_becomes_a_model_that_is_carried_in_parts(tmp_path: Path, tiny_checkpoint: Path) -> None:
    packed, model, out, joined = (tmp_path / name for name in ("corpus.tar.xz", "model", "out", "joined"))
    text, held_out = tmp_path / "text.txt", tmp_path / "held_out.txt"
    text.write_text((TEXTS / "novels.txt").read_text()[:40_000])
    held_out.write_text((TEXTS / "plays.txt").read_text()[:2_000])
    vocabulary = ("--tokenizer", tiny_checkpoint, "--validation-fraction", 0.1)
    run_module("pack_corpus", text, "--held-out", held_out, "--out", packed, *vocabulary)
    sizes = ("--n-positions", 16, "--n-embd", 8, "--n-layer", 1, "--n-head", 1, "--batch-size", 4)
    said = run_to_train("train", packed, model, *sizes, "--steps", 2, "--device", "cpu")
    assert re.search(r"bits per byte, .* of 2,\d+ bytes held out", said)

    parts.split(model, out, part_bytes=20_000)
    sizes_on_disk = [(out / parts.PART.format(i)).stat().st_size for i in range(len(list(out.glob("checkpoint.tar.*"))))]
    assert len(sizes_on_disk) > 1
    assert max(sizes_on_disk) <= 20_000
    parts.join(out, joined)
    assert load_model(joined).config == load_model(model).config
    assert load_tokenizer(joined).vocab == load_tokenizer(tiny_checkpoint).vocab
    assert json.loads((joined / "training" / "evaluation.json").read_text())["bits_per_byte"] > 0

    (out / parts.PART.format(1)).write_bytes(b"other bytes")
    with pytest.raises(SystemExit, match="not what was written"):
        parts.join(out, tmp_path / "again")
