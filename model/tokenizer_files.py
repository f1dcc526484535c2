"""A checkpoint directory's tokenizer files, read as `transformers`' AutoTokenizer reads them, made into the tokenizer described.

`tokenizer.json` comes first, else `vocab.json` with `merges.txt` (GPT-2's) or `vocab.txt` (BERT's). What GPT-2's release has
goes to model.bpe, everything else to the `tokenizers` library; what neither can do is refused by name.
"""

from dataclasses import dataclass
from pathlib import Path

from model.added_tokens import AddedToken
from model.bpe import BPETokenizer, check_made
from model.input_files import CONFIG_BYTES, VOCABULARY_BYTES, FileUnusable, cut, read_file, shown
from model.library_tokenizer import LibraryByteTokenizer, WordPieceTokenizer
from model.special_tokens import SpecialTokens, read_special_tokens, token_content
from model.tokenizer import Tokenizer, TokenizerError
from model.vocabulary_files import Json, checked_model, is_there, read_object, read_vocab_and_merges, read_word_list

# All that says how a text is cut, and what a dialogue is written as.
FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
GPT2, BERT = "GPT2Tokenizer", "BertTokenizer"
# Classes of `transformers` that take a tokenizer.json as it is.
AS_IT_IS = (None, "TokenizersBackend", "PreTrainedTokenizer", "PythonBackend")
# What makes tokens otherwise than by merges of the parts that they are written as.
ODD_MERGING = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
BYTE_LEVEL: Json = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@dataclass(frozen=True, slots=True)
class Description:
    """What a directory's files say together; the parts are those of a `tokenizer.json`."""

    model: Json
    normalizer: Json | None
    pre_tokenizer: Json | None
    post_processor: Json | None
    decoder: Json | None
    special: SpecialTokens

    @property
    def vocab(self) -> dict[str, int]:
        vocab = self.model["vocab"]
        assert isinstance(vocab, dict)
        return vocab

    @property
    def is_plain_gpt2(self) -> bool:
        """Whether it is what GPT-2's release has, and what tiktoken therefore does: GPT-2's pattern and merges, nothing else."""
        model, splits = self.model, self.pre_tokenizer or {}
        return (
            model["type"] == "BPE"
            and not any(model.get(name) for name in ("dropout", *ODD_MERGING))
            and self.normalizer is None
            and splits.get("type") == "ByteLevel"
            and not splits.get("add_prefix_space")
            and splits.get("use_regex", True) is True
            and _adds_nothing(self.post_processor)
            and self.decoder is not None
            and self.decoder["type"] == "ByteLevel"
            and all(token.is_plain for token in self.special.added)
        )

    def to_json(self) -> Json:
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [token.to_json() for token in self.special.added],
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": self.post_processor,
            "decoder": self.decoder,
            "model": self.model,
        }


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a directory; raises TokenizerError that says which file or field is at fault."""
    try:
        files = {name: read_file(directory / name, VOCABULARY_BYTES) for name in FILES if is_there(directory / name)}
    except FileUnusable as error:
        raise TokenizerError(str(error)) from error
    tokenizer = _make(describe(directory))
    tokenizer.files = files
    return tokenizer


def _make(description: Description) -> Tokenizer:
    model, vocab, special = description.model, description.vocab, description.special
    if description.is_plain_gpt2:
        merges = model["merges"]
        assert isinstance(merges, list)
        tokenizer = BPETokenizer(vocab, merges, special.added, special.eos_token_id)
        if tokenizer.merges_in_one_way:
            return tokenizer
    if model["type"] == "BPE" and not any(model.get(name) for name in ODD_MERGING):
        made = {left + right for left, right in model["merges"]}  # type: ignore[attr-defined]
        check_made([token for token in vocab if len(token) > 1 and token not in made], vocab, special.added)
    if (kind := _decoder_of(description)) == "ByteLevel":
        return LibraryByteTokenizer(description.to_json(), vocab, special.added, special.eos_token_id)
    if kind == "WordPiece" and model["type"] == "WordPiece":
        return WordPieceTokenizer(description.to_json(), vocab, special.added, special.eos_token_id)
    raise TokenizerError(
        f"its decoder is {shown(kind)} for a model of the type {model['type']}; ByteLevel and WordPiece can be streamed"
    )


def _decoder_of(description: Description) -> object:
    return None if description.decoder is None else description.decoder.get("type")


def _adds_nothing(post_processor: Json | None) -> bool:
    if post_processor is None or post_processor.get("type") == "ByteLevel":
        return True
    return post_processor.get("type") == "TemplateProcessing" and not post_processor.get("special_tokens")


def describe(directory: Path) -> Description:
    """What the files of a directory say together."""
    config = _optional(directory / "tokenizer_config.json")
    if config.get("split_special_tokens"):
        raise TokenizerError(
            "tokenizer_config.json: split_special_tokens is true; no tokenizer that takes special tokens apart is served"
        )
    kind = config.get("tokenizer_class") or _optional(directory / "config.json").get("tokenizer_class")
    kind = str(kind).removesuffix("Fast") if kind else None
    if is_there(directory / "tokenizer.json"):
        return _from_tokenizer_json(directory, kind, config)
    if is_there(directory / "vocab.json") and is_there(directory / "merges.txt") and kind in (GPT2, *AS_IT_IS):
        return _from_vocab_and_merges(directory, config)
    if is_there(directory / "vocab.txt") and kind in (None, BERT):
        return _from_word_list(directory, config)
    if kind not in (GPT2, BERT, *AS_IT_IS):
        raise TokenizerError(
            f"its tokenizer_class is {cut(kind)}, which can be read from a tokenizer.json alone; save one with transformers"
        )
    raise TokenizerError("there is neither vocab.json with merges.txt nor tokenizer.json nor vocab.txt; add them from the source")


def _optional(file: Path) -> Json:
    return read_object(file, CONFIG_BYTES) if is_there(file) else {}


def _from_tokenizer_json(directory: Path, kind: str | None, config: Json) -> Description:
    """As the file says, but for what GPT-2's and BERT's classes set by `tokenizer_config.json`, whatever the file says."""
    file = directory / "tokenizer.json"
    contents = read_object(file, VOCABULARY_BYTES)
    model = checked_model(contents, file)
    names = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    parts = {name: _part(contents, name, file) for name in names}
    if model["type"] == "BPE" and kind in (None, GPT2):
        kind = GPT2
        defaults = _gpt2_parts(config)
        parts |= {name: parts[name] or defaults[name] for name in ("pre_tokenizer", "decoder")}
        if (splits := parts["pre_tokenizer"]) is not None and splits.get("type") == "ByteLevel":
            parts["pre_tokenizer"] = splits | {"add_prefix_space": config.get("add_prefix_space") is True}
    special = read_special_tokens(directory, model, config, kind, contents.get("added_tokens", []))
    if model["type"] == "WordPiece" and kind == BERT:
        defaults = _bert_parts(config, special)
        normalizer = parts["normalizer"] or {}
        parts = {name: parts[name] or defaults[name] for name in names}
        if normalizer.get("type") == "BertNormalizer":
            parts["normalizer"] = defaults["normalizer"]
    return Description(model, **parts, special=special)


def _part(contents: Json, name: str, file: Path) -> Json | None:
    part = contents.get(name)
    if part is not None and not (isinstance(part, dict) and isinstance(part.get("type"), str)):
        raise TokenizerError(f"{file}: {name} is {shown(part)}; it must be an object with a type")
    return part


def _from_vocab_and_merges(directory: Path, config: Json) -> Description:
    vocab, merges = read_vocab_and_merges(directory / "vocab.json", directory / "merges.txt")
    model: Json = {"type": "BPE", "vocab": vocab, "merges": merges}
    special = read_special_tokens(directory, model, config, GPT2, [])
    before = [special.bos] if config.get("add_bos_token") is True else []
    after = [special.eos] if config.get("add_eos_token") is True else []
    parts = _gpt2_parts(config)
    return Description(model, None, parts["pre_tokenizer"], _template(before, after), parts["decoder"], special)


def _from_word_list(directory: Path, config: Json) -> Description:
    vocab = read_word_list(directory / "vocab.txt")
    model: Json = {
        "type": "WordPiece",
        "unk_token": token_content(config.get("unk_token", "[UNK]")),
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocab,
    }
    special = read_special_tokens(directory, model, config, BERT, [])
    return Description(model, **_bert_parts(config, special), special=special)


def _gpt2_parts(config: Json) -> dict[str, Json | None]:
    return {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": config.get("add_prefix_space") is True}, "decoder": BYTE_LEVEL}


def _bert_parts(config: Json, special: SpecialTokens) -> dict[str, Json | None]:
    normalizer: Json = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
        "strip_accents": config.get("strip_accents"),
        "lowercase": config.get("do_lower_case", True),
    }
    return {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _template([special.cls], [special.sep]),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }


def _template(before: list[AddedToken | None], after: list[AddedToken | None]) -> Json | None:
    """Tokens around every text; None if there are none."""
    if None in before or None in after:
        raise TokenizerError("its tokenizer adds a token to every text that the vocabulary lacks: BOS, EOS, [CLS] or [SEP]")
    first, last = ([token for token in tokens if token is not None] for tokens in (before, after))
    if not first + last:
        return None

    def pieces(tokens: list[AddedToken]) -> list[Json]:
        return [{"SpecialToken": {"id": token.content, "type_id": 0}} for token in tokens]

    one = [*pieces(first), {"Sequence": {"id": "A", "type_id": 0}}, *pieces(last)]
    two = [*one, {"Sequence": {"id": "B", "type_id": 1}}]
    ids = {token.content: {"id": token.content, "ids": [token.id], "tokens": [token.content]} for token in first + last}
    return {"type": "TemplateProcessing", "single": one, "pair": two, "special_tokens": ids}
