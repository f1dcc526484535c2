"""GGUF files: every tensor and token read back by llama.cpp's own package, and what such a file cannot say is refused."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.cli import main
from model.bpe import BPETokenizer
from model.checkpoint import TRANSPOSED, load_config, load_tokenizer
from model.config import GPT2Config
from model.gguf_file import gguf_name
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from tests.model.damage import change_config, rewrite, weights


def export(checkpoint: Path, out: Path, *options: str) -> int:
    return main(["export", "--model", str(checkpoint), "--out", str(out), *options])


def read(file: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(file)


def field(reader: gguf.GGUFReader, name: str) -> Any:
    found = reader.get_field(name)
    return None if found is None else found.contents()


def values_of(tensor: gguf.ReaderTensor) -> NDArray[np.float32]:
    """As numbers, in the network's shape: the file names the innermost dimension first."""
    return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])


@pytest.mark.parametrize(("precision", "dtype"), [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_every_tensor_is_there_in_the_precision_asked_for(
    tiny_checkpoint: Path, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    assert export(tiny_checkpoint, tmp_path / "tiny.gguf", "--precision", precision) == 0
    tensors = {tensor.name: tensor for tensor in read(tmp_path / "tiny.gguf").tensors}
    parameters = dict(load_model(tiny_checkpoint).named_parameters())
    assert tensors.keys() == {gguf_name(name) for name in parameters}
    assert "output.weight" not in tensors, "llama.cpp takes the embedding"
    for name, parameter in parameters.items():
        is_matrix = name.endswith(TRANSPOSED) or name == "wte.weight"
        wanted = parameter.detach().to(dtype if is_matrix else torch.float32).float().numpy()
        np.testing.assert_array_equal(values_of(tensors[gguf_name(name)]), wanted, err_msg=name)


def test_the_names_are_llama_cpps(tiny_checkpoint: Path, tmp_path: Path) -> None:
    export(tiny_checkpoint, tmp_path / "tiny.gguf")
    mapping = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, load_config(tiny_checkpoint).n_layer)
    theirs = {
        mapping.get_name(f"transformer.{name}", (".weight", ".bias")) for name in load_config(tiny_checkpoint).parameter_shapes
    }
    assert {tensor.name for tensor in read(tmp_path / "tiny.gguf").tensors} == theirs


def test_the_sizes_are_the_configs(tmp_path: Path, small_tokenizer: BPETokenizer) -> None:
    config = GPT2Config(500, 24, 16, 3, 2, n_inner=40, layer_norm_epsilon=1e-3, eos_token_ids=(499,))
    save_checkpoint(tmp_path / "odd", GPT2(config).init_weights(), small_tokenizer, torch.float32)
    export(tmp_path / "odd", tmp_path / "odd.gguf")
    reader = read(tmp_path / "odd.gguf")
    names = ("context_length", "embedding_length", "block_count", "attention.head_count", "feed_forward_length")
    assert [field(reader, f"gpt2.{name}") for name in names] == [24, 16, 3, 2, 40]
    assert field(reader, "gpt2.attention.layer_norm_epsilon") == pytest.approx(1e-3)
    assert (field(reader, "general.architecture"), field(reader, "general.name")) == ("gpt2", "odd")
    assert field(reader, "general.file_type") == gguf.LlamaFileType.MOSTLY_F16


def test_every_token_is_there_with_its_kind_and_the_template(chatml_checkpoint: Path, tmp_path: Path) -> None:
    export(chatml_checkpoint, tmp_path / "chat.gguf")
    reader, tokenizer = read(tmp_path / "chat.gguf"), load_tokenizer(chatml_checkpoint)
    tokens, kinds = (field(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    assert {token: i for i, token in enumerate(tokens)} == tokenizer.vocab
    assert [i for i, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL] == sorted(tokenizer.special_ids)
    assert field(reader, "tokenizer.ggml.merges") == [" ".join(pair) for pair in tokenizer.merges]
    assert (field(reader, "tokenizer.ggml.model"), field(reader, "tokenizer.ggml.pre")) == ("gpt2", "gpt-2")
    assert field(reader, "tokenizer.ggml.eos_token_id") == field(reader, "tokenizer.ggml.bos_token_id") == 499
    assert field(reader, "tokenizer.ggml.add_bos_token") is False
    assert field(reader, "tokenizer.chat_template") == (chatml_checkpoint / "chat_template.jinja").read_text()


def test_ids_without_a_token_are_unused_and_two_ends_are_named(checkpoint: Path, tmp_path: Path) -> None:
    tensors = weights(checkpoint)
    padded = torch.cat([tensors["transformer.wte.weight"], torch.zeros(4, 100)])
    rewrite(checkpoint, tensors | {"transformer.wte.weight": padded})
    change_config(checkpoint, vocab_size=504, eos_token_id=[499, 7], pad_token_id=503)
    export(checkpoint, tmp_path / "padded.gguf")
    reader = read(tmp_path / "padded.gguf")
    assert field(reader, "tokenizer.ggml.token_type")[500:] == [gguf.TokenType.UNUSED] * 4
    ends = [field(reader, f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "padding")]
    assert ends == [499, 7, 503]


def three_ends(checkpoint: Path) -> None:
    change_config(checkpoint, eos_token_id=[499, 7, 8])


def a_prefix_space(checkpoint: Path) -> None:
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": True}))


def too_large_for_float16(checkpoint: Path) -> None:
    tensors = weights(checkpoint)
    tensors["transformer.h.0.mlp.c_fc.weight"][0, 0] = 1e5
    rewrite(checkpoint, tensors)


def no_number(checkpoint: Path) -> None:
    tensors = weights(checkpoint)
    tensors["transformer.wpe.weight"][3, 0] = torch.nan
    rewrite(checkpoint, tensors)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (three_ends, "texts end at 3 tokens, but a GGUF file names 2"),
        (a_prefix_space, "its tokenizer is not GPT-2's plain byte-level BPE"),
        (too_large_for_float16, "values up to 1e+05, beyond float16; take f32 or bf16"),
        (no_number, "NaN or infinite"),
    ],
)
def test_what_cannot_be_said_is_refused_and_leaves_no_file(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, message: str
) -> None:
    spoil(checkpoint)
    assert export(checkpoint, tmp_path / "no.gguf") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("no.gguf*"))


def test_word_pieces_are_refused(words_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(words_checkpoint, tmp_path / "words.gguf") == 2
    assert "its tokenizer is not GPT-2's plain byte-level BPE" in capsys.readouterr().err


def test_no_file_is_written_over(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.gguf").write_text("mine")
    assert export(tiny_checkpoint, tmp_path / "mine.gguf") == 2
    assert "exists already; name another file" in capsys.readouterr().err
    assert (tmp_path / "mine.gguf").read_text() == "mine"


def test_a_missing_package_is_named(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.commands.export.find_spec", lambda name: None)
    assert export(tiny_checkpoint, tmp_path / "a.gguf") == 2
    assert "pip install 'gpt2-service[gguf]'" in capsys.readouterr().err
