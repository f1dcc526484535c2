"""All checks, in the order in which `gpt2 serve` meets what they look at: the first problem is the line that it would end with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.doctor import checkpoint, door, limits
from app.doctor.computing import Computing, computing, room
from app.doctor.finding import Finding
from app.doctor.processor import processor, speed, threads
from app.doctor.room import huge_pages
from app.doctor.traces import traces
from app.doctor.variables import settings as written_settings
from app.errors import StartupError
from app.settings import Settings
from app.version import VERSION

# As people read them: what is served, what computes, what the system gives.
ORDER = (
    "settings", "address", "keys", "traces", "model", "vocabulary", "chat", "gpu", "processor", "kernels", "threads", "speed",
    "memory", "huge pages", "open files", "processes", "rights", "clock",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Examination:
    """Findings in the order above; `problem` is the one that `gpt2 serve` would not start for, None if it would."""

    settings: Settings
    planned: Computing
    num_slots: int | None
    findings: tuple[Finding, ...]
    problem: Finding | None

    @property
    def refusal(self) -> str | None:
        """What `gpt2 serve` would say."""
        return None if self.problem is None else self.problem.text

    @property
    def exit_code(self) -> int:
        return 0 if self.problem is None else self.problem.exit_code


def examine(settings: Settings, named_by: str = "GPT2_MODEL") -> Examination:
    """`named_by` is the option or the variable that the model was named by."""
    of_keys, has_keys = door.keys(settings)
    findings = [door.address(settings, has_keys), traces(), of_keys]
    of_computing, planned = computing(settings)
    findings += of_computing[:1]  # the device is chosen before the model is looked for, its kernels behind
    of_model, directory, opened = checkpoint.model(settings, named_by)
    findings += [of_model, *of_computing[1:]]
    num_slots = None
    if opened is not None and planned.foreseen is not None:
        of_room, num_slots = room(settings, planned, opened.config)
        findings.append(of_room)
    if opened is not None and directory is not None:
        of_tokenizer, tokenizer = checkpoint.tokenizer(directory, named_by)
        findings.append(of_tokenizer)
        if tokenizer is not None:
            findings.append(checkpoint.chat(settings, directory, tokenizer, opened.config.eos_token_id))
    problem = next((finding for finding in findings if finding.level == "problem"), None)
    findings += _of_the_system(settings, planned)
    return Examination(
        settings, planned, num_slots, tuple(sorted(findings, key=lambda finding: ORDER.index(finding.check))), problem
    )


def _of_the_system(settings: Settings, planned: Computing) -> list[Finding]:
    num_threads = planned.foreseen.num_threads if planned.foreseen is not None else settings.threads
    return [
        written_settings(),
        processor(),
        threads(settings.threads),
        speed(),
        huge_pages(),
        limits.open_files(settings.max_connections, limits.open_file_limits()),
        limits.processes(num_threads),
        limits.rights(),
        limits.clock(limits.is_synchronised(), Path(__file__).stat().st_mtime),
    ]


def document(examination: Examination) -> dict[str, Any]:
    """As JSON has it: names and levels stay, texts may change."""
    settings, planned = examination.settings, examination.planned
    foreseen = planned.foreseen
    return {
        "version": VERSION,
        "would_start": examination.refusal is None,
        "exit_code": examination.exit_code,
        "refusal": examination.refusal,
        "host": settings.host,
        "port": settings.port,
        "model": settings.model,
        "device": planned.device,
        "backend": foreseen.backend if foreseen is not None else None,
        "kernels": list(foreseen.kernels) if foreseen is not None else [],
        "precisions": list(planned.precisions),
        "threads": foreseen.num_threads if foreseen is not None else None,
        "max_running": examination.num_slots,
        "findings": [
            {"check": finding.check, "level": finding.level, "text": finding.text, "remedy": finding.remedy or None}
            for finding in examination.findings
        ],
    }


def document_without_settings(refusal: StartupError) -> dict[str, Any]:
    """The same names where a setting is refused, so that nothing can be looked at."""
    return {
        "version": VERSION,
        "would_start": False,
        "exit_code": refusal.exit_code,
        "refusal": str(refusal),
        "host": None,
        "port": None,
        "model": None,
        "device": None,
        "backend": None,
        "kernels": [],
        "precisions": [],
        "threads": None,
        "max_running": None,
        "findings": [],
    }
