"""Greedy and beam search: the cache changes nothing, rows are independent, and a wide beam finds the best target that there is."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.gpt2 import CausalAttention
from model.transformer.config import TransformerConfig
from model.transformer.decoding import CachedAttention, beam_search, greedy, length_penalty
from model.transformer.network import Transformer
from model.transformer.training import sources
from tests.model.transformer.networks import SOURCE, TARGET, random_transformer, sizes

SEEDS = st.integers(0, 10_000)
ROWS = st.lists(st.lists(st.integers(3, 10), min_size=1, max_size=8), min_size=1, max_size=5)
MAX_TOKENS = 9


@given(SEEDS, st.booleans(), ROWS, st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_logits_through_the_cache_are_those_without_it(seed: int, pre_norm: bool, rows: list[list[int]], length: int) -> None:
    model = random_transformer(sizes(pre_norm=pre_norm), seed)
    target = torch.randint(1, 11, (len(rows), length), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        memory, cache = model.encode(sources(rows, model.config)), CachedAttention()
        whole = model.decode(target, memory, CausalAttention())
        steps = [model.decode(target[:, i : i + 1], memory, cache, first=i) for i in range(length)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=1e-4)


@given(SEEDS, ROWS)
@settings(deadline=None, max_examples=30)
def test_a_beam_of_one_is_greedy(seed: int, rows: list[list[int]]) -> None:
    model = random_transformer(sizes(), seed)
    source = sources(rows, model.config)
    assert [best.tokens for best in beam_search(model, source, MAX_TOKENS, 1, alpha=0.0)] == greedy(model, source, MAX_TOKENS)


@given(SEEDS, ROWS, st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_a_row_is_searched_as_if_it_were_alone(seed: int, rows: list[list[int]], num_beams: int) -> None:
    model = random_transformer(sizes(), seed)
    together = sources(rows, model.config)
    alone = [sources([row], model.config) for row in rows]
    assert greedy(model, together, MAX_TOKENS) == [greedy(model, row, MAX_TOKENS)[0] for row in alone]
    for ours, theirs in zip(beam_search(model, together, MAX_TOKENS, num_beams), alone, strict=True):
        (expected,) = beam_search(model, theirs, MAX_TOKENS, num_beams)
        assert ours.tokens == expected.tokens
        assert ours.score == pytest.approx(expected.score, abs=1e-4)


def all_targets(config: TransformerConfig, longest: int) -> list[list[int]]:
    """Every target that a search may end with: eos_id as its last token, or none and as long as allowed."""
    words = [token for token in range(config.vocab_size) if token not in (config.pad_id, config.eos_id)]
    ended = [[*row, config.eos_id] for length in range(longest) for row in itertools.product(words, repeat=length)]
    return ended + [list(row) for row in itertools.product(words, repeat=longest)]


def score(model: Transformer, source: torch.Tensor, target: list[int], alpha: float) -> float:
    """By whole sequences and without a cache."""
    config = model.config
    logits = model(source, torch.tensor([[config.bos_id, *target[:-1]]]))[0]  # (T, V)
    log_prob = logits.log_softmax(-1)[torch.arange(len(target)), target].sum().item()
    return log_prob / ((5 + len(target)) / 6) ** alpha


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_a_beam_as_wide_as_there_are_prefixes_finds_the_best_of_all_targets(seed: int, alpha: float) -> None:
    config = sizes(vocab_size=5)
    model, source = random_transformer(config, seed), torch.tensor([[4, 3, 2]])
    best = max(all_targets(config, longest=4), key=lambda target: score(model, source, target, alpha))
    (found,) = beam_search(model, source, max_tokens=4, num_beams=3**4, alpha=alpha)
    assert found.tokens == [token for token in best if token != config.eos_id]
    assert found.score == pytest.approx(score(model, source, best, alpha), abs=1e-5)
    assert found.log_prob == pytest.approx(score(model, source, best, 0.0), abs=1e-5)


@torch.no_grad()
def test_more_beams_find_likelier_targets_on_the_whole() -> None:
    totals = dict.fromkeys((1, 2, 4, 8), 0.0)
    for seed in range(10):
        model = random_transformer(sizes(), seed)
        for num_beams in totals:
            totals[num_beams] += sum(best.log_prob for best in beam_search(model, SOURCE, MAX_TOKENS, num_beams, alpha=0.0))
    assert sorted(totals, key=lambda num_beams: totals[num_beams]) == [1, 2, 4, 8]


def test_the_length_penalty_is_that_of_wu_et_al() -> None:
    assert length_penalty(1, 0.6) == 1.0
    assert length_penalty(13, 0.6) == pytest.approx(18**0.6 / 6**0.6)
    assert length_penalty(7, 0.0) == 1.0


def test_a_higher_length_penalty_prefers_longer_targets() -> None:
    lengths = []
    for alpha in (0.0, 1.0, 3.0):
        models = (random_transformer(sizes(), seed) for seed in range(12))
        lengths.append(sum(len(best.tokens) for model in models for best in beam_search(model, SOURCE, MAX_TOKENS, 4, alpha)))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_padding_is_never_generated_even_where_its_logit_is_the_highest() -> None:
    model = random_transformer(sizes(bos_id=3))
    with torch.no_grad():
        hidden = model.decode(TARGET[:, :1], model.encode(SOURCE), CausalAttention())
        assert hidden.shape == (2, 1, 11)
        model.wte.weight[0] = 5 * model.wte.weight[hidden[0, 0].argmax()]  # its logit is five times the highest
    found = greedy(model, SOURCE, MAX_TOKENS) + [best.tokens for best in beam_search(model, SOURCE, MAX_TOKENS)]
    assert all(0 not in tokens for tokens in found)
    assert all(math.isfinite(best.score) for best in beam_search(model, SOURCE, MAX_TOKENS))


@pytest.mark.parametrize("max_tokens", [0, 25])
def test_a_length_that_the_model_has_not_is_refused_with_its_number(max_tokens: int) -> None:
    for search in (greedy, beam_search):
        with pytest.raises(ValueError, match=f"max_tokens is {max_tokens}; the model's targets have 1 to 24"):
            search(random_transformer(sizes()), SOURCE, max_tokens)
