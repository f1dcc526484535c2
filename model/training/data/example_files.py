"""Files of examples, tokenised. Knows no batches.

A prompt and its completion are tokenised apart, as when the model is served: it is given the prompt's tokens and continues them.
Both are read as the service reads a prompt: added and special tokens in them are tokens, and a prompt begins as every text does.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from model.tokenizer import Reading, Tokenizer, prompt_ids
from model.training.data.conversations import ChatWriter
from model.training.data.example_records import Conversation, Pair, kind_of, kind_to_read, unused_fields
from model.training.data.examples import Example, Examples
from model.training.data.leftovers import listed
from model.training.data.record_reading import Tally, made_of_records, readable_files
from model.training.data.records import Record, holds_records, is_table, place, records
from model.training.errors import TrainingError

CONTINUATION = Reading(add_special_tokens=False)
OTHER_KINDS = '"messages", "conversations" or "instruction" and "output"'


def hold_examples(files: Sequence[Path], skip_bad: bool = False) -> bool:
    """Whether the files hold examples rather than text, by their first records; files of both kinds at once are refused.

    With `skip_bad` a file's first record is the first that is of any kind. A file without one, or one that cannot be read, is of
    neither kind: whoever reads the files to their ends tells all of those at once.
    """
    kinds = {file: _begins_with_example(file, skip_bad) if holds_records(file) else False for file in files}
    if {True, False} <= set(kinds.values()):
        example, text = (next(file for file in files if kinds[file] is kind) for kind in (True, False))
        raise TrainingError(f"{example} holds prompts and completions, {text} text; train on one kind at a time")
    if not {True, False} & set(kinds.values()):
        readable_files(files, Tally(skip_bad))  # or they would pass as texts, and --template be refused for it
    return True in kinds.values()


def _begins_with_example(file: Path, skip_bad: bool) -> bool | None:
    for number, record in _records_before_damage(file, skip_bad):
        try:
            if kind_of(record) is not None:
                return True
        except TrainingError as error:
            raise TrainingError(f"{place(file, number)}: {error}") from error
        if "text" in record:
            return False
        if is_table(file):
            columns = listed([f'"{name}"' for name in record])
            raise TrainingError(
                f'{file} has the columns {columns}; a table has "text", or "prompt" and "completion", or {OTHER_KINDS}'
            )
        if not skip_bad:
            fields = f'neither a "text" nor a "prompt" and a "completion" field, nor {OTHER_KINDS}'
            raise TrainingError(f"{place(file, number)}: {fields}")
    return None


def _records_before_damage(file: Path, skip_bad: bool) -> Iterator[tuple[int, Record]]:
    with suppress(TrainingError):
        yield from records(file, (lambda error: None) if skip_bad else None)


class ExampleEncoder:
    """Makes token ids of examples for one tokenizer; conversations by a writer, which is looked for when the first one comes."""

    def __init__(self, tokenizer: Tokenizer, eos_token_id: int, find_writer: Callable[[], ChatWriter]) -> None:
        self._tokenizer, self._eos_token_id, self._find_writer = tokenizer, eos_token_id, find_writer
        self.writer: ChatWriter | None = None  # none before the first conversation
        end = tokenizer.name(eos_token_id)
        self.end = end if tokenizer.encode(end, CONTINUATION) == [eos_token_id] else ""  # "" where no text is read as that token

    def encode(self, example: Pair | Conversation) -> Example:
        if isinstance(example, Conversation):
            self.writer = self.writer or self._find_writer()
            return self.writer.example(example)
        prompt = prompt_ids(self._tokenizer, example.prompt, self._eos_token_id)
        return Example.of(prompt, [*self._tokenizer.encode(example.completion, CONTINUATION), self._eos_token_id])

    def unwritten(self, example: Pair | Conversation) -> Counter[str]:
        """Messages, by their roles, of which the token ids that `encode` made have nothing: a template need not write all roles."""
        return self.writer.unwritten(example) if self.writer and isinstance(example, Conversation) else Counter()


def read_examples(
    files: Sequence[Path], encoder: ExampleEncoder, context: int, report: Callable[[str], None], skip_bad: bool = False
) -> Examples:
    """Tokenise all examples that fit into the context; `report` is told how many do not. Those are left out whole: cut, they would
    teach answers to questions that nobody saw, or answers without an end. So are files that cannot be read and records that are
    no examples, with `skip_bad`; else they raise TrainingError.
    """
    tally = Tally(skip_bad, "examples", end_token=encoder.end)
    examples = Examples.of(_fitting(files, encoder, context, tally))
    for line in tally.lines():
        report(line)
    tally.check_learned(files)
    return examples


def _fitting(files: Sequence[Path], encoder: ExampleEncoder, context: int, tally: Tally) -> Iterator[Example]:
    def make(record: Record) -> Example:
        kind = kind_to_read(record)
        read = kind.read(record).without_end(encoder.end)
        example = encoder.encode(read)
        tally.num_empty += read.says_nothing
        tally.num_partly_empty += read.is_partly_silent
        tally.num_with_end_token += read.has(encoder.end)
        tally.unwritten.update(encoder.unwritten(read))
        tally.unused.update(sorted(unused_fields(record, kind.fields)))
        return example

    for where, example in made_of_records(files, make, tally):
        if len(example.ids) <= context:
            yield example
        else:
            tally.leave_out(f"longer than {context} tokens", where)
