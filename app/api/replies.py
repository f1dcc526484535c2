"""A chat's choices, whole or in chunks, with log-probabilities as OpenAI's chat tells them."""

from app.api.choices import REASONS
from app.api.responses import Json
from app.chat.turns import Lead
from app.generation import Generation
from app.sample import Sample, TextToken
from app.schemas.chat import ChatRequest


class Replies:
    """How the choices of one request are written. `lead` is taken off the front of each, streamed or not: see `Turns`."""

    def __init__(self, body: ChatRequest, generation: Generation, lead: str) -> None:
        self._body, self._tokenizer, self._lead = body, generation.generator.tokenizer, lead
        self._leads = [Lead(lead) for _ in generation.samples]

    def whole(self, index: int, sample: Sample, tokens: list[TextToken]) -> Json:
        return {
            "index": index,
            "message": {"role": "assistant", "content": sample.text.removeprefix(self._lead)},
            "logprobs": self._logprobs(tokens),
            "finish_reason": REASONS[sample.finish_reason],
        }

    def chunks(self, token: TextToken) -> list[Json]:
        """A sample's first chunk names the role, and its last one has the finish reason and nothing else."""
        chunks = [_chunk(token, {"role": "assistant", "content": ""})] if token.number == 1 else []
        text = self._leads[token.sample].feed(token.text, is_last=token.finish_reason is not None)
        chunks.append(_chunk(token, {"content": text}, self._logprobs([token])))
        if token.finish_reason is not None:
            chunks.append(_chunk(token, {}) | {"finish_reason": REASONS[token.finish_reason]})
        return chunks

    def _logprobs(self, tokens: list[TextToken]) -> Json | None:
        if not self._body.logprobs:
            return None
        top_n = self._body.top_logprobs or 0
        return {"content": [self._told(t.id, t.logprob) | {"top_logprobs": self._top(t, top_n)} for t in tokens], "refusal": None}

    def _top(self, token: TextToken, top_n: int) -> list[Json]:
        return [self._told(token_id, logprob) for token_id, logprob in token.top[:top_n]]

    def _told(self, token_id: int, logprob: float) -> Json:
        token_bytes = self._tokenizer.token_bytes(token_id)
        return {"token": self._tokenizer.name(token_id), "logprob": logprob, "bytes": list(token_bytes) or None}


def _chunk(token: TextToken, delta: Json, logprobs: Json | None = None) -> Json:
    return {"index": token.sample, "delta": delta, "logprobs": logprobs, "finish_reason": None}
