"""/v1/inspect: what the network computes inside for a text, and what becomes of it when parts are taken out."""

import asyncio
import difflib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.body import documented, json_body
from app.api.documentation import GENERATION_STATUSES, Responses, openai_errors
from app.api.faults import invalid, shown
from app.api.outputs import watched
from app.api.responses import JSON, Json
from app.errors import InvalidRequest, NotFound, PromptTooLong
from app.generation import TextGenerator
from app.inspection.child import Answer
from app.inspection.lane import Lane, NoLane
from app.inspection.requests import Ids, prompts_of, request_of
from app.inspection.work import Inspection, Wanted, deadline_of
from app.prompt import Prompt
from app.schemas.inspection import KINDS, AblationBody, InspectRequest
from app.schemas.inspection_answers import InspectionAnswer, InspectionEstimate
from model.config import GPT2Config
from model.inspection.checks import MAX_ACTIVATION_BYTES, check, check_size
from model.inspection.request import InspectionError, InspectionRequest
from model.inspection.sizes import num_bytes, sizes, summaries_bytes
from model.tokenizer import Reading

router = APIRouter(prefix="/v1", tags=["inspection"])
PIECE_BYTES = 1 << 16  # sent at once
TENSORS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
ANSWERED: Responses = {
    200: {
        "model": InspectionAnswer | InspectionEstimate,
        "description": "The inspection, as JSON or as safetensors; or its sizes.",
        "content": TENSORS,
    }
}
ANSWERS = ANSWERED | openai_errors(400, 404, *GENERATION_STATUSES)


async def the_lane(request: Request) -> Lane:
    """Before the body is looked at: where there is no inspection, no body is right."""
    lane: Lane | NoLane = request.app.state.lane
    if isinstance(lane, NoLane):
        raise NotFound(lane.reason)
    return lane


@router.post("/inspect", openapi_extra=documented(InspectRequest), responses=ANSWERS)
async def inspect(
    request: Request,
    lane: Annotated[Lane, Depends(the_lane)],
    body: Annotated[InspectRequest, Depends(json_body(InspectRequest))],
) -> Response:
    """Activations, and summaries of them, of a text's way through the network; beside those of a second run with ablations."""
    generator: TextGenerator = request.app.state.generator
    arrived = time.monotonic()
    generator.client.check_ready()  # an inspection needs no engine, but a service that ends takes in nothing new
    deadline = deadline_of(generator.timeouts, body.timeout_seconds, arrived)
    asked = await read(generator, body, lane.config)
    if body.estimate:
        return JSON(estimate(asked, lane.config))
    wanted = Wanted(asked, body.format or "json", body.compare_served is not False, arrived, deadline)
    inspection = Inspection(lane, generator, request.app.state.info, wanted)
    async with watched(request, inspection):
        answer = await inspection.answer()
    deadline.check()
    return Whole(answer, lane)


async def read(generator: TextGenerator, body: InspectRequest, config: GPT2Config) -> InspectionRequest:
    """What can be answered; raises InvalidRequest, or LongTextsFull. In threads, as an ablation may have 100,000 numbers."""
    ablations = await asyncio.to_thread(ablations_of, body.ablations or ())
    prompts = {field: await ids_of(generator, given, field, body.reading) for field, given in prompts_of(body, ablations).items()}
    reading = replace(body.reading, add_special_tokens=False)  # of single tokens

    def checked() -> InspectionRequest:
        encode = partial(generator.tokenizer.encode, reading=reading)
        asked = request_of(body, ablations, prompts, encode, config.n_positions)
        check_all(asked, config, bool(body.estimate))
        return asked

    return await asyncio.to_thread(checked)


async def ids_of(generator: TextGenerator, given: Prompt, field: str, reading: Reading) -> Ids:
    """A prompt's; an empty one is an end token, as everywhere."""
    try:
        (prompt,) = await generator.read_prompts((given,), num_new=0, reading=reading)
    except PromptTooLong as error:
        raise InvalidRequest(f"{field}: {error}", param=field) from None
    return tuple(prompt.ids)


def ablations_of(given: Sequence[Mapping[str, Any]]) -> list[AblationBody]:
    """A body's, in their order; raises InvalidRequest."""
    return [ablation_of(each, f"ablations[{i}]") for i, each in enumerate(given)]


def ablation_of(given: Mapping[str, Any], place: str) -> AblationBody:
    """One of the body's ablations by its own kind's schema; raises InvalidRequest."""
    kind = given.get("kind")
    schema = KINDS.get(kind) if isinstance(kind, str) else None
    if schema is None:
        said = f"{shown(kind)} is refused: " if "kind" in given else ""
        nearest = difflib.get_close_matches(str(kind)[:100], KINDS, n=1)
        meant = f"; did you mean {nearest[0]}?" if nearest else ""
        raise InvalidRequest(f"{place}.kind: {said}it is one of {', '.join(KINDS)}{meant}", param=f"{place}.kind")
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise invalid(error, dict(given), schema, f"{place}.") from None


def check_all(asked: InspectionRequest, config: GPT2Config, is_of_any_size: bool) -> None:
    """Raises InvalidRequest."""
    try:
        check(asked, config)
        if not is_of_any_size:
            check_size(asked, config)
    except InspectionError as error:
        raise InvalidRequest(f"{error.field}: {error.message}", param=error.field) from None


def estimate(asked: InspectionRequest, config: GPT2Config) -> Json:
    """What its answer would have, of each run if there are two, and in all."""
    activations = {name: {"shape": size.shape, "bytes": size.num_bytes} for name, size in sizes(asked, config).items()}
    return {
        "object": "inspection.estimate",
        "activations": activations,
        "summaries": {"bytes": summaries_bytes(asked, config)},
        "bytes": num_bytes(asked, config),
        "limit_bytes": MAX_ACTIVATION_BYTES,
    }


class Whole(Response):
    """A finished answer, sent in pieces as fast as the client reads it: it may have 100 MB, which one piece would copy at once."""

    def __init__(self, answer: Answer, lane: Lane) -> None:
        super().__init__(media_type=answer.media_type)
        self._content, self._lane = memoryview(answer.content), lane
        self.headers["content-length"] = str(len(answer.content))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._lane.unsent.sending(len(self._content)):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(self._content), PIECE_BYTES):
                piece = bytes(self._content[start : start + PIECE_BYTES])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
