"""A prompt as a client gave it, text or token ids, and as the model reads it. Knows no engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from model.batch import Top
from model.tokenizer import Reading, Tokenizer, prompt_ids

Prompt = str | tuple[int, ...]


class PromptToken(NamedTuple):
    """A token of the prompt, its text and where that begins in the prompt's; `logprob` is None where it was not computed."""

    id: int
    text: str
    offset: int
    logprob: float | None
    top: Top


@dataclass(slots=True, eq=False)
class ReadPrompt:
    """A prompt and its token ids: `num_cut` of them were cut off its beginning.

    `num_reused` and `scores` are what the engine tells of it, `max_new_tokens` what the context leaves.
    """

    given: Prompt
    ids: list[int]
    num_cut: int
    reading: Reading
    max_new_tokens: int = 0
    num_reused: int = 0
    scores: list[tuple[float | None, Top]] = field(default_factory=list)

    def text(self, tokenizer: Tokenizer) -> str:
        """The text as it was given, all of it, or that of the ids."""
        return self.given if isinstance(self.given, str) else tokenizer.decode(self.given, skip_special_tokens=False)

    def tokens(self, tokenizer: Tokenizer) -> list[PromptToken]:
        """The tokens that were read, the first of which has no log-probability: all scored or none, once one is generated."""
        assert len(self.scores) in (0, len(self.ids) - 1), "the scores come before the first token"
        unscored: list[tuple[float | None, Top]] = [(None, ())] * (len(self.ids) - len(self.scores))
        return [
            PromptToken(token_id, text, offset, logprob, top)
            for token_id, (text, offset), (logprob, top) in zip(
                self.ids, self._places(tokenizer), unscored + self.scores, strict=True
            )
        ]

    def _places(self, tokenizer: Tokenizer) -> list[tuple[str, int]]:
        """Each token's text, and where it begins in `text`."""
        if not self.given:
            places = []
        elif isinstance(self.given, str):
            places = [(span.text, span.start) for span in tokenizer.spans(self.given, self.reading)]
        else:
            decoder = tokenizer.decoder(skip_special_tokens=False)
            places = [(decoder.decode(token_id), decoder.offset) for token_id in self.given]
        return places[self.num_cut :] or [("", 0)]  # the end token that stands for nothing


def read_prompts(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], reading: Reading, truncate: int | None, end_token_id: int
) -> list[ReadPrompt]:
    """The last `truncate` tokens of each; a prompt of none is an end token: what the model writes from nothing."""
    return [_read(tokenizer, prompt, reading, truncate, end_token_id) for prompt in prompts]


def _read(tokenizer: Tokenizer, prompt: Prompt, reading: Reading, truncate: int | None, end_token_id: int) -> ReadPrompt:
    ids = prompt_ids(tokenizer, prompt, end_token_id, reading) if isinstance(prompt, str) else list(prompt or (end_token_id,))
    num_cut = 0 if truncate is None else max(len(ids) - truncate, 0)
    return ReadPrompt(prompt, ids[num_cut:], num_cut, reading)
