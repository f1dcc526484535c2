"""Every activation of an inspection beside TransformerLens' own, on the same weights and the same text, in float32.

    python -m venv lens && lens/bin/pip install . "transformer-lens==2.18.0" "datasets<5" "pyarrow<21"  # which go with its NumPy
    lens/bin/python -m benchmarks.inspection_reference

In an environment of its own: TransformerLens brings what a service has no use for. Its 2.18 has a network of its own, and in
hook_normalized the LayerNorm's weight and bias where they are not folded, as here. 3.9's hook stands before them, and 4 has
hooks on transformers' network, with which tests/model/inspection/test_reference.py compares.
"""

import re
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformers import GPT2LMHeadModel

from benchmarks.machine import ROOT, write_result
from model.checkpoint import load_config, load_tokenizer
from model.config import GPT2Config
from model.inspection.names import all_names
from model.inspection.network import InspectedNetwork, Run
from model.network_files import load_model

CHECKPOINT = ROOT / "model" / "default"
TEXT = "The cat sat on the mat. The dog, who had never seen a cat before, sat down beside it. " * 3
NUM_TOKENS = 64
WANTED = 1e-5


def main() -> None:
    torch.set_num_threads(2)
    token_ids = load_tokenizer(CHECKPOINT).encode(TEXT)[:NUM_TOKENS]
    assert len(token_ids) == NUM_TOKENS
    config = load_config(CHECKPOINT)
    ours = InspectedNetwork(load_model(CHECKPOINT)).run(token_ids, all_names(config))
    with torch.inference_mode():
        logits, theirs = _hooked(config, CHECKPOINT).run_with_cache(torch.tensor([token_ids]))
    errors = _largest_errors(ours, theirs) | {"logits": _relative_error(ours.logits, logits[0])}
    for kind, error in errors.items():
        print(f"{kind:32} {error:.1e}")
    result = {
        "transformer-lens": version("transformer-lens"),
        "checkpoint": str(CHECKPOINT.relative_to(ROOT)),
        "num_tokens": NUM_TOKENS,
        "wanted": WANTED,
        "largest": max(errors.values()),
        "relative_errors": errors,
    }
    write_result("inspection_reference", "python -m benchmarks.inspection_reference", result)


def _hooked(config: GPT2Config, directory: Path) -> HookedTransformer:
    sizes = HookedTransformerConfig(
        n_layers=config.n_layer,
        d_model=config.n_embd,
        n_ctx=config.n_positions,
        d_head=config.head_dim,
        n_heads=config.n_head,
        d_mlp=config.inner_size,
        d_vocab=config.vocab_size,
        eps=config.layer_norm_epsilon,
        act_fn="gelu_new",
        normalization_type="LN",
        device="cpu",
    )
    network = HookedTransformer(sizes)
    weights = convert_gpt2_weights(GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32), sizes)
    lacking, unknown = network.load_state_dict(weights, strict=False)
    assert not unknown
    assert all(re.search(r"attn\.(mask|IGNORE)$|unembed\.b_U$", name) for name in lacking), lacking  # and that bias is 0
    return network.eval()


def _largest_errors(ours: Run, theirs: dict[str, Tensor]) -> dict[str, float]:
    """By kind of hook, over the layers."""
    errors: dict[str, float] = {}
    for name, activation in ours.activations.items():
        reference = theirs[name]
        if reference.shape != activation.shape:
            reference = reference[0]  # all but the positions' embeddings, which some versions do not repeat for each text
        kind = re.sub(r"^blocks\.\d+", "blocks.*", name)
        errors[kind] = max(errors.get(kind, 0.0), _relative_error(activation, reference))
    return errors


def _relative_error(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs| over all numbers; masked scores must be masked in both."""
    assert ours.shape == theirs.shape
    seen = theirs.isfinite()
    assert torch.equal(ours.isfinite(), seen)
    ours, theirs = ours[seen].double(), theirs[seen].double()
    return float((ours - theirs).norm() / theirs.norm())


if __name__ == "__main__":
    main()
