"""/v1/score: how likely each of several candidates is after a prompt."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.api.body import documented, json_body
from app.api.documentation import GENERATION_STATUSES, answer, openai_errors
from app.api.outputs import in_time, watched
from app.api.responses import JSON, Json, usage
from app.generation import TextGenerator
from app.schemas.answers import ScoreAnswer
from app.schemas.openai import ScoreRequest
from app.scoring import CandidateScore, Scoring, start_scoring
from model.tokenizer import Tokenizer

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post(
    "/score",
    openapi_extra=documented(ScoreRequest),
    responses=answer(ScoreAnswer, "The scores, in the order of the candidates.") | openai_errors(400, *GENERATION_STATUSES),
)
async def score(request: Request, body: Annotated[ScoreRequest, Depends(json_body(ScoreRequest))]) -> Response:
    """The log-probability of each candidate after the prompt: its sum, and that of each of the candidate's own tokens."""
    generator: TextGenerator = request.app.state.generator
    scoring = await start_scoring(generator, body.prompt or "", body.candidates, body.reading, body.timeout_seconds)
    async with watched(request, scoring):
        scores = await scoring.scores()

    def answer() -> Response:
        data = [_data(generator.tokenizer, i, candidate) for i, candidate in enumerate(scores)]
        return JSON({"object": "list", "model": request.app.state.info.model_id, "data": data, "usage": _usage(scoring)})

    # A token takes as long as 8 characters to encode.
    return await in_time(scoring, 8 * sum(map(len, scoring.candidate_ids)), answer)


def _data(tokenizer: Tokenizer, index: int, candidate: CandidateScore) -> Json:
    decoder = tokenizer.decoder()
    tokens = [
        {"id": token_id, "text": decoder.decode(token_id), "logprob": logprob}
        for token_id, logprob in zip(candidate.token_ids, candidate.logprobs, strict=True)
    ]
    return {"index": index, "logprob": sum(candidate.logprobs), "num_tokens": len(tokens), "tokens": tokens}


def _usage(scoring: Scoring) -> Json:
    """The prompt counts once, however many candidates share it."""
    num_tokens = len(scoring.prompt_ids) + sum(map(len, scoring.candidate_ids))
    return usage(num_tokens, 0, scoring.num_reused)
