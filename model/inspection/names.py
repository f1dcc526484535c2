"""The named points of the network: TransformerLens' hook names, the shape of each, and patterns over them. Knows no tensors.

T tokens, H heads, D head size, C embedding, I width of the MLP; there is no axis of rows, since one text is looked at.
"""

import difflib
import re
from collections.abc import Iterable
from functools import cache

from model.config import GPT2Config

# In the network's order. Scores and patterns are [head, query, key]; everywhere else tokens come first.
BLOCK_HOOKS = {
    "hook_resid_pre": "TC",
    "ln1.hook_scale": "T1",
    "ln1.hook_normalized": "TC",
    "attn.hook_q": "THD",
    "attn.hook_k": "THD",
    "attn.hook_v": "THD",
    "attn.hook_attn_scores": "HTT",
    "attn.hook_pattern": "HTT",
    "attn.hook_z": "THD",
    "hook_attn_out": "TC",
    "hook_resid_mid": "TC",
    "ln2.hook_scale": "T1",
    "ln2.hook_normalized": "TC",
    "mlp.hook_pre": "TI",
    "mlp.hook_post": "TI",
    "hook_mlp_out": "TC",
    "hook_resid_post": "TC",
}
FIRST_HOOKS = {"hook_embed": "TC", "hook_pos_embed": "TC"}
LAST_HOOKS = {"ln_final.hook_scale": "T1", "ln_final.hook_normalized": "TC"}


MAX_NAME_CHARS = 200  # of a name or a pattern; the longest name of a network has 40
SHOWN_CHARS = 60  # of a wrong one in a message


class UnknownName(ValueError):
    """No point of the network has this name; the message says which is nearest."""


def block_name(layer: int, hook: str) -> str:
    return f"blocks.{layer}.{hook}"


def axes(name: str) -> str:
    """The letters of a known point's axes, as in "THD"."""
    hook = re.sub(r"^blocks\.\d+\.", "", name)
    return (FIRST_HOOKS | BLOCK_HOOKS | LAST_HOOKS)[hook]


def token_axis(name: str) -> int:
    """The axis of tokens; of scores and patterns that of the queries."""
    return axes(name).index("T")


def head_axis(name: str) -> int | None:
    letters = axes(name)
    return letters.index("H") if "H" in letters else None


def shape(name: str, config: GPT2Config, num_tokens: int) -> tuple[int, ...]:
    sizes = {"T": num_tokens, "H": config.n_head, "D": config.head_dim, "C": config.n_embd, "I": config.inner_size, "1": 1}
    return tuple(sizes[letter] for letter in axes(name))


def all_names(config: GPT2Config) -> list[str]:
    """Every point of the network, in the order in which it is passed."""
    return list(_numbered(config.n_layer))


@cache
def _numbered(num_layers: int) -> dict[str, int]:
    """Every point, with its place in that order."""
    blocks = [block_name(layer, hook) for layer in range(num_layers) for hook in BLOCK_HOOKS]
    return {name: i for i, name in enumerate([*FIRST_HOOKS, *blocks, *LAST_HOOKS])}


def expand(pattern: str, config: GPT2Config) -> list[str]:
    """The names that a pattern stands for, in the network's order; "*" is any run of characters.

    Raises UnknownName where there is none.
    """
    if len(pattern) > MAX_NAME_CHARS:
        raise UnknownName(f"{shown(pattern)} has {len(pattern):,} characters; a name has at most {MAX_NAME_CHARS}")
    names = _numbered(config.n_layer)
    if pattern in names:
        return [pattern]
    parts = pattern.split("*")
    found = [name for name in names if _fits(name, parts)] if len(parts) > 1 else []
    if not found:
        raise UnknownName(_unknown(pattern, names, config))
    return found


def _fits(name: str, parts: list[str]) -> bool:
    """Whether a name is these parts in their order, with anything between them."""
    first, *between, last = parts
    if not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in between:
        at = name.find(part, at, end) + len(part)
        if at < len(part):
            return False
    return at <= end


def expand_all(patterns: Iterable[str], config: GPT2Config) -> list[str]:
    """The names that any of the patterns stands for, each once and in the network's order."""
    found = {name for pattern in dict.fromkeys(patterns) for name in expand(pattern, config)}
    return sorted(found, key=_numbered(config.n_layer).__getitem__)


def _unknown(pattern: str, names: Iterable[str], config: GPT2Config) -> str:
    layer = re.match(r"blocks\.(\d+)\.", pattern)  # of no more digits than a name may have characters
    if layer and int(layer[1]) >= config.n_layer:
        return f"{shown(pattern)} is of layer {layer[1]:.20}; the network has layers 0 to {config.n_layer - 1}"
    if "*" in pattern:
        return f"no activation is called like {shown(pattern)}"
    return f"{shown(pattern)} is no activation; the nearest is {nearest(pattern, names)!r}"


def shown(word: str) -> str:
    """In quotes, as a message has it; of a long one the beginning."""
    return repr(word) if len(word) <= SHOWN_CHARS else f"{word[:SHOWN_CHARS]!r}..."


def nearest(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word[:MAX_NAME_CHARS], list(known), n=1, cutoff=0)[0]
