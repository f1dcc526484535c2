"""GPT-2 checkpoints as people have them: other names, other heads, several end tokens; each is what transformers makes of it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from app.settings import Settings
from model.checkpoint import CheckpointError, load_config, load_tokenizer, open_checkpoint, save_config
from model.gpt2 import CausalAttention
from model.network_files import load_model, save_checkpoint
from tests.conftest import running_server
from tests.model.damage import change_config, rewrite, weights
from tests.model.tokenizer_directories import KINDS, SIZES, write_directory

EMBEDDING = "transformer.wte.weight"
OTHER_NAMES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


def logits(directory: Path) -> torch.Tensor:
    model, ids = load_model(directory).eval(), torch.arange(3, 40)[None]
    with torch.no_grad():
        return model.lm_head(model.hidden_states(ids, torch.arange(37), CausalAttention()))


def logits_of_transformers(directory: Path) -> torch.Tensor:
    with torch.no_grad():
        return GPT2LMHeadModel.from_pretrained(directory).eval()(torch.arange(3, 40)[None]).logits


def saved(directory: Path, kind: type[PreTrainedModel], **config: object) -> Path:
    """A random network of a class of transformers, beside the plain tokenizer."""
    torch.manual_seed(0)
    model = kind(GPT2Config(**SIZES, initializer_range=0.2, eos_token_id=8191, pad_token_id=8191, **config))
    model.save_pretrained(directory)
    contents = json.loads((directory / "config.json").read_text())
    return write_directory(directory, KINDS["plain"](), **contents)


# The config


@pytest.mark.parametrize("activation", ["gelu_fast", "gelu_accurate", "gelu_pytorch_tanh"])
def test_other_names_of_the_activation_are_the_same_network(tmp_path: Path, activation: str) -> None:
    directory = saved(tmp_path, GPT2LMHeadModel, activation_function=activation)
    torch.testing.assert_close(logits(directory), logits_of_transformers(directory), rtol=0, atol=1e-4)


def test_attention_in_another_order_is_the_same_network(tmp_path: Path) -> None:
    directory = saved(tmp_path, GPT2LMHeadModel, reorder_and_upcast_attn=True)
    torch.testing.assert_close(logits(directory), logits_of_transformers(directory), rtol=0, atol=1e-4)


def test_sizes_are_read_by_the_names_that_other_models_have(tiny_checkpoint: Path, checkpoint: Path) -> None:
    fields = json.loads((checkpoint / "config.json").read_text())
    change_config(checkpoint, **{other: fields[name] for other, name in OTHER_NAMES.items()})
    change_config(checkpoint, **dict.fromkeys([*OTHER_NAMES.values(), "n_ctx"], ...))
    assert load_config(checkpoint) == load_config(tiny_checkpoint)
    change_config(checkpoint, max_position_embeddings=..., n_ctx=1024)
    assert load_config(checkpoint) == load_config(tiny_checkpoint)


def test_two_names_with_two_sizes_are_refused(checkpoint: Path) -> None:
    change_config(checkpoint, hidden_size=128)
    with pytest.raises(CheckpointError, match=r"n_embd is 100, but hidden_size, its other name, is 128"):
        load_config(checkpoint)


def test_a_config_without_a_type_is_known_by_its_class_or_its_names(tiny_checkpoint: Path, checkpoint: Path) -> None:
    change_config(checkpoint, model_type=...)
    assert load_config(checkpoint) == load_config(tiny_checkpoint)
    change_config(checkpoint, architectures=...)
    assert load_config(checkpoint) == load_config(tiny_checkpoint)
    change_config(checkpoint, architectures=["LlamaForCausalLM"])
    with pytest.raises(CheckpointError, match="model_type is None"):
        load_config(checkpoint)
    change_config(checkpoint, architectures=..., n_embd=..., hidden_size=100)
    with pytest.raises(CheckpointError, match="model_type is None"):
        load_config(checkpoint)


# End tokens


@pytest.mark.parametrize(
    ("in_config", "in_generation_config", "ids"),
    [
        (499, ..., (499,)),
        ([499, 7], ..., (499, 7)),
        (499, [7, 499, 8], (499, 7, 8)),
        (..., [7, 8], (7, 8)),
        (50256, 7, (7,)),
        (None, None, (499,)),
        ([50256, 7], ..., (7,)),
        ([], ..., (499,)),
    ],
)
def test_end_tokens_are_those_of_both_configs(
    checkpoint: Path, in_config: object, in_generation_config: object, ids: tuple[int, ...]
) -> None:
    change_config(checkpoint, eos_token_id=in_config)
    if in_generation_config is not ...:
        (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": in_generation_config}))
    config = load_config(checkpoint)
    assert (config.eos_token_ids, config.eos_token_id) == (ids, ids[0])


def test_a_list_with_something_else_than_ids_is_refused(checkpoint: Path) -> None:
    change_config(checkpoint, eos_token_id=[499, "</s>"])
    with pytest.raises(CheckpointError, match="eos_token_id is"):
        load_config(checkpoint)


def test_several_end_tokens_are_saved_as_a_list_and_one_as_a_number(tmp_path: Path, checkpoint: Path) -> None:
    change_config(checkpoint, eos_token_id=[499, 7])
    for ids in ([499, 7], 499):
        change_config(checkpoint, eos_token_id=ids)
        save_config(tmp_path, load_config(checkpoint), "float32")
        assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == ids


def test_a_tokenizer_that_names_no_end_has_the_configs(tmp_path: Path) -> None:
    write_directory(tmp_path, KINDS["WordPiece in tokenizer.json, as it is"](), eos_token_id=[4, 5])
    assert load_tokenizer(tmp_path).eos_token_id == 4


# The weights


def test_a_head_without_the_embedding_that_it_is_tied_to_is_the_embedding(tiny_checkpoint: Path, checkpoint: Path) -> None:
    tensors = weights(checkpoint)
    tensors["lm_head.weight"] = tensors.pop(EMBEDDING)
    rewrite(checkpoint, tensors)
    assert torch.equal(load_model(checkpoint).wte.weight, load_model(tiny_checkpoint).wte.weight)
    assert not open_checkpoint(checkpoint).left_aside


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        (GPT2DoubleHeadsModel, "multiple_choice_head.summary.weight"),
        (GPT2ForSequenceClassification, "score.weight"),
        (GPT2ForTokenClassification, "classifier.weight"),
    ],
)
def test_heads_that_write_no_text_are_left_aside_and_named(tmp_path: Path, kind: type[PreTrainedModel], head: str) -> None:
    directory = saved(tmp_path, kind)
    assert head in open_checkpoint(directory).left_aside
    torch.testing.assert_close(logits(directory), logits_of_transformers(directory), rtol=0, atol=1e-4)


def test_the_service_says_what_it_leaves_aside(tmp_path: Path) -> None:
    from app.bootstrap import load

    lines: list[str] = []
    load(Settings(model=str(saved(tmp_path, GPT2DoubleHeadsModel)), device="cpu", _env_file=None), lines.append)
    assert sum("left aside, as it writes no text: multiple_choice_head.summary" in line for line in lines) == 1


# The service beside transformers


@pytest.mark.parametrize(
    "kind", ["plain", "tokenizer.json", "prefix space", "BOS", "lower case", "whitespace", "WordPiece", "WordPiece with more"]
)
def test_tokenize_and_generate_are_transformers(tmp_path: Path, kind: str) -> None:
    import httpx

    directory = saved(tmp_path, GPT2LMHeadModel)
    for name in ("vocab.json", "merges.txt"):
        (directory / name).unlink()
    write_directory(directory, KINDS[kind](), **json.loads((directory / "config.json").read_text()))
    tokenizer, model = AutoTokenizer.from_pretrained(directory), GPT2LMHeadModel.from_pretrained(directory).eval()
    settings = Settings(model=str(directory), port=0, device="cpu", dtype="float32", max_running=2, _env_file=None)
    with running_server(settings) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        for text in ("Hello world", "<|user|>Hello<|bot|> wörd", "你好，world hello"):
            ids = tokenizer.encode(text)
            assert [token["id"] for token in client.post("/tokenize", json={"inputs": text}).json()] == ids
            whole = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12, pad_token_id=8191)[0].tolist()
            body = {"inputs": text, "parameters": {"max_new_tokens": 12, "details": True}}
            answer = client.post("/generate", json=body).json()
            assert [token["id"] for token in answer["details"]["tokens"]] == whole[len(ids) :]


def test_a_fine_tuned_checkpoint_keeps_its_bases_tokenizer_and_end_tokens(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", GPT2LMHeadModel)
    write_directory(
        base, KINDS["tokenizer.json"](), **json.loads((base / "config.json").read_text()) | {"eos_token_id": [8191, 8193]}
    )
    save_checkpoint(tmp_path / "out", load_model(base), load_tokenizer(base), torch.bfloat16)
    text, read = "<|user|>Hello<|bot|> wörd", load_tokenizer(tmp_path / "out")
    assert read.encode(text) == load_tokenizer(base).encode(text) == AutoTokenizer.from_pretrained(tmp_path / "out").encode(text)
    assert load_config(tmp_path / "out").eos_token_ids == (8191, 8193)
