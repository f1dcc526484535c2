"""What the routes answer, for the OpenAPI document alone: answers are written as they are, without these."""

from typing import Literal

from pydantic import BaseModel, Field

FinishReason = Literal["length", "eos_token", "stop_sequence"]


class NativeError(BaseModel):
    """Why a request failed, in text-generation-inference's form."""

    error: str = Field(description="The field, its value and the limit, where a field is at fault.")
    error_type: Literal["validation", "overloaded", "timeout", "generation", "not_ready", "not_found", "invalid_api_key"]


class OpenAIErrorDetails(BaseModel):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = Field(description="The field at fault, where one is.")
    code: str | None


class OpenAIError(BaseModel):
    """Why a request failed, in OpenAI's form."""

    error: OpenAIErrorDetails


class PromptToken(BaseModel):
    id: int
    text: str
    logprob: float | None = Field(description="None for the first one, before which there is nothing.")


class Token(BaseModel):
    id: int
    text: str = Field(description="Empty while a character is incomplete, and for special tokens that are skipped.")
    logprob: float = Field(description="By the model's own distribution, before temperature and filters.")
    special: bool


class Cost(BaseModel):
    """What a request took, all its samples together; docs/bill.md tells how it is computed."""

    flops: int = Field(description="Operations of matrix products, by the model's arithmetic.")
    bytes_moved: int = Field(description="Of weights, keys and values, by the model's arithmetic.")
    compute_seconds: float = Field(description="Its share of the time in which the device ran steps.")
    cpu_seconds: float | None = Field(description="The same times the threads that compute; None where a card does.")
    energy_joules: float | None = Field(description="Of these seconds, at the device's mean power; None where that cannot be read.")


class SampleDetails(BaseModel):
    """How a text came to be."""

    finish_reason: FinishReason
    generated_tokens: int
    input_length: int = Field(description="Tokens of the prompt.")
    seed: int
    max_new_tokens: int | None = Field(None, description="Only there if the context has no room for as many as were asked for.")
    prefill: list[PromptToken] = Field(description="The prompt's tokens, if decoder_input_details asks for them.")
    tokens: list[Token]
    top_tokens: list[list[Token]] | None = Field(None, description="Only there if top_n_tokens asks for them.")


class BestOfSequence(SampleDetails):
    generated_text: str


class Details(SampleDetails):
    best_of_sequences: list[BestOfSequence] | None = Field(None, description="The other samples, if there are several.")
    cost: Cost | None = Field(None, description="Only there if asked for.")


class GenerateAnswer(BaseModel):
    """The text of a request to `/generate`."""

    generated_text: str
    details: Details | None = Field(None, description="Only there if asked for.")


class CompletionLogprobs(BaseModel):
    """Lists of equal length, an entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(BaseModel):
    logprob: float
    rank: int | None
    decoded_token: str


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["length", "stop"] | None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = Field(None, description="Only there if asked for.")


class PromptTokensDetails(BaseModel):
    cached_tokens: int = Field(description="Taken from an earlier request's computation.")


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    cost: Cost | None = Field(None, description="Only there if include_cost asks for it.")


class CompletionAnswer(BaseModel):
    """The choices of a request to `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="Of what fixes the bytes of an answer: weights, precision and version.")
    choices: list[CompletionChoice]
    usage: Usage


class ToldToken(BaseModel):
    token: str = Field(description="Its text, or `bytes:...` where that is no whole character.")
    logprob: float = Field(description="By the model's own distribution, before temperature and filters.")
    bytes: list[int] | None = Field(description="None for a special token.")


class ReplyToken(ToldToken):
    top_logprobs: list[ToldToken] = Field(description="The likeliest tokens there, as many as were asked for.")


class ReplyLogprobs(BaseModel):
    content: list[ReplyToken]
    refusal: None = None


class Reply(BaseModel):
    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    index: int
    message: Reply
    logprobs: ReplyLogprobs | None
    finish_reason: Literal["length", "stop"]


class ChatAnswer(BaseModel):
    """The replies of a request to `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="Of what fixes the bytes of an answer: weights, precision and version.")
    choices: list[ChatChoice]
    usage: Usage


class ScoredToken(BaseModel):
    id: int
    text: str
    logprob: float


class CandidateScore(BaseModel):
    index: int
    logprob: float = Field(description="The sum of its tokens'.")
    num_tokens: int
    tokens: list[ScoredToken]


class ScoreAnswer(BaseModel):
    """The scores of a request to `/v1/score`, in the order of its candidates."""

    object: Literal["list"]
    model: str
    data: list[CandidateScore]
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int = Field(description="Tokens of prompt and text together.")


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class SpannedToken(BaseModel):
    """A token of a text, with its place in characters."""

    id: int
    text: str
    start: int
    stop: int


class DetokenizeAnswer(BaseModel):
    text: str
