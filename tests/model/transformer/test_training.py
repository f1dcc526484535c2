"""Training an encoder-decoder: batches, loss and schedule are as published, it learns a small task, and comes back from files."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.errors import TrainingError
from model.transformer.config import TransformerConfig
from model.transformer.decoding import beam_search, greedy
from model.transformer.files import load_transformer, save_transformer
from model.transformer.network import Transformer
from model.transformer.training import (
    Recipe,
    batches,
    smoothed_loss,
    sources,
    to_batch,
    train,
    translation_loss,
    validation_loss,
)
from model.weights import CheckpointError
from tests.model.transformer.networks import SOURCE, TARGET, random_transformer, sizes

CONFIG = sizes()
ROW = st.lists(st.integers(3, 10), max_size=9).map(tuple)
PAIRS = st.lists(st.tuples(ROW, ROW), min_size=1, max_size=40)


@given(st.integers(0, 1000), st.floats(0.0, 0.9), st.lists(st.integers(0, 6), min_size=1, max_size=12))
@settings(deadline=None)
def test_label_smoothing_is_a_cross_entropy_with_a_share_of_every_token(seed: int, e: float, targets: list[int]) -> None:
    logits = torch.randn(1, len(targets), 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ours = smoothed_loss(logits, torch.tensor([targets]), pad_id=0, label_smoothing=e)
    scored = [i for i, target in enumerate(targets) if target]
    if not scored:
        assert ours.isnan()
        return
    wanted = (1 - e) * F.one_hot(torch.tensor(targets), 7).double() + e / 7  # q(v)
    expected = -(wanted * logits[0].log_softmax(-1)).sum(-1)[scored].mean()
    torch.testing.assert_close(ours, expected)


def test_the_learning_rate_rises_and_falls_as_in_equation_3() -> None:
    recipe = Recipe()
    assert recipe.learning_rate(1, 512) == pytest.approx(512**-0.5 * 4000**-1.5)
    assert recipe.learning_rate(4000, 512) == pytest.approx(7.0e-4, rel=0.01)
    assert recipe.learning_rate(100_000, 512) == pytest.approx(512**-0.5 * 100_000**-0.5)
    assert max(range(1, 9000), key=lambda step: recipe.learning_rate(step, 512)) == 4000


def test_without_a_warm_up_the_learning_rate_falls_from_the_first_step_on() -> None:
    for step in (1, 2, 100):
        assert Recipe(warmup_steps=0).learning_rate(step, 512) == pytest.approx(512**-0.5 * step**-0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_tokens": 0}, "batch_tokens is 0; it must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps is -1; it must be at least 0"),
        ({"rate_factor": 0.0}, "rate_factor is 0.0; it must be finite and above 0"),
        ({"rate_factor": math.nan}, "rate_factor is nan; it must be finite and above 0"),
        ({"epsilon": math.inf}, "epsilon is inf; it must be finite and above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; it must be at least 0 and below 1"),
        ({"betas": (0.9, 1.0)}, "betas are 0.9, 1.0; each must be at least 0 and below 1"),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(given: dict, message: str) -> None:
    with pytest.raises(TrainingError) as refusal:
        Recipe(**given)
    assert str(refusal.value) == message


@given(PAIRS, st.integers(1, 200))
@settings(deadline=None, max_examples=50)
def test_an_epoch_has_every_pair_once_in_batches_of_bounded_size(pairs: list, batch_tokens: int) -> None:
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for batch in batches(pairs, CONFIG, Recipe(batch_tokens=batch_tokens)):
        assert batch.num_tokens <= batch_tokens or len(batch.source) == 1
        for source, target in zip(batch.source.tolist(), batch.target.tolist(), strict=True):
            assert target[0] == CONFIG.bos_id
            seen.append((words(source), words(target[1:])))
        if len(seen) >= len(pairs):
            break
    assert sorted(seen) == sorted(pairs)


def words(row: list[int]) -> tuple[int, ...]:
    end = row.index(CONFIG.eos_id)
    assert set(row[end + 1 :]) <= {CONFIG.pad_id}
    return tuple(row[:end])


def test_epochs_differ_and_the_seed_decides_them() -> None:
    pairs = [((3 + i % 8,) * (1 + i % 5), (3 + i // 8,)) for i in range(40)]

    def first(seed: int, num: int = 8) -> list[list[list[int]]]:
        return [b.source.tolist() for b in itertools.islice(batches(pairs, CONFIG, Recipe(batch_tokens=60, seed=seed)), num)]

    assert first(0) == first(0) != first(1)


def test_batches_by_length_are_mostly_tokens() -> None:
    pairs = [((5,) * (1 + i % 20), (6,) * (1 + i % 20)) for i in range(1000)]
    some = list(itertools.islice(batches(pairs, CONFIG, Recipe(batch_tokens=400)), 50))
    assert sum(int((batch.source != 0).sum()) for batch in some) > 0.95 * sum(batch.source.numel() for batch in some)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "there are no pairs to train on"),
        ([((3,) * 24, (3,))], "25 tokens on one side, its end counted; the model takes at most 24"),
    ],
)
def test_pairs_that_cannot_be_trained_on_are_refused(pairs: list, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        next(batches(pairs, CONFIG, Recipe()))


def reversed_rows(num: int, longest: int = 4) -> list[tuple[list[int], list[int]]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest + 1, (num,), generator=generator).tolist()
    rows = [torch.randint(3, 11, (length,), generator=generator).tolist() for length in lengths]
    return [(row, row[::-1]) for row in rows]


@pytest.mark.parametrize("pre_norm", [False, True])
def test_it_learns_to_write_rows_backwards(pre_norm: bool) -> None:
    config = TransformerConfig(11, d_model=32, n_head=4, num_encoder_layers=1, num_decoder_layers=1, d_ff=64, pre_norm=pre_norm)
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    recipe, pairs = Recipe(batch_tokens=1024, warmup_steps=200, rate_factor=0.5), reversed_rows(1200)
    held_out = [pair for pair in reversed_rows(1400)[1200:] if pair not in pairs]
    before = validation_loss(model, held_out)
    steps = list(
        itertools.islice(train(model, 32, translation_loss(model, 0.1), batches(pairs[:1200], config, recipe), recipe), 300)
    )
    assert [step.number for step in steps] == list(range(1, 301))
    assert validation_loss(model, held_out) < 0.25 * before
    found = greedy(model, sources([source for source, _ in held_out], config), 6)
    assert sum(row == target for row, (_, target) in zip(found, held_out, strict=True)) > 0.5 * len(held_out)


def test_the_validation_loss_is_a_mean_over_tokens_whatever_the_batches() -> None:
    model, pairs = random_transformer(CONFIG), reversed_rows(30, longest=9)
    expected = validation_loss(model, pairs, batch_size=1)
    assert validation_loss(model, pairs, batch_size=7) == pytest.approx(expected, rel=1e-5)
    batch = to_batch(pairs[:1], CONFIG)
    logits = model(batch.source, batch.target[:, :-1])[0]
    assert validation_loss(model, pairs[:1]) == pytest.approx(F.cross_entropy(logits, batch.target[0, 1:]).item(), rel=1e-5)


def test_between_steps_the_network_is_in_evaluation_mode() -> None:
    model = random_transformer(CONFIG)
    steps = train(model, 20, translation_loss(model, 0.1), batches(reversed_rows(20), CONFIG, Recipe()), Recipe())
    assert not model.training
    next(steps)
    assert not model.training  # whoever measures between steps finds it without dropout


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_saved_network_comes_back_with_the_same_logits_and_targets(tmp_path: Path, pre_norm: bool) -> None:
    model = random_transformer(sizes(pre_norm=pre_norm))
    save_transformer(tmp_path / "model", model)
    again = load_transformer(tmp_path / "model")
    assert again.config == model.config
    assert torch.equal(again(SOURCE, TARGET), model(SOURCE, TARGET))
    assert beam_search(again, SOURCE, 5) == beam_search(model, SOURCE, 5)
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", '{"model_type": "gpt2"}', "config.json is not of an encoder-decoder Transformer"),
        ("config.json", '{"model_type": "encoder-decoder-transformer", "width": 3}', "config.json does not fit"),
        ("model.safetensors", "", "model.safetensors cannot be read"),
    ],
)
def test_files_that_are_no_encoder_decoder_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    save_transformer(tmp_path, random_transformer(CONFIG))
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_transformer(tmp_path)


def test_weights_of_other_sizes_are_named(tmp_path: Path) -> None:
    save_transformer(tmp_path, random_transformer(CONFIG))
    config = json.loads((tmp_path / "config.json").read_text()) | {"d_ff": 30}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"does not fit config\.json beside it") as raised:
        load_transformer(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_transformer(tmp_path)


def test_an_untrained_network_is_about_as_unsure_as_can_be() -> None:
    config = TransformerConfig(1000, d_model=64, n_head=4, num_encoder_layers=2, num_decoder_layers=2, d_ff=128, max_positions=32)
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    loss = validation_loss(model, [([i, i + 1], [i + 2, i + 3]) for i in range(3, 900)])
    assert math.log(1000) < loss < math.log(1000) + 1.5
