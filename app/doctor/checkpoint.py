"""The checkpoint, and what would compute it: looked at as far as headers and vocabulary tell. No weight is packed, none fetched."""

import shutil
from pathlib import Path

from app.chat.conversation import open_chat
from app.doctor.finding import Finding, advice, ok, problem
from app.errors import StartupError
from app.settings import DEFAULT_MODEL, Settings
from model.checkpoint import Checkpoint, CheckpointError, load_tokenizer, open_checkpoint, resolve_model
from model.hub import NotFetched, cached
from model.memory import mega
from model.tokenizer import Tokenizer

WRONG_CALL = 2  # CommandError's exit code


def model(settings: Settings, named_by: str) -> tuple[Finding, Path | None, Checkpoint | None]:
    """Where the model is, and whether its files fit together; of one that is still to be fetched nothing more is known."""
    try:
        directory = resolve_model(settings.model, cached)
        checkpoint = open_checkpoint(directory)
    except NotFetched as error:
        return _to_be_fetched(settings.model, error.cache), None, None
    except CheckpointError as error:
        return _unusable("model", error, named_by), None, None
    name = "the default checkpoint" if directory.resolve() == DEFAULT_MODEL.resolve() else str(directory)
    text = f"{name}: {checkpoint.config.num_parameters / 1e6:,.1f} M parameters, {checkpoint.config.n_positions} tokens of context"
    return ok("model", text), directory, checkpoint


def _unusable(check: str, error: CheckpointError, named_by: str) -> Finding:
    """A wrong call where an option named the model, as app.errors has it of ModelUnusable."""
    exit_code = WRONG_CALL if named_by.startswith("--") else StartupError.exit_code
    return problem(check, f"{named_by}: {error}", exit_code=exit_code)


def _to_be_fetched(name: str, cache: Path) -> Finding:
    nearest = next(parent for parent in (cache, *cache.parents) if parent.exists())
    text = f"{name} is to be fetched from the hub first, into {cache}, where {mega(shutil.disk_usage(nearest).free)} are free"
    return advice("model", text, f"hf download {name}, where the service is not to wait for it")


def tokenizer(directory: Path, named_by: str) -> tuple[Finding, Tokenizer | None]:
    try:
        found = load_tokenizer(directory)
    except CheckpointError as error:
        return _unusable("vocabulary", error, named_by), None
    return ok("vocabulary", f"{found.vocab_size} tokens"), found


def chat(settings: Settings, directory: Path, tokens: Tokenizer, end_id: int) -> Finding:
    lines: list[str] = []
    try:
        opened = open_chat(settings.chat_template, directory, tokens, end_id, lines.append)
        opened.close()
    except StartupError as error:
        return problem("chat", error)
    if not lines:
        return ok("chat", "no template: /v1/chat/completions is refused")
    if lines[0].startswith("no chat: "):
        return advice("chat", lines[0], "set GPT2_CHAT_TEMPLATE, to plain perhaps")
    return ok("chat", lines[0].removeprefix("chat "))
