"""Hugging Face GPT-2 directories, written and read."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.gpt2 import GPT2
from model.tokenizer import Tokenizer

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def save_checkpoint(directory: Path, model: GPT2, tokenizer: Tokenizer, dtype: torch.dtype) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    c = model.config
    tensors = {}
    for name, p in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        p = p.detach().to("cpu", dtype)
        tensors["transformer." + name] = (p.t() if name.endswith(TRANSPOSED) else p).contiguous()
    save_file(tensors, directory / "model.safetensors.tmp", metadata={"format": "pt"})
    (directory / "model.safetensors.tmp").rename(directory / "model.safetensors")
    (directory / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["GPT2LMHeadModel"],
                "model_type": "gpt2",
                "activation_function": "gelu_new",
                "vocab_size": c.vocab_size,
                "n_positions": c.n_positions,
                "n_ctx": c.n_positions,
                "n_embd": c.n_embd,
                "n_layer": c.n_layer,
                "n_head": c.n_head,
                "n_inner": c.n_inner,
                "layer_norm_epsilon": c.layer_norm_epsilon,
                "initializer_range": c.initializer_range,
                "bos_token_id": c.eos_token_id,
                "eos_token_id": c.eos_token_id,
                "dtype": str(dtype).removeprefix("torch."),
                "tie_word_embeddings": True,
            },
            indent=2,
        )
        + "\n"
    )
    (directory / "vocab.json").write_text(json.dumps(tokenizer.vocab, ensure_ascii=False))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in tokenizer.merges) + "\n")
