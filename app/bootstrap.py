"""Builds the service: checkpoint -> runner -> engine -> text generator. The one place that knows all parts."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from app.engine.async_engine import AsyncEngine
from app.engine.engine import Engine, StepResult
from app.engine.scheduler import Scheduler
from app.errors import StartupError
from app.generation import TextGenerator
from app.info import ServiceInfo
from app.metrics import Metrics
from app.settings import DEFAULT_MODEL, Settings
from model.batch import Chunk, Draw, ForwardBatch, SamplingParams
from model.checkpoint import CheckpointError, load_model, load_tokenizer, resolve_model
from model.gpt2 import GPT2
from model.runner import TorchRunner

SELF_TEST_LENGTH = 8
# How far below the plain network's best logit the runner's choice may lie, in standard deviations of the logits: rounding, no more.
SELF_TEST_TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.5}

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Service:
    generator: TextGenerator
    info: ServiceInfo
    metrics: Metrics


def build_service(settings: Settings, report: Report) -> Service:
    """Load, warm up and test everything; `report` is told of each stage. Raises StartupError, naming what to mend."""
    device, dtype = choose_device(settings), choose_dtype(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    try:
        directory = resolve_model(settings.model)
        report(f"loading {directory}")
        tokenizer = load_tokenizer(directory)
        model = _load_with_progress(directory)
    except CheckpointError as error:
        raise StartupError(str(error)) from error
    info = _info(settings, directory, model, dtype, device)
    report(f"{model.num_parameters / 1e6:,.1f} M parameters, {str(dtype).removeprefix('torch.')} on {device.type}")
    if settings.device == "auto" and device.type == "cpu":
        report("no CUDA device found, computing on the CPU")
    runner = _build_runner(model, settings, device, dtype)
    report(f"{settings.max_running} cache slots of {runner.max_positions} positions, {runner.cache.data.nbytes / 1e6:,.0f} MB")
    metrics = Metrics()
    engine = Engine(runner, Scheduler(settings.max_running, settings.prefill_chunk, settings.max_batch_tokens))
    async_engine = AsyncEngine(engine, settings.max_waiting, _observer(metrics))
    metrics.describe_model(info.model_id, info.dtype, info.device, settings.max_running)
    return Service(TextGenerator(async_engine, tokenizer, model.config.eos_token_id, metrics), info, metrics)


def choose_device(settings: Settings) -> torch.device:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise StartupError(
            "device cuda is asked for, but PyTorch finds no CUDA device here; leave GPT2_DEVICE at auto or set it to cpu"
        )
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def choose_dtype(settings: Settings) -> torch.dtype:
    if settings.dtype == "auto":
        return torch.bfloat16 if choose_device(settings).type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]


def _load_with_progress(directory: Path) -> GPT2:
    # Shown after two seconds alone: a small checkpoint is there before anybody wonders.
    with tqdm(desc="weights", unit="B", unit_scale=True, delay=2, leave=False) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return load_model(directory, on_progress)


def _build_runner(model: GPT2, settings: Settings, device: torch.device, dtype: torch.dtype) -> TorchRunner:
    num_tokens = min(SELF_TEST_LENGTH, settings.prefill_chunk, model.config.n_positions)
    token_ids = [i % model.config.vocab_size for i in range(1, num_tokens + 1)]
    with torch.inference_mode():
        expected = model.eval()(torch.tensor([token_ids]))[0, -1]  # (V,), by the plain network, before the runner repacks it
    try:
        runner = TorchRunner(model, settings.max_running, settings.prefill_chunk, device, dtype)
    except (RuntimeError, MemoryError) as error:
        if "memory" in str(error).lower() or isinstance(error, MemoryError):  # torch says it as a RuntimeError too
            raise StartupError(f"no room for {settings.max_running} cache slots: {error}; lower GPT2_MAX_RUNNING") from error
        raise StartupError(f"the model cannot run in {dtype} on {device.type} here: {error}") from error
    draw = Draw(SamplingParams(), position=len(token_ids))
    (token,) = runner.execute(ForwardBatch((Chunk(0, 0, tuple(token_ids), draw),))).tokens
    gap = (expected.max() - expected[token.token_id]) / expected.std()
    if not gap <= SELF_TEST_TOLERANCE[dtype]:
        raise StartupError(
            f"self-test failed: the runner's token {token.token_id} is {gap:.3f} deviations below the network's choice"
        )
    return runner


def _observer(metrics: Metrics) -> Callable[[StepResult], None]:
    return lambda result: metrics.observe_step(result.stats, time.time())


def _info(settings: Settings, directory: Path, model: GPT2, dtype: torch.dtype, device: torch.device) -> ServiceInfo:
    is_default = directory.resolve() == DEFAULT_MODEL.resolve()
    is_directory = Path(settings.model).is_dir()
    return ServiceInfo(
        model_id="gpt2-default" if is_default else directory.resolve().name if is_directory else settings.model,
        dtype=str(dtype).removeprefix("torch."),
        device=device.type,
        max_total_tokens=model.config.n_positions,
        vocab_size=model.config.vocab_size,
        num_parameters=model.num_parameters,
        n_layer=model.config.n_layer,
        n_head=model.config.n_head,
        n_embd=model.config.n_embd,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        max_batch_tokens=settings.max_batch_tokens,
        prefill_chunk=settings.prefill_chunk,
        created=int(time.time()),
    )
