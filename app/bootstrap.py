"""Builds the service: checkpoint -> runner -> engine -> text generator. The one place that knows all parts."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.billing import Billing
from app.chat.conversation import Chat, NoChat, open_chat
from app.deadline import Timeouts
from app.engine.client import EngineClient, Limits
from app.engine.engine import Engine, StepResult
from app.engine.scheduler import Scheduler
from app.engine.worker import Publish, ThreadWorker
from app.errors import ModelUnusable, StartupError
from app.generation import TextGenerator
from app.info import ServiceInfo, fingerprint_of, model_id_of
from app.inspection.child import Child
from app.inspection.lane import Lane, NoLane
from app.keys import Keys, KeysError
from app.metrics import Metrics
from app.power import PowerMeter, open_counter
from app.settings import Settings
from model.batch import Runner
from model.checkpoint import CheckpointError, load_tokenizer, open_checkpoint, resolve_model
from model.choice import ChoiceError, Chosen, Report, Wanted, choose_device, choose_runner
from model.config import GPT2Config
from model.cost import Cost
from model.fingerprint import weights_digest
from model.machine import NO_TORCH, cuda_bus_id, has_torch, num_cores
from model.memory import NoRoom
from model.tokenizer import Tokenizer

MAX_BATCH_TOKENS, MAX_BATCH_TOKENS_ON_CUDA = 256, 2048
MIN_QUEUED_REQUESTS = 16  # of the whole context: as many samples as a prompt may have, where slots and queue are few


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint with a runner for it that has passed its self-test."""

    directory: Path
    config: GPT2Config
    tokenizer: Tokenizer
    weights_digest: str
    device: str
    chosen: Chosen


@dataclass(frozen=True, slots=True)
class Service:
    generator: TextGenerator
    info: ServiceInfo
    metrics: Metrics
    chat: Chat | NoChat
    lane: Lane | NoLane
    keys: Keys | None


def build_service(settings: Settings, report: Report) -> Service:
    """Load, warm up and test everything; `report` is told of each stage. Raises StartupError, naming what to mend."""
    keys = open_keys(settings)
    loaded = load(settings, report)
    config, chosen, runner = loaded.config, loaded.chosen, loaded.chosen.runner
    settings = settled(settings, runner)
    kind = f"{chosen.dtype} on {loaded.device}, by the {chosen.backend} runner"
    report(f"{config.num_parameters / 1e6:,.1f} M parameters, {kind} (kernels {chosen.kernels}, arithmetic {chosen.arithmetic})")
    report(f"{settings.max_running} cache slots of {runner.max_positions} positions, {chosen.cache_bytes / 1e6:,.0f} MB")
    chat = open_chat(settings.chat_template, loaded.directory, loaded.tokenizer, config.eos_token_id, report)
    billing = _billing(settings, loaded)
    info, metrics = _info(settings, loaded, chat, billing.energy_source), Metrics()
    metrics.describe_model(info)
    metrics.describe_costs(billing)

    def start_worker(publish: Publish) -> ThreadWorker:
        return ThreadWorker(make_engine(settings, runner), publish)

    def observe(result: StepResult) -> None:
        billing.observe(result.stats)
        metrics.observe_step(result.stats)

    limits = Limits(runner.max_positions, runner.vocab_size, settings.max_running)
    client = EngineClient(
        start_worker,
        limits,
        settings.max_waiting,
        observe,
        max_queued_tokens=settings.max_queued_tokens,
        max_wait_seconds=settings.max_wait_seconds or None,
        stall_seconds=settings.stall_seconds,
    )
    metrics.describe_engine(client)
    timeouts = Timeouts(settings.timeout_seconds, settings.max_timeout_seconds)
    generator = TextGenerator(client, loaded.tokenizer, config.eos_token_ids, metrics, billing, timeouts)
    return Service(generator, info, metrics, chat, _lane(settings, loaded, metrics, client), keys)


def open_keys(settings: Settings) -> Keys | None:
    """None where no setting names any. Raises StartupError."""
    if not settings.api_keys and not settings.api_keys_file:
        return None
    try:
        return Keys(settings.api_keys, Path(settings.api_keys_file) if settings.api_keys_file else None)
    except KeysError as error:
        raise StartupError(str(error)) from None


def load(settings: Settings, report: Report) -> Loaded:
    """Checkpoint, tokenizer and runner. Raises StartupError."""
    try:
        device = choose_device(settings.device)
        directory = resolve_model(settings.model)
        checkpoint = open_checkpoint(directory)  # before a line is said: what is no checkpoint ends with one line, its refusal
        report(f"loading {directory}")
        if checkpoint.left_aside:
            report(f"left aside, as it writes no text: {', '.join(checkpoint.left_aside)}")
        if checkpoint.unknown_end_ids:
            ids = ", ".join(map(str, checkpoint.unknown_end_ids))
            report(f"eos_token_id names {ids}, which the model lacks; texts end at {checkpoint.config.eos_token_ids}")
        if settings.device == "auto" and device == "cpu":
            report(f"{'no CUDA device found' if has_torch() else 'without PyTorch, which CUDA needs'}, computing on the CPU")
        # 50,000 tokens take as long as packing the weights, which leaves the interpreter to them.
        with ThreadPoolExecutor(2) as beside:
            digesting = beside.submit(weights_digest, checkpoint.weights)
            loading = beside.submit(load_tokenizer, directory)
            chosen = choose_runner(checkpoint, loading.result, wanted_of(settings, device), report)
            return Loaded(directory, checkpoint.config, loading.result(), digesting.result(), device, chosen)
    except CheckpointError as error:
        raise ModelUnusable(str(error)) from error
    except ChoiceError as error:
        raise StartupError(str(error)) from error
    except MemoryError as error:
        raise no_room(settings, error) from error


def no_room(settings: Settings, error: MemoryError) -> StartupError:
    if isinstance(error, NoRoom):  # which has all figures
        return StartupError(f"GPT2_MAX_RUNNING: {error}")
    slots = f"{settings.max_running} cache slots" if settings.max_running else "the cache slots"
    return StartupError(f"no room for {slots}: {error}; lower GPT2_MAX_RUNNING")


def settled(settings: Settings, runner: Runner) -> Settings:
    """With what they leave to the device as the runner has it."""
    default = MAX_BATCH_TOKENS_ON_CUDA if runner.capabilities.is_asynchronous else MAX_BATCH_TOKENS
    could_hold = (runner.num_slots + settings.max_waiting) * runner.max_positions
    update = {
        "max_running": runner.num_slots,
        "max_batch_tokens": settings.max_batch_tokens or default,
        "max_queued_tokens": settings.max_queued_tokens or max(could_hold // 2, MIN_QUEUED_REQUESTS * runner.max_positions),
    }
    return settings.model_copy(update=update)


def make_engine(settings: Settings, runner: Runner) -> Engine:
    """An engine with nothing in its slots."""
    settings = settled(settings, runner)
    scheduler = Scheduler(settings.max_running, settings.prefill_chunk, settings.max_batch_tokens, runner.capabilities)
    return Engine(runner, scheduler)


def wanted_of(settings: Settings, device: str) -> Wanted:
    return Wanted(device, settings.dtype, settings.kernels, settings.threads, settings.max_running, settings.prefill_chunk)


def _fingerprint(settings: Settings, loaded: Loaded, chat: Chat | NoChat) -> str:
    """Of all that fixes the bytes of an answer to the same request."""
    chosen = loaded.chosen
    cut = None if chosen.runner.capabilities.exact_at_any_cut else settings.prefill_chunk
    texts = sorted(loaded.tokenizer.files.items()), chat.source
    return fingerprint_of(loaded.weights_digest, loaded.config, chosen.dtype, chosen.arithmetic, cut, texts)


def _lane(settings: Settings, loaded: Loaded, metrics: Metrics, client: EngineClient) -> Lane | NoLane:
    if not settings.inspect:
        return NoLane("inspection is off here; GPT2_INSPECT=on turns it on")
    if not has_torch():
        return NoLane(f"there is no inspection here: {NO_TORCH}")
    new_child = partial(Child, loaded.directory, settings.threads or num_cores())
    return Lane(loaded.config, new_child, metrics, lambda: client.num_unfinished > 0)


def _billing(settings: Settings, loaded: Loaded) -> Billing:
    num_threads = settings.threads or num_cores() if loaded.device == "cpu" else 0
    counter = open_counter(loaded.device, cuda_bus_id() if loaded.device == "cuda" else None)
    return Billing(Cost(loaded.config, loaded.chosen.dtype), num_threads, PowerMeter(counter) if counter else None)


def _info(settings: Settings, loaded: Loaded, chat: Chat | NoChat, energy_source: str | None) -> ServiceInfo:
    directory, config, chosen = loaded.directory, loaded.config, loaded.chosen
    return ServiceInfo(
        model_id=model_id_of(settings.model, directory),
        dtype=chosen.dtype,
        device=loaded.device,
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
        max_queued_tokens=settings.max_queued_tokens,
        max_wait_seconds=settings.max_wait_seconds,
        timeout_seconds=settings.timeout_seconds,
        max_timeout_seconds=settings.max_timeout_seconds,
        max_batch_tokens=settings.max_batch_tokens,
        prefill_chunk=settings.prefill_chunk,
        chat_template=chat.origin,
        energy_source=energy_source,
        inspect=settings.inspect and has_torch(),
        created=int(time.time()),
        fingerprint=_fingerprint(settings, loaded, chat),
    )
