"""The vocabularies of tokenizer files: `vocab.json` with `merges.txt`, `vocab.txt`, and the model within a `tokenizer.json`.

Knows what the files must look like; not which tokens were added to them, nor how a text is cut.
"""

from collections.abc import Sequence
from pathlib import Path

from model import input_files
from model.input_files import CONFIG_BYTES, MAX_TOKEN_ID, VOCABULARY_BYTES, FileUnusable, cut, shown
from model.tokenizer import TokenizerError

Json = dict[str, object]


def read_object(file: Path, limit: int = CONFIG_BYTES) -> Json:
    """The JSON object in a file; raises TokenizerError naming it."""
    contents = _read_json(file, limit)
    if not isinstance(contents, dict):
        raise TokenizerError(f"{file} must hold one JSON object")
    return contents


def is_there(file: Path) -> bool:
    try:
        return input_files.is_there(file)
    except FileUnusable as error:
        raise TokenizerError(str(error)) from error


def _read_json(file: Path, limit: int) -> object:
    try:
        return input_files.read_json(file, limit)
    except FileUnusable as error:
        raise TokenizerError(str(error)) from error


def _read_lines(file: Path) -> list[str]:
    try:
        text = input_files.read_text(file, VOCABULARY_BYTES)
    except FileUnusable as error:
        raise TokenizerError(str(error)) from error
    if text.startswith("\ufeff"):
        raise TokenizerError(f"{file} begins with a byte order mark, which would be part of its first token; save it without")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_vocab_and_merges(vocab_file: Path, merges_file: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """`vocab.json` and `merges.txt` of GPT-2's release; raises TokenizerError naming the file that is unusable."""
    vocab = _read_json(vocab_file, VOCABULARY_BYTES)
    lines = _read_lines(merges_file)
    if lines[0].startswith("#version"):
        lines = lines[1:]
    return checked_vocab(vocab, vocab_file), checked_merges([line.split(" ") for line in lines if line], merges_file)


def read_word_list(file: Path) -> dict[str, int]:
    """`vocab.txt`: a token a line, its id the line's number from 0 on."""
    lines = _read_lines(file)
    tokens = lines[:-1] if lines[-1] == "" else lines
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocab[token] != i)
        raise TokenizerError(f"{file} has the token {shown(twice)} twice")
    return vocab


def checked_vocab(vocab: object, file: Path) -> dict[str, int]:
    if not isinstance(vocab, dict) or not all(type(i) is int and 0 <= i <= MAX_TOKEN_ID for i in vocab.values()):
        raise TokenizerError(f"{file} must have one object that maps tokens to ids, which are 0 to {MAX_TOKEN_ID}")
    if len(set(vocab.values())) < len(vocab):
        raise TokenizerError(f"{file} gives several tokens the same id")
    return vocab


def checked_merges(pairs: Sequence[object], file: Path) -> list[tuple[str, str]]:
    merges = []
    for pair in pairs:
        # Written out: a vocabulary has 50,000 of these, and a generator for each would take a twentieth of a second of every start.
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str or "" in pair:
            raise TokenizerError(f"{file}: a merge is two tokens parted by one space, not {shown(pair)}")
        merges.append((pair[0], pair[1]))
    return merges


def checked_model(contents: Json, file: Path) -> Json:
    """The model of a `tokenizer.json`: BPE with merges as pairs, or WordPiece."""
    model = contents.get("model")
    if not isinstance(model, dict) or "vocab" not in model:
        raise TokenizerError(f"{file} is not a tokenizer of the `tokenizers` library: it has no model with a vocabulary")
    kind = model.get("type", "BPE" if "merges" in model else "WordPiece")  # early releases of the library left it out
    if kind not in ("BPE", "WordPiece"):
        raise TokenizerError(f"{file} holds a {cut(str(kind))} model; served are BPE and WordPiece")
    checked = {**model, "type": kind, "vocab": checked_vocab(model["vocab"], file)}
    if kind == "BPE":
        merges = model.get("merges")
        if not isinstance(merges, list):
            raise TokenizerError(f"{file} is not a tokenizer of the `tokenizers` library: its merges are no list")
        checked["merges"] = checked_merges([pair.split(" ") if isinstance(pair, str) else pair for pair in merges], file)
    return checked
