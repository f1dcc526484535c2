"""OpenAI's dialect: /v1/chat/completions."""

import time
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.api.body import documented, json_body
from app.api.documentation import GENERATION_STATUSES, answer, openai_errors
from app.api.outputs import all_tokens, framed, in_time, outputs
from app.api.replies import Replies
from app.api.responses import JSON, choice_framer, generation_headers, generation_usage, openai_head, timing_headers
from app.chat.conversation import Chat, NoChat
from app.errors import InvalidRequest, PromptTooLong, openai_error
from app.generation import Generation, TextGenerator
from app.sample import TextToken
from app.schemas.answers import ChatAnswer
from app.schemas.chat import ChatRequest
from app.sse import DONE, EventStream, event

router = APIRouter(prefix="/v1", tags=["OpenAI"])
CHUNK = (
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt2",'
    '"choices":[{"index":0,"delta":{"content":" the"},"logprobs":null,"finish_reason":null}]}\n\n'
)
ANSWERS = answer(ChatAnswer, "The replies, or with `stream` chunks of them, then `[DONE]`.", CHUNK) | openai_errors(
    400, *GENERATION_STATUSES
)
Body = Annotated[ChatRequest, Depends(json_body(ChatRequest))]


@router.post("/chat/completions", openapi_extra=documented(ChatRequest), responses=ANSWERS)
async def chat_completions(request: Request, body: Body) -> Response:
    """Reply to a conversation as OpenAI's chat does; `"stream": true` streams chunks, then `[DONE]`."""
    return await (_stream if body.stream else _answer)(request, body)


async def _start(request: Request, body: ChatRequest) -> tuple[Generation, Replies]:
    generator: TextGenerator = request.app.state.generator
    chat: Chat | NoChat = request.app.state.chat
    if isinstance(chat, NoChat):
        raise InvalidRequest(f"messages: {chat.reason}", param="messages")
    generator.client.check_ready()
    arrived = time.monotonic()
    prompt = await chat.prompt(body.conversation())
    try:
        generation = await generator.start(body.generation(prompt, chat.turns, generator.client.limits.max_positions), arrived)
    except PromptTooLong as error:
        raise InvalidRequest(f"messages: {error}; leave out the oldest", param="messages") from None
    return generation, Replies(body, generation, "" if body.continue_final_message else chat.turns.lead)


async def _answer(request: Request, body: ChatRequest) -> Response:
    generation, written = await _start(request, body)
    tokens = await all_tokens(request, generation)
    samples = generation.samples_of(0, ranked=body.is_ranked)

    def written_answer() -> Response:
        choices = [written.whole(i, sample, tokens[sample.index]) for i, sample in enumerate(samples[: body.num_wanted])]
        headers = generation_headers(generation, samples[0]) | timing_headers(generation)
        head = openai_head(request, "chatcmpl", "chat.completion")
        return JSON(head | {"choices": choices, "usage": generation_usage(generation)}, headers=headers)

    return await in_time(generation, generation.writing_size, written_answer)


async def _stream(request: Request, body: ChatRequest) -> Response:
    body.check_streamable()
    generation, written = await _start(request, body)
    batches = outputs(request, generation)
    first = await anext(batches)  # what fails before the first token is answered with its own status
    headers = generation_headers(generation, generation.samples[0])
    return EventStream(_chunks(request, body, generation, written, first, batches), batches, headers)


async def _chunks(
    request: Request,
    body: ChatRequest,
    generation: Generation,
    written: Replies,
    first: list[TextToken],
    batches: AsyncGenerator[list[TextToken], None],
) -> AsyncGenerator[bytes, None]:
    head = openai_head(request, "chatcmpl", "chat.completion.chunk")
    framed_choice = choice_framer(head)

    def frame(token: TextToken) -> bytes:
        return b"".join([framed_choice(chunk) for chunk in written.chunks(token)])

    async for chunk in framed(request, generation, first, batches, frame, lambda error: event(openai_error(error))):
        yield chunk
    if generation.is_finished and body.tells_usage:
        yield event(head | {"choices": [], "usage": generation_usage(generation)})
    yield DONE
