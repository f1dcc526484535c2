"""Pre-training: from text files to a checkpoint that can be served."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from model.bpe import BPETokenizer
from model.checkpoint import save_tokenizer
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import save_checkpoint
from model.training import defaults
from model.training.card import Card, figures
from model.training.data.corpus import survey
from model.training.data.described import counts_of_text, data_story
from model.training.data.options import DataOptions
from model.training.data.selection import select
from model.training.data.shards import TokenShards, map_shards, tokenize
from model.training.data.weighted_sets import weighted_sets, weights_line
from model.training.deadline import Deadline, check_minutes
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.memory import check_room
from model.training.overwriting import check_no_tokenizer
from model.training.progress import clock, counted
from model.training.recipe import Recipe
from model.training.run import NOTHING_SHOWN, Shown, train
from model.training.run_context import Plan, Report, RunContext
from model.training.run_directory import RunDirectory
from model.training.sampling import Probes
from model.training.segments import NO_CHANGES, Changes, Story
from model.training.tasks.text import TextTask
from model.training.vocabulary import MIN_SIZE, check_size, has_other_vocabulary, has_vocabulary, learn_vocabulary, load_vocabulary

SAVED_DTYPE = torch.bfloat16  # two bytes a weight; what rounding costs is far below what another seed would


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainOptions:
    """What a user may choose; what is not given is chosen for the text and the machine."""

    data: DataOptions
    tokenizer: Path | None = None  # a directory with vocab.json and merges.txt
    vocab_size: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)  # n_positions, n_embd, n_layer, n_head
    recipe: dict[str, object] = field(default_factory=dict)  # fields of Recipe
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no text could make right, before any text is read."""
        Recipe(**({"max_steps": 1} | self.recipe))  # type: ignore[arg-type]
        if self.vocab_size is not None:
            check_size(self.vocab_size)
        check_minutes(self.minutes)
        for name, size in self.sizes.items():
            if size < 1:
                raise TrainingError(f"{name} is {size}; it must be at least 1")
        if {"n_embd", "n_head"} <= self.sizes.keys():
            _checked_config({"vocab_size": MIN_SIZE, "eos_token_ids": (0,)} | self.sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainPlan(Plan):
    config: GPT2Config

    def to_json(self) -> dict[str, object]:
        return {"kind": "pretrain", **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "PretrainPlan":
        config = GPT2Config(**values["config"] | {"eos_token_ids": tuple(values["config"]["eos_token_ids"])})
        recipe, story = Recipe.from_json(values["recipe"]), Story.from_json(values.get("story", {}))
        return cls(config=config, recipe=recipe, story=story)


def pretrain(
    options: PretrainOptions, out: Path, device: torch.device, processes: Processes, report: Report, shown: Shown = NOTHING_SHOWN
) -> bool:
    """Train a new network on the text; `report` takes a line on each decision. The result: whether the end was reached."""
    return _Pretraining(RunDirectory(out), device, processes, report, shown).begin(options)


def resume(
    out: Path,
    device: torch.device,
    processes: Processes,
    report: Report,
    shown: Shown = NOTHING_SHOWN,
    changes: Changes = NO_CHANGES,
    deadline: Deadline | None = None,
) -> bool:
    """Go on with a run: its text, its network and, but for changes, its recipe are those it began with. It ends by the deadline."""
    return _Pretraining(RunDirectory(out), device, processes, report, shown).resume(changes, deadline)


class _Pretraining(RunContext):
    def begin(self, options: PretrainOptions) -> bool:
        with self.directory.locked(self.processes):
            return self._train(self._plan(options))

    def resume(self, changes: Changes, deadline: Deadline | None) -> bool:
        with self.directory.locked(self.processes):
            read = self.directory.read_plan("pretrain", PretrainPlan.from_json) if self.processes.is_first else None
            plan = self.processes.agree(read)
            assert plan is not None
            if changes:
                plan = self.changed(plan, changes, partial(self._steps_of, plan, changes))
            begun = partial(self.write, plan) if changes else None
            return self._train(self.going_on(plan, plan.config.n_embd), deadline, begun)

    def _plan(self, options: PretrainOptions) -> PretrainPlan:
        """Prepare the text, choose what is not given, and write down what the run is."""
        directory, processes = self.directory, self.processes
        if processes.is_first:
            directory.check_unused()
        with directory.nothing_left_on_failure(processes):
            if processes.is_first:
                directory.begin(self.report)
                _prepare(options, directory, self.report)
            processes.wait()
            tokenizer, shards = load_vocabulary(directory.out), map_shards(directory.tokens)
            config = _config(options, tokenizer, shards, self.device)
            check_room(config, self.device)
            machine, names = (self.device, processes, self.report), [str(path) for path in options.data.paths]
            recipe = processes.agree(defaults.choose_recipe(options.recipe, options.minutes, config, shards, *machine, names))
            self.report(_describe(config, recipe, shards))
            if shards.weights:
                self.report(
                    weights_line(weighted_sets(shards, names), recipe.max_steps * recipe.batch_size * config.n_positions, "tokens")
                )
            story = Story(data_story(options.data.paths, counts_of_text(shards)), samples=self.shown.samples)
            plan = PretrainPlan(config=config, recipe=recipe, story=story.asked(0, self.shown.command, options.recipe))
            self.write(plan)
        return plan

    def _steps_of(self, plan: PretrainPlan, changes: Changes, minutes: float) -> int:
        how = (changes.applied(plan.recipe), self.device, self.processes, self.report)
        return defaults.steps_of_minutes(minutes, plan.config, map_shards(self.directory.tokens), *how)

    def _train(self, plan: PretrainPlan, deadline: Deadline | None = None, begun: Callable[[], None] | None = None) -> bool:
        config, recipe, directory = plan.config, plan.recipe, self.directory
        tokenizer, task = load_vocabulary(directory.out), TextTask(directory.tokens, config.n_positions)
        generator = torch.Generator().manual_seed(recipe.seed)
        model = GPT2(config, recipe.dropout).init_weights(generator).to(self.device)

        def export() -> None:
            save_checkpoint(directory.out, model, tokenizer, SAVED_DTYPE)

        bits = task.bits_per_nat(recipe, tokenizer)
        card = Card(
            title=directory.out.resolve().name,
            kind="pretrain",
            stored=SAVED_DTYPE,
            config=config,
            recipe=recipe,
            story=plan.story,
            bits_per_nat=bits,
        )
        probes = Probes(tokenizer, plan.story.samples, seed=recipe.seed)
        watched = (self.shown.tensorboard, deadline, probes, card)
        finished = train(
            model, task.source(recipe, self.processes), recipe, directory, export, self.processes, *watched, begun=begun
        )
        if finished:
            self.report(_outcome(directory, bits))
        return finished


def _prepare(options: PretrainOptions, directory: RunDirectory, report: Report) -> None:
    """Make the vocabulary and the shards; a vocabulary that cannot be taken is refused before the text is read."""
    there = _vocabulary_there(options, directory.out, report)
    corpus = survey(select(options.data), report)
    report(str(corpus))
    tokenizer = learn_vocabulary(corpus, options.vocab_size, directory.out, report) if there is None else there
    report("tokenising")
    with tqdm(total=corpus.num_bytes, unit="B", unit_scale=True, desc="tokenising", leave=False, disable=None) as bar:
        tokenize(corpus, tokenizer, directory.tokens, options.data.validation_fraction, bar.update)


def _vocabulary_there(options: PretrainOptions, out: Path, report: Report) -> BPETokenizer | None:
    """The vocabulary that is named, or the one that `out` has; afterwards `out` has it. None if one is to be learned."""
    source = options.tokenizer or (out if has_vocabulary(out) else None)
    if source is None:
        check_no_tokenizer(out, {})
        return None
    tokenizer = load_vocabulary(source)
    report(f"with the vocabulary of {tokenizer.vocab_size:,} tokens in {source}")
    if options.vocab_size not in (None, tokenizer.vocab_size):
        other = "another --out" if options.tokenizer is None else "no --tokenizer"
        raise TrainingError(f"{source} has a vocabulary, but not of {options.vocab_size}; leave out --vocab-size, or name {other}")
    if has_other_vocabulary(out, tokenizer):
        raise TrainingError(f"{out} has another vocabulary than {source}, which would be overwritten; choose another --out")
    check_no_tokenizer(out, tokenizer.files)
    save_tokenizer(out, tokenizer)
    return tokenizer


def _config(options: PretrainOptions, tokenizer: BPETokenizer, shards: TokenShards, device: torch.device) -> GPT2Config:
    sizes = defaults.default_sizes(shards.num_tokens, device, options.sizes)
    assert tokenizer.eos_token_id is not None
    return _checked_config({"vocab_size": tokenizer.vocab_size, "eos_token_ids": (tokenizer.eos_token_id,)} | sizes)


def _checked_config(values: dict[str, Any]) -> GPT2Config:
    try:
        return GPT2Config(**values)
    except ValueError as error:
        raise TrainingError(str(error)) from error


def _describe(config: GPT2Config, recipe: Recipe, shards: TokenShards) -> str:
    epochs = recipe.max_steps * recipe.batch_size * config.n_positions / sum(map(len, shards.train))
    through = "" if shards.weights else f", {epochs:.1f} times through the text"  # of weighted sets a line of their own tells
    how = f"in {'bfloat16' if recipe.bfloat16 else 'float32'}{', compiled at the first step' if recipe.compiled else ''}"
    return (
        f"{shards.num_tokens:,} tokens, {shards.num_bytes / shards.num_tokens:.2f} bytes each\n"
        f"{config.num_parameters:,} parameters: layers {config.n_layer}, heads {config.n_head}, width {config.n_embd}, "
        f"context {config.n_positions}\n"
        f"{counted(recipe.max_steps, 'step')} of {recipe.batch_size * config.n_positions:,} tokens{through}, {how}"
    )


def _outcome(directory: RunDirectory, bits: float | None) -> str:
    progress = directory.read_progress()
    measured = figures(progress.best_loss, bits, None)
    curves = f"curves are in {directory.plot}" if directory.plot.exists() else f"losses are in {directory.log}"
    return (
        f"trained in {clock(progress.seconds)}; the best, {measured} at step {progress.best_step:,}, is of the model in "
        f"{directory.out}; the {curves}"
    )
