"""Which chat template a checkpoint is served with, or trained by, and the special tokens that it may write. Renders nothing.

Looked for in this order, the last two as transformers does: what was asked for, the name of a template below or a file;
`chat_template.jinja` in the checkpoint; `chat_template` in its `tokenizer_config.json`, a string or a list of named ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.input_files import CONFIG_BYTES, FileUnusable, read_json, read_text, shown

# Names and words, line by line, as in a script: what a GPT-2 that was never taught to chat goes on with best.
PLAIN = """\
{% for message in messages %}
{% if message.role in ("system", "developer") %}
{{ message.content | trim }}
{% else %}
{{ message.role | capitalize }}: {{ message.content | trim }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}Assistant:{% endif %}
"""

# As Microsoft's DialoGPT was trained (Zhang et al. 2020, section 3.1): turns by turns, an end token behind each.
DIALOGPT = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"

# As OpenAI's models mark turns, and most that were trained since. Where the marks are no tokens they are text.
CHATML = """\
{% for message in messages %}
{{ "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>" }}
{% endfor %}
{% if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{% endif %}
"""

# As Stanford's Alpaca was trained (Taori et al. 2023): a user's words are an instruction, and a response ends with the end token.
ALPACA = """\
{% if messages and messages[0].role == "system" %}
{{ messages[0].content }}

{% else %}
Below is an instruction that describes a task. Write a response that appropriately completes the request.

{% endif %}
{% for message in messages %}
{% if message.role == "user" %}
### Instruction:
{{ message.content }}

{% elif message.role == "assistant" %}
### Response:
{{ message.content + eos_token }}

{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ "### Response:\n" }}{% endif %}
"""

NAMED = {"plain": PLAIN, "dialogpt": DIALOGPT, "chatml": CHATML, "alpaca": ALPACA}
FILE = "chat_template.jinja"


class TemplateUnusable(Exception):
    """There is a template, but it cannot be read; the message says what to mend."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The template, where it is from ("plain", "file", "checkpoint", ...), and what it may call `bos_token` and the like."""

    source: str
    origin: str
    tokens: Mapping[str, object]


def find_template(setting: str, directory: Path, end_token: str) -> ChatTemplate | None:
    """The template of a setting, which may be empty, or of a checkpoint; raises TemplateUnusable."""
    tokenizer_config = _read_object(directory / "tokenizer_config.json")
    tokens = _special_tokens(directory, tokenizer_config, end_token)
    if setting:
        source = NAMED.get(setting) or _read(Path(setting))
        return ChatTemplate(source, setting if setting in NAMED else "file", tokens)
    stored = _read(directory / FILE) if (directory / FILE).exists() else _stored(tokenizer_config)
    return None if stored is None else ChatTemplate(stored, "checkpoint", tokens)


def _read(file: Path) -> str:
    try:
        return read_text(file, CONFIG_BYTES)
    except FileUnusable as error:
        raise TemplateUnusable(f"the chat template {file} cannot be read: {error}") from error


def _read_object(file: Path) -> dict[str, object]:
    """A file's JSON object; an empty one if there is no such file. What is wrong with it matters only to who needs it."""
    try:
        contents = read_json(file, CONFIG_BYTES)
    except FileUnusable:
        return {}
    return contents if isinstance(contents, dict) else {}


def _stored(tokenizer_config: dict[str, object]) -> str | None:
    """`tokenizer_config.json`'s template; of several the one named default."""
    stored = tokenizer_config.get("chat_template")
    if isinstance(stored, list):
        named = {str(item.get("name")): item.get("template") for item in stored if isinstance(item, dict)}
        if "default" not in named:
            raise TemplateUnusable(f"tokenizer_config.json has chat templates named {shown(sorted(named))}, but none named default")
        stored = named["default"]
    if stored is not None and not isinstance(stored, str):
        raise TemplateUnusable(f"the chat_template of tokenizer_config.json is a {type(stored).__name__}, not a text")
    return stored


def _special_tokens(directory: Path, tokenizer_config: dict[str, object], end_token: str) -> dict[str, object]:
    """By their names; as in GPT-2's own tokenizer, a checkpoint that names none begins and ends texts with its end token."""
    tokens: dict[str, object] = {"bos_token": end_token, "eos_token": end_token}
    for fields in (_read_object(directory / "special_tokens_map.json"), tokenizer_config):
        for name, value in fields.items():
            text = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(text, str):  # not add_bos_token, which is true or false
                tokens[name] = text
    return tokens
