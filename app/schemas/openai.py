"""The bodies under /v1: OpenAI's fields, and those that vLLM adds; what neither knows is passed over."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from app.generation import GenerationRequest
from app.schemas.fields import LenientModel, SamplingFields, SomeText, StopString, StopStringList, Text


class StreamOptions(LenientModel):
    include_usage: bool | None = None


class CompletionRequest(SamplingFields, LenientModel):
    """The body of `/v1/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"model": "gpt2", "prompt": "The old man looked at the sea and", "max_tokens": 40, "temperature": 0.8}
        },
    )

    prompt: Text | list[Any] = Field(description="The prompt, a string; lists are not there yet.")
    model: Text | None = Field(None, description="Any name is taken: one model is served.")
    max_tokens: int | None = Field(
        None,
        ge=0,
        description="Tokens to generate at most, 16 if absent; cut to what the context leaves. 0, with echo: the prompt alone.",
    )
    min_tokens: int | None = Field(None, ge=0, description="Tokens before which neither end token nor stop_token_ids can come.")
    temperature: float | None = Field(None, ge=0, le=2, description="Divides the logits, 1 if absent; 0 takes the likeliest token.")
    top_k: int | None = Field(None, ge=-1, description="Draw from the k likeliest tokens; 0 and -1 are off.")
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = Field(None, description="A negative one counts modulo 2^64.")
    stop: StopString | StopStringList | None = Field(None, description="The text ends before the first of these.")
    stream: bool | None = Field(None, description="Answer with server-sent events, one a token.")
    stream_options: StreamOptions | None = None
    user: Text | None = None
    echo: bool | None = Field(None, description="Put the prompt before the text, and its log-probabilities before the tokens'.")
    logprobs: int | None = Field(
        None, ge=0, le=5, description="Tell each token's log-probability, and so many of the likeliest tokens beside it."
    )
    prompt_logprobs: int | None = Field(
        None, ge=0, le=20, description="Tell the same of the prompt's tokens, in vLLM's form, in each choice's prompt_logprobs."
    )
    include_stop_str_in_output: bool | None = Field(None, description="Not there yet.")
    suffix: Text | None = Field(None, description="Not there: GPT-2 continues text, it cannot fill a gap.")

    @model_validator(mode="after")
    def _refuse_what_is_missing(self) -> Self:
        if not isinstance(self.prompt, str):
            raise ValueError("prompt: this server takes one string; lists are not supported yet")
        if self.suffix:
            raise ValueError("suffix: GPT-2 only continues text, it cannot write towards a suffix; leave it out")
        if self.include_stop_str_in_output:
            raise ValueError("include_stop_str_in_output: this server does not support it yet; leave it out")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 only makes sense with echo, which returns the prompt; send at least 1, or echo")
        return self

    def generation(self) -> GenerationRequest:
        assert isinstance(self.prompt, str)
        scored = [top_n for top_n in (self.logprobs if self.echo else None, self.prompt_logprobs) if top_n is not None]
        return GenerationRequest(
            prompt=self.prompt,
            sampling=self.sampling_params(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_k=max(self.top_k or 0, 0),
                typical_p=1.0,
                seed=None if self.seed is None else self.seed % 2**64,
            ),
            max_new_tokens=16 if self.max_tokens is None else self.max_tokens,
            min_new_tokens=self.min_tokens or 0,
            num_samples=self.num_samples,
            top_n=self.logprobs or 0,
            prompt_top_n=max(scored, default=None),
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
        )


class ScoreRequest(LenientModel):
    """The body of `/v1/score`."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"prompt": "The capital of France is", "candidates": [" Paris", " Lyon"]}}
    )

    prompt: SomeText = Field(description="The text before each candidate.")
    candidates: Annotated[list[SomeText], Field(min_length=1, max_length=128)] = Field(
        description="Texts whose log-probabilities after the prompt are wanted, each by its own tokens."
    )
    model: Text | None = Field(None, description="Any name is taken: one model is served.")
