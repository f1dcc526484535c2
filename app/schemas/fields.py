"""The fields that both dialects have, with their limits and descriptions, and what their bodies are made of."""

import re
import secrets
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from app.errors import InvalidRequest
from app.prompt import Prompt
from model.batch import SamplingParams
from model.tokenizer import Reading

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


def _each_id_once(bias: dict[str, float]) -> dict[str, float]:
    keys: dict[int, str] = {}
    for key in bias:
        if (other := keys.setdefault(int(key), key)) is not key:
            raise ValueError(f'its keys "{other}" and "{key}" name one token id')
    return bias


def _token_id(key: str) -> str:
    if not re.fullmatch(r"[0-9]{1,10}", key):
        raise ValueError("its keys are token ids, written in digits")
    return key


Text = Annotated[str, AfterValidator(_no_surrogates)]
NOT_EMPTY = Field(json_schema_extra={"minLength": 1})  # for the document: the validator has a message of its own
SomeText = Annotated[str, AfterValidator(_no_surrogates), AfterValidator(_not_empty), NOT_EMPTY]
StopString = Annotated[str, AfterValidator(_no_surrogates), AfterValidator(_not_empty), Field(max_length=256), NOT_EMPTY]
StopStringList = Annotated[list[StopString], Field(max_length=4, fail_fast=True)]
MAX_TOKEN_ID = 2**31 - 1
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
TokenIdKey = Annotated[str, AfterValidator(_token_id), WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,10}$"})]
LogitBias = Annotated[
    dict[TokenIdKey, Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=1024, json_schema_extra={"additionalProperties": False}),  # beside the pattern's
    AfterValidator(_each_id_once),
]
Penalty = Annotated[float, Field(ge=-2, le=2)]
NumSamples = Annotated[int, Field(ge=1, le=MAX_SAMPLES)]


MAX_PROMPTS = 256


def _prompt(value: object) -> Prompt:
    """Text or token ids; one message says what is wrong, where a union of types would give one for each of them."""
    if isinstance(value, str):
        return _no_surrogates(value)
    if isinstance(value, list):
        return _token_ids(value, "")
    raise ValueError(f"it is a string or a list of token ids, not {kind_of(value)}")


def _prompts(value: object) -> tuple[Prompt, ...]:
    """A prompt or a list of prompts."""
    if not isinstance(value, list) or not value or type(value[0]) is int:
        return (_prompt(value),)
    if len(value) > MAX_PROMPTS:
        raise ValueError(f"there are {len(value)} of them; at most {MAX_PROMPTS} are taken at once")
    if isinstance(value[0], str):
        return tuple(_text_at(i, item) for i, item in enumerate(value))
    if isinstance(value[0], list):
        return tuple(_token_ids(item, f"at place {i}, ") for i, item in enumerate(value))
    raise ValueError(
        f"it is a string, a list of strings, a list of token ids or a list of such lists; at its place 0 is {kind_of(value[0])}"
    )


def _text_at(place: int, item: object) -> str:
    if not isinstance(item, str):
        raise ValueError(f"at place {place} of a list of strings is {kind_of(item)}")
    return _no_surrogates(item)


def _token_ids(value: object, where: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where}there is {kind_of(value)}, not a list of token ids")
    for i, item in enumerate(value):
        if type(item) is not int or not 0 <= item <= MAX_TOKEN_ID:
            shown = f"the number {item:.40}" if type(item) is float else f"{item}" if type(item) is int else kind_of(item)
            raise ValueError(f"{where}there is {shown:.60} at place {i} of a list of token ids")
    return tuple(value)


def kind_of(value: object) -> str:
    names = {str: "a string", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
ONE_PROMPT: dict[str, Any] = {"anyOf": [{"type": "string"}, TOKEN_IDS]}
SOME_PROMPTS: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        TOKEN_IDS,
        {"type": "array", "items": {"type": "string"}, "maxItems": MAX_PROMPTS},
        {"type": "array", "items": TOKEN_IDS, "maxItems": MAX_PROMPTS},
    ]
}
PromptField = Annotated[Prompt, PlainValidator(_prompt), WithJsonSchema(ONE_PROMPT)]
PromptsField = Annotated[tuple[Prompt, ...], PlainValidator(_prompts), WithJsonSchema(SOME_PROMPTS)]


class StrictModel(BaseModel):
    """Refuses wrong types, unknown fields and values out of range, and mends nothing."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class BracketedModel(StrictModel):
    """As strict; an error names a place in its lists as `positions[0]`, as whoever checks it further does."""


class LenientModel(BaseModel):
    """As strict, but it passes over unknown fields, as OpenAI's clients expect."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


class ReadingFields(BaseModel):
    """How a text becomes tokens."""

    parse_special: bool | None = Field(
        None, description="Whether special and added tokens in a text are tokens, as they are if absent, or plain text."
    )
    add_special_tokens: bool | None = Field(
        None, description="Whether a text begins with what the checkpoint's tokenizer puts there, as it does if absent."
    )

    @property
    def reading(self) -> Reading:
        return Reading(self.parse_special is not False, self.add_special_tokens is not False)


class TimeoutField(BaseModel):
    """How long an answer may take."""

    timeout_seconds: float | None = Field(
        None,
        ge=0.001,
        le=86_400,
        description="The answer is complete within so many seconds, those in the queue included, or fails: 504.",
    )


class GenerationFields(ReadingFields, TimeoutField):
    """What both dialects ask for by the same names; null stands for the default of any field."""

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
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64, fail_fast=True)] | None = Field(
        None, description="Generation ends with any of these."
    )
    ignore_eos: bool | None = Field(None, description="Go on after the end token.")
    n: NumSamples | None = Field(None, description="Samples that are returned; sample i draws with the seed + i.")
    best_of: Annotated[int, Field(ge=0, le=MAX_SAMPLES)] | None = Field(
        None, description="Samples that are drawn, at least n; the n likeliest by the mean of their tokens are returned. 0 is n."
    )
    top_k: int | None = Field(None, ge=-1, description="Draw from the k likeliest tokens; 0 and -1 are off.")
    skip_special_tokens: bool | None = Field(
        None, description="Whether special tokens are left out of the text that is returned, as they are if absent."
    )

    @model_validator(mode="after")
    def _returns_no_more_than_it_draws(self) -> Self:
        if 1 < (self.best_of or 0) < self.num_wanted:
            raise ValueError(f"best_of: {self.best_of} is below n, {self.n}; send at least n, or leave it out")
        return self

    @property
    def num_wanted(self) -> int:
        return self.n or 1

    @property
    def num_samples(self) -> int:
        return max(self.best_of or 0, self.num_wanted)

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

    def sampling_params(self, temperature: float, typical_p: float, seed: int | None) -> SamplingParams:
        """The engine's parameters, the seed drawn if there is none."""
        return SamplingParams(
            temperature=temperature if temperature >= MIN_TEMPERATURE else 0.0,
            top_k=max(self.top_k or 0, 0),
            top_p=self.top_p or 1.0,
            min_p=self.min_p or 0.0,
            typical_p=typical_p,
            repetition_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=tuple((int(token_id), value) for token_id, value in (self.logit_bias or {}).items()),
            seed=secrets.randbelow(DRAWN_SEEDS) if seed is None else seed,
        )
