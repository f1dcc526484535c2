"""Files of examples, tokenised. Knows no batches.

A prompt and its completion are tokenised apart, as when the model is served: it is given the prompt's tokens and continues them.
Both are read as the service reads a prompt: added and special tokens in them are tokens, and a prompt begins as every text does.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from model.chat_template import ChatTemplate
from model.tokenizer import Reading, Tokenizer, prompt_ids
from model.training.data.conversations import ChatWriter
from model.training.data.example_records import Conversation, Pair, kind_of, read_example, unused_fields
from model.training.data.examples import Example, Examples
from model.training.data.leftovers import listed
from model.training.data.records import holds_records, place, records
from model.training.errors import TrainingError

CONTINUATION = Reading(add_special_tokens=False)
OTHER_KINDS = '"messages", "conversations" or "instruction" and "output"'


def hold_examples(files: Sequence[Path], skip_bad: bool = False) -> bool:
    """Whether the files hold examples rather than text, by their first records; files of both kinds at once are refused.

    With `skip_bad` a file's first record is the first that is of any kind.
    """
    kinds = {file: holds_records(file) and _begins_with_example(file, skip_bad) for file in files}
    if len(set(kinds.values())) > 1:
        example, text = (next(file for file in files if kinds[file] is kind) for kind in (True, False))
        raise TrainingError(f"{example} holds prompts and completions, {text} text; train on one kind at a time")
    return any(kinds.values())


def _begins_with_example(file: Path, skip_bad: bool) -> bool:
    for number, record in records(file, (lambda error: None) if skip_bad else None):
        try:
            if kind_of(record) is not None:
                return True
        except TrainingError as error:
            raise TrainingError(f"{place(file, number)}: {error}") from error
        if "text" in record:
            return False
        if not skip_bad:
            fields = f'neither a "text" nor a "prompt" and a "completion" field, nor {OTHER_KINDS}'
            raise TrainingError(f"{place(file, number)}: {fields}")
    return False


class ExampleEncoder:
    """Makes token ids of examples for one tokenizer; conversations by a template, which is looked for when the first one comes."""

    def __init__(self, tokenizer: Tokenizer, eos_token_id: int, find_template: Callable[[], ChatTemplate]) -> None:
        self._tokenizer, self._eos_token_id, self._find_template = tokenizer, eos_token_id, find_template
        self.writer: ChatWriter | None = None  # none before the first conversation

    def encode(self, example: Pair | Conversation) -> Example:
        if isinstance(example, Conversation):
            self.writer = self.writer or ChatWriter(self._find_template(), self._tokenizer, self._eos_token_id)
            return self.writer.example(example)
        prompt = prompt_ids(self._tokenizer, example.prompt, self._eos_token_id)
        return Example.of(prompt, [*self._tokenizer.encode(example.completion, CONTINUATION), self._eos_token_id])


@dataclass(slots=True)
class _Tally:
    """What was read, and what was not learned of it."""

    num_read: int = 0
    too_long: list[str] = field(default_factory=list)  # where they are
    bad: list[str] = field(default_factory=list)  # what is wrong with them, and where
    num_empty: int = 0
    unused: Counter[str] = field(default_factory=Counter)

    def lines(self, context: int) -> list[str]:
        """A line on each kind of thing that was left out or not used."""
        lines = []
        if self.bad:
            lines.append(f"left out: {len(self.bad):,} records that are no examples; the first: {self.bad[0]}")
        if self.too_long:
            left_out = f"{len(self.too_long):,} of {self.num_read:,} examples are left out"
            lines.append(f"{left_out}: longer than {context} tokens; the first is {self.too_long[0]}")
        if self.num_empty:
            lines.append(f"{self.num_empty:,} of {self.num_read:,} examples have an empty completion, which teaches to say nothing")
        if self.unused:
            found = [f'"{name}" ({count:,})' for name, count in self.unused.most_common()]
            lines.append(f"fields that are not used, with the number of examples that have them: {listed(found)}")
        return lines


def read_examples(
    files: Sequence[Path], encoder: ExampleEncoder, context: int, report: Callable[[str], None], skip_bad: bool = False
) -> Examples:
    """Tokenise all examples that fit into the context; `report` is told how many do not. Those are left out whole: cut, they would
    teach answers to questions that nobody saw, or answers without an end. So are records that are no examples, with `skip_bad`;
    else they raise TrainingError.
    """
    tally = _Tally()
    examples = Examples.of(_fitting(files, encoder, context, skip_bad, tally))
    if not tally.num_read:
        raise TrainingError(f"there are no examples in {', '.join(map(str, files))}" + (f"; {tally.bad[0]}" if tally.bad else ""))
    if tally.num_empty == tally.num_read:
        raise TrainingError(f"all completions in {', '.join(map(str, files))} are empty; there is nothing to learn")
    for line in tally.lines(context):
        report(line)
    return examples


def _fitting(files: Sequence[Path], encoder: ExampleEncoder, context: int, skip_bad: bool, tally: _Tally) -> Iterator[Example]:
    with tqdm(unit=" examples", unit_scale=True, desc="tokenising", leave=False, disable=None) as bar:
        for file in files:
            for number, record in records(file, (lambda error: tally.bad.append(str(error))) if skip_bad else None):
                bar.update()
                where = place(file, number)
                try:
                    example = _read(record, encoder, tally)
                except TrainingError as error:
                    if not skip_bad:
                        raise TrainingError(f"{where}: {error}") from error
                    tally.bad.append(f"{where}: {error}")
                    continue
                if len(example.ids) <= context:
                    yield example
                else:
                    tally.too_long.append(where)


def _read(record: dict[str, object], encoder: ExampleEncoder, tally: _Tally) -> Example:
    read = read_example(record)
    example = encoder.encode(read)
    tally.num_read += 1
    tally.num_empty += read.says_nothing
    tally.unused.update(sorted(unused_fields(record)))
    return example
