"""The recipe of translation by an encoder-decoder: its sentences are right, both networks get one task, and it runs to its end."""

import datetime as dt
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.training.errors import TrainingError
from model.transformer.config import TransformerConfig
from model.transformer.files import load_transformer
from model.transformer.training import Pair, to_batch

RECIPES = Path(__file__).parent.parent / "examples" / "recipes"
MODULES = ("common", "translation", "seq2seq", "seq2seq_contenders", "seq2seq_data", "seq2seq_pictures")
Module = Any  # an imported recipe


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As for a script of that folder; its modules are forgotten afterwards, for their names are short."""
    monkeypatch.syspath_prepend(RECIPES)
    known = set(sys.modules)
    yield
    for name in MODULES:
        if name not in known:
            sys.modules.pop(name, None)


@pytest.fixture
def data() -> Module:
    return importlib.import_module("seq2seq_data")


@pytest.fixture
def contenders() -> Module:
    return importlib.import_module("seq2seq_contenders")


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    """The recipe as its script runs it, in this process; the result is what it prints."""
    monkeypatch.setattr(sys, "argv", ["seq2seq.py", *map(str, arguments)])
    recipe = importlib.import_module("seq2seq")
    monkeypatch.setattr(recipe, "NUM_TRAIN", 500)
    importlib.import_module("common").main(recipe.seq2seq, recipe.arguments())
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


@pytest.mark.parametrize(
    ("statement", "english", "french"),
    [
        (
            (dt.date(1987, 3, 3), "we", "sold", 281, "green", "apples"),
            "on tuesday march third nineteen eighty-seven we sold two hundred and eighty-one green apples",
            "nous avons vendu deux cent quatre-vingt-une pommes vertes le mardi trois mars mille neuf cent quatre-vingt-sept",
        ),
        (
            (dt.date(2000, 1, 1), "i", "found", 21, "white", "hats"),
            "on saturday january first two thousand i found twenty-one white hats",
            "j'ai trouvé vingt et un chapeaux blancs le samedi premier janvier deux mille",
        ),
        (
            (dt.date(1905, 12, 31), "they", "painted", 1071, "old-fashioned", "doors"),
            "on sunday december thirty-first nineteen oh five they painted one thousand and seventy-one old-fashioned doors",
            "ils ont peint mille soixante et onze portes démodées le dimanche trente et un décembre mille neuf cent cinq",
        ),
        (
            (dt.date(1900, 10, 30), "you", "lost", 80, "red", "stones"),
            "on tuesday october thirtieth nineteen hundred you lost eighty red stones",
            "vous avez perdu quatre-vingts cailloux rouges le mardi trente octobre mille neuf cents",
        ),
    ],
)
def test_a_statement_is_said_in_both_languages(data: Module, statement: tuple[Any, ...], english: str, french: str) -> None:
    said = data.Statement(*statement)
    assert said.english == english
    assert said.french == french


@pytest.mark.parametrize(
    ("year", "words"),
    [
        (1100, "eleven hundred"),
        (1409, "fourteen oh nine"),
        (1999, "nineteen ninety-nine"),
        (2009, "two thousand and nine"),
        (2010, "twenty ten"),
    ],
)
def test_years_are_named_as_they_are_read(data: Module, year: int, words: str) -> None:
    assert data.english_year(year) == words


def test_no_two_statements_are_one_and_both_directions_have_their_half(data: Module) -> None:
    made = data.statements(400)
    assert len(set(made)) == 400
    assert data.statements(400) == made
    pairs = data.text_pairs(made)
    assert sum(source.startswith(data.TO_FRENCH) for source, _ in pairs) == 200
    assert pairs[0] == (f"{data.TO_FRENCH} {made[0].english}", made[0].french)
    assert pairs[1] == (f"{data.TO_ENGLISH} {made[1].french}", made[1].english)


def test_texts_come_back_from_their_words(data: Module) -> None:
    texts = [text for pair in data.text_pairs(data.statements(200)) for text in pair]
    words = data.Words(texts)
    assert [words.decode(words.encode(text)) for text in texts] == texts
    assert words.words[:5] == list(data.SPECIAL)
    assert data.split("<fr> quatre-vingt-dix j'ai") == ["<fr>", "quatre", "-vingt", "-dix", "j'ai"]


def test_a_word_that_no_training_pair_has_is_named(data: Module) -> None:
    with pytest.raises(TrainingError, match="the word 'cats' is not in the 8 of the training pairs"):
        data.Words(["three red hats"]).encode("three red cats")


def test_every_sentence_that_can_be_made_fits(data: Module, contenders: Module) -> None:
    longest = max((len(data.split(data.french(n))), n) for n in range(2, data.LARGEST + 1))[1]
    said = data.Statement(dt.date(1197, 1, 31), "we", "sold", longest, "old-fashioned", "apples")
    assert len(data.split(said.french)) + 2 <= contenders.MAX_TOKENS  # a direction, or begin, and an end
    assert len(data.split(said.english)) + 2 <= contenders.MAX_TOKENS


@pytest.fixture
def config() -> TransformerConfig:
    return TransformerConfig(12, max_positions=32, d_model=24, n_head=2, num_encoder_layers=3, num_decoder_layers=3, d_ff=96)


PAIRS: list[Pair] = [([5, 6, 7], [8, 9]), ([10], [11, 3, 4, 5])]


def test_both_networks_have_about_as_many_parameters(contenders: Module, config: TransformerConfig) -> None:
    ours, other = contenders.encoder_decoder(config), contenders.decoder_only(config)
    matrices = [sum(p.numel() for n, p in c.network.named_parameters() if p.dim() == 2 and "wpe" not in n) for c in (ours, other)]
    assert matrices[0] == matrices[1]
    assert ours.num_parameters == pytest.approx(other.num_parameters, rel=0.08)


def test_gpt2_reads_the_same_tokens_in_one_row_and_learns_the_target_alone(contenders: Module, config: TransformerConfig) -> None:
    ids, asked = contenders.one_row_each(to_batch(PAIRS, config), config.pad_id)
    assert ids.tolist() == [[5, 6, 7, 2, 1, 8, 9, 2], [10, 2, 1, 11, 3, 4, 5, 2]]
    assert asked.tolist() == [[0, 0, 0, 0, 0, 8, 9, 2], [0, 0, 0, 11, 3, 4, 5, 2]]


def test_gpt2_writes_what_it_would_without_a_cache(contenders: Module, config: TransformerConfig) -> None:
    contender = contenders.decoder_only(config)
    model = contender.network
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        for source, found in zip([[5, 6, 7], [10], [4, 4, 9]], contender.translate([[5, 6, 7], [10], [4, 4, 9]]), strict=True):
            ids = [*source, config.eos_id, config.bos_id]
            while len(ids) < len(source) + 2 + contenders.MAX_TOKENS and ids[-1] != config.eos_id:
                ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
            new = ids[len(source) + 2 :]
            assert found == (new[:-1] if new[-1] == config.eos_id else new)


def test_it_runs_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    result = run(capsys, monkeypatch, "--out", out, "--steps", 3, "--tests", 6)
    assert result["measure"] == "exact match"
    assert result["steps"] == 3
    assert result["training_steps"] == {"encoder-decoder": 3, "GPT-2": 3}
    assert len(result["curves"]["GPT-2"]) == 3
    assert 0 <= result["before"] <= result["after"] <= 1
    assert result["beside"][0] == "GPT-2 in the same time"
    assert set(result["bleu"]) == {"beam search", "encoder-decoder", "GPT-2"}
    model = load_transformer(out / "model")
    assert len(json.loads((out / "model" / "words.json").read_text())) == model.config.vocab_size == result["base"]["vocabulary"]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("curves.png", "attention.png"))
    assert len((out / "train.jsonl").read_text().splitlines()) == 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "0"], "--minutes is 0.0; it must be above 0 and finite"),
        (["--minutes", "nan"], "--minutes is nan; it must be above 0 and finite"),
        (["--minutes", "inf"], "--minutes is inf; it must be above 0 and finite"),
        (["--steps", "-1"], "--steps is -1; it must be at least 1"),
        (["--steps", "many"], "--steps: invalid int value: 'many'; see seq2seq.py --help"),
        (["--tests", "0"], "--tests is 0; it must be at least 1 and at most 5,000"),
        (["--tests", "99999999"], "--tests is 99999999; it must be at least 1 and at most 5,000"),
        (["--lora"], "there is no option --lora; --help names those that there are"),
    ],
)
def test_bad_options_get_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(capsys, monkeypatch, "--out", tmp_path / "out", *options)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"seq2seq.py: {message}\n"
    assert not (tmp_path / "out").exists()
