"""Every Prometheus series of the service, in one table. Observes; decides nothing."""

import itertools
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from app.billing import Billing
from app.engine.client import ENDS, EngineClient
from app.engine.engine import StepStats
from app.errors import ServiceError
from app.info import ServiceInfo
from app.version import VERSION

SECONDS = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60,
)  # fmt: skip
ENGINE_ROUTES = ("/generate", "/generate_stream", "/", "/v1/completions", "/v1/chat/completions", "/v1/score")
ROUTES = (*ENGINE_ROUTES, "/v1/inspect")
OUTCOMES = ("completed", "aborted", "expired", "rejected", "unauthorized", "invalid", "failed")
REASONS = (
    "queue_full", "work_full", "wait_too_long", "not_ready", "draining", "unauthorized", "key_limit",
    "long_texts_full", "inspections_full", "too_many_connections",
)  # fmt: skip
REFUSALS = ("400", "408", "414", "431", "501", "505")
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class TokenHistogram(Collector):
    """A histogram that takes several equal observations at once, all on one thread: the library's own locks twice for each."""

    def __init__(self, name: str, text: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> None:
        self._name, self._text, self._buckets = name, text, buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, amount: float, count: int = 1) -> None:
        self._counts[bisect_left(self._buckets, amount)] += count
        self._sum += amount * count

    def describe(self) -> Iterable[HistogramMetricFamily]:
        return [HistogramMetricFamily(self._name, self._text)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        names = [*map(floatToGoString, self._buckets), "+Inf"]
        totals = zip(names, itertools.accumulate(self._counts), strict=True)
        return [HistogramMetricFamily(self._name, self._text, list(totals), self._sum)]


class EngineSeries(Collector):
    """What the engine's client counts, read when it is asked for: a request costs nothing more."""

    def __init__(self, client: EngineClient, registry: CollectorRegistry) -> None:
        self._client = client
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        accepted = CounterMetricFamily("gpt2_accepted_total", "Prompts that were let in.")
        accepted.add_metric([], self._client.counts["accepted"])
        text = "Prompts that were let in and have ended, by how; all the others run or wait."
        ended = CounterMetricFamily("gpt2_ended_total", text, labels=["how"])
        for how in ENDS:
            ended.add_metric([how], self._client.counts[how])
        crashes = CounterMetricFamily(
            "gpt2_engine_crashes_total", "Times that the engine stopped by an error and was replaced, or not."
        )
        crashes.add_metric([], self._client.num_crashes)
        repeated = CounterMetricFamily("gpt2_steps_repeated_total", "Steps that failed and were run again in parts.")
        repeated.add_metric([], self._client.num_repeated_steps)
        samples = "Samples that wait for a cache slot: several of one request with n."
        tokens = "Tokens that the requests inside may take: their prompts, and all that they may generate."
        wait = "About how long a request that came now would wait for a cache slot."
        age = "Time since the engine's last sign of life, as GPT2_STALL_SECONDS counts it; 0 until it has started."
        ready = "Whether requests are taken in, as /health/ready says it: 1 or 0."
        return [
            accepted,
            ended,
            crashes,
            repeated,
            GaugeMetricFamily("gpt2_samples_waiting", samples, self._client.num_waiting_samples),
            GaugeMetricFamily("gpt2_queued_tokens", tokens, self._client.num_queued_tokens),
            GaugeMetricFamily("gpt2_estimated_wait_seconds", wait, self._client.wait_seconds),
            GaugeMetricFamily("gpt2_engine_heartbeat_age_seconds", age, self._client.silent_seconds),
            GaugeMetricFamily("gpt2_ready", ready, _is_ready(self._client)),
        ]


def _is_ready(client: EngineClient) -> bool:
    try:
        client.check_ready()
    except ServiceError:
        return False
    return True


class CostSeries(Collector):
    """What all requests have cost, priced when it is asked for; energy only where it can be read."""

    def __init__(self, billing: Billing, registry: CollectorRegistry) -> None:
        self._billing = billing
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        billing = self._billing
        texts: dict[str, tuple[str, float | None]] = {
            "gpt2_flops_total": (
                "Floating-point operations of matrix products, by the model's arithmetic, of samples that have ended "
                "but by the engine's crash.",
                billing.flops,
            ),
            "gpt2_bytes_moved_total": (
                "Bytes of weights, keys and values that were moved, by the model's arithmetic, of samples that have ended "
                "but by the engine's crash.",
                billing.bytes_moved,
            ),
            "gpt2_compute_seconds_total": (
                "Time in which the device ran steps, that in which an engine crashed apart.",
                billing.compute_seconds,
            ),
            "gpt2_energy_joules_total": (
                f"Energy that the device has taken since the start, idle too and whatever for, by {billing.energy_source}.",
                billing.energy_joules,
            ),
        }
        for name, (text, value) in texts.items():
            if value is not None:
                yield CounterMetricFamily(name, text, value)


class Metrics:
    """One registry an app, so that two in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(name, text, registry=self.registry, buckets=buckets)

        self.requests = counter("gpt2_requests_total", "Requests for text by route and outcome.", "route", "outcome")
        self.rejected = counter("gpt2_rejected_total", "Requests turned away for the time being, by reason.", "reason")
        self.refused = counter(
            "gpt2_refused_connections_total",
            "Connections ended since what they sent was no request, by the answer's status.",
            "status",
        )
        self.waiting = gauge("gpt2_requests_waiting", "Requests that wait for a cache slot.")
        self.running = gauge("gpt2_requests_running", "Requests that are being prefilled or decoded.")
        self.slots = gauge("gpt2_slots", "Cache slots there are.")
        self.slots_used = gauge("gpt2_slots_used", "Cache slots in use.")
        self.max_waiting = gauge("gpt2_samples_waiting_limit", "Bound of gpt2_samples_waiting, GPT2_MAX_WAITING.")
        self.max_queued_tokens = gauge("gpt2_queued_tokens_limit", "Bound of gpt2_queued_tokens, GPT2_MAX_QUEUED_TOKENS.")
        self.prompt_tokens = counter("gpt2_prompt_tokens_total", "Prompt tokens computed, those from the prefix cache apart.")
        self.generated_tokens = counter("gpt2_generated_tokens_total", "Tokens generated.")
        self.reused_tokens = counter("gpt2_prefix_cache_hit_tokens_total", "Prompt tokens taken from an earlier request's slot.")
        self.prefill_chunks = counter("gpt2_prefill_chunks_total", "Chunks of prompts computed.")
        self.batch_size = histogram("gpt2_batch_size", "Sequences in a step's batch.", COUNTS)
        self.step = histogram("gpt2_step_seconds", "Time of a step of the engine.")
        self.loop_lag = histogram(
            "gpt2_event_loop_lag_seconds", "How late the event loop came to a timer, tried four times a second."
        )
        self.queue = histogram("gpt2_queue_seconds", "Time from arrival to the start of the prompt's computation.")
        self.first_token = histogram(
            "gpt2_time_to_first_token_seconds", "Time from arrival to the first token of a sample, as the engine had it."
        )
        self.inter_token = TokenHistogram(
            "gpt2_inter_token_seconds",
            "Time between two tokens of a sample, as the engine had them; tokens that came together share it.",
            SECONDS,
            self.registry,
        )
        self.request = histogram("gpt2_request_seconds", "Time from arrival to the last token of completed requests.")
        self.long_texts = histogram("gpt2_tokenize_seconds", "Time from arrival until a long text is read.")
        self.long_texts_bytes = gauge("gpt2_tokenize_waiting_bytes", "Bytes of long texts that wait or are being read.")
        self.long_texts_unsent = gauge(
            "gpt2_tokenize_unsent_bytes", "Bytes of long texts whose answers their clients have not read."
        )
        self.inspections_running = gauge("gpt2_inspections_running", "Inspections that are computed: 1 or 0.")
        self.inspections_waiting = gauge("gpt2_inspections_waiting", "Inspections that wait for the one before them.")
        self.inspections_unsent = gauge(
            "gpt2_inspections_unsent_bytes", "Bytes of answers to inspections that are sent, as fast as their clients read."
        )
        self.inspection = histogram("gpt2_inspection_seconds", "Time in which an inspection was computed, its waiting apart.")
        self.inspection_starts = counter(
            "gpt2_inspection_process_starts_total", "Starts of the process that inspects; it ends when idle, and may die."
        )
        self.build = gauge("gpt2_build_info", "What is running; always 1.", "version", "python", "torch")
        self.model = gauge("gpt2_model_info", "What is served; always 1.", "model", "dtype", "device", "kernels", "arithmetic")
        for route in ROUTES:  # from zero on, so that a rate sees the first failure
            for outcome in OUTCOMES:
                self.requests.labels(route, outcome)
        for reason in REASONS:
            self.rejected.labels(reason)
        for status in REFUSALS:
            self.refused.labels(status)
        self.build.labels(VERSION, platform.python_version(), _torch_version()).set(1)
        ProcessCollector(registry=self.registry)  # CPU, memory and files under the names that dashboards of all services know

    def describe_model(self, info: ServiceInfo) -> None:
        self.model.labels(info.model_id, info.dtype, info.device, info.kernels, info.arithmetic).set(1)
        self.slots.set(info.max_running)
        self.max_waiting.set(info.max_waiting)
        self.max_queued_tokens.set(info.max_queued_tokens)

    def describe_engine(self, client: EngineClient) -> None:
        EngineSeries(client, self.registry)

    def describe_costs(self, billing: Billing) -> None:
        CostSeries(billing, self.registry)

    def describe_connections(self, num: Callable[[], int], limit: int) -> None:
        """Where this project's own server has them: under another one nothing is known of them, and nothing told."""
        Gauge("gpt2_connections", "Connections that are open.", registry=self.registry).set_function(num)
        text = "Connections that are served at once: GPT2_MAX_CONNECTIONS, or fewer where fewer open files are allowed."
        Gauge("gpt2_connections_limit", text, registry=self.registry).set(limit)

    def count_refusal(self, error: ServiceError) -> None:
        """What the network answered by itself: for want of room, or since it was no request."""
        if error.reason is None:
            self.refused.labels(str(error.status)).inc()
        else:
            self.rejected.labels(error.reason).inc()

    def observe_step(self, stats: StepStats) -> None:
        self.waiting.set(stats.num_waiting)
        self.running.set(stats.num_running)
        self.slots_used.set(stats.num_slots_used)
        if not stats.num_sequences:
            return  # an idle engine's sign of life
        self.prompt_tokens.inc(stats.num_prompt_tokens)
        self.generated_tokens.inc(stats.num_generated_tokens)
        self.reused_tokens.inc(stats.num_reused_tokens)
        self.prefill_chunks.inc(stats.num_prefill_chunks)
        self.batch_size.observe(stats.num_sequences)
        self.step.observe(stats.step_seconds)

    def exposition(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)


def _torch_version() -> str:
    """As installed, whether it computes or not; none in the slim image."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"
