"""What HTTP and streaming cost on top of the engine: the same requests in process and through the server.

    python -m benchmarks.http_overhead

Two parts. GPT-2 124M, float32, 32 clients: streamed tokens/s through HTTP as a share of the engine's own in process (at least 95 %
wanted). The default checkpoint: processor time of the server per streamed token (at most 60 us wanted), in all and on the event
loop's thread alone: the others compute the model.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from app.engine.engine import Engine
from app.engine.scheduler import Scheduler
from app.engine.sequence import EngineRequest
from app.environment import prepare_for_torch
from app.settings import DEFAULT_MODEL
from benchmarks.load import run_load
from benchmarks.machine import gpt2_tokenizer, prompts_of, random_gpt2, write_result
from benchmarks.server import ServerProcess
from model.batch import SamplingParams
from model.checkpoint import load_model, load_tokenizer
from model.runner import TorchRunner

NUM_PROMPT, NUM_NEW, CLIENTS = 128, 128, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "gpt2-124m-random")
    options = parser.parse_args()
    share = _share_of_engine(random_gpt2(options.model), options.rounds)
    print(f"GPT-2 124M, {CLIENTS} clients: {share['share']:.1%} of the engine's own tokens/s")
    cpu = _cpu_per_token(options.rounds)
    print(f"default checkpoint: {cpu['total_us']:.0f} us of processor time a token, {cpu['event_loop_us']:.0f} on the event loop")
    write_result("http_overhead", "python -m benchmarks.http_overhead", {"gpt2_124m": share, "default_checkpoint": cpu})


def _share_of_engine(model: Path, rounds: int) -> dict[str, float]:
    engine_rates, http_rates = [], []
    for seed in range(rounds):
        prompts = prompts_of(gpt2_tokenizer(), NUM_PROMPT, CLIENTS, seed)
        http_rates.append(_http(model, prompts))
        engine_rates.append(_in_a_process_of_its_own(model, prompts))
        print(f"round {seed + 1}: HTTP {http_rates[-1]:.1f}, engine {engine_rates[-1]:.1f} tokens/s")
    shares = [http / engine for http, engine in zip(http_rates, engine_rates, strict=True)]
    return {
        "http_tokens_per_second": round(statistics.median(http_rates), 1),
        "engine_tokens_per_second": round(statistics.median(engine_rates), 1),
        "share": round(statistics.median(shares), 3),
    }


def _http(model: Path, prompts: list[str]) -> float:
    bodies = [{"inputs": prompt, "parameters": {"max_new_tokens": NUM_NEW, "ignore_eos": True}} for prompt in prompts]
    with ServerProcess(model, dtype="float32") as server:
        return run_load(server.url, bodies, len(prompts)).tokens_per_second


def _in_a_process_of_its_own(model: Path, prompts: list[str]) -> float:
    """With the environment that the server gives itself."""
    prepare_for_torch()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_in_process, model, prompts).result()


def _in_process(model: Path, prompts: list[str]) -> float:
    tokenizer = load_tokenizer(model)
    runner = TorchRunner(load_model(model), CLIENTS, 128, torch.device("cpu"), torch.float32)
    runner.warm_up()
    engine = Engine(runner, Scheduler(CLIENTS, 128, 256))
    started = time.perf_counter()
    for i, prompt in enumerate(prompts):
        engine.submit(EngineRequest(i, tuple(tokenizer.encode(prompt)), SamplingParams(), max_new_tokens=NUM_NEW))
    num_tokens = 0
    while engine.has_work:
        num_tokens += len(engine.step().outputs)
    return num_tokens / (time.perf_counter() - started)


def _cpu_per_token(rounds: int) -> dict[str, float]:
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    prompts = prompts_of(tokenizer, 32, 4 * CLIENTS)
    bodies = [{"inputs": prompt, "parameters": {"max_new_tokens": 200, "ignore_eos": True}} for prompt in prompts]
    total, event_loop = [], []
    with ServerProcess() as server:
        run_load(server.url, bodies[:CLIENTS], CLIENTS)
        for _ in range(rounds):
            cpu, loop = server.cpu_seconds(), server.event_loop_seconds()
            num_tokens = run_load(server.url, bodies, CLIENTS).tokens
            total.append((server.cpu_seconds() - cpu) / num_tokens * 1e6)
            event_loop.append((server.event_loop_seconds() - loop) / num_tokens * 1e6)
    return {"total_us": round(statistics.median(total), 1), "event_loop_us": round(statistics.median(event_loop), 1)}


if __name__ == "__main__":
    main()
