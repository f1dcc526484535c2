"""A checkpoint small enough to be made at once: for fixtures, and for processes that tests start."""

from pathlib import Path

import torch

from model.bpe import BPETokenizer
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import save_checkpoint
from model.tokenizer import Tokenizer

DATA = Path(__file__).parent / "data"
BASE = GPT2Config(vocab_size=500, n_positions=64, n_embd=32, n_layer=2, n_head=2, eos_token_ids=(499,))


def small_vocabulary() -> BPETokenizer:
    """The bytes and the first 243 merges of OpenAI's release with the end token last: 500 tokens."""
    whole = BPETokenizer.from_files(DATA / "vocab.json", DATA / "merges.txt")
    merges = whole.merges[:243]
    tokens = [token for token, i in sorted(whole.vocab.items(), key=lambda item: item[1]) if i < 256 + len(merges)]
    return BPETokenizer({token: i for i, token in enumerate([*tokens, "<|endoftext|>"])}, merges)


def tiny_sizes() -> GPT2Config:
    """A context long enough for several prefill chunks, and widths that no vector length divides."""
    return GPT2Config(vocab_size=500, n_positions=1024, n_embd=100, n_layer=2, n_head=4, eos_token_ids=(499,))


def make_tiny_checkpoint(directory: Path, config: GPT2Config, tokenizer: Tokenizer) -> Path:
    """A Hugging Face directory with random weights, large enough that the likeliest tokens differ clearly."""
    model = GPT2(config).init_weights(torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    save_checkpoint(directory, model, tokenizer, torch.float32)
    return directory


def make_base(directory: Path, tokenizer: Tokenizer, config: GPT2Config = BASE) -> Path:
    """A checkpoint to fine-tune, whose weights are as training begins with them."""
    save_checkpoint(directory, GPT2(config).init_weights(torch.Generator().manual_seed(0)), tokenizer, torch.float32)
    return directory
