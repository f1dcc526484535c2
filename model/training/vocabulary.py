"""Trains a byte-level BPE vocabulary with GPT-2's splitting pattern."""

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from model.tokenizer import END_OF_TEXT, SPLIT_PATTERN
from model.tokenizer import Tokenizer as GPT2Tokenizer


def train_vocabulary(texts: Iterable[str], vocab_size: int) -> GPT2Tokenizer:
    """Learn `vocab_size` tokens (256 bytes, merges, and `<|endoftext|>` as the last) by the `tokenizers` library."""
    tokenizer = Tokenizer(models.BPE())
    # The library's regex engine knows no possessive quantifiers; without them the pattern splits alike.
    pattern = Regex(SPLIT_PATTERN.replace("++", "+"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=True
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _as_gpt2_tokenizer(tokenizer)


def _as_gpt2_tokenizer(tokenizer: Tokenizer) -> GPT2Tokenizer:
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    vocab = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    vocab[END_OF_TEXT] = len(vocab)
    return GPT2Tokenizer(vocab, merges)
