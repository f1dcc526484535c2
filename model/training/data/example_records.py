"""Records of data that teach answers, by their fields: prompts with completions, conversations, instructions. Knows no tokens.

{"prompt", "completion"}               texts or, as trl has them, both lists of messages
{"messages": [{"role", "content"}]}    OpenAI's
{"conversations": [{"from", "value"}]} ShareGPT's
{"instruction", "input", "output"}     Alpaca's; the input may be empty or absent
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.training.data.corpus import check_characters
from model.training.errors import TrainingError

Record = Mapping[str, object]
Message = dict[str, str]  # role, content and, where it is given, name

ASSISTANT = "assistant"
ROLES = {"human": "user", "gpt": ASSISTANT, "chatgpt": ASSISTANT}  # ShareGPT's names; all others are roles as they are
MESSAGE_FIELDS = {"role", "from", "content", "value", "name"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A text, and the one that is learned to follow it."""

    prompt: str
    completion: str

    @property
    def says_nothing(self) -> bool:
        return not self.completion


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


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of record: told by any of `marks`, made an example of by `read`, which looks at `fields` alone."""

    marks: frozenset[str]
    fields: frozenset[str]
    read: Callable[[Record], Pair | Conversation]


def kind_of(record: Record) -> Kind | None:
    """What a record teaches by; none where it has no field of any kind. Raises TrainingError for preferences."""
    if "chosen" in record and "rejected" in record:
        raise TrainingError('"chosen" and "rejected" are preferences; gpt2 train dpo learns from these')
    return next((kind for kind in KINDS if not kind.marks.isdisjoint(record)), None)


def read_example(record: Record) -> Pair | Conversation:
    """The example of a record; raises TrainingError, which says what is wrong with it."""
    return (kind_of(record) or PROMPTED).read(record)


def unused_fields(record: Record) -> set[str]:
    """Names of what an example is not made of, those of messages behind their list's as in `messages.weight`."""
    kind = kind_of(record) or PROMPTED
    unused = record.keys() - kind.fields
    for name in kind.fields & record.keys():
        if isinstance(messages := record[name], list):
            unused |= {f"{name}.{field}" for message in messages for field in message.keys() - MESSAGE_FIELDS}
    return unused


def _prompted(record: Record) -> Pair | Conversation:
    if isinstance(record.get("prompt"), list) and isinstance(record.get("completion"), list):
        prompt, completion = _messages(record, "prompt"), _messages(record, "completion")
        return _conversation(prompt + completion, "completion", len(prompt))
    return Pair(_text(record, "prompt"), _text(record, "completion"))


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
        raise TrainingError(f'"{name}" has no message of the assistant, whose words alone are learned')
    return Conversation(messages[: learned[-1] + 1], first_learned)  # what others say last answers nothing


def _messages(record: Record, name: str) -> list[Message]:
    messages = record.get(name)
    if not isinstance(messages, list) or not messages:
        raise TrainingError(f'no "{name}" field that is a list of messages')
    return [_message(message, f'"{name}", message {number}') for number, message in enumerate(messages, start=1)]


def _message(message: object, where: str) -> Message:
    if not isinstance(message, dict):
        raise TrainingError(f"{where} is not an object")
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if not isinstance(role, str):
        raise TrainingError(f'{where} has no "role", or "from", that is a string')
    if not isinstance(content, str):
        raise TrainingError(f'{where} has no "content", or "value", that is a string')
    read = {"role": ROLES.get(role, role), "content": content}
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


def _kind(marks: set[str], further: set[str], read: Callable[[Record], Pair | Conversation]) -> Kind:
    return Kind(frozenset(marks), frozenset(marks | further), read)


PROMPTED = _kind({"prompt", "completion"}, set(), _prompted)
KINDS = (
    _kind({"messages"}, {"system"}, lambda record: _chat(record, "messages")),
    _kind({"conversations"}, {"system"}, lambda record: _chat(record, "conversations")),
    _kind({"instruction", "output"}, {"input", "system"}, _instruction),
    PROMPTED,
)
