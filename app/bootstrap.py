"""Builds the service: checkpoint -> runner -> engine -> text generator. The one place that knows all parts."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from app.engine.async_engine import AsyncEngine
from app.engine.engine import Engine, StepResult
from app.engine.scheduler import Scheduler
from app.errors import StartupError
from app.generation import TextGenerator
from app.info import ServiceInfo
from app.metrics import Metrics
from app.runners import Chosen, Report, choose_device, choose_runner
from app.settings import DEFAULT_MODEL, Settings
from model.checkpoint import CheckpointError, load_model, load_tokenizer, resolve_model
from model.gpt2 import GPT2


@dataclass(frozen=True, slots=True)
class Service:
    generator: TextGenerator
    info: ServiceInfo
    metrics: Metrics


def build_service(settings: Settings, report: Report) -> Service:
    """Load, warm up and test everything; `report` is told of each stage. Raises StartupError, naming what to mend."""
    device = choose_device(settings)
    try:
        directory = resolve_model(settings.model)
        report(f"loading {directory}")
        tokenizer = load_tokenizer(directory)
        model = _load_with_progress(directory)
    except CheckpointError as error:
        raise StartupError(str(error)) from error
    if settings.device == "auto" and device.type == "cpu":
        report("no CUDA device found, computing on the CPU")
    chosen = choose_runner(model, tokenizer, settings, device, report)
    report(f"{model.num_parameters / 1e6:,.1f} M parameters, {chosen.dtype} on {device.type}, by the {chosen.backend} runner")
    runner = chosen.runner
    report(f"{settings.max_running} cache slots of {runner.max_positions} positions, {chosen.cache_bytes / 1e6:,.0f} MB")
    info = _info(settings, directory, model, chosen, device.type)
    metrics = Metrics()
    scheduler = Scheduler(settings.max_running, settings.prefill_chunk, settings.max_batch_tokens, runner.exact_at_any_cut)
    async_engine = AsyncEngine(Engine(runner, scheduler), settings.max_waiting, _observer(metrics))
    metrics.describe_model(info.model_id, info.dtype, info.device, settings.max_running)
    return Service(TextGenerator(async_engine, tokenizer, model.config.eos_token_id, metrics), info, metrics)


def _load_with_progress(directory: Path) -> GPT2:
    # Shown after two seconds alone: a small checkpoint is there before anybody wonders.
    with tqdm(desc="weights", unit="B", unit_scale=True, delay=2, leave=False) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return load_model(directory, on_progress)


def _observer(metrics: Metrics) -> Callable[[StepResult], None]:
    return lambda result: metrics.observe_step(result.stats, time.time())


def _info(settings: Settings, directory: Path, model: GPT2, chosen: Chosen, device: str) -> ServiceInfo:
    is_default = directory.resolve() == DEFAULT_MODEL.resolve()
    is_directory = Path(settings.model).is_dir()
    return ServiceInfo(
        model_id="gpt2-default" if is_default else directory.resolve().name if is_directory else settings.model,
        dtype=chosen.dtype,
        device=device,
        backend=chosen.backend,
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
