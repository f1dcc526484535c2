"""Words for what a schema refuses: a line a fault, with the field as the client wrote it, the value and the limit.

pydantic tells a fault for each branch of a union, and names the branches in a fault's place; a client knows of neither.
"""

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app.errors import InvalidRequest
from app.schemas.fields import BracketedModel

SHOWN_CHARS = 60  # of a wrong value in an error's message
SHOWN_FAULTS = 5
LAZY_JSON = json.JSONEncoder(check_circular=False)  # such a check would keep a value of which only the beginning is written
OF_A_FIELD = re.compile(r"\w+: ")
KINDS = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
# What other dialects call our fields; the nearest spelling finds the rest.
SYNONYMS = {
    "content": "inputs", "input": "inputs", "text": "inputs", "tokens": "ids", "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens", "max_length": "max_new_tokens", "n_predict": "max_new_tokens",
    "min_tokens": "min_new_tokens", "stop_sequences": "stop", "stop_strings": "stop", "repeat_penalty": "repetition_penalty",
    "num_return_sequences": "n", "random_seed": "seed", "echo": "return_full_text", "logprobs": "top_n_tokens",
    "n_probs": "top_n_tokens", "timeout": "timeout_seconds",
}  # fmt: skip

Place = tuple[int | str, ...]  # keys and indices from the body to a value


@dataclass(frozen=True, slots=True)
class _Fault:
    place: Place
    kind: str
    value: object
    reason: str
    union: Place | None = None  # where its branch was chosen, if it is one of several
    branch: str = ""


def invalid(error: ValidationError, body: dict[str, Any], schema: type[BaseModel], within: str = "") -> InvalidRequest:
    """Up to five faults on one line; the first one's field is the error's param. What is a part of a body stands `within` it."""
    known = _fields(schema)
    faults = _one_of_each_union([_located(fault, body) for fault in error.errors(include_url=False)])
    write = _bracketed if issubclass(schema, BracketedModel) else _written
    told = [_line(fault, known, write) for fault in faults[:SHOWN_FAULTS]]
    more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
    return InvalidRequest("; ".join(within + line for _, line in told) + more, param=within + told[0][0] or None)


def _located(fault: ErrorDetails, body: Any) -> _Fault:  # any JSON value
    """A fault by its place in the body: what leads to no value there is the name of a branch, or that of a missing field."""
    place: list[int | str] = []
    union, branch, value = None, "", body
    for i, part in enumerate(fault["loc"]):
        if part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int):
            place.append(part)
            value = value[part]
        elif fault["type"] == "missing" and i == len(fault["loc"]) - 1:
            place.append(part)
        elif part == "[key]":
            place.pop()
        elif union is None:
            union, branch = tuple(place), str(part)
    kind = fault["type"]
    reason = f"input should be {KINDS[kind]}" if kind in KINDS else fault["msg"].removeprefix("Value error, ")
    return _Fault(tuple(place), kind, fault["input"], reason, union, branch)


def _one_of_each_union(faults: list[_Fault]) -> list[_Fault]:
    unions: dict[object, list[_Fault]] = {}
    for i, fault in enumerate(faults):
        branches = unions.setdefault(i if fault.union is None else fault.union, [])
        if all(fault.branch != other.branch for other in branches):  # the first of each branch speaks for it
            branches.append(fault)
    return [_nearest_branch(branches) for branches in unions.values()]


def _nearest_branch(branches: list[_Fault]) -> _Fault:
    """Of the branches whose type the value has, if there are any, the one that got furthest; of equals all types are named."""
    fitting = [fault for fault in branches if fault.place != fault.union or fault.kind not in KINDS] or branches
    furthest = max(fault.place for fault in fitting)
    last = [fault for fault in fitting if fault.place == furthest]
    first = next((fault for fault in last if fault.kind not in KINDS), last[0])
    kinds = list(dict.fromkeys(KINDS[fault.kind] for fault in last if fault.kind in KINDS))
    if first.kind not in KINDS or len(kinds) < 2:
        return first
    return _Fault(first.place, first.kind, first.value, f"input should be {', '.join(kinds[:-1])} or {kinds[-1]}")


def _line(fault: _Fault, known: dict[str, str], write: Callable[[Place], str]) -> tuple[str, str]:
    """The field's name and what is wrong with it."""
    field, reason = write(fault.place), fault.reason.replace(" after validation", "")
    if fault.kind == "value_error" and OF_A_FIELD.match(reason):  # fields that do not go together: the one to blame is named
        line = f"{field}.{reason}".lstrip(".")
        return line.partition(": ")[0], line
    if fault.kind == "extra_forbidden":
        return field, f"{field}: there is no such field{_suggestion(fault.place, known)}"
    if fault.kind == "missing" or not field:
        return field, f"{field}: {reason}" if field else reason
    return field, f"{field}: {shown(fault.value)} is refused: {reason[0].lower()}{reason[1:]}"


def _suggestion(place: Place, known: dict[str, str]) -> str:
    """The field that was probably meant, on another level of the body if it is there."""
    parent, name = place[:-1], str(place[-1]).lower()[:SHOWN_CHARS].replace("-", "_")
    siblings = [field for field in known if field.rpartition(".")[0] == _written(parent)]
    for candidates in (siblings, list(known)):
        names = {known[field]: field for field in candidates}
        meant = SYNONYMS.get(name) if SYNONYMS.get(name) in names else None
        nearest = [meant] if meant else difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        if nearest:
            where = f", outside of {_written(parent)}" if parent and "." not in names[nearest[0]] else ""
            return f"; did you mean {names[nearest[0]]}{where}?"
    return ""


@cache
def _fields(schema: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """All fields of a body as `parameters.stop`, with their last names."""
    fields = {}
    for name, field in schema.model_fields.items():
        fields[prefix + name] = name
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                fields |= _fields(part, f"{prefix}{name}.")
    return fields


def _written(place: Place) -> str:
    """A place as `parameters.stop.0`, fit to be printed."""
    return printable(".".join(str(part) for part in place))


def _bracketed(place: Place) -> str:
    """A place as `ablations[2].layer`, fit to be printed."""
    return printable("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix("."))


def shown(value: object) -> str:
    """A value as JSON, cut short and free of what cannot be printed; no more of it is written than is shown."""
    text = ""
    try:
        for piece in LAZY_JSON.iterencode(value):
            text += piece
            if len(text) > SHOWN_CHARS:
                return text[:SHOWN_CHARS] + "..."
    except (ValueError, TypeError, RecursionError):
        return f"a {type(value).__name__}"
    return text


def printable(text: str) -> str:
    text = text[:SHOWN_CHARS]
    return text if text.isprintable() else json.dumps(text)[1:-1]
