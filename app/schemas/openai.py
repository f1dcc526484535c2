"""The bodies under /v1: OpenAI's fields, and those that vLLM adds; what neither knows is passed over."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from app.generation import GenerationRequest
from app.prompt import Prompt
from app.schemas.fields import LenientModel, PromptsField, SamplingFields, SomeText, StopStringList, Text

# What OpenAI or vLLM know, is not there and would change the text, with the values of each that leave it as it is besides null.
REFUSED: dict[str, tuple[object, ...]] = {
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_json_object": (False,),
    "guided_regex": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "prompt_embeds": ([],),
    "response_format": ({"type": "text"},),
    "structural_tag": (),
    "structured_outputs": (),
    "use_beam_search": (False,),
}


STOP: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 256}
STOPS: dict[str, Any] = {"anyOf": [STOP, {"type": "array", "items": STOP, "maxItems": 4}, {"type": "null"}]}


class StreamOptions(LenientModel):
    include_usage: bool | None = None


class OpenAIRequest(SamplingFields, LenientModel):
    """What the bodies of completions and of chats have in common."""

    model: Text | None = Field(None, description="Any name is taken: one model is served.")
    min_tokens: int | None = Field(
        None, ge=0, description="Tokens before which neither end token, nor stop_token_ids, nor a stop string ends the text."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="Divides the logits, 1 if absent; 0 takes the likeliest token.")
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = Field(None, description="A negative one counts modulo 2^64.")
    stop: Annotated[StopStringList | None, WithJsonSchema(STOPS)] = Field(
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
        for name, neutral in REFUSED.items():
            if (value := body.get(name)) is not None and value not in neutral:
                raise ValueError(f"{name}: this server does not have it, and without it the text would be another; leave it out")
        # One string is a list of one: a union of types would have a message for each of them.
        return body | {"stop": [body["stop"]]} if isinstance(body.get("stop"), str) else body

    @model_validator(mode="after")
    def _stream_options_are_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: they are for streams alone; send stream: true, or leave them out")
        return self

    @property
    def tells_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

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
            reading=self.reading,
            skip_special_tokens=self.skip_special_tokens is not False,
            include_stop=bool(self.include_stop_str_in_output),
            stop_after=self.min_tokens or 0,
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
    suffix: Text | None = Field(None, description="Not there: GPT-2 continues text, it cannot fill a gap.")

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> Self:
        if self.suffix:
            raise ValueError("suffix: GPT-2 only continues text, it cannot write towards a suffix; leave it out")
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


class ScoreRequest(LenientModel):
    """The body of `/v1/score`."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"prompt": "The capital of France is", "candidates": [" Paris", " Lyon"]}}
    )

    prompt: SomeText = Field(description="The text before each candidate.")
    candidates: Annotated[list[SomeText], Field(min_length=1, max_length=128, fail_fast=True)] = Field(
        description="Texts whose log-probabilities after the prompt are wanted, each by its own tokens."
    )
    model: Text | None = Field(None, description="Any name is taken: one model is served.")
