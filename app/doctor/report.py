"""An examination as a screen of text, 80 columns wide. Knows no check."""

import textwrap
from collections.abc import Iterator

from app.doctor.examination import Examination
from app.doctor.finding import Finding, Level
from app.version import VERSION

WIDTH = 80
COLUMNS = {"level": 9, "check": 12}
INDENT = 2 + sum(COLUMNS.values())
COLOURS: dict[Level, str] = {"ok": "\x1b[32m", "advice": "\x1b[33m", "problem": "\x1b[31m"}
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def _wrapped(text: str, hanging: str = "") -> list[str]:
    """Words whole: what is to be copied stays in one piece."""
    return textwrap.wrap(text, WIDTH - INDENT, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)


def screen(examination: Examination, has_colours: bool) -> str:
    lines = [_head(examination), ""]
    for finding in examination.findings:
        lines += _lines_of(finding, has_colours)
    return "\n".join([*lines, "", _foot(examination)]) + "\n"


def _head(examination: Examination) -> str:
    settings = examination.settings
    if examination.problem is None:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"gpt2 {VERSION}: `gpt2 serve` would start here, at http://{host}:{settings.port or '(a free port)'}"
    return f"gpt2 {VERSION}: `gpt2 serve` would not start here (exit code {examination.exit_code}): see {examination.problem.check}"


def _lines_of(finding: Finding, has_colours: bool) -> Iterator[str]:
    text = _wrapped(finding.text)
    level = finding.level.ljust(COLUMNS["level"])
    if has_colours:
        level = f"{COLOURS[finding.level]}{level}{PLAIN}"
    yield f"  {level}{finding.check.ljust(COLUMNS['check'])}{text[0]}"
    yield from (" " * INDENT + line for line in text[1:])
    for line in _wrapped(f"> {finding.remedy}", "  ") if finding.remedy else ():
        yield " " * INDENT + (f"{DIM}{line}{PLAIN}" if has_colours else line)


def _foot(examination: Examination) -> str:
    levels = [finding.level for finding in examination.findings]
    return f"{levels.count('ok')} in order, {levels.count('advice')} to be improved, {levels.count('problem')} in the way"
