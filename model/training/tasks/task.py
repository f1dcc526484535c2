"""What a run's data are to it: batches, what is minimised on them, and what is told of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.gpt2 import GPT2
from model.tokenizer import Tokenizer
from model.training.data.examples import Question
from model.training.data.source import DataSource
from model.training.distributed import Processes
from model.training.objective import NextTokenLoss, Objective
from model.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Material:
    """What an epoch goes through, in rows: windows of text, examples, or pairs of answers."""

    num_rows: int
    tokens_per_row: float
    is_text: bool  # all rows are of one length
    sequences_per_row: int = 1  # that the network is given
    rows_until_repeated: float | None = None  # where some come round before all have been seen

    @property
    def epoch_rows(self) -> float:
        """Those in which nothing is seen twice."""
        return self.rows_until_repeated or self.num_rows

    def epochs(self, recipe: Recipe) -> float:
        return recipe.max_steps * recipe.batch_size / self.epoch_rows


@dataclass(frozen=True)
class Task(ABC):
    """Data that were prepared in a directory; any process may read them, and a resumed run again."""

    directory: Path

    @property
    def window(self) -> int | None:
        """Tokens that text is cut into; None where no text is."""
        return None

    @property
    @abstractmethod
    def rows(self) -> str:
        """What a batch is made of, in words."""

    @property
    @abstractmethod
    def material(self) -> Material: ...

    @property
    @abstractmethod
    def counts(self) -> str:
        """What there is, in words."""

    def remarks(self, recipe: Recipe) -> list[str]:
        """What is to be told of a run besides: a line each."""
        return []

    @abstractmethod
    def source(self, recipe: Recipe, processes: Processes) -> DataSource: ...

    def objective(self, model: GPT2, recipe: Recipe) -> Objective:
        return NextTokenLoss(model, recipe.bfloat16, recipe.compiled, recipe.checkpoint_activations)

    def measure_reference(self, model: GPT2, recipe: Recipe, report: Callable[[str], None]) -> None:  # noqa: B027 - most ask nothing
        """Keep what the objective asks of the network before it is trained; the first process does this alone."""

    def bits_per_nat(self, recipe: Recipe, tokenizer: Tokenizer) -> float | None:
        """Bits per byte of the text that validation measures for each nat a token; None where there is no text."""
        return None

    @property
    def tokenizer_files(self) -> dict[str, bytes]:
        """What the data add to the files of the checkpoint's tokenizer."""
        return {}

    def questions(self) -> list[Question]:
        """Held-out prompts with what is to follow them, to be asked while the model is trained."""
        return []
