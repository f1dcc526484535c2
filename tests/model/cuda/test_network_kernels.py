"""Each kernel of the network against float64, and its bits against those of the same row in other company."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.cuda.kernels.attention import attention, attention_twin
from model.cuda.kernels.embed import embed, embed_twin
from model.cuda.kernels.fc import fc, fc_twin
from model.cuda.kernels.head import head, head_twin
from model.cuda.kernels.norm import norm, norm_twin
from model.cuda.kernels.qkv import qkv, qkv_twin
from model.cuda.kernels.residual import residual_parts
from model.cuda.tiles import HEAD_TILE, QUERY_TILE, attention_tiles, head_tiles, linear_tiles, parts_tiles
from tests.model.cuda.conftest import DEVICE
from tests.model.cuda.layers import (
    CANARY,
    EPS,
    POSITIONS,
    SLOTS,
    Linear,
    Norm,
    assert_close,
    blank,
    ints,
    poisoned_cache,
    randn,
    rows_of,
    run_attention,
    run_fc,
    run_head,
    run_norm,
    run_qkv,
    run_residual,
    tiles_of,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what is no number, where it interprets a kernel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS = (1, 3, 17, 33)  # a lone row, some, a tile of queries and one, a tile of a linear layer and one
WIDTH, INNER, VOCAB = 72, 200, 301

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_number_of_rows = pytest.mark.parametrize("num_rows", ROWS)
kernel_and_twin = pytest.mark.parametrize("is_twin", [False, True], ids=["kernel", "twin"])


@kernel_and_twin
@each_dtype
def test_a_row_begins_as_its_tokens_and_its_places_embedding(dtype, is_twin):
    wte, wpe = randn(VOCAB, WIDTH, dtype=dtype), randn(POSITIONS, WIDTH, seed=1, dtype=dtype)
    token_ids, positions, slots = ints([300, 0, 7, 7, 0]), ints([0, 159, 3, 4, 0]), ints([1, 0, 4, 4, SLOTS])
    x, history = blank(5, WIDTH), torch.full((SLOTS + 1, POSITIONS), -1, device=DEVICE)
    (embed_twin if is_twin else embed)(x[:-1], history, token_ids, positions, slots, wte, wpe)
    assert torch.equal(x[:-1], wte[token_ids].float() + wpe[positions].float())
    assert (x[-1] == CANARY).all()
    places = {(slot, position): int(history[slot, position]) for slot, position in (history != -1).nonzero().tolist()}
    assert places == {(1, 0): 300, (0, 159): 0, (4, 3): 7, (4, 4): 7, (SLOTS, 0): 0}


@kernel_and_twin
@pytest.mark.parametrize("width", [1, 40, WIDTH, 512, 1600])
@each_dtype
def test_rows_are_normalised_as_in_float64(dtype, width, is_twin):
    x, layer = randn(3, width) if width == 1 else rows_of(3, width), Norm(width)
    assert_close(run_norm(x, layer, dtype, norm_twin if is_twin else norm), layer(x), dtype)


@kernel_and_twin
@each_number_of_rows
@each_dtype
def test_queries_keys_and_values_are_those_of_float64_and_go_where_they_belong(dtype, num_rows, is_twin):
    num_heads, width = (2, 40) if num_rows == 3 else (3, WIDTH)
    layer, h = Linear(3 * width, width, dtype), randn(num_rows, width, dtype=dtype)
    cache = poisoned_cache(num_heads, width // num_heads, dtype)
    positions, slots = ints([(5 * row) % POSITIONS for row in range(num_rows)]), ints([row % SLOTS for row in range(num_rows)])
    q = run_qkv(h, cache, positions, slots, layer, qkv_twin if is_twin else qkv)
    expected = layer(h).chunk(3, dim=-1)
    assert_close(q, expected[0], dtype)
    for written, wanted in zip(cache, expected[1:], strict=True):
        rows = written[slots, :, positions].flatten(1)
        assert_close(torch.cat([rows, torch.full_like(rows[:1], CANARY)]), wanted, dtype)
        written[slots, :, positions] = torch.nan
    assert cache.isnan().all()


@kernel_and_twin
@each_number_of_rows
@each_dtype
def test_the_inner_layer_is_that_of_float64(dtype, num_rows, is_twin):
    layer, h = Linear(INNER, WIDTH, dtype), randn(num_rows, WIDTH, dtype=dtype)
    u = run_fc(h, layer, fc_twin if is_twin else fc)
    assert_close(u, F.gelu(layer(h), approximate="tanh"), dtype)


@kernel_and_twin
@each_number_of_rows
@each_dtype
def test_a_projection_is_added_to_the_residual_stream(dtype, num_rows, is_twin):
    layer, x, y = Linear(WIDTH, INNER, dtype), rows_of(num_rows, WIDTH), randn(num_rows, INNER, seed=7, dtype=dtype)
    out, h = run_residual(x, y, layer, is_twin)
    assert_close(out, x.double() + layer(y), torch.float32)  # products and sums are float32 whatever the weights
    assert_close(h, F.layer_norm(out[:-1].double(), (WIDTH,), eps=EPS), torch.float32)


@kernel_and_twin
@each_number_of_rows
@each_dtype
def test_logits_and_what_their_logsumexp_is_made_of_are_those_of_float64(dtype, num_rows, is_twin):
    layer, h = Linear(VOCAB, WIDTH, dtype), randn(9, WIDTH, dtype=dtype)
    layer.weight *= 30  # logits far apart
    rows = [(4 * b) % 9 for b in range(num_rows)]
    logits, maxima, sums = run_head(h, rows, layer, head_twin if is_twin else head)
    assert_close(logits, h[rows].double() @ layer.weight.double().T, dtype)
    assert all((out[-1] == CANARY).all() for out in (maxima, sums))
    tiles = logits[:-1].double().split(HEAD_TILE, dim=-1)
    assert torch.equal(maxima[:-1].double(), torch.stack([tile.amax(dim=-1) for tile in tiles], dim=-1))
    logsumexp = (maxima.double() + sums.double().log())[:-1]
    torch.testing.assert_close(logsumexp, torch.stack([tile.logsumexp(dim=-1) for tile in tiles], dim=-1), rtol=1e-6, atol=1e-6)


@kernel_and_twin
@pytest.mark.parametrize("head_dim", [24, 80, 128])
@each_dtype
def test_attention_is_that_of_float64_over_what_a_row_may_see(dtype, head_dim, is_twin):
    num_heads, starts, lengths = 2, (0, 121, 40), (17, 20, 1)
    positions = ints([p for start, length in zip(starts, lengths, strict=True) for p in range(start, start + length)])
    slots = ints([slot for slot, length in zip((3, 0, 4), lengths, strict=True) for _ in range(length)])
    cache, q = poisoned_cache(num_heads, head_dim, dtype), randn(38, num_heads * head_dim, seed=1, scale=2, dtype=dtype)
    for slot, start, length in zip((3, 0, 4), starts, lengths, strict=True):
        cache[:, slot, :, : start + length] = randn(2, num_heads, start + length, head_dim, seed=slot, scale=2, dtype=dtype)
    tiles = [*tiles_of(0, 17), (0, 0), *tiles_of(17, 20), *tiles_of(37, 1), (0, 0)]
    y = run_attention(q, cache, positions, slots, tiles, attention_twin if is_twin else attention)
    expected = []
    for row, (slot, position) in enumerate(zip(slots.tolist(), positions.tolist(), strict=True)):
        keys, values = cache[:, slot, :, : position + 1].double().unbind(0)
        query = q[row].view(num_heads, 1, head_dim).double()
        expected.append(F.scaled_dot_product_attention(query, keys, values).flatten())
    assert_close(y, torch.stack(expected), dtype)


@each_dtype
def test_rows_of_no_tile_are_left_as_they_are(dtype):
    cache, q = torch.zeros_like(poisoned_cache(2, 20, dtype)), randn(6, 40, dtype=dtype)
    y = run_attention(q, cache, ints(range(6)), ints([1] * 6), [(2, 3), (0, 0)])
    assert y[:-1].isnan().all(dim=-1).tolist() == [True, True, False, False, False, True]


@each_dtype
def test_a_row_has_the_same_bits_alone_and_anywhere_in_a_crowd(dtype):
    width, inner = 24, 40
    crowd, others = rows_of(33, width), rows_of(33, width, seed=9)
    ln, narrow, wide = Norm(width), Linear(width, inner, dtype), Linear(inner, width, dtype)
    c_attn, lm_head = Linear(3 * width, width, dtype), Linear(VOCAB, width, dtype)
    hidden = randn(33, inner, seed=7, dtype=dtype)

    def outputs(x: Tensor, u: Tensor) -> list[Tensor]:
        """All that the kernels make of these rows."""
        cache, rows = poisoned_cache(1, width, dtype), ints(range(len(x)))
        h = run_norm(x, ln, dtype)[:-1]
        q = run_qkv(h, cache, rows, torch.zeros_like(rows), c_attn)
        made = [q, run_fc(h, wide), *run_residual(x, u, narrow), *run_head(h, range(len(x)), lm_head)]
        return [h, *(out[:-1] for out in made)] + [side[0].transpose(0, 1)[: len(x)] for side in cache]

    together = outputs(crowd, hidden)
    for row, place in ((0, 0), (13, 0), (31, 7), (32, 32)):
        x, u = others[: place + 1].clone(), hidden.flip(0)[: place + 1].clone()
        x[place], u[place] = crowd[row], hidden[row]
        assert all(torch.equal(a[place], b[row]) for a, b in zip(outputs(x, u), together, strict=True))


@each_dtype
def test_a_prompt_has_the_bits_of_the_same_tokens_one_by_one(dtype):
    start, num_rows, num_heads, head_dim = 123, 18, 1, 20  # over the border of two blocks of keys
    layer, h = Linear(3 * 20, 20, dtype), randn(num_rows, 20, dtype=dtype)
    past = randn(2, num_heads, start, head_dim, seed=3, dtype=dtype)

    def run(chunks: Sequence[range], slot: int) -> tuple[Tensor, Tensor]:
        cache, y = poisoned_cache(num_heads, head_dim, dtype), []
        cache[:, slot, :, :start] = past
        for chunk in chunks:
            positions, slots = ints([start + row for row in chunk]), ints([slot] * len(chunk))
            q = run_qkv(h[chunk.start : chunk.stop], cache, positions, slots, layer)[:-1]
            y.append(run_attention(q, cache, positions, slots, tiles_of(0, len(chunk)))[:-1])
        return torch.cat(y), cache[:, slot, :, start : start + num_rows]

    at_once = run([range(num_rows)], slot=0)
    one_by_one = run([range(row, row + 1) for row in range(num_rows)], slot=3)
    in_pieces = run([range(2), range(2, 11), range(11, 12), range(12, num_rows)], slot=4)
    for other in (one_by_one, in_pieces):
        assert all(torch.equal(a, b) for a, b in zip(at_once, other, strict=True))


@settings(max_examples=6, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_attention_gives_a_row_the_same_bits_however_rows_are_tiled(data, dtype):
    """Chunks of several slots, cut into tiles of any size, in any order."""
    chunks = data.draw(st.lists(st.tuples(st.integers(0, POSITIONS - 24), st.integers(1, 24)), min_size=1, max_size=3))
    cache = randn(2, SLOTS + 1, 1, POSITIONS, 20, dtype=dtype)
    positions = ints([start + i for start, length in chunks for i in range(length)])
    slots = ints([slot for slot, (_, length) in enumerate(chunks) for _ in range(length)])
    q = randn(len(positions), 20, seed=2, dtype=dtype)
    firsts = [0, *itertools.accumulate(length for _, length in chunks)]

    def tiled() -> list[tuple[int, int]]:
        sizes = data.draw(st.lists(st.integers(1, QUERY_TILE), min_size=len(chunks), max_size=len(chunks)))
        tiles = [tiles_of(first, length, size) for first, (_, length), size in zip(firsts, chunks, sizes, strict=False)]
        return data.draw(st.permutations([tile for some in tiles for tile in some]))

    first, second = (run_attention(q, cache, positions, slots, tiled()) for _ in range(2))
    assert not first.isnan().any()
    assert torch.equal(first, second)


@each_dtype
def test_what_is_no_number_reaches_its_own_row_and_no_other(dtype):
    x, clean = rows_of(4, WIDTH), rows_of(4, WIDTH)
    x[1, 3], x[2, 70] = torch.nan, torch.inf
    wide, narrow, lm_head = Linear(INNER, WIDTH, dtype), Linear(WIDTH, WIDTH, dtype), Linear(VOCAB, WIDTH, dtype)
    for run in (
        lambda x: run_norm(x, Norm(WIDTH), dtype),
        lambda x: run_fc(x.to(dtype), wide),
        lambda x: run_residual(clean, x.to(dtype), narrow)[0],
        lambda x: run_head(x.to(dtype), range(4), lm_head)[0],
        lambda x: run_head(x.to(dtype), range(4), lm_head)[2],
        lambda x: run_qkv(
            x.to(dtype), poisoned_cache(3, 24, dtype), ints([0] * 4), ints(range(4)), Linear(3 * WIDTH, WIDTH, dtype)
        ),
    ):
        out, expected = run(x)[:-1], run(clean)[:-1]
        assert not out[1:3].isfinite().any()
        assert torch.equal(out[::3], expected[::3])


@pytest.mark.parametrize("into", [8, 72, 200, 768, 1500, 3072])
def test_a_sum_is_cut_into_parts_of_whole_steps_that_cover_it_all(into):
    block_k = parts_tiles(torch.bfloat16).block_k
    num = residual_parts(torch.empty(72, into, dtype=torch.bfloat16))
    num_steps = math.ceil(into / block_k)
    assert (num - 1) * math.ceil(num_steps / num) < num_steps  # no part is empty


@each_dtype
def test_a_sum_of_several_parts_is_that_of_float64(dtype):
    layer, x, y = Linear(40, 1500, dtype), rows_of(3, 40), randn(3, 1500, seed=7, dtype=dtype)
    assert residual_parts(layer.weight) > 1
    assert_close(run_residual(x, y, layer)[0], x.double() + layer(y), torch.float32)


@each_dtype
def test_one_logit_that_is_no_number_shows_in_its_tiles_sum(dtype):
    layer = Linear(VOCAB, WIDTH, dtype)
    layer.weight[170, 0] = torch.nan
    _, _, sums = run_head(randn(2, WIDTH, dtype=dtype), [0, 1], layer)
    assert sums[:-1].isnan().tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize("broken", ["query", "key", "value"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_overflow_is_never_silent_in_attention(broken, value):
    """float16's range ends at 65504; a key whose score is minus infinity would else weigh nothing."""
    cache, q = randn(2, SLOTS + 1, 2, POSITIONS, 20, dtype=torch.float16), randn(20, 40, seed=1, dtype=torch.float16)
    positions, slots, tiles = ints(range(20)), ints([1] * 20), tiles_of(0, 20)
    expected = run_attention(q, cache, positions, slots, tiles)[:-1]
    if broken == "query":
        q[18, 5] = value
    else:
        cache[int(broken == "value"), 1, 0, 18, 5] = value
    y = run_attention(q, cache, positions, slots, tiles)[:-1]
    reached = y.isfinite().logical_not().any(dim=-1).tolist()
    assert reached[18]
    assert reached[19] == (broken != "query")
    assert torch.equal(y[:16], expected[:16])
    assert torch.equal(y[:, 20:], expected[:, 20:])  # the other head


def test_an_overflow_of_float16_is_never_silent_in_a_layer():
    wide, narrow = Linear(INNER, WIDTH, torch.float16), Linear(WIDTH, INNER, torch.float16)
    wide.weight[:3], wide.weight[3:6] = 6e4, -6e4  # one of the two comes out positive
    u = run_fc(randn(2, WIDTH, dtype=torch.float16), wide)[:-1]
    assert u.isinf().any()
    assert not run_residual(rows_of(2, WIDTH), u, narrow)[0][:-1].isfinite().any()


@each_dtype
def test_tiles_keep_a_lone_row_on_half_of_a_cards_processors(dtype):
    for width in (768, 1024, 1280, 1600):
        for out in (3 * width, 4 * width):
            assert out // linear_tiles(out, dtype).block_n >= 64
        for into in (width, 4 * width):
            layer = torch.empty(width, into, dtype=dtype)
            assert width // parts_tiles(dtype).block_n * residual_parts(layer) >= 64
    assert head_tiles(dtype).block_n == HEAD_TILE
    assert attention_tiles(80, dtype).block_k == 128
