"""The network against transformers' GPT-2 on the same random weights, in one pass and through the cache."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams
from model.config import PRESETS, GPT2Config
from model.gpt2 import GPT2
from model.kv_cache import GridAttention, KVCache, RaggedAttention
from model.network_files import load_model, save_checkpoint
from model.runner import TorchRunner
from model.tokenizer import Tokenizer
from tests.model.execute import execute

# No width is a multiple of a vector's length, no two configurations share a head count, a vocabulary or a context.
CONFIGS = {
    "five-heads": GPT2Config(vocab_size=97, n_positions=33, n_embd=35, n_layer=3, n_head=5, eos_token_ids=(0,)),
    "one-head-narrow-mlp": GPT2Config(
        vocab_size=501, n_positions=65, n_embd=50, n_layer=2, n_head=1, n_inner=30, eos_token_ids=(0,)
    ),
    "heads-of-one": GPT2Config(vocab_size=131, n_positions=40, n_embd=9, n_layer=1, n_head=9, n_inner=101, eos_token_ids=(0,)),
    "other-epsilon": GPT2Config(
        vocab_size=1009, n_positions=129, n_embd=84, n_layer=4, n_head=7, layer_norm_epsilon=1e-2, eos_token_ids=(0,)
    ),
}
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> GPT2Config:
    return CONFIGS[request.param]


@pytest.fixture(params=TOLERANCES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def random_model(config: GPT2Config, seed: int = 0) -> GPT2:
    """Weights, biases and LayerNorms all far from what they start with, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT2(config).init_weights(generator).double().requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def random_tokens(config: GPT2Config, *shape: int) -> Tensor:
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def distance(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.cpu().double(), theirs.cpu().double()
    return ((ours - theirs).norm() / theirs.norm()).item()


@torch.inference_mode()
def test_logits_are_those_of_transformers(
    config: GPT2Config, dtype: torch.dtype, device: torch.device, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = random_model(config)
    save_checkpoint(tmp_path, model, small_tokenizer, torch.float64)
    reference = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=dtype).to(device).eval()
    tokens = random_tokens(config, 2, config.n_positions).to(device)
    assert distance(model.to(device, dtype)(tokens), reference(tokens).logits) <= TOLERANCES[dtype]


@torch.inference_mode()
def test_a_checkpoint_of_transformers_gives_the_same_logits_here(config: GPT2Config, tmp_path: Path) -> None:
    save_checkpoint_of_transformers(config, tmp_path)
    reference = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    tokens = random_tokens(config, 2, config.n_positions)
    assert distance(load_model(tmp_path).eval()(tokens), reference(tokens).logits) <= TOLERANCES[torch.float32]


def save_checkpoint_of_transformers(config: GPT2Config, directory: Path) -> None:
    from transformers import GPT2Config as TheirConfig

    torch.manual_seed(2)
    theirs = TheirConfig(
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_inner=config.n_inner,
        layer_norm_epsilon=config.layer_norm_epsilon,
        bos_token_id=config.eos_token_id,
        eos_token_id=config.eos_token_id,
    )
    model = GPT2LMHeadModel(theirs)
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(directory)


def chunks_of(tokens: Tensor, slot: int, cuts: list[int]) -> list[Chunk]:
    ids, bounds = tokens.tolist(), [0, *cuts, len(tokens)]
    return [Chunk(slot, start, tuple(ids[start:end])) for start, end in pairwise(bounds)]


@torch.inference_mode()
def test_prefill_in_chunks_and_decoding_give_the_logits_of_one_pass(config: GPT2Config, dtype: torch.dtype) -> None:
    """Two sequences, of other lengths and cut otherwise, share every step; then both decode token by token."""
    model = random_model(config).to(dtype)
    tokens = random_tokens(config, 2, config.n_positions)
    expected = model(tokens)
    decoded = range(config.n_positions - 10, config.n_positions)
    steps = [chunks_of(tokens[0], 0, [7, 16, *decoded]), chunks_of(tokens[1], 2, [1, 18, *decoded])]
    cache = KVCache(config, num_slots=3, dtype=dtype, device=torch.device("cpu"))
    rows: list[list[Tensor]] = [[], []]
    for step in zip(*steps, strict=True):
        token_ids = torch.tensor([i for chunk in step for i in chunk.token_ids])
        positions = torch.tensor([p for chunk in step for p in range(chunk.start, chunk.end)])
        slots = torch.tensor([chunk.slot for chunk in step for _ in chunk.token_ids])
        hidden = model.hidden_states(token_ids, positions, RaggedAttention(cache, step, slots, positions))
        parts = model.lm_head(hidden).split([len(chunk.token_ids) for chunk in step])
        for row, part in zip(rows, parts, strict=True):
            row.append(part)
    assert distance(torch.stack([torch.cat(row) for row in rows]), expected) <= TOLERANCES[dtype]


@torch.inference_mode()
def test_fixed_grids_over_whole_slots_give_the_logits_of_one_pass(
    config: GPT2Config, dtype: torch.dtype, device: torch.device
) -> None:
    """The GPU's layout: two chunks of equally many rows into slot 1 alone, then a row a slot."""
    model = random_model(config).to(device, dtype)
    tokens = random_tokens(config, config.n_positions).to(device)
    expected = model(tokens[None])[0]
    cache = KVCache(config, num_slots=2, dtype=dtype, device=device)
    slot = torch.tensor([1], device=device)
    hidden = []
    num_rows = config.n_positions // 2 - 5
    for positions in torch.arange(2 * num_rows, device=device).split(num_rows):
        attention = GridAttention(cache, slot, slot.repeat(num_rows), positions, num_rows)
        hidden.append(model.hidden_states(tokens[positions], positions, attention))
    for position in range(2 * num_rows, config.n_positions):
        positions = torch.tensor([0, position], device=device)
        attention = GridAttention(cache, None, torch.tensor([cache.scratch, 1], device=device), positions, num_rows=1)
        hidden.append(model.hidden_states(tokens[position].repeat(2), positions, attention)[1:])
    assert distance(model.lm_head(torch.cat(hidden)), expected) <= TOLERANCES[dtype]


@torch.inference_mode()
def test_the_runners_greedy_tokens_and_log_probabilities_are_those_of_one_pass(config: GPT2Config, device: torch.device) -> None:
    tokens = random_tokens(config, config.n_positions)
    logprobs = random_model(config).float()(tokens[None])[0].log_softmax(dim=-1)  # (T, V)
    runner = TorchRunner(random_model(config), num_slots=2, chunk_size=128, device=device, dtype=torch.float32)
    for chunk in chunks_of(tokens, 1, [16, *range(config.n_positions - 10, config.n_positions)]):
        asked = chunk._replace(draws=(Draw(len(chunk.token_ids) - 1, SamplingParams()),))
        ((token,),) = execute(runner, ForwardBatch((asked,))).chunks[0].tokens
        row = logprobs[chunk.end - 1]
        assert row.max() - row[token.token_id] <= 1e-4
        assert token.logprob == pytest.approx(row[token.token_id].item(), abs=1e-3)


@torch.inference_mode()
def test_a_position_sees_nothing_after_itself(config: GPT2Config) -> None:
    model = random_model(config)
    tokens = random_tokens(config, 1, config.n_positions)
    other = tokens.clone()
    other[0, 20:] = (other[0, 20:] + 1) % config.vocab_size
    torch.testing.assert_close(model(tokens)[:, :20], model(other)[:, :20], rtol=0, atol=1e-12)
    assert distance(model(tokens)[:, 20:], model(other)[:, 20:]) > 0.01


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("distilgpt2", 81_912_576),
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_presets_have_the_published_numbers_of_parameters(name: str, num_parameters: int) -> None:
    with torch.device("meta"):
        network = GPT2(PRESETS[name])
    assert PRESETS[name].num_parameters == sum(parameter.numel() for parameter in network.parameters()) == num_parameters


@pytest.mark.parametrize("n_inner", [None, 37])
def test_a_config_knows_the_networks_parameters_in_their_order(n_inner: int | None) -> None:
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=24, n_layer=3, n_head=2, n_inner=n_inner, eos_token_ids=(0,))
    network = [(name, tuple(parameter.shape)) for name, parameter in GPT2(config).named_parameters()]
    assert list(config.parameter_shapes.items()) == network


def test_a_copy_for_inference_shares_the_weights_that_are_as_wanted_and_leaves_the_network_as_it_is(device: torch.device) -> None:
    model = GPT2(CONFIGS["five-heads"], dropout=0.5)
    here, half = (model.for_inference(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    tokens = random_tokens(model.config, 1, 20).to(device)
    assert torch.equal(here(tokens), here(tokens))
    assert (here.training, half.training, model.training) == (False, False, True)
    for (name, plain), copied, halved in zip(model.named_parameters(), here.parameters(), half.parameters(), strict=True):
        assert (copied.data_ptr() == plain.data_ptr()) == (device.type == "cpu"), name
        assert (halved.dtype, plain.dtype) == (torch.bfloat16, torch.float32)
        assert (copied.requires_grad, halved.requires_grad, plain.requires_grad) == (False, False, True)
    for copy in (here, half):
        assert copy.lm_head.weight is copy.wte.weight


def test_weights_start_as_gpt2s_do() -> None:
    """N(0, 0.02²); projections back into the residual stream smaller by sqrt(2 * layers); biases 0, LayerNorms the identity."""
    config = GPT2Config(vocab_size=503, n_positions=64, n_embd=128, n_layer=8, n_head=4, eos_token_ids=(0,))
    for name, parameter in GPT2(config).init_weights(torch.Generator().manual_seed(3)).named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "ln_" in name:
            assert (parameter == 1).all(), name
        else:
            std = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name
            assert abs(parameter.mean().item()) < 0.1 * std, name


def test_one_seed_gives_one_initialisation() -> None:
    first, second, other = (GPT2(CONFIGS["five-heads"]).init_weights(torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert torch.equal(first.wte.weight, second.wte.weight)
    assert not torch.equal(first.wte.weight, other.wte.weight)


def test_dropout_acts_in_training_alone(device: torch.device) -> None:
    config = CONFIGS["five-heads"]
    model = GPT2(config, dropout=0.5).to(device)
    tokens = random_tokens(config, 1, 20).to(device)
    assert not torch.equal(model.train()(tokens), model(tokens))
    plain = GPT2(config).to(device)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(tokens), plain.eval()(tokens))


def test_the_output_head_is_the_input_embedding() -> None:
    model = GPT2(CONFIGS["five-heads"])
    assert model.lm_head.weight is model.wte.weight


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_embd": 10, "n_head": 3}, "n_embd 10 cannot be split over n_head 3 heads"),
        ({"n_layer": 0}, "n_layer is 0; it must be at least 1"),
        ({"n_inner": 0}, "inner_size is 0; it must be at least 1"),
        ({"vocab_size": 10}, "eos_token_id 50256 is outside the vocabulary of 10"),
    ],
)
def test_sizes_that_fit_no_network_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPT2Config(**sizes)
