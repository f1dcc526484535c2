"""Conversations as token ids, written by a chat template as the service writes them, the assistant's words to be learned.

What the service gives a model to go on from is the template's text up to where a reply begins. So each reply is found by writing
the conversation twice: up to there, and with the reply. Both are tokenised apart, as the one is read and the other generated.
"""

import re
from collections import Counter
from dataclasses import dataclass

from model.chat_rendering import compile_template, render
from model.chat_template import ChatTemplate
from model.tokenizer import Reading, Tokenizer
from model.training.data.example_records import ASSISTANT, Conversation, Message
from model.training.data.examples import IGNORED, Example
from model.training.errors import TemplateError, TrainingError

AS_WRITTEN = Reading(add_special_tokens=False)  # a template writes its special tokens itself, as text
ASKED, REPLIED = "asked0first", "replied0then"  # words that no template changes, and that stand nowhere else
MARK = re.compile(r"<\|\w+\|>")  # as most templates write their tokens


@dataclass(frozen=True, slots=True)
class _Turn:
    """A reply, the text before it that is not the assistant's, and whether the template writes its end."""

    before: str
    reply: str
    has_end: bool


class ChatWriter:
    """Writes conversations by one template for one tokenizer. A reply ends with what the template writes behind it, without the
    whitespace there; where it writes nothing else, the end token is learned in that place, though the next turn does not show it.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, eos_token_id: int) -> None:
        """Raises TemplateError for a template that cannot be compiled, or does not write what an assistant says."""
        self.origin, self.source, self._tokens = template.origin, template.source, template.tokens
        self._tokenizer, self._eos_token_id = tokenizer, eos_token_id
        try:
            self._template = compile_template(template.source)
        except Exception as error:  # a template may break jinja2's compiler in more ways than jinja2 names
            raise TemplateError(f"the chat template ({self.origin}) cannot be read: {error}") from error
        self._probe = self._render_probe()
        _, found, self._tail = self._probe.rpartition(REPLIED)
        if not found:
            raise TemplateError(
                f"the chat template ({self.origin}) does not write what an assistant says; --template names another"
            )

    def _render_probe(self) -> str:
        probe: list[Message] = [{"role": "user", "content": ASKED}, {"role": ASSISTANT, "content": REPLIED}]
        try:
            return self._render(probe, opens_reply=False)
        except TrainingError as error:
            raise TemplateError(str(error)) from error

    @property
    def marks_as_text(self) -> list[str]:
        """What looks like a token in what the template writes, and is none of the vocabulary's."""
        marks = dict.fromkeys(MARK.findall(self._probe))
        return [mark for mark in marks if len(self._tokenizer.encode(mark, AS_WRITTEN)) > 1]

    def example(self, conversation: Conversation) -> Example:
        """Raises TrainingError where the template cannot write it, or writes what was said otherwise once more follows."""
        ids: list[int] = []
        targets: list[int] = []
        for turn in self._turns(conversation):
            before = self._tokenizer.encode(turn.before, AS_WRITTEN) or ([] if ids else [self._eos_token_id])
            reply = self._tokenizer.encode(turn.reply, AS_WRITTEN)
            learned = reply if turn.has_end else [*reply, self._eos_token_id]
            targets += [IGNORED] * len(before)
            if targets[-1] == IGNORED:  # an end learned there stays: a reply right behind another is no part of it
                targets[-1] = learned[0]
            targets += learned[1:] + [IGNORED] * turn.has_end
            ids += before + reply
        num_read = 1 + max(i for i, target in enumerate(targets) if target != IGNORED)
        return Example(ids[:num_read], targets[:num_read])

    def unwritten(self, conversation: Conversation) -> Counter[str]:
        """How many messages, by their roles, have words that the template does not write. It is given others, which stand nowhere
        else: what a message says may well stand in the template, or in another message.
        """
        marked = [(message, f"said{number}then") for number, message in enumerate(conversation.messages)]
        written = self._render([message | {"content": mark} for message, mark in marked], opens_reply=False)
        return Counter(message["role"] for message, mark in marked if message["content"].strip() and mark not in written)

    def _turns(self, conversation: Conversation) -> list[_Turn]:
        turns, said = [], ""
        for i in conversation.learned():
            opened = self._render(conversation.messages[:i], opens_reply=True)
            told = self._render(conversation.messages[: i + 1], opens_reply=False)
            if not opened.startswith(said) or not told.startswith(opened):
                raise TrainingError(
                    f"the chat template ({self.origin}) writes message {i + 1} so that it does not continue what is written of "
                    "those before, as a reply would; --template names another"
                )
            reply, has_end = self._reply(told.removeprefix(opened))
            turns.append(_Turn(opened.removeprefix(said), reply, has_end))
            said = opened + reply
        return turns

    def _reply(self, written: str) -> tuple[str, bool]:
        """What the model has to write of a turn, and whether the template's end is in it."""
        if end := self._tail.rstrip():
            words, found, _ = written.rpartition(end)
            return words + found if found else written, bool(found)
        return written.removesuffix(self._tail), False

    def _render(self, messages: list[Message], opens_reply: bool) -> str:
        """With the variables that the service gives to a template."""
        fixed = {"messages": messages, "add_generation_prompt": opens_reply, "tools": None, "documents": None}
        try:
            return render(self._template, {**self._tokens, **fixed})
        except (Exception, RecursionError) as error:  # whatever a template raises
            raise TrainingError(f"the chat template ({self.origin}) does not take these messages: {error}") from error
