"""Every machine computes the same: token ids, log-probabilities and logits of fixed networks, by their digests in digests.txt.

Whatever set of kernels computes, on this CPU or on one that qemu plays, by whatever compiler. The networks of digests.cpp are made
there, of integers. That of tests/data/tiny-gpt2 was trained on shakespeare.txt and saved in float16; then some of its channels were
made hundreds of times as loud, and what reads them as much quieter, as large checkpoints have them.

An arithmetic that is changed on purpose changes its lines: those that the failing test prints belong into digests.txt.
"""

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from model.batch import Chunk, Draw, SampledToken, SamplingParams
from model.checkpoint import open_checkpoint
from model.native.runner import NativeRunner
from tests.model.native.compiling import compile_all
from tests.model.native.digests import Digest, digests_of, expected_digests
from tests.model.native.kinds import COMMON
from tests.model.native.running import bits, drawn, execute, logprobs, scored

CHECKPOINT = Path(__file__).parents[2] / "data/tiny-gpt2"
OF_CHECKPOINT = ("greedy", "sampled", "logprobs")
CASES = [f"{network}/{what}" for network in ("tails", "deep", "outliers") for what in ("greedy", "sampled", "logits")]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}; see .ci/run")


on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="plays another x86-64 CPU")


def check(computed: Iterable[Digest]) -> None:
    """All are those of the file; a case that the file does not have yet is no failure, but said."""
    expected, wrong, new = expected_digests(), [], []
    for digest in computed:
        line = f"{digest.name} {digest.value}"
        if digest.name not in expected:
            new.append(line)
        elif digest.value != expected[digest.name]:
            wrong.append(f"{line}  # by {digest.kernels}; expected {expected[digest.name]}")
    assert not wrong, "\n".join(["other digests:", *wrong])
    if new:
        pytest.skip("\n".join(["not yet measured, to be added to digests.txt:", *sorted(set(new))]))


def refusal(command: list[str | Path]) -> str:
    """What is said where kernels are asked for that no CPU has."""
    result = subprocess.run([*command, "mmx"], capture_output=True, text=True)
    assert result.returncode == 1
    return result.stderr.splitlines()[-1]


def sets_of(computed: Iterable[Digest]) -> set[str]:
    return {digest.kernels for digest in computed}


@pytest.fixture(scope="module")
def program(available: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digests.cpp with the library that the installation built."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing: apt-get install g++")
    root, program = Path(__file__).parents[3], tmp_path_factory.mktemp("digests") / "digests"
    library = root / "model/native/_step.so"
    source = root / "tests/model/native/digests.cpp"
    link = [library, f"-Wl,-rpath,{library.parent}"]
    subprocess.run(["g++", "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", source, *link, "-o", program], check=True)
    return program


@pytest.mark.parametrize("num_threads", [1, 3])
def test_every_set_of_kernels_that_this_cpu_can_run_gives_the_digests(program, available, num_threads):
    computed = digests_of([program, str(num_threads)])
    common = {f"{case} {arithmetic}" for case in CASES for arithmetic in COMMON}
    for kernels in available:
        assert common <= {digest.name for digest in computed if digest.kernels == kernels}
    check(computed)


def test_every_digest_that_all_machines_share_is_known():
    cases = [*CASES, *(f"checkpoint/{what}" for what in OF_CHECKPOINT)]
    assert {f"{case} {arithmetic}" for case in cases for arithmetic in COMMON} <= set(expected_digests())


# ---- other CPUs


@on_x86
@needs("qemu-x86_64")
@pytest.mark.parametrize(
    ("cpu", "offered", "asked_for"),
    [
        ("Haswell", "avx2, scalar", ["avx2"]),
        ("Nehalem", "scalar", ["scalar", "tails"]),  # without fused multiply-adds, which take long to be played
    ],
    ids=["with_avx2", "without_avx"],
)
def test_an_older_cpu_runs_the_kernels_that_it_has_and_gives_the_digests(program, cpu, offered, asked_for):
    """An instruction that it lacks would end the program."""
    emulated = ["qemu-x86_64", "-cpu", cpu, program, "1"]
    assert refusal(emulated) == f"the kernels mmx cannot run on this CPU; {offered} can"
    computed = digests_of([*emulated, *asked_for])
    assert sets_of(computed) == {asked_for[0]}
    check(computed)


@pytest.fixture(scope="module")
def on_arm() -> Path:
    """digests.cpp for aarch64, with all that it needs."""
    compiler = "aarch64-linux-gnu-g++"
    return compile_all("aarch64", machine="aarch64", compiler=compiler, flags=["-O2"], programs=["digests"], link=["-static"])


@needs("qemu-aarch64", "aarch64-linux-gnu-g++")
@pytest.mark.parametrize(
    ("cpu", "offered", "asked_for"),
    [("max", "neon, scalar", ["neon,scalar"]), ("cortex-a53", "scalar", ["scalar", "tails"])],
    ids=["with_dot_products", "without_dot_products"],
)
def test_an_arm_cpu_runs_the_kernels_that_it_has_and_gives_the_digests(on_arm, cpu, offered, asked_for):
    emulated = ["qemu-aarch64", "-cpu", cpu, on_arm / "digests", "1"]
    assert refusal(emulated) == f"the kernels mmx cannot run on this CPU; {offered} can"
    computed = digests_of([*emulated, *asked_for])
    assert sets_of(computed) == set(asked_for[0].split(","))
    check(computed)


# ---- a checkpoint

PROMPTS = [
    (49, 46, 44, 36, 46, 25, 198, 33, 315, 264, 78, 69, 83, 11, 348, 265, 300, 432, 294, 472, 456, 331, 261, 67),
    (499,),
    (263, 266, 259, 67, 322, 275, 260, 461, 82, 30, 198) * 5,
]
SAMPLED = SamplingParams(0.9, 100, 0.95, 0.001, 0.98, 1.1, 0.1, 0.1, ((11, 1.0),), seed=7)


def generated(runner: NativeRunner, params: SamplingParams) -> Iterator[SampledToken]:
    """Of all prompts at once, the longer ones in pieces, and 24 tokens of each."""
    sequences, cached = [list(prompt) for prompt in PROMPTS], [0] * len(PROMPTS)
    while any(len(ids) < len(prompt) + 24 for ids, prompt in zip(sequences, PROMPTS, strict=True)):
        chunks = []
        for slot, (ids, prompt) in enumerate(zip(sequences, PROMPTS, strict=True)):
            if len(ids) < len(prompt) + 24:
                end = min(len(ids), cached[slot] + 17)
                draws = (Draw(end - cached[slot] - 1, params, len(prompt)),) if end == len(ids) else ()
                chunks.append(Chunk(slot, cached[slot], tuple(ids[cached[slot] : end]), draws))
                cached[slot] = end
        drawing = [chunk.slot for chunk in chunks if chunk.draws]
        for slot, token in zip(drawing, drawn(execute(runner, *chunks)), strict=True):
            sequences[slot].append(token.token_id)
            yield token


def test_a_checkpoint_gives_the_digests(kind):
    checkpoint = open_checkpoint(CHECKPOINT)
    runner = kind.runner(checkpoint.config, checkpoint.weights, len(PROMPTS), 2)
    tokens = (bits(list(generated(runner, p))) for p in (SamplingParams(), SAMPLED))
    scores = execute(runner, scored(0, 0, PROMPTS[2], [*PROMPTS[2][1:], 0]))
    values = [*tokens, logprobs(scores)]
    check(
        Digest(
            kind.kernels, f"checkpoint/{what} {kind.arithmetic}", hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()
        )
        for what, value in zip(OF_CHECKPOINT, values, strict=True)
    )
