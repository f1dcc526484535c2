"""/v1/score: how likely each of several candidates is after a prompt."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.api.body import documented, json_body
from app.api.documentation import GENERATION_STATUSES, answer, openai_errors
from app.api.outputs import in_time, watched
from app.api.responses import JSON, Json, usage
from app.billing import Bill
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
    tells_cost = bool(body.include_cost)
    scoring = await start_scoring(generator, body.prompt or "", body.candidates, body.reading, body.timeout_seconds, tells_cost)
    async with watched(request, scoring):
        scores = await scoring.scores()

    def answer() -> Response:
        written_usage = _usage(scoring, scoring.bill if tells_cost else None)
        data = [_data(generator.tokenizer, i, candidate) for i, candidate in enumerate(scores)]
        return JSON({"object": "list", "model": request.app.state.info.model_id, "data": data, "usage": written_usage})

    # A token takes as long as 8 characters to encode.
    return await in_time(scoring, 8 * sum(map(len, scoring.candidate_ids)), answer)


def _data(tokenizer: Tokenizer, index: int, candidate: CandidateScore) -> Json:
    decoder = tokenizer.decoder()
    tokens = [
        {"id": token_id, "text": decoder.decode(token_id), "logprob": logprob}
        for token_id, logprob in zip(candidate.token_ids, candidate.logprobs, strict=True)
    ]
    return {"index": index, "logprob": sum(candidate.logprobs), "num_tokens": len(tokens), "tokens": tokens}


def _usage(scoring: Scoring, bill: Bill | None) -> Json:
    return usage(scoring.num_prompt, scoring.num_generated, scoring.num_reused, bill)
