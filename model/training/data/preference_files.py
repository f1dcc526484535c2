"""Files of prompts with a chosen and a rejected answer, tokenised as examples are."""

from collections.abc import Callable, Sequence
from pathlib import Path

from model.training.data.example_files import ExampleEncoder
from model.training.data.example_records import PREFERENCE, read_preference, unused_fields
from model.training.data.examples import Example
from model.training.data.preferences import Preferences
from model.training.data.record_reading import Tally, made_of_records
from model.training.data.records import Record, holds_records
from model.training.errors import TrainingError


def read_preferences(
    files: Sequence[Path], encoder: ExampleEncoder, context: int, report: Callable[[str], None], skip_bad: bool = False
) -> Preferences:
    """Tokenise all pairs that fit into the context and prefer something; `report` is told how many do not.

    With `skip_bad` files that cannot be read and records that are no pairs are left out too; else they raise TrainingError.
    """
    tally = Tally(skip_bad, "pairs", learned="chosen answer", end_token=encoder.end)
    if text := next((file for file in files if not holds_records(file)), None):
        wanted = f"preferences are records with {', '.join(PREFERENCE)}, in a .jsonl, say"
        raise TrainingError(f"{text} is text, which gpt2 train finetune learns from; {wanted}")

    def make(record: Record) -> tuple[Example, Example]:
        chosen, rejected = (answer.without_end(encoder.end) for answer in read_preference(record))
        pair = encoder.encode(chosen), encoder.encode(rejected)
        tally.num_empty += chosen.says_nothing
        tally.num_partly_empty += chosen.is_partly_silent
        tally.num_with_end_token += chosen.has(encoder.end) or rejected.has(encoder.end)
        tally.unwritten.update(encoder.unwritten(chosen) | encoder.unwritten(rejected))  # what they begin with alike counts once
        tally.unused.update(sorted(unused_fields(record, PREFERENCE)))
        return pair

    pairs = []
    for where, (chosen, rejected) in made_of_records(files, make, tally):
        if max(len(chosen.ids), len(rejected.ids)) > context:
            tally.leave_out(f"longer than {context} tokens", where)
        elif chosen == rejected:
            tally.leave_out("the chosen answer is the rejected one", where)
        else:
            pairs.append((chosen, rejected))
    for line in tally.lines():
        report(line)
    tally.check_learned(files)
    if not pairs:
        raise TrainingError(f"there are no pairs to learn from in {', '.join(map(str, files))}")
    return Preferences.of(pairs)
