"""Goal 22: whatever was done to a checkpoint, the start is refused in a line, at once, and nothing of it is run."""

import shutil
import tempfile
import time
from pathlib import Path

from app.bootstrap import load
from app.chat.conversation import open_chat
from app.errors import StartupError
from app.settings import Settings
from tests.chaos.checkpoints import CORRUPTIONS
from tests.chaos.goals import Figure, Scale, at_least, at_most, exactly, goal
from tests.chaos.service import tiny_checkpoint

MAX_MESSAGE = 2000  # characters: a line that a person can read
REFUSAL_SECONDS = 1.0


@goal(22, "Corrupt and malicious checkpoints")
def corrupt_checkpoints(scale: Scale) -> list[Figure]:
    names = list(CORRUPTIONS)[:: scale.of(12, 1)]
    start(tiny_checkpoint())  # so that the first one is not the one that pays for what is loaded once
    refused, ran, slowest = 0, 0, (0.0, "")
    for name in scale.each(names):
        is_refused, has_run, seconds = _try(name)
        refused, ran, slowest = refused + is_refused, ran + has_run, max(slowest, (seconds, name))
    return [
        at_least("kinds of corruption", scale.of(10, 60), len(names), "kinds", by_clock=False),
        exactly("of which were refused in a line", len(names), refused),
        exactly("whose code was run", 0, ran),
        at_most(f"the slowest refusal ({slowest[1]})", REFUSAL_SECONDS, slowest[0], "s"),
    ]


def start(directory: Path) -> None:
    """As far as a start reads files."""
    settings = Settings(model=str(directory), device="cpu", max_running=1, _env_file=None)
    loaded = load(settings, report=lambda line: None)
    reports: list[str] = []
    open_chat("", directory, loaded.tokenizer, loaded.config.eos_token_id, reports.append).close()
    if refused := [line for line in reports if line.startswith("no chat")]:
        raise StartupError(refused[0])  # a template that cannot be read costs the chat alone


def _try(name: str) -> tuple[bool, bool, float]:
    """Whether it was refused as it should be, whether code was run, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "checkpoint"
        shutil.copytree(tiny_checkpoint(), directory)
        CORRUPTIONS[name](directory)
        started = time.perf_counter()
        message = _refusal(directory)
        seconds = time.perf_counter() - started
        is_refused = 0 < len(message) <= MAX_MESSAGE and "\n" not in message
        return is_refused, (directory / "code-was-run").exists(), seconds


def _refusal(directory: Path) -> str:
    """What a person is told; nothing where it is no refusal, or none that was meant."""
    try:
        start(directory)
    except StartupError as error:
        return str(error)
    except Exception:
        return ""
    return ""
