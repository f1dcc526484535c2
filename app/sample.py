"""The text of one sample of a request, token by token: bytes become characters, stop strings are cut off. Knows no engine."""

from dataclasses import dataclass
from typing import NamedTuple

from app.engine.sequence import FinishReason, TokenOutput
from app.stop_strings import StopStrings
from model.batch import Top
from model.tokenizer import IncrementalDecoder, Tokenizer


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

    def take(self, output: TokenOutput) -> TextToken:
        ended, decoder = output.finish_reason, self.decoder
        ended_by_id = ended is FinishReason.EOS or ended is FinishReason.STOP  # whose text is nobody's
        piece = decoder.flush() if ended_by_id and not self.keeps_end else decoder.decode(output.token_id)
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
        self.sum_logprob += output.logprob
        self.last_published = output.published_at
        is_special = self.tokenizer.is_special(output.token_id)
        return TextToken(
            self.index,
            self.num_generated,
            output.token_id,
            text,
            output.logprob,
            is_special,
            output.top,
            offset,
            self.finish_reason,
        )
