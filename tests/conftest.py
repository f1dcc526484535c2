"""What all tests share: devices, a small real vocabulary, and a tiny real checkpoint."""

from pathlib import Path

import pytest
import torch

from model.checkpoint import save_checkpoint
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.tokenizer import Tokenizer

DATA = Path(__file__).parent / "data"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU; none is here")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> Tokenizer:
    """The vocabulary of OpenAI's release, 50,257 tokens."""
    return Tokenizer.from_files(DATA / "vocab.json", DATA / "merges.txt")


@pytest.fixture(scope="session")
def small_tokenizer(gpt2_tokenizer: Tokenizer) -> Tokenizer:
    """Its bytes and first 243 merges with the end token last: 500 tokens."""
    merges = gpt2_tokenizer.merges[:243]
    tokens = [token for token, i in sorted(gpt2_tokenizer.vocab.items(), key=lambda item: item[1]) if i < 256 + len(merges)]
    return Tokenizer({token: i for i, token in enumerate([*tokens, "<|endoftext|>"])}, merges)


@pytest.fixture(scope="session")
def tiny_config(small_tokenizer: Tokenizer) -> GPT2Config:
    """A context long enough for several prefill chunks, and widths that no vector length divides."""
    return GPT2Config(vocab_size=small_tokenizer.vocab_size, n_positions=1024, n_embd=100, n_layer=2, n_head=4, eos_token_id=499)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_config: GPT2Config, small_tokenizer: Tokenizer) -> Path:
    """A Hugging Face directory with random weights, large enough that the likeliest tokens differ clearly."""
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny-gpt2"
    model = GPT2(tiny_config).init_weights(torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    save_checkpoint(directory, model, small_tokenizer, torch.float32)
    return directory
