"""Pre-training: from text files to a checkpoint that can be served."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from model.bpe import BPETokenizer
from model.checkpoint import save_tokenizer
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import save_checkpoint
from model.training import defaults
from model.training.batches import WindowSampler, validation_batches
from model.training.corpus import count_bytes, text_files
from model.training.deadline import Deadline
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.precision import warn_of_slow_bfloat16
from model.training.progress import clock, read_log
from model.training.recipe import Recipe
from model.training.run import SAVED_DTYPE, train
from model.training.run_directory import NOTHING_SAVED, RunDirectory
from model.training.shards import TokenShards, map_shards, tokenize
from model.training.trainer import Batch
from model.training.vocabulary import check_size, has_other_vocabulary, has_vocabulary, learn_vocabulary, load_vocabulary

VALIDATION_ROWS = 16

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainOptions:
    """What a user may choose; what is not given is chosen for the text and the machine."""

    paths: Sequence[Path]
    tokenizer: Path | None = None  # a directory with vocab.json and merges.txt
    vocab_size: int | None = None
    validation_fraction: float | None = None
    sizes: dict[str, int] = field(default_factory=dict)  # n_positions, n_embd, n_layer, n_head
    recipe: dict[str, object] = field(default_factory=dict)  # fields of Recipe
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no text could make right, before any text is read."""
        Recipe(**({"max_steps": 1} | self.recipe))  # type: ignore[arg-type]
        if self.vocab_size is not None:
            check_size(self.vocab_size)
        if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
            raise TrainingError(f"the validation fraction is {self.validation_fraction}; it must lie between 0 and 1")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise TrainingError(f"minutes is {self.minutes}; it must be above 0")
        for name, size in self.sizes.items():
            if size < 1:
                raise TrainingError(f"{name} is {size}; it must be at least 1")


def pretrain(
    options: PretrainOptions, out: Path, device: torch.device, processes: Processes, report: Report, tensorboard: bool = False
) -> bool:
    """Train a new network on the text; `report` takes a line on each decision. The result: whether the end was reached."""
    report = report if processes.is_first else lambda line: None
    directory = RunDirectory(out)
    if processes.is_first:
        directory.check_unused()
    with directory.nothing_left_on_failure(processes):
        if processes.is_first:
            _prepare(options, directory, report)
        processes.wait()
        tokenizer, shards = load_vocabulary(out), map_shards(directory.tokens)
        config = _config(options, tokenizer, shards, device)
        recipe = defaults.choose_recipe(options.recipe, options.minutes, config, shards, device, processes, report)
        recipe = processes.agree(recipe)
        report(_describe(config, recipe, shards))
        if processes.is_first:
            directory.write_plan({"kind": "pretrain", "config": asdict(config), "recipe": recipe.to_json()})
    return _train(config, recipe, directory, device, processes, report, tensorboard)


def resume(
    out: Path,
    device: torch.device,
    processes: Processes,
    report: Report,
    tensorboard: bool = False,
    deadline: Deadline | None = None,
) -> bool:
    """Go on with an interrupted run: its text, its network and its recipe are those it began with. It ends by the deadline."""
    report = report if processes.is_first else lambda line: None
    directory = RunDirectory(out)
    plan = directory.read_plan("pretrain")
    config, recipe = GPT2Config(**plan["config"]), Recipe.from_json(plan["recipe"])
    if not directory.has_state:
        report(NOTHING_SAVED)
    if recipe.bfloat16:
        warn_of_slow_bfloat16(device, config.n_embd, report)
    return _train(config, recipe, directory, device, processes, report, tensorboard, deadline)


def _train(
    config: GPT2Config,
    recipe: Recipe,
    directory: RunDirectory,
    device: torch.device,
    processes: Processes,
    report: Report,
    tensorboard: bool,
    deadline: Deadline | None = None,
) -> bool:
    tokenizer, shards = load_vocabulary(directory.out), map_shards(directory.tokens)
    generator = torch.Generator().manual_seed(recipe.seed)
    model = GPT2(config, recipe.dropout).init_weights(generator).to(device)
    data = PretrainingData(shards, config.n_positions, recipe, processes)

    def export() -> None:
        save_checkpoint(directory.out, model, tokenizer, SAVED_DTYPE)

    finished = train(model, data, recipe, directory, export, processes, tensorboard, deadline)
    if finished and processes.is_first:
        report(_outcome(directory))
    return finished


def _prepare(options: PretrainOptions, directory: RunDirectory, report: Report) -> None:
    """Make the vocabulary and the shards."""
    files = text_files(options.paths)
    num_bytes = count_bytes(files)
    report(f"{num_bytes:,} bytes of text in {len(files)} file{'s' if len(files) > 1 else ''}")
    tokenizer = _vocabulary(options, files, num_bytes, directory.out, report)
    report("tokenising")
    with tqdm(total=num_bytes, unit="B", unit_scale=True, desc="tokenising", leave=False, disable=None) as bar:
        tokenize(files, tokenizer, directory.tokens, options.validation_fraction, bar.update)


def _vocabulary(options: PretrainOptions, files: Sequence[Path], num_bytes: int, out: Path, report: Report) -> BPETokenizer:
    """The vocabulary that is named, or the one that `out` has, or a new one; afterwards `out` has it."""
    source = options.tokenizer or (out if has_vocabulary(out) else None)
    if source is None:
        return learn_vocabulary(files, num_bytes, options.vocab_size, out, report)
    tokenizer = load_vocabulary(source)
    report(f"with the vocabulary of {tokenizer.vocab_size:,} tokens in {source}")
    if options.vocab_size not in (None, tokenizer.vocab_size):
        raise TrainingError(
            f"{source} has a vocabulary, but not of {options.vocab_size}; leave out --vocab-size, or name another --out"
        )
    if has_other_vocabulary(out, tokenizer):
        raise TrainingError(f"{out} has another vocabulary than {source}, which would be overwritten; choose another --out")
    save_tokenizer(out, tokenizer)
    return tokenizer


def _config(options: PretrainOptions, tokenizer: BPETokenizer, shards: TokenShards, device: torch.device) -> GPT2Config:
    sizes = defaults.default_sizes(shards.num_tokens, device, options.sizes)
    assert tokenizer.eos_token_id is not None
    try:
        return GPT2Config(vocab_size=tokenizer.vocab_size, eos_token_ids=(tokenizer.eos_token_id,), **sizes)
    except ValueError as error:
        raise TrainingError(str(error)) from error


def _describe(config: GPT2Config, recipe: Recipe, shards: TokenShards) -> str:
    epochs = recipe.max_steps * recipe.batch_size * config.n_positions / sum(map(len, shards.train))
    return (
        f"{shards.num_tokens:,} tokens, {shards.num_bytes / shards.num_tokens:.2f} bytes each\n"
        f"{config.num_parameters:,} parameters: layers {config.n_layer}, heads {config.n_head}, width {config.n_embd}, "
        f"context {config.n_positions}\n"
        f"{recipe.max_steps:,} steps of {recipe.batch_size * config.n_positions:,} tokens, {epochs:.1f} times through the text, "
        f"in {'bfloat16' if recipe.bfloat16 else 'float32'}{', compiled at the first step' if recipe.compiled else ''}"
    )


def _outcome(directory: RunDirectory) -> str:
    rows = read_log(directory.log)
    best = min((row for row in rows if row["validation_loss"]), key=lambda row: float(row["validation_loss"]))
    return (
        f"trained in {clock(float(rows[-1]['seconds']))}; the best validation loss, {best['validation_loss']} at step "
        f"{int(best['step']):,}, is of the model in {directory.out}; the curves are in {directory.plot}"
    )


class PretrainingData:
    """Windows of token shards: one process's share of each batch, in the recipe's parts and at the step's window length."""

    def __init__(self, shards: TokenShards, context: int, recipe: Recipe, processes: Processes) -> None:
        self._sampler = WindowSampler(shards.train, context, recipe.seed)
        self._validation = shards.validation
        self._context, self._recipe, self._processes = context, recipe, processes
        self._windows_per_part = recipe.batch_size // (recipe.accumulation * processes.num)

    def batch(self, step: int) -> Batch:
        length = self._recipe.window_length(step, self._context)
        size, rank = self._windows_per_part, self._processes.rank
        first = step * self._recipe.batch_size + rank * size * self._recipe.accumulation
        parts = [self._sampler.batch(first + part * size, size, length) for part in range(self._recipe.accumulation)]
        return Batch(parts, self._recipe.batch_size * self._context)

    def validation(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """In windows of the step's length: positions that were never trained would drown what was learned."""
        length = self._recipe.window_length(step, self._context)
        ratio = self._context // length  # as many tokens whatever their length
        batches = validation_batches(self._validation, length, self._recipe.validation_windows * ratio, VALIDATION_ROWS * ratio)
        return islice(batches, self._processes.rank, None, self._processes.num)
