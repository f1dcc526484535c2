"""What a check has found: a line, and what mends it. Knows no check and no output."""

from dataclasses import dataclass
from typing import Literal

from app.errors import StartupError

Level = Literal["ok", "advice", "problem"]  # a problem is what `gpt2 serve` would refuse to start for


@dataclass(frozen=True, slots=True)
class Finding:
    """Of the check of this name; `remedy` names the setting or the command, where there is anything to mend.

    `exit_code` is that of `gpt2 serve`, where this is its refusal.
    """

    check: str
    level: Level
    text: str
    remedy: str = ""
    exit_code: int = StartupError.exit_code


def ok(check: str, text: str) -> Finding:
    return Finding(check, "ok", text)


def advice(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, "advice", text, remedy)


def problem(check: str, refusal: object, remedy: str = "", exit_code: int = StartupError.exit_code) -> Finding:
    """The refusal is the line with which `gpt2 serve` would end; it names what mends it."""
    return Finding(check, "problem", str(refusal), remedy, exit_code)
