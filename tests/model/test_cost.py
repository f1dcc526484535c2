"""What the arithmetic costs, against what PyTorch counts of the network itself, and against the network's own tensors."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.config import PRESETS, GPT2Config
from model.cost import Cost
from model.gpt2 import GPT2
from model.kv_cache import KVCache
from model.network_files import weights_of

CONFIGS = [
    GPT2Config(vocab_size=50, n_positions=32, n_embd=12, n_layer=2, n_head=3, eos_token_ids=(0,)),
    GPT2Config(vocab_size=31, n_positions=16, n_embd=20, n_layer=3, n_head=5, n_inner=7, eos_token_ids=(0,)),
]
BILL = Path(__file__).parents[2] / "docs/bill.md"


class OneByOne:
    """Attention position by position, each over no more than it may look at, so that each product that is counted is needed."""

    def __init__(self) -> None:
        self.num_attended = 0

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = []
        for p in range(len(q)):
            self.num_attended += p + 1
            scores = q[p].unsqueeze(1) @ k[: p + 1].permute(1, 2, 0)  # (H, 1, p + 1)
            rows.append((scores.softmax(-1) @ v[: p + 1].transpose(0, 1)).squeeze(1))  # (H, D)
        return torch.stack(rows)


@pytest.mark.parametrize("config", CONFIGS, ids=["plain", "narrow"])
@pytest.mark.parametrize(("num_tokens", "num_heads"), [(1, 1), (9, 1), (9, 4), (16, 0)])
def test_flops_are_those_that_pytorch_counts_of_the_network(config, num_tokens, num_heads):
    model, attention = GPT2(config).init_weights(torch.Generator().manual_seed(0)), OneByOne()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden = model.hidden_states(torch.zeros(num_tokens, dtype=torch.long), torch.arange(num_tokens), attention)
        model.lm_head(hidden[num_tokens - num_heads :])
    assert counter.get_total_flops() == Cost(config, "float32").flops(
        num_tokens, attention.num_attended // config.n_layer, num_heads
    )


@pytest.mark.parametrize("config", CONFIGS, ids=["plain", "narrow"])
def test_a_pass_moves_each_weight_once(config):
    cost = Cost(config, "float32")
    in_tensors = 4 * (config.num_parameters - config.n_positions * config.n_embd)  # of wpe a token's row alone is read
    assert cost.bytes_moved(0, 0, 0, num_passes=1, num_head_passes=1) == in_tensors


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_position_takes_the_bytes_that_it_has_in_the_cache(dtype):
    config = CONFIGS[0]
    cache = KVCache(config, 1, getattr(torch, dtype), torch.device("cpu"))
    assert Cost(config, dtype).position_bytes == cache.data[:, :, 0, :, 0].nbytes
    assert Cost(config, dtype).bytes_moved(0, num_read=5, num_copied=2) == 9 * cache.data[:, :, 0, :, 0].nbytes


def test_int8_has_a_scale_for_each_output_and_for_each_head_of_a_position(needs_native, tiny_config):
    from model.native.library import Precision
    from model.native.runner import NativeRunner

    runner = NativeRunner(tiny_config, weights_of(GPT2(tiny_config)), 3, Precision.INT8, 1)
    assert Cost(tiny_config, "int8").position_bytes * 3 * tiny_config.n_positions == runner.cache_bytes
    assert Cost(tiny_config, "int8").head_bytes == tiny_config.vocab_size * (tiny_config.n_embd + 4)


def test_half_as_long_numbers_move_about_half_as_many_bytes():
    long, short = (Cost(PRESETS["gpt2"], dtype).block_bytes for dtype in ("float32", "bfloat16"))
    assert 0.5 < short / long < 0.501


def test_kaplans_approximation_lies_near_in_the_middle_of_the_context():
    config = PRESETS["gpt2"]
    weights = 2 * config.n_embd * config.n_layer * (2 * config.n_embd + config.inner_size)  # N, without the head
    theirs = 2 * weights + 2 * config.n_layer * config.n_positions * config.n_embd
    assert Cost(config, "float32").flops(1, config.n_positions // 2, 0) == theirs


def test_the_documents_example_comes_out_as_it_says():
    config, cost = PRESETS["gpt2"], Cost(PRESETS["gpt2"], "int8")
    example = BILL.read_text().split("## An example")[1].split("## Counters")[0]
    told = {
        what.strip(): int(total.replace(",", ""))
        for what, total in re.findall(r"^ {4}(.+?)(?: × .*?)? = +([\d,]+)$", example, re.M)
    }
    prices = [int(price.replace(",", "")) for price in re.findall(r"× +([\d,]+) =", example)]
    assert (config.n_embd, config.n_layer, config.inner_size, config.vocab_size, config.n_head) == (768, 12, 3072, 50257, 12)
    num_tokens, num_attended, num_heads, num_read = 10 + 3 - 1, sum(range(1, 13)), 3, 10 + 11 + 12
    assert told["flops"] == cost.flops(num_tokens, num_attended, num_heads)
    assert told["bytes moved"] == cost.bytes_moved(num_tokens, num_read, 0, num_passes=3, num_head_passes=3)
    assert prices == [
        cost.token_flops,
        cost.attention_flops,
        cost.head_flops,
        cost.block_bytes,
        cost.head_bytes,
        cost.embedding_bytes,
        cost.position_bytes,
    ]
    flops, moved = list(told.values())[:3], list(told.values())[4:8]
    assert (sum(flops), sum(moved)) == (told["flops"], told["bytes moved"])
