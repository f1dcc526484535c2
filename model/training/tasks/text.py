"""Text to be learned: tokenised once into a run's directory, cut into windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from model.tokenizer import WITHIN_TEXT, Tokenizer
from model.training.base import Base
from model.training.data.batches import window_sampler
from model.training.data.corpus import survey
from model.training.data.described import bits_per_nat, counts_of_text
from model.training.data.leftovers import listed
from model.training.data.options import DataOptions
from model.training.data.selection import Selection
from model.training.data.shards import TokenShards, map_shards, tokenize
from model.training.data.weighted_sets import most_repeated, set_name, sets_of_shards, weighted_sets, weights_line
from model.training.data.windows import WindowData
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.recipe import Recipe
from model.training.tasks.task import Material, Task

MIN_WINDOW = 16
MIN_TRAIN_WINDOWS, MIN_VALIDATION_WINDOWS = 8, 2


def prepare_text(
    selection: Selection, options: DataOptions, base: Base, directory: Path, report: Callable[[str], None]
) -> "TextTask":
    """Tokenise texts into `directory`."""
    corpus = survey(selection, report)  # which refuses records that are named as text, before their template is
    if options.template is not None:
        raise TrainingError(f"--template {options.template} is for conversations, and the data are text; leave it out")
    with tqdm(total=corpus.num_bytes, unit="B", unit_scale=True, desc="tokenising", leave=False, disable=None) as bar:
        shards = tokenize(corpus, base.tokenizer, directory, options.validation_fraction, bar.update, WITHIN_TEXT)
    context = base.config.n_positions
    names = tuple(map(str, options.paths))
    window = choose_window(shards, context, names, options.validation)
    if window < context:
        validation_decides = options.validation and _enough_to_train(shards, context)
        which = _named(options.validation) if validation_decides else _shortest(shards, window, names)
        report(f"{which} is short: all is learned in windows of {window} tokens, while the context is {context}")
    return TextTask(directory, window, names)


def choose_window(shards: TokenShards, context: int, names: Sequence[str] = (), validation: Sequence[Path] = ()) -> int:
    """The context or, if too few windows of it can be cut from the text, the largest divisor of it that leaves enough: in all, and
    one of each weighted set. `names` are those of the sets, `validation` the files that are held out if those are named.
    """
    for window in (context // divisor for divisor in range(1, context + 1) if context % divisor == 0):
        held_out = sum((len(shard) - 1) // window for shard in shards.validation)
        if _enough_to_train(shards, window) and held_out >= MIN_VALIDATION_WINDOWS:
            return window
        if window <= MIN_WINDOW:
            break
    if min(_num_windows(shards, window)) < 1 and shards.weights:
        which = _shortest(shards, window, names)
        raise TrainingError(f"--weights: {which} is too short even for windows of {window} tokens; more of it, or leave it out")
    raise _too_short(shards, window, validation if _enough_to_train(shards, window) else ())


def _too_short(shards: TokenShards, window: int, validation: Sequence[Path]) -> TrainingError:
    """The refusal of all text, or of the files to validate on."""
    num_train, num_validation = (sum(map(len, split)) for split in (shards.train, shards.validation))
    needed = MIN_VALIDATION_WINDOWS * window + 1
    if validation:
        return TrainingError(
            f"{_named(validation)} has {num_validation:,} tokens, too few even for windows of {window}: {needed} are needed; "
            "more of it, or leave --validation out"
        )
    return TrainingError(
        f"the text has {num_train:,} tokens to train on and {num_validation:,} held out, too few even for windows of {window}: "
        f"{(MIN_TRAIN_WINDOWS + 1) * window} and {needed} are needed; more text helps"
    )


def _enough_to_train(shards: TokenShards, window: int) -> bool:
    train = _num_windows(shards, window)
    return min(train) >= 1 and sum(train) >= MIN_TRAIN_WINDOWS


def _num_windows(shards: TokenShards, window: int) -> list[int]:
    """To train on, of each weighted set, or of all text where that is one."""
    sets = sets_of_shards(shards) or [shards.train]
    return [sum(max(0, (len(shard) - 1) // window - 1) for shard in texts) for texts in sets]


def _named(validation: Sequence[Path]) -> str:
    return f"the text of {listed(list(map(str, validation)))} (--validation)"


def _shortest(shards: TokenShards, window: int, names: Sequence[str]) -> str:
    """The text that decides on the windows."""
    if not shards.weights:
        return "the text"
    windows = _num_windows(shards, window)
    return f"the text of {set_name(names, windows.index(min(windows)))}"


@dataclass(frozen=True)
class TextTask(Task):
    """What `prepare_text` made."""

    text_window: int
    names: tuple[str, ...] = ()  # of the paths that weights are of, as far as these are told of

    @property
    def window(self) -> int:
        return self.text_window

    @property
    def rows(self) -> str:
        return f"windows of {self.window} tokens"

    @property
    def material(self) -> Material:
        sampler = window_sampler(self._shards, self.window, seed=0, names=self.names)
        until_repeated = most_repeated(self._shards).until_repeated / self.window if self._shards.weights else None
        return Material(sampler.windows_per_epoch, self.window, is_text=True, rows_until_repeated=until_repeated)

    @property
    def counts(self) -> str:
        return counts_of_text(self._shards)

    def remarks(self, recipe: Recipe) -> list[str]:
        if not self._shards.weights:
            return []
        run_tokens = recipe.max_steps * recipe.batch_size * self.window
        return [weights_line(weighted_sets(self._shards, self.names), run_tokens, "tokens")]

    def source(self, recipe: Recipe, processes: Processes) -> WindowData:
        return WindowData(self._shards, self.window, recipe, processes)

    def bits_per_nat(self, recipe: Recipe, tokenizer: Tokenizer) -> float | None:
        return bits_per_nat(self.source(recipe, Processes()), recipe, tokenizer)

    @cached_property
    def _shards(self) -> TokenShards:
        return map_shards(self.directory)
