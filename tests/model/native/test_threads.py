"""How many threads there are changes no bit, even where OpenMP gives a step fewer than it asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Prompts, decoding and draws, first on one thread and then on four, in every precision that this CPU has.
PROGRAM = """
import ctypes
import torch
from model.batch import Chunk, Draw, ForwardBatch, SamplingParams
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import Precision, available_features
from model.native.runner import NativeRunner

[openmp] = {line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.rpartition("/")[2]}
print("at most", ctypes.CDLL(openmp).omp_get_thread_limit())
config = GPT2Config(vocab_size=500, n_positions=80, n_embd=100, n_layer=2, n_head=4, eos_token_id=0)
model = GPT2(config).init_weights(torch.Generator().manual_seed(0))
sampled = SamplingParams(temperature=1.0, top_k=50, top_p=0.9, repetition_penalty=1.2)
first = ForwardBatch(tuple(Chunk(slot, 0, tuple(range(slot, slot + 3 * slot + 1)), None) for slot in range(20)))
then = ForwardBatch(tuple(Chunk(slot, 3 * slot + 1, (slot,), Draw(sampled, 9, (1, 2))) for slot in range(20)))

def run(precision, num_threads):
    runner = NativeRunner(model, 20, precision, num_threads)
    logits = runner.logits(first, range(first.num_tokens)).tobytes()
    return logits, [(token.token_id, token.logprob.hex()) for token in runner.execute(then).tokens]

for precision in Precision:
    if precision.needs in available_features():
        once, again = run(precision, 1), run(precision, 4)
        assert len(once[1]) == 20
        print(precision.label, "the same" if once == again else "different")
"""


@pytest.mark.parametrize("limit", [1, 3])
def test_a_step_that_gets_fewer_threads_than_it_asked_for_gives_the_same_bits(features, limit):
    environment = os.environ | {"OMP_THREAD_LIMIT": str(limit)}
    # Were somebody who is not there waited for, it would never end.
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    heading, *lines = result.stdout.splitlines()
    assert heading == f"at most {limit}"
    assert len(lines) >= 1
    assert all(line.endswith(" the same") for line in lines), result.stdout
