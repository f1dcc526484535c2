"""From the messages of a conversation to the prompt that a model continues, by the checkpoint's chat template. Knows no engine."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.chat.renderer import Renderer
from app.chat.strangers import break_names, read_broken
from app.chat.turns import find_turns
from app.errors import StartupError, TemplateFailed
from app.prompt import Prompt
from model.chat_template import FILE, NAMED, ChatTemplate, TemplateUnusable, find_template
from model.tokenizer import Tokenizer

Message = Mapping[str, str]  # role, content and, where it is given, name

END = "\ufdd1end\ufdd1"  # behind words that are to be continued: noncharacters, which no template changes
HOW_TO_CHAT = (
    f"put {FILE} into the checkpoint's directory, or set GPT2_CHAT_TEMPLATE to {', '.join(NAMED)} or a template's file; "
    "without one, /v1/completions continues text"
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What has been said, and how the template is to write it; `variables` are further ones that it may know."""

    messages: tuple[Message, ...]
    opens_reply: bool = True  # add_generation_prompt: end where the assistant's next words begin
    continues_last: bool = False  # continue_final_message: end within the last message, behind its words
    parse_special: bool = True  # else special and added tokens in the messages are plain text
    variables: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NoChat:
    """The place of a chat where there is no template, or none that works; `reason` says why, and what to do."""

    reason: str
    origin: None = None
    source: str = ""

    def close(self) -> None:
        """As a chat's, which has a process."""


class Chat:
    """One checkpoint's conversations. Its process starts with the first of them."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        """Raises TemplateFailed for a template that cannot be compiled, or cannot render a plain conversation."""
        self.origin, self.source = template.origin, template.source
        self._tokens, self._tokenizer = template.tokens, tokenizer
        self._renderer = Renderer(template.source)
        try:
            self.turns = find_turns(self._render_probe, tokenizer)
        finally:
            self.close()

    def close(self) -> None:
        self._renderer.close()

    async def prompt(self, conversation: Conversation) -> Prompt:
        """The text to continue, or its tokens where the text alone would not tell them.

        Raises TemplateFailed, or NotReady if others keep the template busy.
        """
        mark = f"\ufdd0{secrets.token_hex(8)}\ufdd0"  # a noncharacter, which no text has, and what nobody can guess
        messages = list(conversation.messages)
        if not conversation.parse_special:
            messages = await asyncio.to_thread(self._broken, messages, mark)
        if conversation.continues_last:
            messages[-1] = {**messages[-1], "content": messages[-1]["content"] + END}
        text = await self._renderer.render(self._variables(messages, conversation.opens_reply, conversation.variables))
        if conversation.continues_last:
            text, found, _ = text.rpartition(END)
            if not found:
                raise TemplateFailed("it does not show the last message's words as they are, so that they cannot be continued")
        return text if conversation.parse_special else await asyncio.to_thread(read_broken, self._tokenizer, text, mark)

    def _broken(self, messages: list[Message], mark: str) -> list[Message]:
        return [{name: break_names(self._tokenizer, text, mark) for name, text in message.items()} for message in messages]

    def _render_probe(self, messages: list[Message], opens_reply: bool) -> str:
        return self._renderer.render_now(self._variables(messages, opens_reply, {}))

    def _variables(self, messages: list[Message], opens_reply: bool, further: Mapping[str, object]) -> dict[str, object]:
        """Those that transformers' `apply_chat_template` gives to a template."""
        fixed = {"messages": messages, "add_generation_prompt": opens_reply, "tools": None, "documents": None}
        return {**self._tokens, **further, **fixed}


def open_chat(
    setting: str, directory: Path, tokenizer: Tokenizer, eos_token_id: int, report: Callable[[str], None]
) -> Chat | NoChat:
    """The chat of a checkpoint. A template that was asked for must work, StartupError; of a checkpoint's own, `report` is told."""
    try:
        template = find_template(setting, directory, tokenizer.name(eos_token_id))
        if template is None:
            return NoChat(f"the checkpoint has no chat template: {HOW_TO_CHAT}")
        chat = Chat(template, tokenizer)
    except (TemplateUnusable, TemplateFailed) as error:
        reason = f"GPT2_CHAT_TEMPLATE={setting}: {error}" if setting else f"no chat: {error}"
        if setting:
            raise StartupError(reason) from error
        report(reason)
        return NoChat(f"{error}; {HOW_TO_CHAT}")
    ends = [*map(repr, chat.turns.stop), *map(tokenizer.name, chat.turns.stop_token_ids), "an end token"]
    report(f"chat by the template of {chat.origin}; a reply ends at {' or '.join(ends)}")
    return chat
