"""What crosses between a door and a replica: a request with its body read, and what the router is to know of it. Plain values."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Scope

BLOCK = 128  # characters, about as many tokens as are prefilled in a chunk: less in common is not worth a detour
MAX_BLOCKS = 64  # of a prompt; 8,192 characters are more than a GPT-2 reads
CARRIED = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "client", "server")


@dataclass(frozen=True, slots=True)
class Exchange:
    """`blocks` name ever longer beginnings of the prompt; `avoid` is the replica that has failed on the request already.

    What is shown of one, as in a traceback of Ray's, has neither the prompt nor the key.
    """

    scope: dict[str, Any] = field(repr=False)  # ASGI's, without what belongs to one process
    body: bytes = field(repr=False)
    blocks: tuple[int, ...] = ()
    avoid: str = ""


def carried(scope: Scope) -> dict[str, Any]:
    """Of an ASGI scope what another process can be given."""
    names = {name: scope[name] for name in CARRIED if scope.get(name) is not None}
    return {**names, "asgi": {"version": "3.0"}, "headers": [(bytes(name), bytes(value)) for name, value in scope["headers"]]}


def blocks_of(body: bytes) -> tuple[int, ...]:
    """A number for each beginning of the prompt that is whole blocks long, or for the prompt if it is shorter than one.

    None where no prompt is found: whether the body is as it should be is the replica's to say.
    """
    try:
        text = _prompt(orjson.loads(body))
    except ValueError:
        return ()
    return tuple(_chained(text[: BLOCK * MAX_BLOCKS].encode(errors="surrogatepass"))) if text else ()


def _prompt(body: Any) -> str:  # any JSON value
    if not isinstance(body, dict):
        return ""
    if isinstance(messages := body.get("messages"), list):
        return "\n".join(f"{m.get('role')}\n{m.get('content')}" for m in messages if isinstance(m, dict))
    prompt = body.get("inputs", body.get("prompt", ""))
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]  # of several the first: they go to one replica
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt)) if isinstance(prompt, list) else ""


def _chained(text: bytes) -> Iterator[int]:
    """Each number depends on all that comes before, so that equal numbers mean equal beginnings, but for rare accidents."""
    number = 0
    for end in range(BLOCK, max(len(text), BLOCK) + 1, BLOCK):
        number = zlib.crc32(text[end - BLOCK : end], number)
        yield number << 16 | end // BLOCK
