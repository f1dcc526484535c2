"""Checkpoints of others that are trained on: added tokens are learned as tokens, and nothing that their directories say is lost."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from model.checkpoint import load_config
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from model.training.adapter import merge_adapter
from model.training.base import Base
from model.training.data.options import DataOptions
from model.training.data.shards import map_shards
from model.training.distributed import Processes
from model.training.finetune import finetune
from model.training.finetune_plan import FinetuneOptions
from model.training.lora import LoRA
from tests.model.tokenizer_directories import BERT, DIALOGUE, GPT2_FILES, KINDS, SIZES, USER_AND_BOT, bpe_file, write_directory
from tests.tiny import BASE, small_vocabulary

SHORT = {"max_steps": 1, "validate_every": 1, "batch_size": 2, "learning_rate": 1e-3, "bfloat16": False}
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
CHAT = {"model_max_length": 48, "pad_token": "<pad>", "chat_template": TEMPLATE, "padding_side": "left"}
# What people who teach a GPT-2 to chat leave in its directory, by each way to say it.
BASES = {
    "added_tokens.json": lambda: (
        GPT2_FILES
        | {"added_tokens.json": USER_AND_BOT | {"<pad>": 8195}, "special_tokens_map.json": {"pad_token": "<pad>"}}
        | {"tokenizer_config.json": CHAT, "chat_template.jinja": TEMPLATE}
    ),
    "tokenizer_config.json": lambda: (
        GPT2_FILES | {"tokenizer_config.json": KINDS["tokenizer_config.json"]()["tokenizer_config.json"]}
    ),
    "tokenizer.json": lambda: {"tokenizer.json": bpe_file(DIALOGUE), "tokenizer_config.json": CHAT},
    "BOS": KINDS["BOS by a post-processor"],
    "WordPiece": lambda: KINDS["WordPiece with more"]() | {"tokenizer_config.json": BERT | {"model_max_length": 48}},
}
CONFIG = {
    "pad_token_id": 8195,
    "bos_token_id": 8192,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "resid_pdrop": 0.25,
    "somebody's own field": [1, None, "ü"],
}
GENERATION = {"eos_token_id": [8191, 8193], "temperature": 0.7, "bad_words_ids": [[5]]}
DIALOGUES = "<|user|>Hello world wörd<|bot|>hello [SEP] world\n" * 100
TEXTS = st.lists(
    st.sampled_from(["Hello world", " ", "<|user|>", "<|bot|>", "wörd", "wörder", "<|endoftext|>", "[SEP]", "\n\n"]) | st.text()
)


def make_base(directory, files, **config):
    """A small random network in a directory as somebody else wrote it."""
    sizes = GPT2Config(**SIZES, eos_token_ids=(8191,))
    save_checkpoint(directory, GPT2(sizes).init_weights(torch.Generator().manual_seed(0)), small_vocabulary(), torch.float32)
    written = json.loads((directory / "config.json").read_text())
    for name in ("vocab.json", "merges.txt"):
        (directory / name).unlink(missing_ok=True)
    return write_directory(directory, files, **written | CONFIG | config)


def run(base, out, text, lora=None, keep_adapter=False):
    data = out.with_name("data.txt")
    data.write_text(text, encoding="utf-8")
    options = FinetuneOptions(data=DataOptions(paths=[data]), model=str(base), lora=lora, keep_adapter=keep_adapter, recipe=SHORT)
    finetune(options, out, torch.device("cpu"), Processes(), lambda line: None)
    return out


@pytest.fixture(scope="module", params=BASES)
def base(request, tmp_path_factory):
    directory = make_base(tmp_path_factory.mktemp("base"), BASES[request.param]())
    (directory / "generation_config.json").write_text(json.dumps(GENERATION))
    return directory


@pytest.fixture(scope="module")
def finetuned(base, tmp_path_factory):
    return run(base, tmp_path_factory.mktemp("runs") / "out", DIALOGUES)


@pytest.fixture(scope="module")
def merged(base, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    merge_adapter(run(base, runs / "adapter", DIALOGUES, LoRA(rank=2), keep_adapter=True), None, runs / "out")
    return runs / "out"


@pytest.mark.parametrize("made", ["finetuned", "merged"])
def test_transformers_reads_the_result_as_it_reads_the_base(base, made, request):
    before, after = (AutoTokenizer.from_pretrained(directory) for directory in (base, request.getfixturevalue(made)))
    for name in ("pad_token", "model_max_length", "padding_side", "chat_template", "all_special_tokens"):
        assert getattr(after, name) == getattr(before, name), name

    @settings(max_examples=50, deadline=None)
    @given(TEXTS)
    def same_ids(pieces):
        text = "".join(pieces)
        assert after.encode(text) == before.encode(text)

    same_ids()


@pytest.mark.parametrize("made", ["finetuned", "merged"])
def test_what_a_base_says_of_itself_is_kept(base, made, request):
    out = request.getfixturevalue(made)
    before, after = (json.loads((directory / "config.json").read_text()) for directory in (base, out))
    assert after == before | {"dtype": "float32"}
    assert after["somebody's own field"] == [1, None, "ü"]
    assert json.loads((out / "generation_config.json").read_text()) == GENERATION
    assert load_config(out).eos_token_ids == load_config(base).eos_token_ids == (8191, 8193)


def test_added_tokens_in_a_text_are_learned_as_tokens(base, finetuned):
    shards = map_shards(finetuned / "training" / "tokens")
    learned = Counter(int(i) for part in (*shards.train, *shards.validation) for i in part)
    del learned[8191]  # before a text and before each stretch of it that is held out, or is not
    assert learned == Counter(AutoTokenizer.from_pretrained(base).encode(DIALOGUES, add_special_tokens=False))


def test_several_chat_templates_are_kept(tmp_path):
    base = make_base(tmp_path / "base", BASES["tokenizer.json"]())
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "rag.jinja").write_text(TEMPLATE)
    assert (run(base, tmp_path / "out", DIALOGUES) / "additional_chat_templates" / "rag.jinja").read_text() == TEMPLATE


def test_how_other_weights_were_stored_is_not_kept(tmp_path):
    other = {"torch_dtype": "float16", "architectures": ["GPT2DoubleHeadsModel"], "auto_map": {"AutoModel": "mine.Model"}}
    base = make_base(tmp_path / "base", BASES["tokenizer.json"](), **other, eos_token_id=50256)
    after = json.loads((run(base, tmp_path / "out", DIALOGUES) / "config.json").read_text())
    assert "torch_dtype" not in after
    assert "auto_map" not in after
    assert (after["architectures"], after["dtype"], after["eos_token_id"]) == (["GPT2LMHeadModel"], "float32", 8191)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_written_in_the_type_of_the_base_so_that_no_change_is_rounded_away(tmp_path, dtype):
    network = GPT2(BASE).init_weights(torch.Generator().manual_seed(0))
    save_checkpoint(tmp_path / "base", network, small_vocabulary(), dtype)
    run(tmp_path / "base", tmp_path / "out", DIALOGUES)
    merge_adapter(run(tmp_path / "base", tmp_path / "adapter", DIALOGUES, LoRA(), keep_adapter=True), None, tmp_path / "merged")
    for made in ("out", "merged"):
        weights = load_file(tmp_path / made / "model.safetensors").values()
        assert {weight.dtype for weight in weights} == {dtype}, made
        assert load_config(tmp_path / made) == load_config(tmp_path / "base")
    card = (tmp_path / "out" / "README.md").read_text()
    name = str(dtype).removeprefix("torch.")
    assert f"| weights | {name}{', to which they were rounded after they were measured' * (dtype != torch.float32)} |" in card


def test_a_base_of_several_types_becomes_float32(tmp_path):
    save_checkpoint(tmp_path, GPT2(BASE).init_weights(), small_vocabulary(), torch.float16)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"transformer.wpe.weight": tensors["transformer.wpe.weight"].bfloat16()}, tmp_path / "model.safetensors")
    assert Base.load(str(tmp_path)).dtype == torch.float32


@pytest.mark.parametrize("where", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_texts_are_parted_by_the_end_token_that_the_configuration_names(tmp_path, where):
    """By `</s>` in each of these, also where the vocabulary has a token <|endoftext|> too."""
    vocab = bpe_file(DIALOGUE)["model"]["vocab"]
    renamed = {"</s>" if token == "<|endoftext|>" and where == "tokenizer_config.json" else token: i for token, i in vocab.items()}
    files = {"vocab.json": renamed, "merges.txt": None, "added_tokens.json": {"</s>": 8192}}
    if where == "tokenizer_config.json":
        files = {"vocab.json": renamed, "merges.txt": None, where: {"eos_token": "</s>"}}
    base = make_base(tmp_path / "base", files, eos_token_id=8192 if where == "config.json" else None)
    if where == "generation_config.json":
        (base / where).write_text(json.dumps({"eos_token_id": 8192}))
    end = 8191 if where == "tokenizer_config.json" else 8192
    out = run(base, tmp_path / "out", "Hello world.\n<|endoftext|>\nHello.\n" * 60)
    assert Base.load(str(base)).tokenizer.eos_token_id == Base.load(str(out)).config.eos_token_id == end
    shards = map_shards(out / "training" / "tokens")
    ids = [int(i) for part in (*shards.train, *shards.validation) for i in part]
    assert ids[0] == end
    assert ids.count(end) == 61
    assert load_model(out).config.eos_token_ids == (end,)
