"""Byte-level BPE vocabularies with GPT-2's splitting pattern: learned from text by the `tokenizers` library, or read.

Vocabularies of characters are of the same files: their merges build single characters and no more. The first byte of a
character is never the second part of such a merge, so that each character is encoded alone, a rare one as two tokens or more,
wherever a text is split.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from model.bpe import SPLIT_PATTERN, BPETokenizer
from model.checkpoint import save_tokenizer
from model.tokenizer import END_OF_TEXT, TokenizerError
from model.tokenizer_files import read_tokenizer
from model.training.data.corpus import Corpus
from model.training.defaults import default_vocab_size
from model.training.errors import TrainingError
from model.training.overwriting import check_no_tokenizer

FILES = ("vocab.json", "merges.txt")
MIN_SIZE = 257  # the bytes and the end token
SAMPLE_BYTES = 20_000_000
CHARACTER = r"[\s\S]"
ENDLESS_WORD = re.compile(r"[^\W\d_]{256}|\d{256}|\s{256}|[^\w\s]{256}|_{256}")


def learn_vocabulary(
    corpus: Corpus,
    vocab_size: int | None,
    out: Path,
    report: Callable[[str], None],
    characters: bool = False,
) -> BPETokenizer:
    """Learn a vocabulary from a corpus and write it to `out`; a size of None is chosen for the text."""
    check_no_tokenizer(out, {})
    wanted = default_vocab_size(corpus.num_bytes) if vocab_size is None else vocab_size
    report(f"learning a vocabulary of {wanted:,} tokens{', characters at most' if characters else ''}")
    tokenizer = train_vocabulary(_sample(corpus), wanted, characters)
    if vocab_size is not None and tokenizer.vocab_size < vocab_size:
        raise TrainingError(
            f"the text supports a vocabulary of at most {tokenizer.vocab_size} tokens, not {vocab_size}: "
            f"more text, or --vocab-size {tokenizer.vocab_size}"
        )
    save_tokenizer(out, tokenizer)
    return tokenizer


def _sample(corpus: Corpus) -> Iterator[str]:
    """Every n-th paragraph, about SAMPLE_BYTES: they know the same words as the whole, in less time."""
    parts = (part for file in corpus.files for part in corpus.parts(file))
    paragraphs = (paragraph for part in parts for paragraph in part.text.split("\n\n") if paragraph)
    return islice(paragraphs, 0, None, max(1, corpus.num_bytes // SAMPLE_BYTES))


def check_size(vocab_size: int) -> None:
    if vocab_size < MIN_SIZE:
        raise TrainingError(f"a vocabulary of {vocab_size} is too small: the bytes and the end token alone are {MIN_SIZE}")


def train_vocabulary(texts: Iterable[str], vocab_size: int, characters: bool = False) -> BPETokenizer:
    """Learn `vocab_size` tokens: 256 bytes, merges, and `<|endoftext|>` as the last. Fewer, if the text has no more to merge.

    With `characters` no merge goes beyond one character.
    """
    check_size(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    # The library's regex engine knows no possessive quantifiers; without them the pattern splits alike.
    pattern = Regex(CHARACTER if characters else SPLIT_PATTERN.replace("++", "+"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator((part for text in texts for part in _without_endless_words(text)), trainer)
    return _as_gpt2_tokenizer(tokenizer)


def _without_endless_words(text: str) -> Iterator[str]:
    """The text, cut behind every so many characters of one kind: the trainer's time grows with the square of a word's length.

    A megabyte of one letter would take it an hour, and has nothing to teach.
    """
    start = 0
    for word in ENDLESS_WORD.finditer(text):
        yield text[start : word.end()]
        start = word.end()
    yield text[start:]


def _as_gpt2_tokenizer(tokenizer: Tokenizer) -> BPETokenizer:
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    vocab = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    vocab[END_OF_TEXT] = len(vocab)
    return BPETokenizer(vocab, merges)


def has_vocabulary(directory: Path) -> bool:
    return all((directory / file).exists() for file in FILES)


def has_other_vocabulary(directory: Path, tokenizer: BPETokenizer) -> bool:
    """Whether writing this vocabulary there would lose one, or a half of one."""
    if not has_vocabulary(directory):
        return any((directory / file).exists() for file in FILES)
    there = load_vocabulary(directory)
    return there.vocab != tokenizer.vocab or there.merges != tokenizer.merges


def load_vocabulary(directory: Path) -> BPETokenizer:
    """The vocabulary of a directory that need not hold a model."""
    for file in FILES:
        if not (directory / file).exists():
            raise TrainingError(f"{directory} has no {file}; make a vocabulary by gpt2 train tokenizer")
    try:
        tokenizer = read_tokenizer(directory)
    except TokenizerError as error:
        raise TrainingError(str(error)) from error
    if not isinstance(tokenizer, BPETokenizer):
        raise TrainingError(f"the tokenizer in {directory} is not GPT-2's plain one; with another, fine-tune a model that has it")
    if tokenizer.eos_token_id is None:
        raise TrainingError(f"the vocabulary in {directory} has no end token <|endoftext|>")
    return tokenizer
