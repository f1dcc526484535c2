"""A completion's choices, whole or in chunks, with log-probabilities as the clients of OpenAI and of vLLM read them."""

from collections.abc import Sequence

from app.api.responses import Json
from app.engine.sequence import FinishReason
from app.generation import Generation
from app.prompt import PromptToken, ReadPrompt
from app.sample import Sample, TextToken
from app.schemas.openai import CompletionRequest
from model.tokenizer import Tokenizer

REASONS = {None: None, FinishReason.LENGTH: "length", FinishReason.EOS: "stop", FinishReason.STOP: "stop"}


class Choices:
    """How the choices of one request are written. Each prompt's part is made once, when its scores are there."""

    def __init__(self, body: CompletionRequest, generation: Generation) -> None:
        self._body, self._generation, self._tokenizer = body, generation, generation.generator.tokenizer
        self._openings: dict[int, Json] = {}

    @property
    def have_opening(self) -> bool:
        """Whether there is something to tell before the first token."""
        return bool(self._body.echo) or self._body.prompt_logprobs is not None

    def whole(self, index: int, sample: Sample, tokens: list[TextToken]) -> Json:
        opening = self._opening(sample.index)
        choice = opening | {
            "index": index,
            "text": opening["text"] + sample.text,
            "finish_reason": REASONS[sample.finish_reason],
        }
        if self._body.logprobs is not None:
            own, before = self._logprobs(tokens, len(opening["text"])), opening["logprobs"] or {}
            choice["logprobs"] = {name: before.get(name, []) + values for name, values in own.items()}
        return choice

    def opening(self, sample: Sample) -> Json:
        """The first chunk of a choice: the prompt's part, which is all of a choice without tokens."""
        reason = None if sample.num_generated else REASONS[sample.finish_reason]
        return self._opening(sample.index) | {"index": sample.index, "finish_reason": reason}

    def chunk(self, token: TextToken) -> Json:
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = self._logprobs([token], len(self._opening(token.sample)["text"]) if self._body.echo else 0)
        return {"index": token.sample, "text": token.text, "logprobs": logprobs, "finish_reason": REASONS[token.finish_reason]}

    def _opening(self, sample: int) -> Json:
        """What stands before a sample's own: the same for all of a prompt."""
        number = sample // self._generation.request.num_samples
        if number not in self._openings:
            self._openings[number] = self._written_prompt(self._generation.prompts[number])
        return self._openings[number]

    def _written_prompt(self, prompt: ReadPrompt) -> Json:
        body = self._body
        text = prompt.text(self._tokenizer) if body.echo else ""
        choice: Json = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
        if body.prompt_logprobs is not None or (body.echo and body.logprobs is not None):
            tokens = prompt.tokens(self._tokenizer)
            if body.echo and body.logprobs is not None:
                choice["logprobs"] = self._logprobs(tokens, 0)
            if body.prompt_logprobs is not None:
                choice["prompt_logprobs"] = [prompt_logprobs(self._tokenizer, token, body.prompt_logprobs) for token in tokens]
        return choice

    def _logprobs(self, tokens: Sequence[TextToken | PromptToken], shift: int) -> Json:
        """Lists of equal length, as OpenAI has them; `shift` is where in the choice's text the tokens' own begins."""
        return {
            "tokens": [self._tokenizer.name(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [top_logprobs(self._tokenizer, token, self._body.logprobs or 0) for token in tokens],
            "text_offset": [shift + token.offset for token in tokens],
        }


def top_logprobs(tokenizer: Tokenizer, token: TextToken | PromptToken, top_n: int) -> dict[str, float] | None:
    """The likeliest tokens and the chosen one, by their names; None where nothing was computed."""
    if token.logprob is None:
        return None
    top = {tokenizer.name(token_id): logprob for token_id, logprob in token.top[:top_n]}
    top.setdefault(tokenizer.name(token.id), token.logprob)
    return top


def prompt_logprobs(tokenizer: Tokenizer, token: PromptToken, top_n: int) -> dict[str, Json] | None:
    """vLLM's form, by token ids; the rank of a prompt's token is told where it is among the likeliest that were asked for."""
    if token.logprob is None:
        return None
    ranks = {token_id: rank for rank, (token_id, _) in enumerate(token.top, start=1)}
    told = {token.id: token.logprob} | dict(token.top[:top_n])
    return {
        str(token_id): {
            "logprob": logprob,
            "rank": ranks.get(token_id),
            "decoded_token": tokenizer.decode([token_id]) or tokenizer.name(token_id),
        }
        for token_id, logprob in told.items()
    }
