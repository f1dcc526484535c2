"""Two processes that train together, as torchrun starts them, against one alone."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.training.distributed import Processes, training_device
from model.training.errors import TrainingError

pytestmark = pytest.mark.timeout(900)  # five processes that import torch, maybe on a busy machine

REPOSITORY = Path(__file__).parents[3]
# Float32 and AdamW: Muon's bfloat16 would enlarge the rounding of another order of summation.
OPTIONS = shlex.split(
    "--device cpu --n-embd 16 --n-layer 1 --n-head 2 --n-positions 16 --vocab-size 300 --optimizer adamw --precision float32 "
    "--batch-size 8 --accumulation 2 --no-compile"
)
# What each rank has in the end, beside what the first has saved; and the threads that are left when Python ends.
KEEP_WEIGHTS = """
import atexit
import os
import sys
from pathlib import Path

def keep_threads():
    tasks = Path("/proc/self/task").iterdir()
    Path(f"threads-{os.environ.get('RANK', '0')}.txt").write_text("".join(task.joinpath("comm").read_text() for task in tasks))

atexit.register(keep_threads)  # the last to be called, as the first that was registered
from safetensors.torch import save_file
from model.training import run
from model.training.trainer import Trainer

class KeepingTrainer(Trainer):
    def run(self):
        finished = super().run()
        weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        save_file(weights, f"rank-{self._processes.rank}.safetensors")
        return finished

run.Trainer = KeepingTrainer
from app.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path, shakespeare):
    (tmp_path / "text.txt").write_text(shakespeare[:4000] + "sun, moon and stars; " * 200)  # some tokens are longer
    (tmp_path / "keep.py").write_text(KEEP_WEIGHTS)
    return tmp_path


def command(num_processes, *arguments):
    launcher = ["torch.distributed.run", f"--nproc-per-node={num_processes}", "--standalone"]
    return [sys.executable, "-m", *launcher, *arguments]


def environment(**variables):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GPT2_")}
    return inherited | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | variables


def finished(arguments, folder):
    done = subprocess.run(arguments, cwd=folder, env=environment(), capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr
    return done


def outcome(done):
    """The loss and the bits per byte of the last line."""
    return [
        float(figure) for figure in re.search(r"validation loss (\S+), (\S+) bits per byte", done.stderr.splitlines()[-1]).groups()
    ]


def weights(folder, name):
    return load_file(folder / name)


def test_two_processes_end_with_the_weights_of_one(folder):
    arguments = ["train", "pretrain", "text.txt", *OPTIONS, "--steps", "6"]
    done = finished(command(2, "keep.py", *arguments, "--out", "two"), folder)
    ranks = [weights(folder, f"rank-{rank}.safetensors") for rank in (0, 1)]
    for rank in (0, 1):
        assert "gloo" not in (folder / f"threads-{rank}.txt").read_text(), "a thread of gloo's lives on while Python ends"
    assert ranks[0].keys() == ranks[1].keys()
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    done_alone = finished([sys.executable, "keep.py", *arguments, "--out", "one"], folder)
    alone = weights(folder, "rank-0.safetensors")
    torch.testing.assert_close(ranks[0], alone, rtol=1e-5, atol=1e-5)
    assert outcome(done) == pytest.approx(outcome(done_alone), abs=3e-4), "bits are those of all that was held out"
    assert done.stdout.splitlines() == ["gpt2 serve --model two"]
    lines = done.stderr.splitlines()
    assert len(lines) == len(set(lines)), "a line was printed by both"
    assert "warn" not in done.stderr.lower()


def test_an_interrupt_saves_and_the_run_can_go_on(folder):
    arguments = ["train", "pretrain", "text.txt", *OPTIONS, "--steps", "100000", "--validate-every", "50000", "--out", "two"]
    with subprocess.Popen(
        command(2, "-m", "app", *arguments), cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        log = folder / "two" / "training" / "log.csv"
        wait_for(lambda: log.exists() and log.read_text().count("\n") > 3, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=600)
    assert process.returncode != 0
    assert errors.count("stopped and saved; go on by gpt2 train pretrain --resume --out two") == 1
    state = load_file(folder / "two" / "training" / "state.safetensors")
    assert all(tensor.isfinite().all() for tensor in state.values())


def wait_for(condition, process):
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def test_a_process_alone_agrees_with_itself():
    alone = Processes()
    assert alone.is_first
    assert alone.agree("plan") == "plan"
    assert (alone.any(True), alone.any(False)) == (True, False)
    assert alone.sum(torch.tensor(3.0)) == 3
    alone.wait()


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:x", "meta", "cpu:0"])
def test_devices_of_other_kinds_are_refused(name):
    with pytest.raises(TrainingError, match=f"--device {name}: cpu, cuda and cuda:N are known"):
        training_device(name)


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(TrainingError, match=r"--device cuda:99: GPUs to be seen here: \d+; --device cpu works everywhere"):
        training_device("cuda:99")
    assert training_device("cpu").type == "cpu"
