"""What is learned of records, one part to train on and one held out, kept in a run's directory with the template it was written by.

Alike for examples and for pairs of answers.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

from model.chat_template import FILE as TEMPLATE_FILE
from model.chat_template import NAMED, ChatTemplate, TemplateUnusable, find_template
from model.checkpoint import resolve_model
from model.files import replace_file
from model.training.base import Base
from model.training.data.conversations import ChatWriter
from model.training.data.example_files import ExampleEncoder
from model.training.data.options import DataOptions
from model.training.data.selection import Selection
from model.training.errors import TemplateError, TrainingError

SPLITS = ("train", "validation")
MAX_VALIDATION_ROWS = 1000


class Learned(Protocol):
    """Examples, or pairs of answers."""

    def __len__(self) -> int: ...

    def split(self, num_held_out: int) -> tuple[Self, Self]: ...

    def save(self, file: Path) -> None: ...


def save_splits(
    read: Callable[[Sequence[Path], ExampleEncoder, int, Callable[[str], None], bool], Learned],
    selection: Selection,
    options: DataOptions,
    base: Base,
    directory: Path,
    report: Callable[[str], None],
) -> None:
    """Tokenise the records of a selection by `read` into `directory`; `report` takes a line on each decision."""
    if selection.weights:
        raise TrainingError("--weights are for texts, and the data are records; leave them out")
    for line in selection.leftovers.lines():
        report(line)
    encoder = _encoder(options.template, base, report)
    how = (encoder, base.config.n_positions, report, options.skip_bad)
    rows = read(selection.files, *how)
    if selection.validation:
        parts = (rows, read(selection.validation, *how))
    else:
        parts = rows.split(num_held_out(len(rows), options.validation_fraction))
    for name, part in zip(SPLITS, parts, strict=True):
        if not len(part):
            raise TrainingError(f"there is nothing for {name}: nothing fits into {base.config.n_positions} tokens")
        part.save(split_file(directory, name))
    _keep_template(encoder.writer, options.template, directory, report)


def split_file(directory: Path, name: str) -> Path:
    return directory / f"{name}.safetensors"


def num_held_out(num_rows: int, fraction: float | None) -> int:
    """Rows for validation, one at least; fraction None is 10 %, but no more than is worth measuring."""
    if num_rows < 2:
        raise TrainingError(f"{num_rows} of the records fit; two at least are needed, one of them to be held out")
    wanted = min(num_rows // 10, MAX_VALIDATION_ROWS) if fraction is None else round(num_rows * fraction)
    return min(max(1, wanted), num_rows - 1)


def kept_template(directory: Path) -> dict[str, bytes]:
    """The chat template by which conversations were written, as a file of a tokenizer."""
    file = directory / TEMPLATE_FILE
    return {TEMPLATE_FILE: file.read_bytes()} if file.exists() else {}


def _encoder(setting: str | None, base: Base, report: Callable[[str], None]) -> ExampleEncoder:
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


def _keep_template(writer: ChatWriter | None, setting: str | None, directory: Path, report: Callable[[str], None]) -> None:
    if writer is None:
        if setting is not None:
            raise TrainingError(f"--template {setting} is for conversations, and there are none in the data; leave it out")
        return
    if writer.marks_as_text:
        marks = ", ".join(writer.marks_as_text)
        report(f"the chat template writes {marks}, no tokens of this vocabulary: they are learned as text")
    replace_file(directory / TEMPLATE_FILE, lambda file: file.write_text(writer.source, encoding="utf-8"))
