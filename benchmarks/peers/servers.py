"""What is particular to each peer that serves over HTTP: its command, its request, how its stream counts tokens. Starts nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import gpt2_tokenizer
from benchmarks.peers.places import OURS, interpreter, llama_flash_attention, llama_server, model_of

MAX_SEQUENCES, MAX_TOKENS = 32, 512


@dataclass(frozen=True, slots=True)
class Server:
    """`num_tokens(event, seen)` gives how many tokens a sequence has once this event of its stream has come, `seen` before it.

    A server may hold tokens back that are no whole character, or put several in one event: hence a count, not one an event.
    """

    command: Callable[[Path, str, int, int, str], list[str]]  # root, data type, port, threads, the set it is held to or ""
    path: str
    body: Callable[[list[int], int], dict[str, Any]]  # the prompt's token ids, how many new ones
    num_tokens: Callable[[dict[str, Any], int], int]
    environment: dict[str, str] = field(default_factory=dict)
    start_seconds: float = 60


def _llama_command(root: Path, dtype: str, port: int, threads: int, hold: str) -> list[str]:
    options = {
        "--model": model_of(root, "llama", dtype),
        "--port": port,
        "--threads": threads,
        "--threads-batch": threads,
        "--threads-http": 2,
        "--parallel": MAX_SEQUENCES,
        "--ctx-size": MAX_SEQUENCES * MAX_TOKENS,
        "--cache-ram": 0,  # the cache of past prompts
        "--flash-attn": "on" if llama_flash_attention(hold) else "off",
    }
    command = [str(llama_server(root, hold)), *(str(part) for pair in options.items() for part in pair)]
    return [*command, "--no-cache-prompt", "--no-ui"]


def _llama_body(prompt: list[int], max_new_tokens: int) -> dict[str, Any]:
    body = {"prompt": prompt, "n_predict": max_new_tokens, "stream": True}
    return body | {"temperature": 0, "ignore_eos": True, "cache_prompt": False}


def _vllm_command(root: Path, dtype: str, port: int, threads: int, hold: str) -> list[str]:
    options = {"--port": port, "--dtype": dtype, "--max-model-len": MAX_TOKENS, "--max-num-seqs": MAX_SEQUENCES}
    script = Path(__file__).with_name("run_vllm.py")
    command = [str(interpreter(root, "vllm")), str(script), "serve", str(model_of(root, "vllm", dtype))]
    return [*command, *(str(part) for pair in options.items() for part in pair), "--no-enable-prefix-caching"]


def _vllm_body(prompt: list[int], max_new_tokens: int) -> dict[str, Any]:
    body = {"prompt": prompt, "max_tokens": max_new_tokens, "stream": True}
    return body | {"temperature": 0, "ignore_eos": True, "return_token_ids": True}


def _vllm_num_tokens(event: dict[str, Any], seen: int) -> int:
    return seen + sum(len(choice.get("token_ids") or []) for choice in event["choices"])


def _our_command(root: Path, dtype: str, port: int, threads: int, hold: str) -> list[str]:
    command = [str(interpreter(root, OURS).with_name("gpt2")), "serve", f"--model={model_of(root, OURS, dtype)}"]
    return [*command, f"--port={port}", f"--dtype={dtype}", f"--threads={threads}"]


def _our_body(prompt: list[int], max_new_tokens: int) -> dict[str, Any]:
    return {"inputs": gpt2_tokenizer().decode(prompt), "parameters": {"max_new_tokens": max_new_tokens, "ignore_eos": True}}


SERVERS = {
    OURS: Server(_our_command, "/generate_stream", _our_body, num_tokens=lambda event, seen: seen + 1),
    "llama": Server(
        _llama_command, "/completion", _llama_body, num_tokens=lambda event, seen: max(seen, event.get("tokens_predicted", 0))
    ),
    "vllm": Server(
        _vllm_command,
        "/v1/completions",
        _vllm_body,
        _vllm_num_tokens,
        # Gigabytes for keys and values; without the reserve of 0 it would keep one of two cores for its front end.
        environment={"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"},
        start_seconds=300,  # it compiles first; with what it has compiled once, 50
    ),
}
