"""Which tokens of a directory were added to its vocabulary, and which of them are special: from the four files that may say so."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from model.added_tokens import AddedToken, with_ids
from model.input_files import MAX_TOKEN_ID, VOCABULARY_BYTES, shown
from model.tokenizer import END_OF_TEXT, TokenizerError
from model.vocabulary_files import Json, is_there, read_object

# What `transformers`' classes take where no file names them.
DEFAULTS = {
    "GPT2Tokenizer": {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT},
    "BertTokenizer": {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
}
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
UNKNOWN = -1  # the id of a token that no file numbers


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The added tokens by id, and those that have a role."""

    added: list[AddedToken]
    roles: dict[str, AddedToken]

    @property
    def bos(self) -> AddedToken | None:
        return self.roles.get("bos_token")

    @property
    def eos(self) -> AddedToken | None:
        return self.roles.get("eos_token")

    @property
    def cls(self) -> AddedToken | None:
        return self.roles.get("cls_token")

    @property
    def sep(self) -> AddedToken | None:
        return self.roles.get("sep_token")

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text; of BERT's, which have none, the one behind every text."""
        end = self.eos or self.sep
        return None if end is None else end.id


def read_special_tokens(directory: Path, model: Json, config: Json, kind: str | None, in_tokenizer_json: object) -> SpecialTokens:
    """Of the directory whose `tokenizer_config.json` is `config`; `kind` is the tokenizer's class.

    Raises TokenizerError if a file gives a token another id than `transformers` would.
    """
    vocab = model["vocab"]
    assert isinstance(vocab, dict)
    try:
        return _read(directory, vocab, dict(config), kind, in_tokenizer_json)
    except TokenizerError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise TokenizerError(
            f"the added tokens of {directory} are not written as `transformers` writes them: {shown(error)}"
        ) from error


def _read(directory: Path, vocab: dict[str, int], config: Json, kind: str | None, in_tokenizer_json: object) -> SpecialTokens:
    declared = {token.content: token for token in sorted(map(_added_token, _list(in_tokenizer_json)), key=lambda token: token.id)}
    decoder, older = config.get("added_tokens_decoder"), directory / "added_tokens.json"
    if decoder is None and is_there(directory / "special_tokens_map.json"):
        config |= read_object(directory / "special_tokens_map.json")
    roles, others = _named(config, vocab, kind, declared)
    if decoder is not None:
        for token_id, fields in sorted(_dict(decoder).items(), key=lambda item: int(item[0])):
            token = _added_token({**_dict(fields), "id": int(token_id)})
            declared[token.content] = token
    elif is_there(older):
        named = {*roles.values(), *others}
        for content, number in sorted(read_object(older, VOCABULARY_BYTES).items(), key=lambda item: _int(item[1])):
            special = content in named
            declared.setdefault(content, AddedToken(_int(number), content, normalized=not special, special=special))
    for content in (*roles.values(), *others):
        declared[content] = replace(declared.get(content, AddedToken(UNKNOWN, content)), special=True)
    placed = {token.content: token for token in with_ids(declared.values(), vocab)}
    for token in declared.values():
        if token.id not in (UNKNOWN, placed[token.content].id):
            raise TokenizerError(
                f"the files of {directory} give the added token {shown(token.content)} the id {token.id}, but behind a vocabulary "
                f"of {len(vocab)} tokens transformers reads it as {placed[token.content].id}"
            )
    return SpecialTokens(list(placed.values()), {role: placed[content] for role, content in roles.items()})


def _named(
    config: Json, vocab: dict[str, int], kind: str | None, declared: dict[str, AddedToken]
) -> tuple[dict[str, str], list[str]]:
    """The contents of the tokens with a role, by it, and of other special ones. Defaults that the vocabulary lacks are none."""
    defaults = {role: content for role, content in DEFAULTS.get(kind or "", {}).items() if content in vocab or content in declared}
    named = {role: config[role] for role in config if role.endswith("_token") and isinstance(config[role], str | dict)}
    absent = [role for role in ROLES if role in config and not config[role]]
    roles = {role: content for role, content in defaults.items() if role not in absent}
    roles |= {role: token_content(value) for role, value in named.items()}
    more = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    others = more.values() if isinstance(more, dict) else _list(more)
    order = sorted(roles, key=lambda role: ROLES.index(role) if role in ROLES else len(ROLES))
    return {role: roles[role] for role in order}, [token_content(value) for value in others]


def token_content(value: object) -> str:
    """The text of a token that a file writes as a string or with its properties."""
    content = value["content"] if isinstance(value, dict) else value
    if not isinstance(content, str) or not content:
        raise TokenizerError(f"a token is written as {shown(value)}; it must be a string or an object with its content")
    return content


def _added_token(fields: object) -> AddedToken:
    fields = _dict(fields)
    flags = {name: fields.get(name, False) is True for name in ("single_word", "lstrip", "rstrip", "special")}
    normalized = fields.get("normalized", not flags["special"]) is True
    return AddedToken(_int(fields["id"]), token_content(fields), normalized=normalized, **flags)


def _int(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_TOKEN_ID:
        raise TypeError(f"{shown(value)} is no token id")
    return value


def _dict(value: object) -> Json:
    if not isinstance(value, dict):
        raise TypeError(f"{shown(value)} is no object")
    return value


def _list(value: object) -> Iterable[object]:
    if not isinstance(value, list):
        raise TypeError(f"{shown(value)} is no list")
    return value
