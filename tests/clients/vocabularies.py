"""Checkpoints with random weights whose vocabularies hold many bytes a character, written without torch.

Random weights draw bytes and words in any order, so that texts hold whole characters, halves of them and what is none at all.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, NUM_POSITIONS = 32, 128
END = "<|endoftext|>"
LETTERS = "abcdeéñß日本語学中文的一是不了🙂👩‍🚀Ω"
ADDED = {"<|user|>": True, "<|bot|>": True, "naïveté": False, "日本🙂": False}  # whether each is special


def write_bytes(directory: Path, source: Path) -> None:
    """The bytes and first merges of a larger vocabulary: nearly every token is a part of a character."""
    vocab = byte_level(directory, source)
    write_model(directory, len(vocab), vocab[END])


def write_added(directory: Path, source: Path) -> None:
    """The same with tokens added behind its end, special and not."""
    vocab = byte_level(directory, source)
    added = {text: len(vocab) + i for i, text in enumerate(ADDED)}
    decoder = {added[text]: {"content": text, "special": special} | PLAIN for text, special in ADDED.items()}
    (directory / "added_tokens.json").write_text(json.dumps(added))
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": END, "added_tokens_decoder": decoder}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    write_model(directory, len(vocab) + len(added), vocab[END])


def write_wordpiece(directory: Path, source: Path) -> None:
    """Words and the pieces that go on within them, as the Chinese checkpoints have them."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({letter for letter in LETTERS if letter.isalnum()})
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters), ",", "。"]
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False}))
    write_model(directory, len(tokens), special.index("[SEP]"))


WRITERS = {"bytes": write_bytes, "added tokens": write_added, "WordPiece": write_wordpiece}
PLAIN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


def byte_level(directory: Path, source: Path, num_merges: int = 100) -> dict[str, int]:
    header, *merges = (source / "merges.txt").read_text(encoding="utf-8").splitlines()[: num_merges + 1]
    whole = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    single = sorted((token for token in whole if len(token) == 1), key=whole.get)
    tokens = [*single, *(merge.replace(" ", "") for merge in merges), END]
    vocab = {token: i for i, token in enumerate(tokens)}
    (directory / "merges.txt").write_text("\n".join([header, *merges]) + "\n", encoding="utf-8")
    (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    return vocab


def write_model(directory: Path, vocab_size: int, end: int) -> None:
    """One layer of GPT-2, its tensors named as in a checkpoint."""
    draw = np.random.default_rng(0)
    shapes = {"wte": (vocab_size, WIDTH), "wpe": (NUM_POSITIONS, WIDTH)}
    linear = {"attn.c_attn": 3, "attn.c_proj": 1, "mlp.c_fc": 4}
    shapes |= {f"h.0.{name}": (WIDTH, times * WIDTH) for name, times in linear.items()} | {"h.0.mlp.c_proj": (4 * WIDTH, WIDTH)}
    tensors = {f"{name}.weight": draw.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": np.zeros(shape[1], np.float32) for name, shape in shapes.items() if name.startswith("h.")}
    for norm in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        tensors |= {f"{norm}.weight": np.ones(WIDTH, np.float32), f"{norm}.bias": np.zeros(WIDTH, np.float32)}
    save_file(tensors, directory / "model.safetensors")
    config = {"model_type": "gpt2", "vocab_size": vocab_size, "n_positions": NUM_POSITIONS, "n_embd": WIDTH, "n_layer": 1}
    (directory / "config.json").write_text(json.dumps(config | {"n_head": 2, "bos_token_id": end, "eos_token_id": end}))
