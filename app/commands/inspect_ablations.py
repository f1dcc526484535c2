"""Ablations as `gpt2 inspect --ablate` takes them: JSON as POST /v1/inspect has it, or a short form that is quicker to type.

Knows the forms alone; whether a layer or a head exists is for who computes.
"""

import json
import re
from typing import Any

from app.errors import CommandError

FORMS = """\
  no_residual:attention             x = attn(ln(x)) in place of x + attn(ln(x)), in every layer; or mlp
  no_residual:mlp:3,4               in these layers
  layer_norm:ln1=identity           y = x in every layer; ln1, ln2 or ln_final
  layer_norm:ln2:3=mean_only        without the division by the deviation, in this layer
  head:3.5=zero                     head 5 of layer 3; head:3=zero all of layer 3; zero or mean
  mlp:3,4=mean                      the MLPs of these layers; mlp=zero all; zero or mean
  window:4                          heads see the last 4 positions alone; window:4:3.5 this head
  position:0                        heads see position 0 alone; position:0:3.5 this head
  positions=none                    without position embeddings; or shuffled, shuffled:7 by the seed 7
  patch:blocks.3.hook_resid_post=TEXT    activations of another prompt
  steer:blocks.4.hook_resid_pre:8=TEXT   add 8 times the unembedding of this token
  {"kind": "head", "layer": 3, ...}      any of them, as POST /v1/inspect has it"""

LIST = r"\d+(?:,\d+)*"
HEADS = rf"(?P<layer>\d+)(?:\.(?P<head>{LIST}))?"
PATTERNS = {
    "no_residual": rf"no_residual:(?P<branch>\w+)(?::(?P<layer>{LIST}))?",
    "layer_norm": rf"layer_norm:(?P<name>\w+)(?::(?P<layer>{LIST}))?=(?P<mode>\w+)",
    "head": rf"head:{HEADS}=(?P<mode>\w+)",
    "mlp": rf"mlp(?::(?P<layer>{LIST}))?=(?P<mode>\w+)",
    "attention_window": rf"window:(?P<size>\d+)(?::{HEADS})?",
    "attention_position": rf"position:(?P<position>\d+)(?::{HEADS})?",
    "positions": r"positions=(?P<mode>[a-z]+)(?::(?P<seed>\d+))?",
    "patch": r"patch:(?P<name>[\w.]+)=(?P<prompt>.+)",
    "steer": r"steer:(?P<name>[\w.]+)(?::(?P<scale>-?\d+(?:\.\d+)?))?=(?P<token>.+)",
}
LISTS, INTEGERS = ("layer", "head"), ("size", "position", "seed")


def read_ablation(text: str) -> dict[str, Any]:
    """The object of the request's `ablations`. Raises CommandError."""
    if text.lstrip().startswith("{"):
        return _read_json(text)
    for kind, pattern in PATTERNS.items():
        if found := re.fullmatch(pattern, text, flags=re.DOTALL):
            fields = {name: _value(name, value) for name, value in found.groupdict().items() if value is not None}
            return {"kind": kind} | fields
    raise CommandError(f"--ablate {text!r} is none of the forms; `gpt2 inspect --help` lists them, as head:3.5=zero")


def _value(name: str, text: str) -> str | int | float | list[int]:
    if name in LISTS:
        numbers = [int(number) for number in text.split(",")]
        return numbers if len(numbers) > 1 else numbers[0]
    if name == "scale":
        return float(text)
    return int(text) if name in INTEGERS else text


def _read_json(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"--ablate {text!r:.200} begins as JSON, and is none: {error}") from None
    return dict(read)
