"""Adapters on disk: peft's files, put back onto their own base and onto no other."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from model.training.adapter import fingerprint, load_adapter, merge_adapter, save_adapter
from model.training.errors import TrainingError
from model.training.lora import LoRA, add_lora, lora_layers

TOKENS = torch.arange(40).view(2, 20)
LORA = LoRA(rank=4, alpha=6.0, targets=("attn.c_attn", "mlp.c_proj"))


def network(seed=0, **sizes):
    config = GPT2Config(
        **{"vocab_size": 500, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2, "eos_token_ids": (499,)} | sizes
    )
    return GPT2(config).init_weights(torch.Generator().manual_seed(seed))


@pytest.fixture
def base(tmp_path, small_tokenizer):
    save_checkpoint(tmp_path / "base", network(), small_tokenizer, torch.float32)
    return tmp_path / "base"


@pytest.fixture
def trained(base):
    model = load_model(base)
    add_lora(model, LORA, torch.Generator().manual_seed(1))
    for layer in lora_layers(model).values():
        layer.lora_B.data.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    return model


@pytest.fixture
def adapter(tmp_path, base, trained):
    save_adapter(tmp_path / "adapter", trained, LORA, str(base), fingerprint(load_model(base)))
    return tmp_path / "adapter"


def test_an_adapter_has_the_names_the_shapes_and_the_config_of_peft(adapter, base):
    assert sorted(file.name for file in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    assert shapes == {
        f"base_model.model.transformer.h.{layer}.{target}.lora_{matrix}.weight": shape
        for layer in range(2)
        for target, matrix, shape in [
            ("attn.c_attn", "A", (4, 32)),
            ("attn.c_attn", "B", (96, 4)),
            ("mlp.c_proj", "A", (4, 128)),
            ("mlp.c_proj", "B", (32, 4)),
        ]
    }
    assert json.loads((adapter / "adapter_config.json").read_text()) == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": 4,
        "lora_alpha": 6,
        "lora_dropout": 0.0,
        "target_modules": ["attn.c_attn", "mlp.c_proj"],
        "fan_in_fan_out": True,
        "bias": "none",
        "inference_mode": True,
    }


@torch.no_grad()
def test_transformers_with_the_matrices_added_as_peft_adds_them_computes_the_same(adapter, base, trained):
    """peft: W += scale * B A, transposed because Conv1D holds (in, out)."""
    theirs = GPT2LMHeadModel.from_pretrained(base).eval()
    matrices = load_file(adapter / "adapter_model.safetensors")
    for key in [key for key in matrices if key.endswith("lora_A.weight")]:
        module = theirs.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        module.weight += 6 / 4 * (matrices[key.replace("lora_A", "lora_B")] @ matrices[key]).T
    torch.testing.assert_close(theirs(TOKENS).logits, trained(TOKENS), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_adapter_goes_back_onto_its_base(adapter, base, trained):
    restored = load_adapter(adapter).put_on(load_model(base), "base")
    assert torch.equal(restored(TOKENS), trained(TOKENS))


@torch.no_grad()
def test_an_adapter_is_merged_into_the_base_that_it_names(adapter, trained, tmp_path):
    merge_adapter(adapter, None, tmp_path / "merged")
    expected = trained(TOKENS)
    assert (load_model(tmp_path / "merged")(TOKENS) - expected).abs().max() < 1e-5 * expected.std()


@torch.no_grad()
def test_an_adapter_without_a_fingerprint_as_peft_writes_it_is_taken(adapter, base, trained):
    weights = adapter / "adapter_model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    assert torch.equal(load_adapter(adapter).put_on(load_model(base), "base")(TOKENS), trained(TOKENS))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (network(seed=5), "the sizes are the same, the weights are not"),
        (network(n_embd=48), r"attn.c_attn.lora_A.weight is \[4, 32\], here \[4, 48\]"),
        (network(n_layer=3), "h.2.attn.c_attn.lora_A.weight is in one of them alone"),
        (network(n_layer=1), "h.1.attn.c_attn.lora_A.weight is in one of them alone"),
    ],
)
def test_an_adapter_for_another_model_is_refused(adapter, other, message):
    with pytest.raises(TrainingError, match=f"an adapter for another model than other.*{message}.*give its own base by --model"):
        load_adapter(adapter).put_on(other, "other")


def without_a_matrix(adapter):
    tensors = load_file(adapter / "adapter_model.safetensors")
    del tensors["base_model.model.transformer.h.1.mlp.c_proj.lora_B.weight"]
    save_file(tensors, adapter / "adapter_model.safetensors")


def with_a_field(name, value):
    def change(adapter):
        fields = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(fields | {name: value}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_a_matrix, "or incomplete: h.1.mlp.c_proj.lora_B.weight"),
        (lambda adapter: (adapter / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda adapter: (adapter / "adapter_config.json").write_text("{"), "is not JSON"),
        (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b"0" * 99), "is damaged"),
        (lambda adapter: save_file({"x": torch.ones(1)}, adapter / "adapter_model.safetensors"), "has x, which is no matrix"),
        (with_a_field("peft_type", "IA3"), "its peft_type is not LORA"),
        (with_a_field("use_dora", True), "use_dora is True; plain LoRA alone"),
        (with_a_field("bias", "all"), "bias is 'all'"),
        (with_a_field("r", "8"), "r is '8'"),
        (with_a_field("base_model_name_or_path", "/gone"), "no such directory: '/gone'.*name it by --model"),
        (with_a_field("base_model_name_or_path", None), "does not say what its base is"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_and_nothing_is_written(adapter, tmp_path, damage, message):
    damage(adapter)
    with pytest.raises(TrainingError, match=message):
        merge_adapter(adapter, None, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_merging_overwrites_no_checkpoint(adapter, base):
    before = (base / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="holds a checkpoint already"):
        merge_adapter(adapter, None, base)
    with pytest.raises(TrainingError, match="holds an adapter already"):
        merge_adapter(adapter, None, adapter)
    assert (base / "model.safetensors").read_bytes() == before
