"""The text of one sample of a request, token by token: bytes become characters, stop strings are cut off. Knows no engine."""

from dataclasses import dataclass
from typing import NamedTuple

from app.engine.sequence import FinishReason, TokensOutput
from app.stop_strings import StopStrings
from model.batch import SampledToken, Top
from model.tokenizer import IncrementalDecoder, Tokenizer

ENDED_BY_ID = (FinishReason.EOS, FinishReason.STOP)  # in the engine's words: by a token whose text is nobody's


class TextToken(NamedTuple):
    """A generated token and the text that it completes: none while a character, or what may be a stop string, is unfinished.

    `number` counts a sample's tokens from 1 on; its last one has the finish reason. `offset` is where the token's own text begins,
    in characters of the sample's text as it was before a stop string was cut off it. (A tuple, since one is made for every token.)
    """

    sample: int
    number: int
    id: int
    text: str
    logprob: float
    special: bool
    top: Top
    offset: int
    finish_reason: FinishReason | None


@dataclass(slots=True, eq=False)
class Sample:
    """One of the texts that a prompt is continued with: `take` its tokens until `finish_reason` is set.

    Stop strings count if they are complete only after `stop_after` tokens. With `keeps_end` the text of a token that ends it stays.
    """

    index: int
    seed: int
    tokenizer: Tokenizer
    decoder: IncrementalDecoder
    stops: StopStrings
    stop_after: int = 0
    keeps_end: bool = False
    text: str = ""
    num_generated: int = 0
    sum_logprob: float = 0.0
    last_published: float | None = None
    finish_reason: FinishReason | None = None

    @property
    def mean_logprob(self) -> float:
        """A token, the end token included: what `best_of` ranks by."""
        return self.sum_logprob / max(self.num_generated, 1)

    def take(self, output: TokensOutput) -> list[TextToken]:
        """The output's tokens up to the sample's end: what was drawn past a stop string is nobody's."""
        self.last_published = output.published_at
        tokens: list[TextToken] = []
        num_tokens = len(output.tokens)
        for i, token in enumerate(output.tokens, start=1):
            tokens.append(self._take(token, output.finish_reason if i == num_tokens else None))
            if self.finish_reason is not None:
                break
        return tokens

    def _take(self, token: SampledToken, ended: FinishReason | None) -> TextToken:
        token_id, logprob, top = token
        decoder = self.decoder
        is_left_out = ended is not None and ended in ENDED_BY_ID and not self.keeps_end
        piece = decoder.flush() if is_left_out else decoder.decode(token_id)
        offset = decoder.offset
        self.num_generated += 1
        text, stopped = self.stops.feed(piece, may_end=self.num_generated > self.stop_after)
        if stopped:
            self.finish_reason = FinishReason.STOP
        elif ended is not None:
            tail, stopped = self.stops.feed(decoder.flush())
            text += tail if stopped else tail + self.stops.flush()
            self.finish_reason = FinishReason.STOP if stopped else ended
        self.text += text
        self.sum_logprob += logprob
        special = self.tokenizer.is_special(token_id)
        return TextToken(self.index, self.num_generated, token_id, text, logprob, special, top, offset, self.finish_reason)
