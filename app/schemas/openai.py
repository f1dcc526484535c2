"""The bodies under /v1: OpenAI's fields, and those that vLLM adds; what neither knows is passed over."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from app.generation import GenerationRequest
from app.prompt import Prompt
from app.schemas.fields import (
    GenerationFields,
    LenientModel,
    PromptField,
    PromptsField,
    ReadingFields,
    SomeText,
    StopStringList,
    Text,
    TimeoutField,
)

# What OpenAI or vLLM know, is not there and would change the text; with the values of each, besides empty ones, that would not.
REFUSED: dict[str, tuple[object, ...]] = {
    "allowed_token_ids": (),
    "bad_words": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_json_object": (),
    "guided_regex": (),
    "guided_whitespace_pattern": (),
    "length_penalty": (1,),
    "logits_processors": (),
    "prompt_embeds": (),
    "repetition_detection": (),
    "response_format": ("text",),
    "structural_tag": (),
    "structured_outputs": (),
    "suffix": (),
    "truncation_side": ("left",),
    "use_beam_search": (),
    "vllm_xargs": (),
    "watermarking": (),
}

# An empty object asks for something there: any JSON, any search.
ASKED_BY_PRESENCE = ("guided_json", "web_search_options")
REASONS = {
    "chat_template": "only who runs this server chooses it, by GPT2_CHAT_TEMPLATE",
    "suffix": "GPT-2 only continues text, it cannot write towards a suffix",
}


def _some_stops(value: object) -> object:
    """One string is a list of one: a union of types would have a message for each of them."""
    if value is not None and not isinstance(value, str | list):
        raise ValueError("it is a string or a list of up to four")
    return [value] if isinstance(value, str) else value


STOP: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 256}
STOPS: dict[str, Any] = {"anyOf": [STOP, {"type": "array", "items": STOP, "maxItems": 4}, {"type": "null"}]}


class CostField(LenientModel):
    include_cost: bool | None = Field(
        None,
        description="Tell what the request cost: operations, bytes, seconds and energy, in usage.cost; of a stream in the chunk "
        "that include_usage asks for, which this does too.",
    )


class StreamOptions(LenientModel):
    include_usage: bool | None = None


class OpenAIRequest(GenerationFields, CostField):
    """What the bodies of completions and of chats have in common; `refused` are the fields that would change the text."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = REFUSED

    model: Text | None = Field(None, description="Any name is taken: one model is served.")
    min_tokens: int | None = Field(
        None, ge=0, description="Tokens before which neither end token, nor stop_token_ids, nor a stop string ends the text."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="Divides the logits, 1 if absent; 0 takes the likeliest token.")
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = Field(None, description="A negative one counts modulo 2^64.")
    stop: Annotated[StopStringList | None, BeforeValidator(_some_stops), WithJsonSchema(STOPS)] = Field(
        None, description="The text ends before the first of these."
    )
    stream: bool | None = Field(None, description="Answer with server-sent events, one a token.")
    stream_options: StreamOptions | None = Field(None, description="Of a stream alone.")
    truncate_prompt_tokens: int | None = Field(None, ge=1, description="Keep the last so many tokens of the prompt.")
    include_stop_str_in_output: bool | None = Field(
        None, description="Leave the stop string, or the token that ended the text, in the text."
    )
    user: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_would_change_the_text(cls, body: Any) -> Any:  # any JSON value
        if not isinstance(body, dict):
            return body
        for name in body.keys() & cls.refused.keys():
            value = body[name]
            if name == "response_format" and isinstance(value, dict):
                value = value.get("type")
            if (value or (name in ASKED_BY_PRESENCE and value is not None)) and value not in cls.refused[name]:
                reason = REASONS.get(name, "this server does not have it, and without it the text would be another")
                raise ValueError(f"{name}: {reason}; leave it out")
        return body

    @model_validator(mode="after")
    def _stream_options_are_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: they are for streams alone; send stream: true, or leave them out")
        return self

    @property
    def tells_usage(self) -> bool:
        return bool((self.stream_options and self.stream_options.include_usage) or self.include_cost)

    def generation_of(
        self, prompts: tuple[Prompt, ...], max_new_tokens: int, top_n: int, prompt_top_n: int | None = None
    ) -> GenerationRequest:
        return GenerationRequest(
            prompts=prompts,
            sampling=self.sampling_params(
                temperature=1.0 if self.temperature is None else self.temperature,
                typical_p=1.0,
                seed=None if self.seed is None else self.seed % 2**64,
            ),
            max_new_tokens=max_new_tokens,
            min_new_tokens=self.min_tokens or 0,
            num_samples=self.num_samples,
            top_n=top_n,
            prompt_top_n=prompt_top_n,
            stop=tuple(self.stop or ()),
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            truncate=self.truncate_prompt_tokens,
            timeout_seconds=self.timeout_seconds,
            reading=self.reading,
            skip_special_tokens=self.skip_special_tokens is not False,
            include_stop=bool(self.include_stop_str_in_output),
            stop_after=self.min_tokens or 0,
            tells_cost=bool(self.include_cost),
        )


class CompletionRequest(OpenAIRequest):
    """The body of `/v1/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"model": "gpt2", "prompt": "The old man looked at the sea and", "max_tokens": 40, "temperature": 0.8}
        },
    )

    prompt: PromptsField | None = Field(
        None, description="One prompt or several, each text or token ids; without one the model writes from nothing."
    )
    max_tokens: int | None = Field(
        None,
        ge=0,
        description="Tokens to generate at most, 16 if absent; cut to what the context leaves. 0, with echo: the prompt alone.",
    )
    echo: bool | None = Field(None, description="Put the prompt before the text, and its log-probabilities before the tokens'.")
    logprobs: int | None = Field(
        None, ge=0, le=5, description="Tell each token's log-probability, and so many of the likeliest tokens beside it."
    )
    prompt_logprobs: int | None = Field(
        None, ge=0, le=20, description="Tell the same of the prompt's tokens, in vLLM's form, in each choice's prompt_logprobs."
    )

    @model_validator(mode="after")
    def _scores_or_generates(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 only makes sense with echo, which returns the prompt; send at least 1, or echo")
        return self

    def generation(self) -> GenerationRequest:
        scored = [top_n for top_n in (self.logprobs if self.echo else None, self.prompt_logprobs) if top_n is not None]
        return self.generation_of(
            prompts=self.prompt or ("",),
            max_new_tokens=16 if self.max_tokens is None else self.max_tokens,
            top_n=self.logprobs or 0,
            prompt_top_n=max(scored, default=None),
        )


class ScoreRequest(ReadingFields, TimeoutField, CostField):
    """The body of `/v1/score`."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"prompt": "The capital of France is", "candidates": [" Paris", " Lyon"]}}
    )

    prompt: PromptField | None = Field(
        None, description="What comes before each candidate, text or token ids; without one, nothing."
    )
    candidates: Annotated[list[SomeText], Field(min_length=1, max_length=128, fail_fast=True)] = Field(
        description="Texts whose log-probabilities after the prompt are wanted, each by its own tokens."
    )
    model: Text | None = Field(None, description="Any name is taken: one model is served.")
