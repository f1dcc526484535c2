"""Files of prompts with a chosen and a rejected answer, tokenised as examples are."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.tokenizer import Tokenizer, prompt_ids
from model.training.data.corpus import check_characters
from model.training.data.example_files import CONTINUATION
from model.training.data.examples import Example
from model.training.data.preferences import Preferences
from model.training.data.records import Record, holds_records, place, records
from model.training.errors import TrainingError

FIELDS = ("prompt", "chosen", "rejected")


@dataclass(slots=True)
class _Reading:
    """What was read so far, and where that is which is not learned, by the reason."""

    pairs: list[tuple[Example, Example]] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unused: Counter[str] = field(default_factory=Counter)  # fields, by their names

    def leave_out(self, reason: str, where: str) -> None:
        self.left_out.setdefault(reason, []).append(where)

    def lines(self) -> list[str]:
        num_all = len(self.pairs) + sum(map(len, self.left_out.values()))
        told = [
            f"{len(where):,} of {num_all:,} pairs are left out: {why}; the first is {where[0]}"
            for why, where in self.left_out.items()
        ]
        fields = ", ".join(f"{name} ({count:,} times)" for name, count in self.unused.most_common(5))
        return [*told, f"fields that are not used: {fields}"] if fields else told


def read_preferences(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    eos_token_id: int,
    context: int,
    report: Callable[[str], None],
    skip_bad: bool = False,
) -> Preferences:
    """Tokenise all pairs that fit into the context and prefer something; `report` is told how many do not.

    With `skip_bad` records that are no pairs are left out too; else they raise TrainingError.
    """
    read = _Reading()
    on_bad = (lambda error: read.leave_out("no pairs", str(error))) if skip_bad else None
    for file in files:
        if not holds_records(file):
            raise TrainingError(f"{file} is text; preferences are records with {', '.join(FIELDS)}, in a .jsonl, say")
        for number, record in records(file, on_bad):
            try:
                prompt, *answers = (_text(place(file, number), record, name) for name in FIELDS)
            except TrainingError as error:
                if on_bad is None:
                    raise
                on_bad(error)
                continue
            asked = prompt_ids(tokenizer, prompt, eos_token_id)
            chosen, rejected = (Example.of(asked, [*tokenizer.encode(answer, CONTINUATION), eos_token_id]) for answer in answers)
            read.unused.update(record.keys() - set(FIELDS))
            if max(len(chosen.ids), len(rejected.ids)) > context:
                read.leave_out(f"longer than {context} tokens", place(file, number))
            elif chosen == rejected:
                read.leave_out("the chosen answer is the rejected one", place(file, number))
            else:
                read.pairs.append((chosen, rejected))
    for line in read.lines():
        report(line)
    if not read.pairs:
        raise TrainingError(f"there are no pairs to learn from in {', '.join(map(str, files))}")
    return Preferences.of(read.pairs)


def _text(where: str, record: Record, name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise TrainingError(f'{where}: no "{name}" field that is a string; a pair has {", ".join(FIELDS)}')
    check_characters(value, f'{where}: "{name}"')
    return value
