"""Builds the service: checkpoint -> runner -> engine -> text generator. The one place that knows all parts."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from app.engine.async_engine import AsyncEngine
from app.engine.engine import Engine, StepResult
from app.engine.scheduler import Scheduler
from app.errors import StartupError
from app.generation import TextGenerator
from app.info import ServiceInfo
from app.metrics import Metrics
from app.settings import DEFAULT_MODEL, Settings
from model.checkpoint import CheckpointError, load_tokenizer, open_checkpoint, resolve_model
from model.choice import ChoiceError, Chosen, Report, Wanted, choose_device, choose_runner
from model.config import GPT2Config


@dataclass(frozen=True, slots=True)
class Service:
    generator: TextGenerator
    info: ServiceInfo
    metrics: Metrics


def build_service(settings: Settings, report: Report) -> Service:
    """Load, warm up and test everything; `report` is told of each stage. Raises StartupError, naming what to mend."""
    try:
        device = choose_device(settings.device)
        directory = resolve_model(settings.model)
        report(f"loading {directory}")
        checkpoint = open_checkpoint(directory)
        if settings.device == "auto" and device == "cpu":
            report("no CUDA device found, computing on the CPU")
        # 50,000 tokens take as long as packing the weights, which leaves the interpreter to them.
        with ThreadPoolExecutor(1) as beside:
            loading = beside.submit(load_tokenizer, directory)
            chosen = choose_runner(checkpoint, loading.result, _wanted(settings, device), report)
            tokenizer = loading.result()
    except (CheckpointError, ChoiceError) as error:
        raise StartupError(str(error)) from error
    except MemoryError as error:
        raise StartupError(f"no room for {settings.max_running} cache slots: {error}; lower GPT2_MAX_RUNNING") from error
    config, runner = checkpoint.config, chosen.runner
    kind = f"{chosen.dtype} on {device}, by the {chosen.backend} runner (kernels {chosen.kernels}, arithmetic {chosen.arithmetic})"
    report(f"{config.num_parameters / 1e6:,.1f} M parameters, {kind}")
    report(f"{settings.max_running} cache slots of {runner.max_positions} positions, {chosen.cache_bytes / 1e6:,.0f} MB")
    info = _info(settings, directory, config, chosen, device)
    metrics = Metrics()
    scheduler = Scheduler(settings.max_running, settings.prefill_chunk, settings.max_batch_tokens, runner.exact_at_any_cut)
    async_engine = AsyncEngine(Engine(runner, scheduler), settings.max_waiting, _observer(metrics))
    metrics.describe_model(info)
    return Service(TextGenerator(async_engine, tokenizer, config.eos_token_id, metrics), info, metrics)


def _wanted(settings: Settings, device: str) -> Wanted:
    return Wanted(device, settings.dtype, settings.kernels, settings.threads, settings.max_running, settings.prefill_chunk)


def _observer(metrics: Metrics) -> Callable[[StepResult], None]:
    return lambda result: metrics.observe_step(result.stats, time.time())


def _info(settings: Settings, directory: Path, config: GPT2Config, chosen: Chosen, device: str) -> ServiceInfo:
    is_default = directory.resolve() == DEFAULT_MODEL.resolve()
    is_directory = Path(settings.model).is_dir()
    return ServiceInfo(
        model_id="gpt2-default" if is_default else directory.resolve().name if is_directory else settings.model,
        dtype=chosen.dtype,
        device=device,
        backend=chosen.backend,
        kernels=chosen.kernels,
        arithmetic=chosen.arithmetic,
        max_total_tokens=config.n_positions,
        vocab_size=config.vocab_size,
        num_parameters=config.num_parameters,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        max_batch_tokens=settings.max_batch_tokens,
        prefill_chunk=settings.prefill_chunk,
        created=int(time.time()),
    )
