"""Every setting of the service, once: as `GPT2_...` in the environment or `.env`, and as an option of `gpt2 serve`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

WEB = Path(__file__).parent / "web"
DEFAULT_MODEL = Path(__file__).parent.parent / "model" / "default"


class Settings(BaseSettings):
    """Frozen; a wrong value is refused with its name and limit before anything is loaded."""

    model_config = SettingsConfigDict(env_prefix="GPT2_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    model: str = Field(str(DEFAULT_MODEL), description="Checkpoint: a Hugging Face GPT-2 directory, or a name on the hub.")
    chat_template: str = Field(
        "",
        description="How a conversation becomes a prompt: plain, dialogpt, chatml, alpaca or a file with a jinja2 template; the "
        "checkpoint's own if there is one.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all of the machine's.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute; auto is cuda if there is one, else cpu.")
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="Precision; auto is bfloat16 on cuda (float16 on older cards), and on a CPU int8 if it keeps the checkpoint's "
        "perplexity, else float32.",
    )
    kernels: Literal["auto", "scalar", "avx2", "avx512", "amx", "neon", "triton", "torch"] = Field(
        "auto",
        description="What computes: on a CPU the instructions that the native step uses; auto is the fastest that the CPU has. But "
        "for bfloat16, all give the same answers. On cuda triton or torch, plain PyTorch; auto is triton if its self-test passes.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="Threads for computing on a CPU; 0 is one a core, of those that the process may use."
    )
    max_running: int = Field(
        0,
        ge=0,
        le=1024,
        description="Samples that run at once, each in a cache slot of its own; a request has one, or n. 0 is 32 on a CPU and "
        "256 on a GPU, or what has room there.",
    )
    max_waiting: int = Field(1024, ge=0, description="Samples that may wait for a slot; beyond it the answer is 429.")
    max_queued_tokens: int = Field(
        0,
        ge=0,
        description="Tokens that the requests inside may take, prompts and all they ask for; beyond it the answer is 429. 0 is "
        "half of what slots and queue could hold, (max_running + max_waiting) times the context, but 16 contexts at least.",
    )
    max_wait_seconds: float = Field(
        60.0,
        ge=0,
        allow_inf_nan=False,
        description="Who would wait longer for a slot, at the measured rate, gets 429 instead; 0 is no limit. 60 s is when common "
        "proxies give up; 2 suits people who look on, 0 a batch job that waits for as long as it takes.",
    )
    timeout_seconds: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Deadline of requests that name none, from arrival to the complete answer; then 504. 0 is the largest that "
        "requests may name, or none.",
    )
    max_timeout_seconds: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="The largest timeout_seconds that a request may name; 0 is any."
    )
    max_batch_tokens: int = Field(
        0,
        ge=0,
        description="Tokens in one step: less keeps those that are decoding smooth, more prefills long prompts sooner. 0 is 256 on "
        "a CPU and 2048 on a GPU.",
    )
    prefill_chunk: int = Field(
        128,
        ge=1,
        description="Prompt tokens that may run in every step, however many requests decode. PyTorch's runner cuts prompts at its "
        "multiples, so that with it another value gives other last bits, the same for every request.",
    )
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body that is read.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins, parted by commas, whose web pages may call the service; * for all."
    )
    api_keys: str = Field(
        "",
        repr=False,
        description="API keys, parted by commas, each KEY, NAME:KEY or NAME:sha256:HEX; with any, all but health and static pages "
        "needs one. No option, since a command line can be seen by all of the machine's users.",
    )
    api_keys_file: str = Field("", description="A file with one API key a line, in the same forms; it is read anew at SIGHUP.")
    max_running_per_key: int = Field(
        0,
        ge=0,
        description="Requests of one API key that may be under way at once, those that wait included; beyond it the answer is 429. "
        "0 is any number.",
    )
    metrics_need_key: bool = Field(True, description="Whether /metrics too needs an API key, where there are any.")
    keep_alive_seconds: int = Field(
        75, ge=1, le=86_400, description="How long a connection may be idle; common load balancers keep theirs for 60."
    )
    max_connections: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="Connections that are served at once; beyond it the one that is idle for longest is closed, and if none is the "
        "answer is 503, but for some that ask for /health or /metrics. Fewer where fewer open files are allowed.",
    )
    inspect: bool = Field(
        True,
        description="Whether /v1/inspect shows what the network computes inside. From its first request until it is idle for ten "
        "minutes it has a process of its own, which takes 0.35 GB for PyTorch, 4 bytes a parameter, and what an inspection needs: "
        "docs/operate.md has a formula.",
    )
    read_timeout_seconds: float = Field(
        8.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="How long the head of a request may take, and how long its body may pause, which must come with 4 KiB/s "
        "whatever this is; beyond it the answer is 408.",
    )
    write_timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="How long a client may take nothing of its answer; beyond it the request is aborted.",
    )
    stall_seconds: float = Field(
        30.0,
        ge=2,
        allow_inf_nan=False,
        description="Without a sign of life for so long the engine counts as hung, and the process ends with exit code 70, to be "
        "started again. Where a CPU is slow it is longer: 8 times what the warm-up says of the largest step.",
    )
    drain_seconds: float = Field(30.0, ge=0, allow_inf_nan=False, description="How long running requests may finish after SIGTERM.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="Log lines: auto is console on a terminal, else json."
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return tuple(origin.strip() for origin in value.split(",") if origin.strip()) if isinstance(value, str) else value

    @field_validator("max_timeout_seconds")
    @classmethod
    def _is_not_below_the_default(cls, value: float, others: ValidationInfo) -> float:
        if 0 < value < others.data.get("timeout_seconds", 0):
            raise ValueError(f"it is below timeout_seconds, {others.data['timeout_seconds']:g}, which requests get that name none")
        return value
