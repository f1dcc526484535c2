"""What is served, for /info, /v1/models and the metrics."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from app.settings import DEFAULT_MODEL
from app.version import VERSION


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """Sizes in tokens and requests; `created` in seconds of the epoch; `arithmetic` is what fixes the bits of the answers.

    A limit of 0 seconds is none. With one `fingerprint` the same request has the same answer, to the byte. `chat_template` is where
    that is from, "checkpoint", "file" or its name; None where there is no chat. `energy_source` is what tells the device's energy,
    "rapl" or "nvml"; None where nothing does. `inspect` is whether there is /v1/inspect.
    """

    model_id: str
    dtype: str
    device: str
    backend: str
    kernels: str
    arithmetic: str
    max_total_tokens: int
    vocab_size: int
    num_parameters: int
    n_layer: int
    n_head: int
    n_embd: int
    max_running: int
    max_waiting: int
    max_queued_tokens: int
    max_wait_seconds: float
    timeout_seconds: float
    max_timeout_seconds: float
    max_batch_tokens: int
    prefill_chunk: int
    chat_template: str | None
    energy_source: str | None
    inspect: bool
    created: int
    fingerprint: str
    version: str = VERSION


def model_id_of(model: str, directory: Path) -> str:
    """The name of the checkpoint that was asked for as `model` and found in `directory`."""
    if directory.resolve() == DEFAULT_MODEL.resolve():
        return "gpt2-default"
    return directory.resolve().name if Path(model).is_dir() else model


def fingerprint_of(*parts: object) -> str:
    """Of what fixes the bytes of an answer, with this version, as OpenAI writes its system_fingerprint."""
    return f"fp_{hashlib.blake2b(repr((*parts, VERSION)).encode(), digest_size=8).hexdigest()}"
