"""Checkpoint directories with tokenizers of every kind that is served, on the vocabulary of 8,192 tokens in tests/data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCABULARY = Path(__file__).parents[1] / "data" / "vocab8192"
Files = dict[str, Any]

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
END = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BOS = {
    "type": "TemplateProcessing",
    "single": [END, TEXT],
    "pair": [END, TEXT, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [8191], "tokens": ["<|endoftext|>"]}},
}
# The class of `transformers` that takes a tokenizer.json as it is; GPT-2's own, from release 5 on, drops its normalizer.
AS_IT_IS = {"tokenizer_class": "PreTrainedTokenizerFast"}
BERT = {"tokenizer_class": "BertTokenizer"}
SPECIAL_WORDS = "[PAD] [unused1] [UNK] [CLS] [SEP] [MASK]"
PIECES_OF_WORDS = "你 好 世 界 hello world ##ing ##s play , . ! cafe ##é a b ##b ##a 。 ， < | > user ( ) ' don t ##t [ ] cls"
WORDS = f"{SPECIAL_WORDS} {PIECES_OF_WORDS}".split()
WORD_FILES = {"vocab.txt": "".join(f"{word}\n" for word in WORDS)}


def added(token_id: int, content: str, special: bool = False, **flags: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special} | flags
    return {"id": token_id, "content": content, **flags}


END_OF_TEXT = added(8191, "<|endoftext|>", special=True)
DIALOGUE = [END_OF_TEXT, added(8192, "<|user|>", special=True), added(8193, "<|bot|>", special=True), added(8194, "wörd")]


def bpe_file(tokens: list[dict[str, Any]] | None = None, **parts: object) -> Files:
    vocab = json.loads((VOCABULARY / "vocab.json").read_text(encoding="utf-8"))
    merges = [line for line in (VOCABULARY / "merges.txt").read_text(encoding="utf-8").split("\n") if line and line[0] != "#"]
    whole: Files = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens or [END_OF_TEXT],
        "normalizer": None,
    }
    whole |= {"pre_tokenizer": BYTE_LEVEL, "post_processor": None, "decoder": BYTE_LEVEL}
    return whole | {"model": {"type": "BPE", "vocab": vocab, "merges": merges}} | parts


def word_piece_file(**parts: object) -> Files:
    special = [
        added(i, word, special=True) for i, word in enumerate(WORDS) if word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    ]
    cut_at = {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    }
    whole: Files = {
        "version": "1.0",
        "truncation": cut_at,
        "padding": None,
        "added_tokens": special,
        "normalizer": normalizer | {"lowercase": True},
    }
    whole |= {"normalizer": normalizer | {"lowercase": True}, "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None}
    whole |= {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}
    return whole | {"model": model | {"vocab": {word: i for i, word in enumerate(WORDS)}}} | parts


GPT2_FILES = dict.fromkeys(["vocab.json", "merges.txt"])  # copied from the vocabulary
USER_AND_BOT = {"<|user|>": 8192, "<|bot|>": 8193, "wörd": 8194}
SPECIAL = {"additional_special_tokens": ["<|user|>", "<|bot|>"], "pad_token": "<pad>"}
DECODER = {
    str(token["id"]): {name: value for name, value in token.items() if name != "id"} for token in [*DIALOGUE, added(8195, "wörder")]
}

MORE = {"extra_special_tokens": ["<|x|>"], "pad_token": "[PAD]"}
TAKING_BLANKS = [added(8192, "<mask>", special=True, lstrip=True), added(8193, "word", single_word=True)]
KINDS: dict[str, Callable[[], Files]] = {
    "plain": lambda: GPT2_FILES,
    "added_tokens.json": lambda: GPT2_FILES | {"added_tokens.json": USER_AND_BOT},
    "special_tokens_map.json": lambda: GPT2_FILES | {"added_tokens.json": USER_AND_BOT, "special_tokens_map.json": SPECIAL},
    "tokenizer_config.json": lambda: (
        GPT2_FILES
        | {"tokenizer_config.json": {"added_tokens_decoder": DECODER, "extra_special_tokens": ["<|x|>"], "pad_token": "[PAD]"}}
    ),
    "tokenizer.json": lambda: {"tokenizer.json": bpe_file([*DIALOGUE, added(8195, "<|use")])},
    "tokenizer.json, as it is": lambda: {"tokenizer.json": bpe_file(DIALOGUE), "tokenizer_config.json": AS_IT_IS},
    "overlapping": lambda: (
        {"tokenizer.json": bpe_file([added(307, "ld"), added(7827, "ello"), END_OF_TEXT, added(8192, "d<|", normalized=False)])}
    ),
    "prefix space": lambda: GPT2_FILES | {"tokenizer_config.json": {"add_prefix_space": True}},
    "prefix space beside tokenizer.json": lambda: (
        {"tokenizer.json": bpe_file(), "tokenizer_config.json": {"add_prefix_space": True}}
    ),
    "prefix space in tokenizer.json": lambda: (
        {"tokenizer.json": bpe_file(pre_tokenizer=BYTE_LEVEL | {"add_prefix_space": True}), "tokenizer_config.json": AS_IT_IS}
    ),
    "BOS": lambda: GPT2_FILES | {"tokenizer_config.json": {"add_bos_token": True}},
    "BOS and EOS": lambda: GPT2_FILES | {"tokenizer_config.json": {"add_bos_token": True, "add_eos_token": True}},
    "BOS by a post-processor": lambda: {"tokenizer.json": bpe_file(post_processor=BOS)},
    "add_bos_token, on which tokenizer.json has the last word": lambda: (
        {"tokenizer.json": bpe_file(), "tokenizer_config.json": {"add_bos_token": True}}
    ),
    "lower case": lambda: (
        {
            "tokenizer.json": bpe_file([*DIALOGUE, added(8195, "CAFÉ")], normalizer={"type": "Lowercase"}),
            "tokenizer_config.json": AS_IT_IS,
        }
    ),
    "whitespace": lambda: {"tokenizer.json": bpe_file(pre_tokenizer={"type": "Whitespace"}), "tokenizer_config.json": AS_IT_IS},
    "whitespace, then bytes": lambda: (
        {
            "tokenizer.json": bpe_file(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, BYTE_LEVEL]}),
            "tokenizer_config.json": AS_IT_IS,
        }
    ),
    "tokens that take blanks": lambda: (
        {
            "tokenizer.json": bpe_file(
                [END_OF_TEXT, added(8192, "<mask>", special=True, lstrip=True), added(8193, "word", single_word=True)]
            ),
            "tokenizer_config.json": AS_IT_IS,
        }
    ),
    "WordPiece": lambda: WORD_FILES | {"tokenizer_config.json": BERT},
    "WordPiece, cased": lambda: WORD_FILES | {"tokenizer_config.json": BERT | {"do_lower_case": False}},
    "WordPiece with more": lambda: (
        WORD_FILES | {"tokenizer_config.json": BERT | {"bos_token": "[BOS]"}, "added_tokens.json": {"<|user|>": len(WORDS)}}
    ),
    "WordPiece in tokenizer.json": lambda: {"tokenizer.json": word_piece_file(), "tokenizer_config.json": BERT},
    "WordPiece in tokenizer.json, cased by its class": lambda: (
        {"tokenizer.json": word_piece_file(), "tokenizer_config.json": BERT | {"do_lower_case": False}}
    ),
    "WordPiece in tokenizer.json, as it is": lambda: {"tokenizer.json": word_piece_file(), "tokenizer_config.json": AS_IT_IS},
}

SIZES = {"vocab_size": 8200, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
CONFIG = {"model_type": "gpt2", "eos_token_id": 8191} | SIZES


def write_directory(directory: Path, files: Files, **config: object) -> Path:
    """Write a config and the files; None stands for the vocabulary's own."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, contents in ({"config.json": CONFIG | config} | files).items():
        if contents is None:
            shutil.copy(VOCABULARY / name, directory / name)
        else:
            text = contents if isinstance(contents, str) else json.dumps(contents, ensure_ascii=False)
            (directory / name).write_text(text, encoding="utf-8")
    return directory
