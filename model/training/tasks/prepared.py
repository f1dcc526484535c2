"""What a run of fine-tuning learns, by its options and by what its files hold."""

from collections.abc import Callable
from pathlib import Path

from model.training.base import Base
from model.training.data.example_files import hold_examples
from model.training.data.options import DataOptions
from model.training.data.selection import select
from model.training.dpo_loss import DPO
from model.training.tasks.examples import ExampleTask, prepare_examples
from model.training.tasks.preferences import PreferenceTask, prepare_preferences
from model.training.tasks.task import Task
from model.training.tasks.text import TextTask, prepare_text


def prepare(options: DataOptions, dpo: DPO | None, base: Base, directory: Path, report: Callable[[str], None]) -> Task:
    """Tokenise the data into `directory`; `report` takes a line on each decision."""
    selection = select(options)
    if dpo is not None:
        return prepare_preferences(selection, options, dpo, base, directory, report)
    if hold_examples([*selection.files, *selection.validation], options.skip_bad):
        return prepare_examples(selection, options, base, directory, report)
    return prepare_text(selection, options, base, directory, report)


def prepared(directory: Path, window: int | None, dpo: DPO | None) -> Task:
    """What `prepare` made for a run that is resumed."""
    if dpo is not None:
        return PreferenceTask(directory, dpo)
    return ExampleTask(directory) if window is None else TextTask(directory, window)
