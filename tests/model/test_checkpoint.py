"""Checkpoint directories: what others wrote is read, what is saved is read by others, and all of it is exact."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2LMHeadModel, GPT2TokenizerFast

from model.checkpoint import load_config, load_tokenizer, open_checkpoint
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from model.tokenizer import Tokenizer
from tests.model.damage import C_FC, change_config, rewrite, weights


def assert_same_weights(ours: GPT2, theirs: GPT2) -> None:
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_what_is_saved_is_loaded_bit_for_bit(tiny_config: GPT2Config, small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = GPT2(tiny_config).init_weights()
    save_checkpoint(tmp_path, model, small_tokenizer, torch.float32)
    loaded = load_model(tmp_path)
    assert_same_weights(loaded, model)
    assert loaded.config == tiny_config
    assert loaded.lm_head.weight is loaded.wte.weight
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.vocab, list(tokenizer.merges)) == (small_tokenizer.vocab, list(small_tokenizer.merges))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_float_type_come_as_float32(checkpoint: Path, dtype: torch.dtype) -> None:
    model = load_model(checkpoint)
    save_checkpoint(checkpoint, model, load_tokenizer(checkpoint), dtype)
    for parameter, original in zip(load_model(checkpoint).parameters(), model.parameters(), strict=True):
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, original.to(dtype).float())


def test_a_file_as_openai_community_has_it_is_read(tiny_checkpoint: Path, checkpoint: Path) -> None:
    """`openai-community/gpt2`: no prefix, no head, and the causal mask of every layer among the weights."""
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in weights(checkpoint).items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1024, 1024).tril()[None, None]
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    assert {"wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.1.attn.c_attn.bias", "ln_f.bias"} <= tensors.keys()
    rewrite(checkpoint, tensors)
    old = {"n_ctx": 1024, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1, "summary_type": "cls_index"}
    absent = dict.fromkeys(["n_inner", "dtype", "tie_word_embeddings", "scale_attn_weights", "add_cross_attention"], ...)
    change_config(checkpoint, **old, **absent)
    assert_same_weights(load_model(checkpoint), load_model(tiny_checkpoint))


def test_masks_of_bytes_are_ignored_too(tiny_checkpoint: Path, checkpoint: Path) -> None:
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 1024, 1024, dtype=torch.bool)}
    rewrite(checkpoint, weights(checkpoint) | mask)
    assert_same_weights(load_model(checkpoint), load_model(tiny_checkpoint))


def test_a_head_equal_to_the_embedding_is_accepted(tiny_checkpoint: Path, checkpoint: Path) -> None:
    tensors = weights(checkpoint)
    rewrite(checkpoint, tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()})
    loaded = load_model(checkpoint)
    assert_same_weights(loaded, load_model(tiny_checkpoint))
    assert loaded.lm_head.weight is loaded.wte.weight


def test_shards_are_read_together(tiny_checkpoint: Path, checkpoint: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="300KB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 2
    assert_same_weights(load_model(checkpoint), load_model(tiny_checkpoint))


def test_transformers_reads_what_is_saved(tiny_checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    model = GPT2LMHeadModel.from_pretrained(tiny_checkpoint, dtype="auto")
    text = "Once upon a time, 42 naïve cats\n\n slept."
    assert tokenizer.encode(text) == load_tokenizer(tiny_checkpoint).encode(text)
    assert model.config.eos_token_id == tokenizer.eos_token_id == 499
    assert model.dtype == torch.float32


def test_tokenizer_json_serves_where_the_two_files_are_missing(tiny_checkpoint: Path, checkpoint: Path) -> None:
    GPT2TokenizerFast.from_pretrained(checkpoint).backend_tokenizer.save(str(checkpoint / "tokenizer.json"))
    (checkpoint / "merges.txt").unlink()
    ours, theirs = load_tokenizer(checkpoint), load_tokenizer(tiny_checkpoint)
    text = "The quick brown fox — naïve, 123!  \n"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.eos_token_id == theirs.eos_token_id


def test_an_older_tokenizer_json_does_not_outlive_a_save(checkpoint: Path) -> None:
    """Transformers would go on reading it, beside a vocabulary that is no longer the same."""
    tokenizer = load_tokenizer(checkpoint)
    (checkpoint / "tokenizer.json").write_text("{}")
    save_checkpoint(checkpoint, load_model(checkpoint), tokenizer, torch.float32)
    assert sorted(file.name for file in checkpoint.iterdir()) == ["config.json", "merges.txt", "model.safetensors", "vocab.json"]


def test_a_model_may_have_more_ids_than_the_vocabulary_has_tokens(checkpoint: Path) -> None:
    tensors = weights(checkpoint)
    padded = torch.cat([tensors["transformer.wte.weight"], torch.zeros(12, 100)])
    rewrite(checkpoint, tensors | {"transformer.wte.weight": padded})
    change_config(checkpoint, vocab_size=512)
    assert load_model(checkpoint).config.vocab_size == 512
    assert load_tokenizer(checkpoint).vocab_size == 500


@pytest.mark.parametrize("eos_token_id", [..., None, 50256, -1, "499"])
def test_an_end_token_that_the_config_lacks_is_the_vocabularys(checkpoint: Path, eos_token_id: object) -> None:
    change_config(checkpoint, eos_token_id=eos_token_id)
    assert load_config(checkpoint).eos_token_id == 499


def test_progress_counts_every_byte(checkpoint: Path) -> None:
    calls: list[tuple[int, int]] = []
    model = load_model(checkpoint, lambda done, total: calls.append((done, total)))
    assert {total for _, total in calls} == {4 * model.config.num_parameters}
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1][0] == calls[-1][1]


def test_loading_draws_no_random_numbers(checkpoint: Path) -> None:
    """Weights about to be replaced are never initialised, which would take longer than reading them."""
    before = torch.get_rng_state()
    load_model(checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_do_not_hang_on_the_file(checkpoint: Path) -> None:
    """A file that is overwritten in place while the service runs must not change, or crash, what is being served."""
    model = load_model(checkpoint)
    before = [parameter.clone() for parameter in model.parameters()]
    with (checkpoint / "model.safetensors").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(0)
        file.write(bytes(size))
        file.flush()
        file.truncate(0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_a_save_that_fails_leaves_the_old_file_whole(
    tiny_checkpoint: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half a f")
        raise OSError("no space left on device")

    model = load_model(checkpoint)
    monkeypatch.setattr("model.network_files.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(checkpoint, model, load_tokenizer(checkpoint), torch.float32)
    assert_same_weights(load_model(checkpoint), load_model(tiny_checkpoint))
    assert not list(checkpoint.glob("*.tmp"))


def test_a_saved_checkpoint_is_as_readable_as_any_file_of_its_owner(checkpoint: Path) -> None:
    """A container's user is another one than who trained."""
    (checkpoint / "ordinary").touch()
    save_checkpoint(checkpoint, load_model(checkpoint), load_tokenizer(checkpoint), torch.float32)
    assert len({file.stat().st_mode for file in checkpoint.iterdir()}) == 1


def test_the_activations_other_name_is_read(tiny_checkpoint: Path, checkpoint: Path) -> None:
    change_config(checkpoint, activation_function="gelu_pytorch_tanh")
    assert_same_weights(load_model(checkpoint), load_model(tiny_checkpoint))


def test_large_weights_whose_sum_overflows_are_no_reason_to_refuse(checkpoint: Path) -> None:
    tensors = weights(checkpoint)
    tensors[C_FC].fill_(3e38)
    rewrite(checkpoint, tensors)
    assert load_model(checkpoint).h[1].mlp.c_fc.weight.max() == torch.tensor(3e38)


def test_an_opened_checkpoint_maps_the_weights_as_they_lie_in_the_file(checkpoint: Path) -> None:
    opened, model, stored = open_checkpoint(checkpoint), load_model(checkpoint), weights(checkpoint)
    assert (opened.config, opened.weights.keys()) == (model.config, opened.config.parameter_shapes.keys())
    for name, weight in opened.weights.items():
        assert np.array_equal(weight.values, stored[f"transformer.{name}"].numpy())
        assert weight.dtype == "F32"
        assert weight.is_transposed == name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        assert weight.values.flags.c_contiguous
        assert not weight.values.flags.owndata
    assert opened.weights["h.0.attn.c_attn.weight"].values.shape == (100, 300)


@pytest.mark.parametrize(
    ("dtype", "name", "kind"),
    [(torch.bfloat16, "BF16", np.uint16), (torch.float16, "F16", np.float16), (torch.float64, "F32", np.float32)],
)
def test_weights_of_two_bytes_are_mapped_as_they_are_and_those_of_eight_halved(
    checkpoint: Path, dtype: torch.dtype, name: str, kind: type[np.generic]
) -> None:
    model = load_model(checkpoint)
    save_checkpoint(checkpoint, model, load_tokenizer(checkpoint), dtype)
    opened = open_checkpoint(checkpoint)
    for key, parameter in model.named_parameters():
        weight = opened.weights[key]
        assert (weight.dtype, weight.values.dtype) == (name, kind)
        expected = (parameter.t() if weight.is_transposed else parameter).detach().to(dtype).float().numpy()
        assert np.array_equal(weight.to_float32(), expected)


def test_tensors_that_do_not_lie_at_multiples_of_their_elements_are_read_all_the_same(
    tiny_checkpoint: Path, checkpoint: Path
) -> None:
    """The format pads its header by custom alone, and a mask of bytes may shift what follows."""
    file = checkpoint / "model.safetensors"
    contents = file.read_bytes()
    size = int.from_bytes(contents[:8], "little")
    header = contents[8 : 8 + size].rstrip() + b" "
    header += b" " * ((1 - len(header)) % 4)
    file.write_bytes(len(header).to_bytes(8, "little") + header + contents[8 + size :])
    assert len(header) % 4 == 1
    assert all(weight.values.flags.aligned for weight in open_checkpoint(checkpoint).weights.values())
    assert_same_weights(load_model(checkpoint), load_model(tiny_checkpoint))


def test_a_checkpoint_is_opened_without_torch(tiny_checkpoint: Path) -> None:
    code = (
        "import sys, pathlib; from model.checkpoint import load_tokenizer, open_checkpoint; directory = pathlib.Path(sys.argv[1]); "
        "open_checkpoint(directory); load_tokenizer(directory); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_checkpoint)], check=True, timeout=120)


def test_loading_does_not_import_torchs_compiler(tiny_checkpoint):
    """It would take as long as everything else at the start of the service."""
    code = (
        "import sys, pathlib; from model.network_files import load_model; load_model(pathlib.Path(sys.argv[1])); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_checkpoint)], check=True, timeout=120)
