"""What a body asks of an inspection becomes a request of the inspector, in token ids. Knows no HTTP and no engine.

Its prompts are read before, by whoever asks: in the service long texts wait for each other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.errors import InvalidRequest
from app.prompt import Prompt
from app.schemas.inspection import AblationBody, InspectRequest
from model.inspection.messages import ablation_of, frozen
from model.inspection.request import Ablation, InspectionRequest

MAX_TOKEN_CHARS = 1024  # of a text that is to be one token: longer ones are none
PROMPTS = ("prompt", "plus", "minus")  # of ablations
COPIED = ("names", "positions", "summaries", "top_n", "target_position", "max_new_tokens")

Ids = tuple[int, ...]
Encode = Callable[[str], Sequence[int]]


def prompts_of(body: InspectRequest, ablations: Sequence[AblationBody]) -> dict[str, Prompt]:
    """Those of the body and of its ablations, by their fields."""
    found: dict[str, Prompt] = {"prompt": body.prompt}
    for i, ablation in enumerate(ablations):
        given = {name: getattr(ablation, name, None) for name in PROMPTS}
        found |= {f"{_place(i)}.{name}": prompt for name, prompt in given.items() if prompt is not None}
    return found


def request_of(
    body: InspectRequest, ablations: Sequence[AblationBody], prompts: Mapping[str, Ids], encode: Encode, max_positions: int
) -> InspectionRequest:
    """`prompts` are the ids of `prompts_of` them; `encode` reads the texts of single tokens. Raises InvalidRequest."""
    fields = {name: getattr(body, name) for name in COPIED}
    asked = InspectionRequest(
        prompts["prompt"],
        target_token=_token(body.target_token, "target_token", encode),
        ablations=tuple(_ablation(ablation, _place(i), prompts, encode) for i, ablation in enumerate(ablations)),
        **{name: frozen(value) for name, value in fields.items() if value is not None},
    )
    room = max(0, max_positions - len(asked.prompt))
    return replace(asked, max_new_tokens=min(asked.max_new_tokens, room))


def _place(i: int) -> str:
    return f"ablations[{i}]"


def _ablation(body: AblationBody, place: str, prompts: Mapping[str, Ids], encode: Encode) -> Ablation:
    fields: dict[str, Any] = {name: value for name, value in body if value is not None}
    for name in fields.keys() & set(PROMPTS):
        fields[name] = prompts[f"{place}.{name}"]
    if "token" in fields:
        fields["token"] = _token(fields["token"], f"{place}.token", encode)
    return ablation_of(**fields)


def _token(given: int | str | None, field: str, encode: Encode) -> int | None:
    """The id of one token, which may be given by its text."""
    if isinstance(given, str):
        ids = encode(given[:MAX_TOKEN_CHARS])
        if len(ids) != 1:
            raise InvalidRequest(f"{field}: {given!r:.60} is {len(ids)} tokens; send the text, or the id, of one", param=field)
        given = ids[0]
    return given
