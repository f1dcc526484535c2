"""Examples to be learned: prompts with completions, conversations; tokenised once into a run's directory."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from model.training.base import Base
from model.training.data.example_batches import ExampleData
from model.training.data.example_files import read_examples
from model.training.data.examples import Examples, Question
from model.training.data.options import DataOptions
from model.training.data.selection import Selection
from model.training.distributed import Processes
from model.training.recipe import Recipe
from model.training.tasks.splits import RowTask, load_splits, save_splits
from model.training.tasks.task import Material

# Asked at each validation: enough to see a few per cent of difference, and answered in a second or two.
MAX_QUESTIONS, MAX_ANSWER_TOKENS = 64, 64


def prepare_examples(
    selection: Selection, options: DataOptions, base: Base, directory: Path, report: Callable[[str], None]
) -> "ExampleTask":
    save_splits(read_examples, selection, options, base, directory, report)
    return ExampleTask(directory, names=tuple(map(str, options.paths)))


class ExampleTask(RowTask):
    """What `prepare_examples` made."""

    @property
    def rows(self) -> str:
        return "examples"

    @property
    def material(self) -> Material:
        train, _ = self.splits
        return Material(len(train), len(train.ids) / len(train), is_text=False, rows_until_repeated=self.rows_until_repeated)

    def source(self, recipe: Recipe, processes: Processes) -> ExampleData:
        return ExampleData(*self.splits, recipe, processes, self.sets)

    def questions(self) -> list[Question]:
        return self.splits[1].questions(MAX_QUESTIONS, MAX_ANSWER_TOKENS)

    @cached_property
    def splits(self) -> tuple[Examples, Examples]:
        return load_splits(self.directory, Examples)
