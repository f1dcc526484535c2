"""The text of one sample of a request, token by token: bytes become characters, stop strings are cut off. Knows no engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
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


class PromptToken(NamedTuple):
    """A token of the prompt, the text that it completes and where that begins; `logprob` is None where it was not computed."""

    id: int
    text: str
    offset: int
    logprob: float | None
    top: Top


@dataclass(slots=True, eq=False)
class Sample:
    """One of the texts that a prompt is continued with: `take` its tokens until `finish_reason` is set."""

    index: int
    seed: int
    tokenizer: Tokenizer
    stop: Sequence[str]
    text: str = ""
    num_generated: int = 0
    sum_logprob: float = 0.0
    last_published: float | None = None
    finish_reason: FinishReason | None = None
    _stops: StopStrings = field(init=False)
    _decoder: IncrementalDecoder = field(init=False)

    def __post_init__(self) -> None:
        self._stops = StopStrings(self.stop)
        self._decoder = self.tokenizer.decoder()

    @property
    def mean_logprob(self) -> float:
        """A token, the end token included: what `best_of` ranks by."""
        return self.sum_logprob / max(self.num_generated, 1)

    def take(self, output: TokenOutput) -> TextToken:
        ended = output.finish_reason
        ended_by_id = ended is FinishReason.EOS or ended is FinishReason.STOP  # whose text is nobody's
        piece = self._decoder.flush() if ended_by_id else self._decoder.decode(output.token_id)
        offset = self._decoder.offset
        text, stopped = self._stops.feed(piece)
        if stopped:
            self.finish_reason = FinishReason.STOP
        elif ended is not None:
            tail, stopped = self._stops.feed(self._decoder.flush())
            text += tail if stopped else tail + self._stops.flush()
            self.finish_reason = FinishReason.STOP if stopped else ended
        self.text += text
        self.num_generated += 1
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
