"""The chat template by which the conversations of a run are written, and where it is kept for those who will talk to the model."""

from collections.abc import Callable
from pathlib import Path

from model.chat_template import FILE, NAMED, ChatTemplate, TemplateUnusable, find_template
from model.checkpoint import resolve_model
from model.files import replace_file
from model.training.base import Base
from model.training.data.conversations import ChatWriter
from model.training.data.example_files import ExampleEncoder
from model.training.errors import TemplateError, TrainingError


def example_encoder(setting: str | None, base: Base, report: Callable[[str], None]) -> ExampleEncoder:
    """Writes conversations by the template named, which must be there at once, by the checkpoint's own, or by the plainest one."""
    tokenizer, end_id = base.tokenizer, base.config.eos_token_id
    if setting is not None:
        named = ChatWriter(_named(setting, base), tokenizer, end_id)
        return ExampleEncoder(tokenizer, end_id, lambda: named)
    return ExampleEncoder(tokenizer, end_id, lambda: ChatWriter(_own(base, report), tokenizer, end_id))


def _own(base: Base, report: Callable[[str], None]) -> ChatTemplate:
    if (template := _find("", base)) is not None:
        return template
    report(
        "the checkpoint has no chat template: conversations are written by the one named plain; --template names another, "
        "such as alpaca for instructions"
    )
    return _named("plain", base)


def _named(setting: str, base: Base) -> ChatTemplate:
    template = _find(setting, base)
    assert template is not None
    return template


def _find(setting: str, base: Base) -> ChatTemplate | None:
    try:
        return find_template(setting, resolve_model(base.name), base.tokenizer.name(base.config.eos_token_id))
    except TemplateUnusable as error:
        raise TemplateError(f"{error}; --template takes {', '.join(NAMED)} or a file") from error


def keep_template(writer: ChatWriter | None, setting: str | None, directory: Path, report: Callable[[str], None]) -> None:
    """Into the directory, if conversations were written."""
    (directory / FILE).unlink(missing_ok=True)  # of a run that ended before it began
    if writer is None:
        if setting is not None:
            raise TrainingError(f"--template {setting} is for conversations, and there are none in the data; leave it out")
        return
    if writer.marks_as_text:
        marks = ", ".join(writer.marks_as_text)
        report(f"the chat template writes {marks}, no tokens of this vocabulary: they are learned as text")
    replace_file(directory / FILE, lambda file: file.write_text(writer.source, encoding="utf-8"))


def kept_template(directory: Path) -> dict[str, bytes]:
    """What `keep_template` kept, as a file of a tokenizer."""
    file = directory / FILE
    return {FILE: file.read_bytes()} if file.exists() else {}
