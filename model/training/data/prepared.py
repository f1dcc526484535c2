"""Data for fine-tuning: text or examples, tokenised once into a run's directory and read from there ever after."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from model.chat_template import FILE as TEMPLATE_FILE
from model.chat_template import NAMED, ChatTemplate, TemplateUnusable, find_template
from model.checkpoint import resolve_model
from model.files import replace_file
from model.tokenizer import WITHIN_TEXT, Tokenizer
from model.training.base import Base
from model.training.data.batches import window_sampler
from model.training.data.corpus import survey
from model.training.data.described import bits_per_nat, counts_of_text
from model.training.data.example_batches import ExampleData
from model.training.data.example_files import ExampleEncoder, hold_examples, read_examples
from model.training.data.examples import Examples, Question
from model.training.data.options import DataOptions
from model.training.data.selection import Selection, select
from model.training.data.shards import map_shards, tokenize
from model.training.data.task import Task
from model.training.data.windows import WindowData
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.finetune_defaults import Material, choose_window, num_held_out
from model.training.recipe import Recipe
from model.training.trainer import DataSource

# Asked at each validation: enough to see a few per cent of difference, and answered in a second or two.
MAX_QUESTIONS, MAX_ANSWER_TOKENS = 64, 64


def prepare(options: DataOptions, base: Base, directory: Path, report: Callable[[str], None]) -> "PreparedData":
    """Tokenise the data into `directory`; `report` takes a line on each decision."""
    selection = select(options)
    if hold_examples([*selection.files, *selection.validation], options.skip_bad):
        return _prepare_examples(selection, options, base, directory, report)
    if options.template is not None:
        raise TrainingError(f"--template {options.template} is for conversations, and the data are text; leave it out")
    corpus = survey(selection, report)
    with tqdm(total=corpus.num_bytes, unit="B", unit_scale=True, desc="tokenising", leave=False, disable=None) as bar:
        shards = tokenize(corpus, base.tokenizer, directory, options.validation_fraction, bar.update, WITHIN_TEXT)
    context = base.config.n_positions
    window = choose_window(shards, context)
    if window < context:
        report(f"the text is short: it is learned in windows of {window} tokens, while the context is {context}")
    return PreparedData(directory, window)


def _prepare_examples(
    selection: Selection, options: DataOptions, base: Base, directory: Path, report: Callable[[str], None]
) -> "PreparedData":
    if selection.weights:
        raise TrainingError("--weights are for texts, and the data are examples; leave them out")
    for line in selection.leftovers.lines():
        report(line)
    encoder = ExampleEncoder(base.tokenizer, base.config.eos_token_id, lambda: _template(options.template, base, report))
    examples, *validation = (
        read_examples(files, encoder, base.config.n_positions, report, options.skip_bad)
        for files in (selection.files, selection.validation)
        if files
    )
    parts = (examples, *validation) if validation else examples.split(num_held_out(len(examples), options.validation_fraction))
    for name, part in zip(("train", "validation"), parts, strict=True):
        if not len(part):
            raise TrainingError(f"there is nothing for {name}: no example fits into {base.config.n_positions} tokens")
        part.save(directory / f"{name}.safetensors")
    if (writer := encoder.writer) is not None:
        if writer.marks_as_text:
            marks = ", ".join(writer.marks_as_text)
            report(f"the chat template writes {marks}, no tokens of this vocabulary: they are learned as text")
        replace_file(directory / TEMPLATE_FILE, lambda file: file.write_text(writer.source, encoding="utf-8"))
    elif options.template is not None:
        raise TrainingError(f"--template {options.template} is for conversations, and there are none in the data; leave it out")
    return PreparedData(directory, None)


def _template(setting: str | None, base: Base, report: Callable[[str], None]) -> ChatTemplate:
    """The template named, the checkpoint's own, or else the plainest one."""
    directory, end_token = resolve_model(base.name), base.tokenizer.name(base.config.eos_token_id)
    try:
        template = find_template(setting or "", directory, end_token)
        if template is None:
            report(
                "the checkpoint has no chat template: conversations are written by the one named plain (--template names others)"
            )
            template = find_template("plain", directory, end_token)
            assert template is not None
    except TemplateUnusable as error:
        raise TrainingError(f"{error}; --template takes {', '.join(NAMED)} or a file") from error
    return template


@dataclass(frozen=True, slots=True)
class PreparedData(Task):
    """What `prepare` made."""

    text_window: int | None  # tokens that text is cut into; None for examples

    @property
    def window(self) -> int | None:
        return self.text_window

    @property
    def rows(self) -> str:
        return "examples" if self.window is None else f"windows of {self.window} tokens"

    def source(self, recipe: Recipe, processes: Processes) -> DataSource:
        if self.window is None:
            return ExampleData(*self._examples(), recipe, processes)
        return WindowData(map_shards(self.directory), self.window, recipe, processes)

    @property
    def material(self) -> Material:
        if self.window is None:
            train, _ = self._examples()
            return Material(len(train), len(train.ids) / len(train), is_examples=True)
        sampler = window_sampler(map_shards(self.directory), self.window, seed=0)
        return Material(sampler.windows_per_epoch, self.window, is_examples=False)

    @property
    def counts(self) -> str:
        if self.window is not None:
            return counts_of_text(map_shards(self.directory))
        train, validation = self._examples()
        return f"{len(train) + len(validation):,} examples, of which {len(validation):,} were held out"

    def bits_per_nat(self, tokenizer: Tokenizer) -> float | None:
        return None if self.window is None else bits_per_nat(map_shards(self.directory), tokenizer)

    @property
    def tokenizer_files(self) -> dict[str, bytes]:
        """The chat template by which conversations were written."""
        file = self.directory / TEMPLATE_FILE
        return {TEMPLATE_FILE: file.read_bytes()} if file.exists() else {}

    def questions(self) -> list[Question]:
        """None where text is learned."""
        return [] if self.window is not None else self._examples()[1].questions(MAX_QUESTIONS, MAX_ANSWER_TOKENS)

    def _examples(self) -> tuple[Examples, Examples]:
        train, validation = (Examples.load(self.directory / f"{name}.safetensors") for name in ("train", "validation"))
        return train, validation
