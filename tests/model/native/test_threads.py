"""The step's own threads: how many there are changes no bit, signals stay with the interpreter, and they go with their runner."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model.batch import Chunk, ForwardBatch, SamplingParams
from model.config import GPT2Config
from model.native.runner import NativeRunner
from model.network_files import weights_of
from tests.model.native.kinds import Kind, network
from tests.model.native.running import bits, drawing, drawn, execute

ROOT = Path(__file__).parents[3]
CONFIG = GPT2Config(vocab_size=500, n_positions=80, n_embd=100, n_layer=2, n_head=4, eos_token_ids=(0,))
SAMPLED = SamplingParams(temperature=1.0, top_k=50, top_p=0.9, repetition_penalty=1.2)
FLOAT32 = Kind("scalar", "float32")
NUM_CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 2

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and limits are Linux's")


@pytest.fixture(autouse=True)
def no_runner_of_another_test() -> None:
    """A refusal's traceback holds one until the collector comes by: its threads would go in the middle of a test."""
    gc.collect()


def runner_of(kind: Kind, num_threads: int) -> NativeRunner:
    return kind.runner(CONFIG, weights_of(network(CONFIG)), len(LENGTHS), num_threads)


LENGTHS = (1, 5, 17, 33, 2, 16, 40, 12)


def results(runner: NativeRunner) -> tuple[bytes, list[tuple[int, str]]]:
    """Of prompts in all slots, and then a draw in each."""
    slots = list(enumerate(LENGTHS))
    prompts = ForwardBatch(tuple(Chunk(slot, 0, tuple(range(slot, slot + length))) for slot, length in slots))
    draws = (drawing(slot, length, (slot,), SAMPLED, num_prompt=2) for slot, length in slots)
    logits = runner.logits(prompts, range(prompts.num_tokens)).tobytes()
    return logits, bits(drawn(execute(runner, *draws)))


def threads() -> set[int]:
    return {int(thread.name) for thread in Path("/proc/self/task").iterdir()}


def eventually(holds: Callable[[], bool]) -> bool:
    """A thread that has been joined may stay in /proc for a moment."""
    return any(holds() or time.sleep(0.01) for _ in range(1000))


@pytest.mark.parametrize("num_threads", sorted({2, 3, NUM_CORES + 1, 2 * NUM_CORES + 3}))
def test_more_threads_than_cores_give_the_bits_of_one(kind, num_threads):
    if kind.is_slow and num_threads > 3:
        pytest.skip("the threads are the same whatever they compute")
    assert results(runner_of(kind, num_threads)) == results(runner_of(kind, 1))


def test_more_threads_than_there_is_work_give_the_bits_of_one(available):
    config = GPT2Config(vocab_size=2, n_positions=3, n_embd=2, n_layer=1, n_head=1, n_inner=1, eos_token_ids=(0,))
    batch = ForwardBatch((Chunk(0, 0, (1, 0, 1)),))
    of_threads = {FLOAT32.runner(config, weights_of(network(config)), 1, n).logits(batch, range(3)).tobytes() for n in (1, 2, 30)}
    assert len(of_threads) == 1


@pytest.mark.parametrize("num_threads", [-1, 0, 1])
def test_one_thread_is_the_callers_own(available, num_threads):
    before = threads()
    runner = runner_of(FLOAT32, num_threads)
    results(runner)
    assert threads() == before


def test_a_runner_that_goes_ends_its_threads_whether_it_has_worked_or_not(available):
    before = threads()
    for is_used in (False, True):
        runner = runner_of(FLOAT32, 4)
        assert len(threads() - before) == 3
        if is_used:
            results(runner)
            time.sleep(0.01)  # its threads fall asleep
        del runner
        assert eventually(lambda: threads() == before)


def test_a_runner_whose_weights_are_refused_ends_its_threads(available):
    before = threads()
    with pytest.raises(Exception, match="no such parameter"):
        FLOAT32.runner(CONFIG, {"nothing": weights_of(network(CONFIG))["ln_f.bias"]}, 1, 4)
    assert eventually(lambda: threads() == before)


def test_two_runners_work_at_the_same_time_on_two_threads_of_pythons(kind):
    expected, seen, num_rounds = results(runner_of(kind, 1)), [], 2 if kind.is_slow else 10

    def work(runner: NativeRunner) -> None:
        seen.extend(results(runner) for _ in range(num_rounds))

    callers = [threading.Thread(target=work, args=(runner_of(kind, 2),)) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert seen == [expected] * 2 * num_rounds


def test_a_runner_may_be_made_on_one_thread_used_on_another_and_let_go_of_on_a_third(available):
    before, held, seen = threads(), [runner_of(FLOAT32, 3)], []
    for work in (lambda: seen.append(results(held[0])), held.clear):
        caller = threading.Thread(target=work)
        caller.start()
        caller.join()
    assert seen == [results(runner_of(FLOAT32, 1))]
    assert eventually(lambda: threads() == before)


def test_helpers_take_no_signals(available):
    before, mask = threads(), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    runner = runner_of(FLOAT32, 3)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask  # the caller's own are as they were
    catchable = {s for s in signal.Signals if s not in (signal.SIGKILL, signal.SIGSTOP)}
    for helper in threads() - before:
        status = Path(f"/proc/self/task/{helper}/status").read_text()
        blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
        assert all(blocked >> number - 1 & 1 for number in catchable), helper
    assert runner.num_slots == len(LENGTHS)


LIMITED = """
import os, resource
from tests.model.native.test_threads import Kind, results, runner_of, threads

os.setuid(65534)  # root is above the limit
there = len(threads())
resource.setrlimit(resource.RLIMIT_NPROC, (there + {num_more}, there + {num_more}))
before = threads()
for arithmetic in ("float32", "int8"):
    kind = Kind("scalar", arithmetic)
    limited = runner_of(kind, 8)
    print(len(threads() - before))
    print(results(limited) == results(runner_of(kind, 1)))
    del limited
"""


@pytest.mark.parametrize("num_more", [0, 2])
def test_a_step_that_gets_fewer_threads_than_it_asked_for_gives_the_same_bits(available, num_more):
    if os.getuid() != 0:
        pytest.skip("another user's processes are counted too: needs root, to become one that has none")
    # Were somebody who is not there waited for, it would never end.
    program = [sys.executable, "-c", LIMITED.format(num_more=num_more)]
    result = subprocess.run(
        program, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(num_more), "True"] * 2
