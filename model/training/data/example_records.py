"""Records of data that teach answers, by their fields: prompts with completions, conversations, instructions, and answers of
which one is preferred. Knows no tokens.

{"prompt", "completion"}               texts or, as trl has them, both lists of messages
{"messages": [{"role", "content"}]}    OpenAI's
{"conversations": [{"from", "value"}]} ShareGPT's
{"instruction", "input", "output"}     Alpaca's; the input may be empty or absent
{"prompt", "chosen", "rejected"}       texts or, as trl has them, lists of messages; those may hold what the prompt does
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from model.input_files import cut
from model.message_content import joined_text
from model.training.data.leftovers import listed
from model.training.data.records import Record, check_characters
from model.training.errors import TrainingError

Message = dict[str, str]  # role, content and, where it is given, name

ASSISTANT = "assistant"
# The usual roles and their other names, compared in lower case and without blanks around; all others stay as they are.
ROLES = {role: role for role in ("system", "developer", "user", ASSISTANT, "tool", "function")} | {
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot", "ai"), ASSISTANT),
}
PREFERENCE = ("prompt", "chosen", "rejected")
PREFERENCES = '"chosen" and "rejected" are preferences; gpt2 train dpo learns from these'
MESSAGE_FIELDS = {"role", "from", "content", "value", "name"}
NAMES = (("role", "from"), ("content", "value"))
CALLS = ("tool_calls", "function_call")  # what no template writes: the assistant would be taught to say nothing in their place


@dataclass(frozen=True, slots=True)
class Pair:
    """A text, and the one that is learned to follow it."""

    prompt: str
    completion: str

    @property
    def says_nothing(self) -> bool:
        return not self.completion

    @property
    def is_partly_silent(self) -> bool:
        return False

    def without_end(self, end: str) -> "Pair":
        """Without the end token, as text, where the completion ends with it: it is learned there anyway."""
        return replace(self, completion=self.completion.removesuffix(end))

    def has(self, text: str) -> bool:
        return bool(text) and (text in self.prompt or text in self.completion)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, of which the assistant's are learned from number `first_learned` on."""

    messages: list[Message]
    first_learned: int = 0

    def learned(self) -> list[int]:
        """The numbers of the messages to be learned."""
        return [i for i, message in enumerate(self.messages) if i >= self.first_learned and message["role"] == ASSISTANT]

    @property
    def says_nothing(self) -> bool:
        return not any(self.messages[i]["content"] for i in self.learned())

    @property
    def is_partly_silent(self) -> bool:
        """Whether some answers, though not all, are empty."""
        return not self.says_nothing and not all(self.messages[i]["content"] for i in self.learned())

    def without_end(self, end: str) -> "Conversation":
        """Without the end token, as text, where the assistant's words end with it: the template or we write one there."""
        ended = [m | {"content": m["content"].removesuffix(end)} if m["role"] == ASSISTANT else m for m in self.messages]
        return replace(self, messages=ended)

    def has(self, text: str) -> bool:
        return bool(text) and any(text in message["content"] for message in self.messages)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of record: told by any of `marks`, made an example of by `read`, which looks at `fields` alone."""

    marks: tuple[str, ...]
    fields: frozenset[str]
    read: Callable[[Record], Pair | Conversation]


def kind_of(record: Record) -> Kind | None:
    """What a record teaches by; none where it has no field of any kind. Raises TrainingError for preferences."""
    if _prefers(record):
        raise TrainingError(PREFERENCES)
    return next((kind for kind in KINDS if any(mark in record for mark in kind.marks)), None)


def learned_otherwise(record: Record) -> str:
    """Of a record that is no text: which command learns from such; "" for one that is of no kind."""
    if _prefers(record):
        return PREFERENCES
    if (kind := kind_of(record)) is None:
        return ""
    names = " and ".join(f'"{mark}"' for mark in kind.marks)
    return f"{names} are examples; gpt2 train finetune learns from files of these alone"


def _prefers(record: Record) -> bool:
    return {"chosen", "rejected"} <= record.keys()


def kind_to_read(record: Record) -> Kind:
    """The kind of a record among examples; what has no field of any kind fails as a prompt and its completion."""
    return kind_of(record) or PROMPTED


def read_preference(record: Record) -> tuple[Pair | Conversation, Pair | Conversation]:
    """The chosen and the rejected answer of a record, each with the prompt; raises TrainingError, which says what is wrong."""
    if isinstance(record.get("chosen"), list) or isinstance(record.get("rejected"), list):
        return _preferred_conversations(record)
    if missing := next((name for name in PREFERENCE if not isinstance(record.get(name), str)), None):
        fault = f'no "{missing}" field that is a string; a pair has {", ".join(PREFERENCE)}'
        raise TrainingError("; ".join(filter(None, (fault, _learned_without_preference(record)))))
    prompt, chosen, rejected = (_text(record, name) for name in PREFERENCE)
    return Pair(prompt, chosen), Pair(prompt, rejected)


def _learned_without_preference(record: Record) -> str:
    if "chosen" in record or "rejected" in record:
        return ""
    return learned_otherwise(record) or ('"text" is what gpt2 train finetune learns from, too' if "text" in record else "")


def unused_fields(record: Record, fields: Collection[str]) -> set[str]:
    """Names other than `fields`, of which it was made; of messages, behind their list's as in `messages.weight`, those not null."""
    unused = record.keys() - set(fields)
    for name in record.keys() - unused:
        if isinstance(messages := record[name], list):
            said = ((field, value) for message in messages for field, value in message.items())
            unused |= {f"{name}.{field}" for field, value in said if value is not None and field not in MESSAGE_FIELDS}
    return unused


def _prompted(record: Record) -> Pair | Conversation:
    if isinstance(record.get("prompt"), list) or isinstance(record.get("completion"), list):
        prompt, completion = _messages(record, "prompt"), _messages(record, "completion")
        return _conversation(prompt + completion, "completion", len(prompt))
    return Pair(_text(record, "prompt"), _text(record, "completion"))


def _preferred_conversations(record: Record) -> tuple[Conversation, Conversation]:
    """Answers are what the two do not begin with alike; a prompt beside them stands before, unless they hold it themselves."""
    chosen, rejected = _messages(record, "chosen"), _messages(record, "rejected")
    asked = _asked(record, chosen)
    chosen, rejected = (said if _begins_with(said, asked) else asked + said for said in (chosen, rejected))
    alike = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    if alike is None:  # they are the same, or one goes on behind the other
        alike = len(asked)
    elif any(said[alike]["role"] != ASSISTANT for said in (chosen, rejected)):
        raise TrainingError(
            '"chosen" and "rejected" differ in what was asked; they must begin alike, up to an answer of the assistant'
        )
    _check_used(record, chosen)
    return _conversation(chosen, "chosen", alike), _conversation(rejected, "rejected", alike)


def _asked(record: Record, chosen: list[Message]) -> list[Message]:
    """The prompt beside messages; empty in any form, it is as if it were not there."""
    prompt = record.get("prompt")
    if prompt and isinstance(prompt, list):
        return _messages(record, "prompt")
    return [{"role": "user", "content": _text(record, "prompt")}] if prompt and chosen[0]["role"] == ASSISTANT else []


def _begins_with(said: list[Message], asked: list[Message]) -> bool:
    return said[: len(asked)] == asked and len(said) > len(asked)


def _check_used(record: Record, said: list[Message]) -> None:
    """A prompt that is a text may be what one of the messages asks; any other would be lost."""
    if not (prompt := record.get("prompt")) or isinstance(prompt, list):
        return
    if _text(record, "prompt").strip() not in (message["content"].strip() for message in said if message["role"] != ASSISTANT):
        raise TrainingError(
            '"prompt" is not what "chosen" and "rejected" begin with, and would not be used; mend it or leave it out'
        )


def _chat(record: Record, name: str) -> Conversation:
    return _conversation([*_system(record), *_messages(record, name)], name)


def _instruction(record: Record) -> Conversation:
    asked = [_text(record, "instruction"), _text(record, "input") if record.get("input") else ""]
    user = {"role": "user", "content": "\n\n".join(filter(None, asked))}
    return Conversation([*_system(record), user, {"role": ASSISTANT, "content": _text(record, "output")}])


def _system(record: Record) -> list[Message]:
    """What some data hold beside the messages."""
    return [{"role": "system", "content": _text(record, "system")}] if record.get("system") else []


def _conversation(messages: list[Message], name: str, first_learned: int = 0) -> Conversation:
    conversation = Conversation(messages, first_learned)
    if not (learned := conversation.learned()):
        found = listed([cut(role) for role in dict.fromkeys(message["role"] for message in messages[first_learned:])])
        raise TrainingError(f'"{name}" has no message of the assistant, whose words alone are learned; its roles are {found}')
    return Conversation(messages[: learned[-1] + 1], first_learned)  # what others say last answers nothing


def _messages(record: Record, name: str) -> list[Message]:
    messages = record.get(name)
    if not isinstance(messages, list) or not messages:
        raise TrainingError(f'no "{name}" field that is a list of messages')
    return [_message(message, f'"{name}", message {number}') for number, message in enumerate(messages, start=1)]


def _message(message: object, where: str) -> Message:
    if not isinstance(message, dict):
        raise TrainingError(f"{where} is not an object")
    role, content = (message[name] if message.get(name) is not None else message.get(other) for name, other in NAMES)
    if call := next((name for name in CALLS if message.get(name)), None):
        raise TrainingError(
            f'{where} has "{call}", and GPT-2 calls no tools; write the call as text, or leave the record out (--skip-bad)'
        )
    if not isinstance(role, str):
        raise TrainingError(f'{where} has no "role", or "from", that is a string')
    try:
        content = joined_text(content)
    except ValueError as error:
        raise TrainingError(f"{where}: {error}") from error
    if not isinstance(content, str):
        raise TrainingError(f'{where} has no "content", or "value", that is a string')
    read = {"role": ROLES.get(role.strip().lower(), role), "content": content}
    if isinstance(name := message.get("name"), str):
        read["name"] = name
    for text in read.values():
        check_characters(text, where)
    return read


def _text(record: Record, name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise TrainingError(f'no "{name}" field that is a string')
    check_characters(value, f'"{name}"')
    return value


def _kind(marks: tuple[str, ...], further: set[str], read: Callable[[Record], Pair | Conversation]) -> Kind:
    return Kind(marks, frozenset(marks) | further, read)


PROMPTED = _kind(("prompt", "completion"), set(), _prompted)
KINDS = (
    _kind(("messages",), {"system"}, lambda record: _chat(record, "messages")),
    _kind(("conversations",), {"system"}, lambda record: _chat(record, "conversations")),
    _kind(("instruction", "output"), {"input", "system"}, _instruction),
    PROMPTED,
)
