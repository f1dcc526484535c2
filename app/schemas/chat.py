"""The body of `/v1/chat/completions`: messages, and OpenAI's and vLLM's fields around them."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from app.chat.conversation import Conversation, Message
from app.chat.turns import Turns
from app.generation import GenerationRequest
from app.prompt import Prompt
from app.schemas.fields import LenientModel, SomeText, Text
from app.schemas.openai import REFUSED, OpenAIRequest
from model.message_content import joined_text
from model.tokenizer import Reading

MAX_MESSAGES = 4096  # far more than fill any GPT-2's context, and few enough for a template's loops
# What a template is always given, and what this server takes from nobody but its operator.
FIXED_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize")
# Fields of a message that would change the answer, of which a GPT-2's template knows nothing.
MESSAGE_FIELDS_REFUSED = ("tool_calls", "function_call", "tool_call_id", "audio")

PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"type": "string", "const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
Content = Annotated[
    Text,
    BeforeValidator(joined_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": PART_SCHEMA}]}),
]


class ChatMessage(LenientModel):
    role: SomeText = Field(description="system, user or assistant; others as the chat template takes them.")
    content: Content = Field(description="What was said: a string, or a list of text parts.")
    name: Text | None = Field(None, description="Who said it, for templates that write names.")

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_no_template_writes(cls, fields: Any) -> Any:
        if isinstance(fields, dict):
            for name in MESSAGE_FIELDS_REFUSED:
                if fields.get(name):
                    raise ValueError(f"{name}: GPT-2 calls no tools and hears nothing; leave it out")
        return fields

    def as_template_sees_it(self) -> Message:
        return self.model_dump(exclude_none=True)


# Likewise, of chats.
CHAT_REFUSED: dict[str, tuple[object, ...]] = {
    "tools": (),
    "tool_choice": ("none", "auto"),
    "tool_prompt": (),
    "functions": (),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "chat_template": (),
    "documents": (),
    "echo": (),
    "prompt_logprobs": (),
}


class ChatRequest(OpenAIRequest):
    """The body of `/v1/chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"model": "gpt2", "messages": [{"role": "user", "content": "What news of the king?"}], "max_tokens": 40}
        },
    )

    refused: ClassVar[dict[str, tuple[object, ...]]] = REFUSED | CHAT_REFUSED

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] = Field(
        description="What was said so far, the oldest first."
    )
    max_tokens: int | None = Field(None, ge=1, description="Tokens to generate at most; what the context leaves if absent.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same, by its newer name, which counts.")
    logprobs: bool | None = Field(None, description="Tell each token's log-probability.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="With logprobs: so many of the likeliest tokens beside each.")
    add_generation_prompt: bool | None = Field(
        None, description="Open the assistant's reply, as the template does it; true unless continue_final_message is."
    )
    continue_final_message: bool | None = Field(None, description="Go on within the last message, in place of a reply to it.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Further variables for the chat template.")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError(f"top_logprobs: {self.top_logprobs} needs logprobs: true")
        if self.add_generation_prompt and self.continue_final_message:
            raise ValueError("continue_final_message: true contradicts add_generation_prompt: true; send one of them")
        if self.parse_special is False and self.add_special_tokens:
            raise ValueError("add_special_tokens: true contradicts parse_special: false; leave out one of them")
        for name in self.chat_template_kwargs or ():
            if name in FIXED_VARIABLES:
                raise ValueError(f"chat_template_kwargs: {name} is not for the template's variables; leave it out")
        return self

    def conversation(self) -> Conversation:
        continues = bool(self.continue_final_message)
        return Conversation(
            messages=tuple(message.as_template_sees_it() for message in self.messages),
            opens_reply=not continues and self.add_generation_prompt is not False,
            continues_last=continues,
            parse_special=self.parse_special is not False,
            variables=self.chat_template_kwargs or {},
        )

    @property
    def reading(self) -> Reading:
        """A template writes BOS itself where the model wants it, so that none is added here unless that is asked for."""
        return Reading(parse_special=True, add_special_tokens=bool(self.add_special_tokens))

    def generation(self, prompt: Prompt, turns: Turns, room: int) -> GenerationRequest:
        """Up to the turn's end, which counts as an end token; `room` is what the context has at most."""
        request = self.generation_of((prompt,), self.max_completion_tokens or self.max_tokens or room, self.top_logprobs or 0)
        if self.ignore_eos:
            return request
        return replace(request, stop=(*request.stop, *turns.stop), stop_token_ids=request.stop_token_ids | turns.stop_token_ids)
