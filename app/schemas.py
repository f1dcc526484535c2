"""The bodies of requests, checked strictly: wrong types, unknown fields and values out of range are refused, never mended."""

import json
import secrets
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, model_validator

from app.generation import GenerationRequest
from model.batch import SamplingParams

# JavaScript reads integers exactly up to 2^53 alone: a seed that we draw must come back from any client as it was.
DRAWN_SEED_BITS = 53
# Below this a distribution is its maximum to the last bit, and dividing by it would only overflow.
MIN_TEMPERATURE = 1e-5


def _no_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds a lone surrogate at character {error.start}, which is no text") from None
    return text


Text = Annotated[str, AfterValidator(_no_surrogates)]
StopString = Annotated[str, AfterValidator(_no_surrogates), Field(min_length=1, max_length=256)]
Seed = Annotated[int, Field(ge=0, le=2**64 - 1)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,10}$")], Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)
]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class StrictModel(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class GenerateParameters(StrictModel):
    """How `/generate` continues the prompt; null stands for the default of any field."""

    max_new_tokens: int | None = Field(
        None, ge=1, description="Tokens to generate at most, 20 if absent; cut to what the context leaves."
    )
    min_new_tokens: int | None = Field(None, ge=0, description="Tokens before which neither end token nor stop_token_ids can come.")
    do_sample: bool | None = Field(None, description="Draw tokens; implied by any of the next five. Else the likeliest is taken.")
    temperature: float | None = Field(None, ge=0, description="Divides the logits; 0 takes the likeliest token.")
    top_k: int | None = Field(None, ge=1, description="Draw from the k likeliest tokens.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Draw from the likeliest tokens that make up this probability; 1 is off."
    )
    typical_p: float | None = Field(
        None, gt=0, le=1, description="Draw from the typical tokens that make up this probability; 1 is off."
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
    seed: Seed | None = Field(None, description="Same seed, same text; drawn if absent and returned in x-seed and details.")
    stop: Annotated[list[StopString], Field(max_length=4)] | None = Field(
        None, description="The text ends before the first of these."
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = Field(
        None, description="Generation ends with any of these."
    )
    ignore_eos: bool | None = Field(None, description="Go on after the end token.")
    return_full_text: bool | None = Field(None, description="Put the prompt before the generated text.")
    details: bool | None = Field(
        None, description="Return the tokens with their log-probabilities, the finish reason and the seed."
    )
    # Fields of the contract that are not there yet: only their neutral values are taken, see NOT_YET.
    n: int | None = Field(None, ge=1, description="Not there yet above 1.")
    best_of: int | None = Field(None, ge=1, description="Not there yet above 1.")
    top_n_tokens: int | None = Field(None, ge=0, le=5, description="Not there yet above 0.")
    decoder_input_details: bool | None = Field(None, description="Not there yet.")
    truncate: int | None = Field(None, ge=1, description="Not there yet.")
    timeout_seconds: float | None = Field(None, gt=0, description="Not there yet.")
    watermark: bool | None = Field(None, description="Not there.")
    grammar: dict[str, Any] | None = Field(None, description="Not there.")
    adapter_id: str | None = Field(None, description="Not there.")

    @model_validator(mode="after")
    def _refuse_what_is_missing(self) -> Self:
        for name, neutral in NOT_YET.items():
            if (value := getattr(self, name)) not in (None, neutral):
                raise ValueError(
                    f"{name}: this server does not support it yet; leave it out or send {json.dumps(neutral)}, not {value!r:.40}"
                )
        if self.do_sample is False and self._asks_for_sampling:
            raise ValueError("do_sample: false contradicts a field that asks for sampling; leave out one of them")
        return self

    @property
    def _asks_for_sampling(self) -> bool:
        filters = self.top_k is not None or self.min_p or (self.top_p or 1) < 1 or (self.typical_p or 1) < 1
        return bool(filters or self.temperature) and self.temperature != 0

    def sampling(self) -> SamplingParams:
        """The engine's parameters, the seed drawn if there is none."""
        samples = self.do_sample or self._asks_for_sampling
        temperature = 1.0 if self.temperature is None else self.temperature
        return SamplingParams(
            temperature=temperature if samples and temperature >= MIN_TEMPERATURE else 0.0,
            top_k=self.top_k or 0,
            top_p=self.top_p or 1.0,
            min_p=self.min_p or 0.0,
            typical_p=self.typical_p or 1.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=bias_entries(self.logit_bias),
            seed=draw_seed() if self.seed is None else self.seed,
        )


NOT_YET: dict[str, object] = {
    "n": 1,
    "best_of": 1,
    "top_n_tokens": 0,
    "decoder_input_details": False,
    "truncate": None,
    "timeout_seconds": None,
    "watermark": False,
    "grammar": None,
    "adapter_id": None,
}


class GenerateRequest(StrictModel):
    """The body of `/generate`, `/generate_stream` and `/`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "inputs": "The old man looked at the sea and",
                "parameters": {"max_new_tokens": 40, "seed": 1, "top_p": 0.9},
            }
        }
    )

    inputs: Text | None = Field(None, description="The prompt.")
    prompt: Text | None = Field(None, description="Another name of `inputs`.")
    parameters: GenerateParameters | None = Field(None, description="How to continue it.")
    stream: bool | None = Field(None, description="Answer with server-sent events, one a token.")

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.inputs is None) == (self.prompt is None):
            raise ValueError("inputs: give the prompt as `inputs` (or `prompt`), once")
        return self

    @property
    def text(self) -> str:
        return self.prompt if self.inputs is None else self.inputs  # type: ignore[return-value]  # the validator saw one of them

    @property
    def options(self) -> GenerateParameters:
        return self.parameters or GenerateParameters()

    def generation(self) -> GenerationRequest:
        options = self.options
        return GenerationRequest(
            prompt=self.text,
            sampling=options.sampling(),
            max_new_tokens=20 if options.max_new_tokens is None else options.max_new_tokens,
            min_new_tokens=options.min_new_tokens or 0,
            stop=tuple(options.stop or ()),
            stop_token_ids=frozenset(options.stop_token_ids or ()),
            ignore_eos=bool(options.ignore_eos),
        )


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    include_usage: bool | None = None


class CompletionRequest(BaseModel):
    """The body of `/v1/completions`; fields that OpenAI does not know either are ignored, as its clients expect."""

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        allow_inf_nan=False,
        frozen=True,
        json_schema_extra={
            "example": {"model": "gpt2", "prompt": "The old man looked at the sea and", "max_tokens": 40, "temperature": 0.8}
        },
    )

    prompt: Text | list[Any] = Field(description="The prompt, a string; lists are not there yet.")
    model: Text | None = Field(None, description="Any name is taken: one model is served.")
    max_tokens: int | None = Field(
        None, ge=0, description="Tokens to generate at most, 16 if absent; cut to what the context leaves."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="Divides the logits, 1 if absent; 0 takes the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="0 and -1 are off.")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=1000)
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = Field(None, description="A negative one counts modulo 2^64.")
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(None, ge=0)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None
    n: int | None = Field(None, ge=1, description="Not there yet above 1.")
    best_of: int | None = Field(None, ge=1, description="Not there yet above 1.")
    echo: bool | None = Field(None, description="Not there yet.")
    logprobs: int | None = Field(None, ge=0, le=5, description="Not there yet.")
    prompt_logprobs: int | None = Field(None, ge=0, description="Not there yet.")
    include_stop_str_in_output: bool | None = Field(None, description="Not there yet.")
    suffix: Text | None = Field(None, description="Not there: GPT-2 continues text, it cannot fill a gap.")

    @model_validator(mode="after")
    def _refuse_what_is_missing(self) -> Self:
        if not isinstance(self.prompt, str):
            raise ValueError("prompt: this server takes one string; lists are not supported yet")
        if self.suffix:
            raise ValueError("suffix: GPT-2 only continues text, it cannot write towards a suffix; leave it out")
        neutral = {
            "n": 1,
            "best_of": 1,
            "echo": False,
            "logprobs": None,
            "prompt_logprobs": None,
            "include_stop_str_in_output": False,
        }
        for name, value in neutral.items():
            if getattr(self, name) not in (None, value):
                raise ValueError(f"{name}: this server does not support it yet; leave it out")
        if self.max_tokens == 0:
            raise ValueError("max_tokens: 0 only makes sense with echo, which this server does not support yet; send at least 1")
        return self

    def generation(self) -> GenerationRequest:
        assert isinstance(self.prompt, str)
        temperature = 1.0 if self.temperature is None else self.temperature
        return GenerationRequest(
            prompt=self.prompt,
            sampling=SamplingParams(
                temperature=temperature if temperature >= MIN_TEMPERATURE else 0.0,
                top_k=max(self.top_k or 0, 0),
                top_p=self.top_p or 1.0,
                min_p=self.min_p or 0.0,
                repetition_penalty=self.repetition_penalty or 1.0,
                frequency_penalty=self.frequency_penalty or 0.0,
                presence_penalty=self.presence_penalty or 0.0,
                logit_bias=bias_entries(self.logit_bias),
                seed=draw_seed() if self.seed is None else self.seed % 2**64,
            ),
            max_new_tokens=self.max_tokens or 16,
            min_new_tokens=self.min_tokens or 0,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
        )


class TokenizeRequest(StrictModel):
    model_config = ConfigDict(json_schema_extra={"example": {"inputs": "Hello world"}})

    inputs: Text = Field(description="The text.")


class DetokenizeRequest(StrictModel):
    model_config = ConfigDict(json_schema_extra={"example": {"ids": [15, 42]}})

    ids: Annotated[list[TokenId], FailFast()] = Field(description="Token ids.")


def draw_seed() -> int:
    return secrets.randbits(DRAWN_SEED_BITS)


def bias_entries(bias: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    return tuple((int(token_id), value) for token_id, value in (bias or {}).items())
