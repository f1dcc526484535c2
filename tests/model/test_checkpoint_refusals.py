"""What cannot be served is refused at once, in a message that names the file, the tensor or the field."""

import json
import shlex
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from model.checkpoint import CheckpointError, load_tokenizer
from model.network_files import load_model
from tests.model.damage import C_FC, change_config, rewrite, weights


def assert_refused(directory: Path, *fragments: str) -> None:
    """Loading ends within a second in a CheckpointError whose message has all the fragments."""
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as refusal:
        load_model(directory)
    assert time.perf_counter() - start < 1
    for fragment in fragments:
        assert fragment in str(refusal.value)


# What is refused: the directory and its config


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing", f"no such directory: {tmp_path / 'nothing'}")


def test_a_directory_without_a_config_is_named(tmp_path: Path) -> None:
    assert_refused(tmp_path, str(tmp_path), "has no config.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("activation_function", "relu"),
        ("activation_function", "gelu"),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("model_type", "llama"),
    ],
)
def test_what_gpt2_lacks_is_refused_by_name(checkpoint: Path, field: str, value: object) -> None:
    change_config(checkpoint, **{field: value})
    assert_refused(checkpoint, "config.json", field)


@pytest.mark.parametrize("field", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"])
@pytest.mark.parametrize("value", [..., None, 0, -3, 2**62, 1e3, "12", True, [4]])
def test_a_size_that_is_no_size_is_refused_by_name(checkpoint: Path, field: str, value: object) -> None:
    change_config(checkpoint, **{"n_ctx": ..., field: value})
    assert_refused(checkpoint, "config.json", field)


@pytest.mark.parametrize(
    ("field", "value"), [("layer_norm_epsilon", 0), ("layer_norm_epsilon", float("nan")), ("n_inner", -1), ("n_head", 7)]
)
def test_other_values_that_make_no_network_are_refused_by_name(checkpoint: Path, field: str, value: object) -> None:
    change_config(checkpoint, **{field: value})
    assert_refused(checkpoint, "config.json", field)


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(checkpoint: Path, contents: bytes) -> None:
    (checkpoint / "config.json").write_bytes(contents)
    assert_refused(checkpoint, "config.json", "JSON")


# What is refused: the vocabulary


def test_a_vocabulary_larger_than_the_model_is_refused(checkpoint: Path) -> None:
    change_config(checkpoint, vocab_size=499)
    with pytest.raises(CheckpointError, match=r"ids up to 499, but vocab_size in config\.json is 499"):
        load_tokenizer(checkpoint)


def test_a_directory_without_a_vocabulary_is_refused(checkpoint: Path) -> None:
    (checkpoint / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match=r"neither vocab.json with merges.txt nor tokenizer.json nor vocab.txt"):
        load_tokenizer(checkpoint)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_damaged_vocabulary_is_refused(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_bytes(b"\xff\x00 no vocabulary")
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(checkpoint)


def test_a_checkpoint_without_any_end_token_is_refused(checkpoint: Path) -> None:
    vocab = json.loads((checkpoint / "vocab.json").read_text())
    del vocab["<|endoftext|>"]
    (checkpoint / "vocab.json").write_text(json.dumps(vocab))
    change_config(checkpoint, eos_token_id=...)
    assert_refused(checkpoint, "no end token", "eos_token_id")


# What is refused: the weights


def test_a_pickle_is_refused_with_a_command_that_converts_it(tiny_checkpoint: Path, checkpoint: Path) -> None:
    torch.save(GPT2LMHeadModel.from_pretrained(checkpoint).state_dict(), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="never opened here") as refusal:
        load_model(checkpoint)
    command = shlex.split(str(refusal.value).partition("convert it: ")[2])
    assert command[:2] == ["python", "-c"]
    exec(command[2], {})
    for ours, theirs in zip(load_model(checkpoint).parameters(), load_model(tiny_checkpoint).parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_directory_without_weights_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert_refused(checkpoint, "neither model.safetensors nor model.safetensors.index.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused_by_name(checkpoint: Path, value: float) -> None:
    tensors = weights(checkpoint)
    tensors[C_FC][3, 5] = value
    rewrite(checkpoint, tensors)
    assert_refused(checkpoint, "model.safetensors", C_FC, "NaN or infinite")


def test_a_tensor_of_another_shape_is_refused_by_name(checkpoint: Path) -> None:
    tensors = weights(checkpoint)
    rewrite(checkpoint, tensors | {C_FC: tensors[C_FC].t().contiguous()})
    assert_refused(checkpoint, "model.safetensors", C_FC, "is [400, 100]; config.json asks for [100, 400]")


def test_integers_are_refused_as_weights(checkpoint: Path) -> None:
    tensors = weights(checkpoint)
    rewrite(checkpoint, tensors | {C_FC: tensors[C_FC].int()})
    assert_refused(checkpoint, "model.safetensors", C_FC, "I32")


def test_missing_tensors_are_named(checkpoint: Path) -> None:
    tensors = weights(checkpoint)
    del tensors[C_FC]
    rewrite(checkpoint, tensors)
    assert_refused(checkpoint, "lacks h.1.mlp.c_fc.weight")
    change_config(checkpoint, n_layer=3)
    assert_refused(checkpoint, "lacks h.1.mlp.c_fc.weight, h.2.attn.c_attn.bias", "more")


def test_unexpected_tensors_are_named(checkpoint: Path) -> None:
    rewrite(checkpoint, weights(checkpoint) | {"prefix_encoder.weight": torch.zeros(2)})
    assert_refused(checkpoint, "model.safetensors has prefix_encoder.weight")
    change_config(checkpoint, n_layer=1)
    assert_refused(checkpoint, "model.safetensors has h.1.attn.c_attn.bias", "more")


def test_a_tensor_under_both_names_is_refused(checkpoint: Path) -> None:
    rewrite(checkpoint, weights(checkpoint) | {"ln_f.weight": torch.ones(100)})
    assert_refused(checkpoint, "model.safetensors", "ln_f.weight is there twice")


@pytest.mark.parametrize("head", [torch.zeros(500, 100), torch.zeros(3)])
def test_a_head_of_its_own_is_refused(checkpoint: Path, head: Tensor) -> None:
    rewrite(checkpoint, weights(checkpoint) | {"lm_head.weight": head})
    assert_refused(checkpoint, "model.safetensors", "lm_head.weight differs from wte.weight")


@pytest.mark.parametrize("kept", [0, 7, 8, 100, 0.3, 0.99])
def test_a_file_cut_short_is_refused(checkpoint: Path, kept: float) -> None:
    file = checkpoint / "model.safetensors"
    contents = file.read_bytes()
    file.write_bytes(contents[: int(kept * len(contents)) if isinstance(kept, float) else kept])
    assert_refused(checkpoint, "model.safetensors is damaged", *(["ends within transformer."] if kept in (0.3, 0.99) else []))


def test_the_tensor_at_which_a_cut_file_ends_is_named(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    header_size = struct.unpack("<Q", file.read_bytes()[:8])[0]
    header = json.loads(file.read_bytes()[8 : 8 + header_size])
    file.write_bytes(file.read_bytes()[: 8 + header_size + header[C_FC]["data_offsets"][1] - 1])
    assert_refused(checkpoint, f"ends within {C_FC}")


Header = dict[str, dict[str, object]]


def lie_about_offsets(header: Header) -> None:
    header[C_FC]["data_offsets"] = [0, 160_000]


def lie_about_the_end(header: Header) -> None:
    header[C_FC]["data_offsets"] = [0, 2**62]


def lie_about_the_shape(header: Header) -> None:
    header[C_FC]["shape"] = [2**31, 2**31]


def lie_with_a_negative_shape(header: Header) -> None:
    header[C_FC]["shape"] = [-100, -400]


def lie_about_the_type(header: Header) -> None:
    header[C_FC]["dtype"] = "F64"


def lie_about_an_unknown_type(header: Header) -> None:
    header[C_FC]["dtype"] = "F31"


def lie_with_entries_that_are_none(header: Header) -> None:
    header[C_FC] = {"dtype": "F32"}


@pytest.mark.parametrize(
    "lie",
    [
        lie_about_offsets,
        lie_about_the_end,
        lie_about_the_shape,
        lie_with_a_negative_shape,
        lie_about_the_type,
        lie_about_an_unknown_type,
        lie_with_entries_that_are_none,
    ],
)
def test_a_header_that_lies_is_refused_at_once(checkpoint: Path, lie: Callable[[Header], None]) -> None:
    file = checkpoint / "model.safetensors"
    contents = file.read_bytes()
    header_size = struct.unpack("<Q", contents[:8])[0]
    header = json.loads(contents[8 : 8 + header_size])
    lie(header)
    raw = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + contents[8 + header_size :])
    assert_refused(checkpoint, "model.safetensors is damaged")


def test_a_header_that_names_a_tensor_twice_is_refused(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    contents = file.read_bytes()
    header_size = struct.unpack("<Q", contents[:8])[0]
    header = json.loads(contents[8 : 8 + header_size])
    raw = (json.dumps(header)[:-1] + f', "{C_FC}": {json.dumps(header[C_FC])}}}').encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + contents[8 + header_size :])
    assert_refused(checkpoint, "model.safetensors is damaged")


@pytest.mark.parametrize("size", [2**62, 2**64 - 1, 100_000_000])
def test_a_header_of_absurd_size_is_refused_at_once(checkpoint: Path, size: int) -> None:
    with (checkpoint / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", size) + b"{")
        file.truncate(100_000_100)  # a hole: as large as the header says, and takes no space
    assert_refused(checkpoint, "model.safetensors is no safetensors file")


@pytest.mark.parametrize("contents", [b"[]", b"null", b"{}", b"\xff" * 8, b"[" * 50_000])
def test_a_header_that_is_something_else_is_refused(checkpoint: Path, contents: bytes) -> None:
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(contents)) + contents)
    assert_refused(checkpoint, str(checkpoint))


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "missing.safetensors", ".."])
def test_an_index_that_names_a_file_not_beside_it_is_refused(checkpoint: Path, shard: str) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "model.safetensors")
    index = {"weight_map": {C_FC: shard}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_refused(checkpoint, "model.safetensors.index.json", shard)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_refused(checkpoint: Path, index: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(index)
    assert_refused(checkpoint, "model.safetensors.index.json")
