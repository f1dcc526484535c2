"""Goal 29: what writes says in one line that a disk is full or read-only, harms nothing, and does its work once there is room.

Each command is tried with room for some pages, from hardly any to almost enough, and again with plenty: it must then end with the
very files that it makes where nothing goes wrong.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos import forked
from tests.chaos.deaf import OUTPUTS, answers_all
from tests.chaos.goals import Figure, Scale, at_least, exactly, goal
from tests.chaos.place import Limit, place, read_only, used_pages, with_room
from tests.chaos.service import tiny_checkpoint

TEXT = Path(__file__).parents[1] / "data" / "shakespeare.txt"
REASONS = ("No space left on device", "File too large", "Read-only file system", "Permission denied")
REMEDIES = ("make room there", "name another --out", "ulimit -f")
CURVES = {"log.csv", "loss.png"}  # they are written on
RECORDS = {"training/state.safetensors", "training/best.json", "training/tokens/index.json"}  # they say how it came about
RUN = "--out {out} --steps 2 --device cpu --batch-size 4 --precision float32 --no-compile"
SIZES = "--n-embd 16 --n-layer 1 --n-head 2 --n-positions 16 --vocab-size 300"
FINETUNE = f"train finetune {{texts}} --model {{base}} {RUN}"
PRETRAIN = f"train pretrain {{texts}} {RUN} {SIZES}"


@dataclass(frozen=True, slots=True)
class Writer:
    """A command, what prepares its place, and what goes on where it saved something before it failed."""

    command: str
    before: str | None = None
    resume: str | None = None


def _resume(kind: str) -> str:
    return f"train {kind} --resume --out {{out}} --device cpu"


WRITERS = {
    "tokenizer": Writer("train tokenizer {texts} --out {out} --vocab-size 300"),
    "pretrain": Writer(PRETRAIN, resume=_resume("pretrain")),
    "pretrain --resume": Writer(_resume("pretrain"), before=PRETRAIN),
    "finetune": Writer(FINETUNE, resume=_resume("finetune")),
    "finetune --lora": Writer(f"{FINETUNE} --lora", resume=_resume("finetune")),
    "finetune --keep-adapter": Writer(f"{FINETUNE} --lora --keep-adapter", resume=_resume("finetune")),
    "merge": Writer("train merge --adapter {adapter} --out {out}"),
}
QUICK = ["tokenizer", "pretrain", "finetune --keep-adapter", "merge"]


@goal(29, "A full disk, and one that is read-only")
def disks(scale: Scale) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        trials = _Trials(Path(folder))
        names = list(WRITERS) if scale.is_long else QUICK
        outcomes = [(name, fault) for name in names for fault in trials.of(WRITERS[name], scale.of(1, 12))]
    faults = [f"{name}: {fault}" for name, fault in outcomes if fault]
    print("\n".join(faults), end="")
    return [
        at_least("commands refused", 2 * len(names), len(outcomes), "", by_clock=False),
        exactly("that harmed something, said it otherwise than in one line, or failed again with room", 0, len(faults)),
        *(exactly(f"services that answered and ended well, their log in {name}", 1, int(answers_all(name))) for name in OUTPUTS),
    ]


class _Trials:
    """A disk to fill, and what the commands read, elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._disk, self._out, self._kept, self._said = folder / "disk", folder / "disk" / "out", folder / "kept", folder / "said"
        self._names = {"out": self._out, "base": tiny_checkpoint(), "texts": folder / "texts", "adapter": folder / "adapter"}
        self._names["texts"].mkdir()
        (self._names["texts"] / "shakespeare.txt").write_text(TEXT.read_text(encoding="utf-8")[:8000], encoding="utf-8")
        self._succeed(WRITERS["finetune --keep-adapter"].command.format(**self._names | {"out": self._names["adapter"]}))

    def of(self, writer: Writer, num_rooms: int) -> Iterator[str]:
        """Of each try that found too little room what was wrong with it, or an empty text."""
        with place(self._disk):
            if writer.before:
                self._succeed(writer.before)
            shutil.copytree(self._out, self._kept) if writer.before else self._kept.mkdir()
            num_before = used_pages(self._disk)
            self._succeed(writer.command)
            wanted, num_pages = _contents(self._out), used_pages(self._disk) - num_before
            rooms = sorted({num_pages * (2 * i + 1) // (2 * num_rooms) for i in range(num_rooms)})
            for narrow in (partial(with_room, self._disk, room) for room in rooms):
                yield from self._try(writer, narrow, wanted)
            yield from self._try(writer, partial(read_only, self._disk), wanted)
        shutil.rmtree(self._kept)
        self._disk.rmdir()

    def _try(self, writer: Writer, narrow: Callable[[], AbstractContextManager[Limit]], wanted: dict[str, bytes]) -> Iterator[str]:
        shutil.rmtree(self._out, ignore_errors=True)
        if writer.before:
            shutil.copytree(self._kept, self._out)
        before = _contents(self._out)
        with narrow() as limit:
            done = self._run(writer.command, limit)
        if done.code != 0:  # else that was room enough
            yield _fault(done, self._disk) or _harm(before, _contents(self._out)) or self._again(writer, wanted)

    def _again(self, writer: Writer, wanted: dict[str, bytes]) -> str:
        has_state = (self._out / "training" / "state.safetensors").exists()
        done = self._run(writer.resume if has_state and writer.resume else writer.command)
        if done.code != 0:
            return f"with room again: {done.code}, {done.said[-300:]}"
        found = _contents(self._out)
        different = wanted.keys() ^ found.keys() | {name for name in wanted.keys() - RECORDS if wanted[name] != found.get(name)}
        return f"with room again it made other files: {different}" if different else ""

    def _run(self, command: str, limit: Limit | None = None) -> forked.Done:
        return forked.run(command.format(**self._names), self._said, limit)

    def _succeed(self, command: str) -> None:
        done = self._run(command)
        assert done.code == 0, done.said


def _fault(done: forked.Done, disk: Path) -> str:
    *_, last = done.said.splitlines() or [""]
    is_told = last.startswith(f"gpt2: {disk}") and all(any(text in last for text in texts) for texts in (REASONS, REMEDIES))
    is_one_line = done.said.count("gpt2: ") == 1 and "Traceback" not in done.said
    return "" if done.code == 2 and is_told and is_one_line else f"{done.code}, {done.said[-1500:]}"


def _harm(before: dict[str, bytes], after: dict[str, bytes]) -> str:
    harmed = [name for name, old in before.items() if after.get(name) != old]
    left = [name for name in after if name.endswith(".tmp")]
    return f"harmed {harmed}, left {left}" if harmed or left else ""


def _contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name not in CURVES)
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}
