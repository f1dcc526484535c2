"""Whether requests are traced, and to where, by OpenTelemetry's own variables. Imports its SDK only if they are."""

from collections.abc import Mapping
from math import inf, nan
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from app.errors import StartupError

if TYPE_CHECKING:
    from app.tracing import Tracing

EXPORTERS = ("otlp", "console")
EXPORTER = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")  # the first that is set counts
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
PROPAGATORS = "OTEL_PROPAGATORS"
SAMPLER, SHARE = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
SHARING = ("traceidratio", "parentbased_traceidratio")
SAMPLERS = ("always_on", "always_off", "parentbased_always_on", "parentbased_always_off", *SHARING)
QUEUE, BATCH, DELAY = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_SCHEDULE_DELAY"
QUEUE_SIZE, BATCH_SIZE = 2048, 512  # OpenTelemetry's defaults
TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
COMPRESSIONS = ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")


def open_tracing(environment: Mapping[str, str]) -> "Tracing | None":
    """None unless a variable asks for traces; what else they say is read by OpenTelemetry itself, from the process's environment.

    Raises StartupError that names the variable to mend, or the extra to install.
    """
    exporters, asking = asked_for(environment)
    if not exporters:
        return None
    try:
        from app.tracing import Tracing

        return Tracing(exporters)
    except ModuleNotFoundError as error:
        needed = f"{asking} asks for traces, which need the package {error.name}"
        raise StartupError(f"{needed}: pip install 'gpt2-service[otel]'") from None
    except ValueError as error:  # as OpenTelemetry finds it in the other variables, such as sizes of batches
        raise StartupError(f"OTEL_*: {error}") from None


def asked_for(environment: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """The exporters, none where nobody asks for traces, and the variable that asks. Raises StartupError that names one to mend."""
    given = {name: value.strip() for name, value in environment.items() if name.startswith("OTEL_") and value.strip()}
    if PROPAGATORS in given:
        _check_propagators()
    exporters, asking = _exporters(given)
    if "otlp" in exporters:
        _check_collector(given)
    if exporters:
        _check_sampler(environment)
        _check_numbers(given)
    return exporters, asking


def _exporters(given: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return (), ""
    if EXPORTER not in given:
        asking = next((name for name in ENDPOINTS if name in given), "")
        return (("otlp",), asking) if asking else ((), "")
    names = [name.strip() for name in given[EXPORTER].split(",")]
    if unknown := next((name for name in names if name not in (*EXPORTERS, "none")), None):
        raise StartupError(f"{EXPORTER} is {unknown!r:.80}; it may be {', '.join(EXPORTERS)} or none")
    return tuple(name for name in EXPORTERS if name in names and "none" not in names), EXPORTER


def _check_collector(given: Mapping[str, str]) -> None:
    if (name := _first(PROTOCOLS, given)) and given[name] != PROTOCOL:
        raise StartupError(f"{name} is {given[name]!r:.80}; {PROTOCOL} alone is spoken here, by most collectors on port 4318")
    if name := _first(ENDPOINTS, given):
        try:
            address = urlsplit(given[name])
            is_address = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise StartupError(f"{name} is {given[name]!r:.80}; it is an address as in http://127.0.0.1:4318")


def _check_sampler(environment: Mapping[str, str]) -> None:
    """OpenTelemetry would trace everything where it does not understand one of these, as a name with a space behind it."""
    sampler, share = (environment.get(name, "") for name in (SAMPLER, SHARE))
    if sampler.strip() and sampler.lower() not in SAMPLERS:
        raise StartupError(f"{SAMPLER} is {sampler!r:.80}; it may be {', '.join(SAMPLERS)}")
    if sampler.lower() in SHARING and share.strip() and not 0 <= _number(share) <= 1:
        raise StartupError(f"{SHARE} is {share!r:.80}; it is the share that is traced, from 0 to 1")


def _check_numbers(given: Mapping[str, str]) -> None:
    """OpenTelemetry would take its defaults, or refuse them without a name."""
    queue, batch, _ = _count(QUEUE, QUEUE_SIZE, given), _count(BATCH, BATCH_SIZE, given), _count(DELAY, 1, given)
    if batch > queue:
        raise StartupError(f"{BATCH} is {batch}, more than {QUEUE}, {queue}: a batch is taken out of the queue")
    if (name := _first(TIMEOUTS, given)) and not 0 < _number(given[name]) < inf:
        raise StartupError(f"{name} is {given[name]!r:.80}; it is a number of seconds above 0")
    if (name := _first(COMPRESSIONS, given)) and given[name].lower() not in ("none", "gzip", "deflate"):
        raise StartupError(f"{name} is {given[name]!r:.80}; it may be none, gzip or deflate")


def _count(name: str, default: int, given: Mapping[str, str]) -> int:
    try:
        if (count := int(given.get(name, default))) > 0:
            return count
    except ValueError:
        pass
    raise StartupError(f"{name} is {given[name]!r:.80}; it is a whole number, 1 or more")


def _number(text: str) -> float:
    """NaN, which no limit lets pass, where it is none."""
    try:
        return float(text)
    except ValueError:
        return nan


def _check_propagators() -> None:
    """FastAPI imports what reads this variable, traces or none."""
    try:
        import fastapi  # noqa: F401
    except ValueError as error:
        raise StartupError(f"{PROPAGATORS}: {error}") from None


def _first(names: tuple[str, ...], given: Mapping[str, str]) -> str | None:
    return next((name for name in names if name in given), None)
