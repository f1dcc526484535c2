"""The fields that both dialects have, with their limits and descriptions, and what their bodies are made of."""

import secrets
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.errors import InvalidRequest
from model.batch import SamplingParams

MAX_SAMPLES = 16
# JavaScript reads integers exactly up to 2^53 alone: a seed that we draw must come back from any client as it was, the last
# sample's too.
DRAWN_SEEDS = 2**53 - MAX_SAMPLES
# Below this a distribution is its maximum to the last bit, and dividing by it would only overflow.
MIN_TEMPERATURE = 1e-5


def _no_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds a lone surrogate at character {error.start}, which is no text") from None
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("it is empty")
    return text


Text = Annotated[str, AfterValidator(_no_surrogates)]
SomeText = Annotated[str, AfterValidator(_no_surrogates), AfterValidator(_not_empty)]
StopString = Annotated[str, AfterValidator(_no_surrogates), AfterValidator(_not_empty), Field(max_length=256)]
StopStringList = Annotated[list[StopString], Field(max_length=4)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,10}$")], Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)
]
Penalty = Annotated[float, Field(ge=-2, le=2)]
NumSamples = Annotated[int, Field(ge=1, le=MAX_SAMPLES)]


class StrictModel(BaseModel):
    """Refuses wrong types, unknown fields and values out of range, and mends nothing."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class LenientModel(BaseModel):
    """As strict, but it passes over unknown fields, as OpenAI's clients expect."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


class SamplingFields(BaseModel):
    """How tokens are drawn, how often, and which of them end a text; null stands for the default of any field."""

    top_p: float | None = Field(
        None, gt=0, le=1, description="Draw from the likeliest tokens that make up this probability; 1 is off."
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="Draw from tokens at least this times as likely as the likeliest; 0 is off."
    )
    repetition_penalty: float | None = Field(
        None, gt=0, le=1000, description="Divides the positive logits of tokens seen; 1 is off."
    )
    frequency_penalty: Penalty | None = Field(
        None, description="Taken from a generated token's logit as often as it came; 0 is off."
    )
    presence_penalty: Penalty | None = Field(None, description="Taken once from each generated token's logit; 0 is off.")
    logit_bias: LogitBias | None = Field(None, description="Added to the logits of these token ids.")
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = Field(
        None, description="Generation ends with any of these."
    )
    ignore_eos: bool | None = Field(None, description="Go on after the end token.")
    n: NumSamples | None = Field(None, description="Samples that are returned; sample i draws with the seed + i.")
    best_of: NumSamples | None = Field(
        None, description="Samples that are drawn, at least n; the n likeliest by the mean of their tokens are returned."
    )

    @model_validator(mode="after")
    def _returns_no_more_than_it_draws(self) -> Self:
        if self.best_of is not None and self.best_of < self.num_wanted:
            raise ValueError(f"best_of: {self.best_of} is below n, {self.n}; send at least n, or leave it out")
        return self

    @property
    def num_wanted(self) -> int:
        return self.n or 1

    @property
    def num_samples(self) -> int:
        return self.best_of or self.num_wanted

    @property
    def is_ranked(self) -> bool:
        return self.num_samples > self.num_wanted

    def check_streamable(self) -> None:
        """Raise InvalidRequest if what is wanted is known only once all is drawn."""
        if self.is_ranked:
            raise InvalidRequest(
                f"best_of: {self.best_of} is above n, {self.num_wanted}, and samples can be ranked only when they are complete; "
                "send no stream, or best_of equal to n",
                param="best_of",
            )

    def sampling_params(self, temperature: float, top_k: int, typical_p: float, seed: int | None) -> SamplingParams:
        """The engine's parameters, the seed drawn if there is none."""
        return SamplingParams(
            temperature=temperature if temperature >= MIN_TEMPERATURE else 0.0,
            top_k=top_k,
            top_p=self.top_p or 1.0,
            min_p=self.min_p or 0.0,
            typical_p=typical_p,
            repetition_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=tuple((int(token_id), value) for token_id, value in (self.logit_bias or {}).items()),
            seed=secrets.randbelow(DRAWN_SEEDS) if seed is None else seed,
        )
