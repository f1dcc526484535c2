"""The recipe for Chinese poems: what is a form, what is held out, what is copied, and that a model is trained, served and asked.

tests/data/texts/poems.jsonl is an excerpt of `chinese-poetry` (MIT, (c) 2016 JackeyGao): 199 poems of the Tang
dynasty, in the public domain.
"""

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel, GPT2Tokenizer

from app.settings import Settings
from model.checkpoint import load_tokenizer
from tests.conftest import RunningServer, running_server

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "examples" / "recipes"
MODEL = ROOT / "examples" / "poems"
EXCERPT = ROOT / "tests" / "data" / "texts" / "poems.jsonl"
MODULES = ("common", "poems", "poems_text", "poems_baseline")
SMALL = ("--vocab-size", 1200, "--n-embd", 32, "--n-layer", 1, "--n-head", 2, "--batch-size", 4, "--no-compile")
HAN = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)
SHAPES = {"五絕": (4, 5), "五律": (8, 5), "七絕": (4, 7), "七律": (8, 7)}

Module = Any  # an imported recipe


@pytest.fixture(autouse=True, scope="module")
def path() -> Iterator[None]:
    """As for a script of that folder; its modules are forgotten afterwards, for their names are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(RECIPES)
        known = set(sys.modules)
        yield
    for name in MODULES:
        if name not in known:
            sys.modules.pop(name, None)


def module(name: str) -> Module:
    return importlib.import_module(name)


def poem_of(written: list[str]) -> str:
    """A couplet a line, as the collection has it."""
    return "\n".join(f"{a}，{b}。" for a, b in zip(written[::2], written[1::2], strict=True))


@st.composite
def lines_of_a_shape(draw: st.DrawFn, num_lines: int, length: int) -> list[str]:
    return [draw(st.text(HAN, min_size=length, max_size=length)) for _ in range(num_lines)]


@pytest.mark.parametrize("name", SHAPES)
@given(data=st.data())
def test_lines_of_a_shape_are_a_poem_of_its_form_and_no_longer_without_one_character(name: str, data: st.DataObject) -> None:
    text = module("poems_text")
    written = data.draw(lines_of_a_shape(*SHAPES[name]))
    assert text.lines(poem_of(written)) == written
    assert text.form(poem_of(written)) == name
    broken = data.draw(st.integers(0, len(written) - 1))
    written[broken] = written[broken][1:]
    assert text.form(poem_of(written)) is None


@given(num_lines=st.sampled_from([2, 6, 10, 12]), length=st.sampled_from([5, 7]), data=st.data())
def test_another_number_of_lines_is_none_of_the_four_forms(num_lines: int, length: int, data: st.DataObject) -> None:
    assert module("poems_text").form(poem_of(data.draw(lines_of_a_shape(num_lines, length)))) is None


@given(written=lines_of_a_shape(4, 5), where=st.integers(0, 23), odd=st.sampled_from("a1 ？\ufffd<（《"))
def test_what_is_no_character_makes_no_line(written: list[str], where: int, odd: str) -> None:
    """A question mark or a blank parts a line, which is then too short, or it stands beside another mark."""
    text = poem_of(written)
    changed = text[:where] + odd + text[where + 1 :]
    assert module("poems_text").form(changed) in ((None, "五絕") if text[where] in "，。\n" and odd in "？ " else (None,))


@pytest.mark.parametrize(
    "odd", ["白日依山盡，黃河入海流。\n欲窮千里目，更上一層樓。\n。", "白日依山盡，，黃河入海流。\n欲窮千里目，更上一層樓"]
)
def test_a_mark_too_many_or_too_few_breaks_a_form(odd: str) -> None:
    assert module("poems_text").form(odd) is None


def test_an_empty_text_has_no_form_and_no_lines() -> None:
    text = module("poems_text")
    assert text.form("") is text.form("\n，。") is None
    assert text.lines("\n，。") == []
    assert text.share_of_copied_lines([""], {"白日依山盡"}) == 0


@given(
    known=st.lists(st.text(HAN, min_size=5, max_size=5), min_size=4, max_size=4, unique=True),
    new=st.lists(st.text(HAN, min_size=7, max_size=7), min_size=4, max_size=4),
    num_copied=st.integers(0, 4),
)
def test_copied_lines_are_counted_whole_and_one_by_one(known: list[str], new: list[str], num_copied: int) -> None:
    text = poem_of(known[:num_copied] + new[num_copied:])
    assert module("poems_text").share_of_copied_lines([text], set(known)) == num_copied / 4


def test_editors_notes_and_numbers_in_a_series_are_taken_out() -> None:
    poem = module("poems_text")._poem(
        "某甲",
        "秋思（一作秋興）二首 二",
        "秋風起白雲（一作「浮雲」），萬里獨思君。\n何日歸鄉路，江頭月又新。\n（見《某書》\n卷三）\n。\n。",
    )
    assert (poem.title, poem.form) == ("秋思二首", "五絕")
    assert poem.document == "五絕·秋思二首\n秋風起白雲，萬里獨思君。\n何日歸鄉路，江頭月又新。\n"


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("長短句", "君不見黃河之水，天上來。\n奔流到海，不復回。"),
        ("", "白日依山盡，黃河入海流。\n欲窮千里目，更上一層樓。"),
        ("○樓", "白日依山盡，黃河入海流。\n欲窮千里目，更上一層樓。"),
        ("缺字", "白日依山盡，黃河入海流。\n欲窮○里目，更上一層樓。"),
        ("兩句", "白日依山盡，黃河入海流。"),
    ],
)
def test_what_is_irregular_is_not_trained_on(title: str, text: str) -> None:
    assert module("poems_text")._poem("某甲", title, text) is None


def test_the_excerpt_is_split_by_title_and_nothing_like_a_held_out_poem_is_trained_on() -> None:
    text = module("poems_text")
    poems, num_all = text.read_poems(EXCERPT)
    assert (num_all, len(poems)) == (199, 191)
    train, test = text.split(poems)
    assert len(test) == 10
    assert not {(p.author, p.title) for p in train} & {(p.author, p.title) for p in test}
    other_version = text.Poem("某甲", "別題", test[0].form, test[0].text)
    again, held_out = text.split([*poems, other_version])
    assert (again, held_out) == (train, test)
    random.Random(0).shuffle(poems)
    assert {p.document for p in text.split(poems)[1]} == {p.document for p in test}


def test_the_baselines_probabilities_are_a_distribution_and_fall_back_to_shorter_contexts() -> None:
    texts = ["白日依山盡", "白日登山望", "黃河入海流"]
    for order in (0, 1, 2):
        model = module("poems_baseline").CharacterModel(texts, order)
        alphabet = sorted(set("".join(texts)))
        for before in ("", "白日", "山", "未見"):
            total = sum(model.probability(c, before) for c in ["", *alphabet, "鬱"])
            assert total == pytest.approx(1)
    assert model.probability("依", "白日") > model.probability("依", "海")


def test_the_baseline_writes_what_it_has_counted_and_ends() -> None:
    model = module("poems_baseline").CharacterModel(["白日依山盡"], 2)
    assert "白日依山盡".endswith(model.write("白日", 3, random.Random(0))[-1:])
    assert len(model.write("", 50, random.Random(1))) <= 50


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    """Run the recipe as its script does, in this process; the result is what it prints."""
    monkeypatch.setattr(sys, "argv", ["poems.py", *map(str, arguments)])
    recipe = module("poems")
    module("common").main(recipe.poems, recipe.arguments())
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_the_recipe_runs_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    result = run(capsys, monkeypatch, EXCERPT, "--out", out, "--steps", 2, "--tests", 4, *SMALL)
    assert result["measure"] == "bits per character"
    assert 0 < result["beside"][1] < result["before"]
    assert 0 < result["after"] < result["before"]
    assert result["trained_on"] == "181 poems of 199"
    assert result["base"]["vocabulary"] == 1200
    assert result["base"]["context"] == 128
    assert result["steps"] == 2
    assert 0 <= result["copied_lines"] <= 1
    assert len(result["samples"]) == 4
    assert (out / "model" / "model.safetensors").exists()
    assert json.loads((out / "train.jsonl").read_text().splitlines()[0])["text"][2] == "·"


@pytest.mark.parametrize(
    ("contents", "cause"),
    [
        ('{"title": "登高", "text": "風急天高"}\n', 'line 1: "author", "title" and "text" must be there, and strings'),
        ('{"author": "某甲", "title": "登高", "text": "風急天高"}\n', "has no poems of lines of five or seven Chinese characters"),
        (EXCERPT.read_text().splitlines()[80], "is held out; give more of them"),
    ],
)
def test_a_file_of_no_use_gets_one_line(
    contents: str, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "poems.jsonl"
    file.write_text(contents)
    with pytest.raises(SystemExit) as ended:
        run(capsys, monkeypatch, file, "--out", tmp_path / "out")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"poems.py: {'none of' if 'held out' in cause else file}")
    assert cause in line
    assert not (tmp_path / "out").exists()


def test_a_wrong_call_gets_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        run(capsys, monkeypatch, EXCERPT)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "poems.py: the following arguments are required: --out; see poems.py --help\n"


@pytest.fixture(scope="module")
def served() -> Iterator[RunningServer]:
    """The model of examples/poems in float32, whose bits are the native step's on every CPU."""
    with running_server(Settings(model=str(MODEL), port=0, device="cpu", dtype="float32", _env_file=None)) as running:
        yield running


@pytest.fixture
def client(served: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("name", SHAPES)
def test_the_model_of_the_examples_writes_each_form_asked_over_http(name: str, client: httpx.Client) -> None:
    asked = {"prompt": f"{name}·秋夜\n", "temperature": 0.9, "seed": 0, "max_tokens": 120, "n": 8}
    answer = client.post("/v1/completions", json=asked).raise_for_status().json()
    poems = [choice["text"] for choice in answer["choices"]]
    assert sum(module("poems_text").form(poem) == name for poem in poems) >= 5


def test_a_poem_streamed_is_the_poem_at_once_and_characters_of_several_tokens_come_whole(client: httpx.Client) -> None:
    num_parts = 0
    for seed in range(8):
        asked = {"inputs": "七律·登高\n", "parameters": {"temperature": 1.2, "seed": seed, "max_new_tokens": 122}}
        poem = client.post("/generate", json=asked).raise_for_status().json()["generated_text"]
        lines = client.post("/generate_stream", json=asked).raise_for_status().text.splitlines()
        tokens = [json.loads(line.removeprefix("data:"))["token"] for line in lines if line.startswith("data:")]
        assert "".join(token["text"] for token in tokens if not token["special"]) == poem
        num_parts += sum(not token["text"] for token in tokens)
    assert num_parts, "no rare character was written"


def test_many_poems_are_asked_of_a_small_context_at_once() -> None:
    requests = [module("poems").GenerationRequest(("五絕·秋夜\n",), module("poems").SamplingParams(), 100)] * 70
    (poem,) = set(module("common").generate(MODEL, requests))
    assert poem


def test_transformers_reads_the_model_and_its_characters() -> None:
    text = "七律·登高\n風急天高猿嘯哀，渚清沙白鳥飛迴。\n龘"
    assert GPT2Tokenizer.from_pretrained(MODEL).encode(text) == load_tokenizer(MODEL).encode(text)
    assert GPT2LMHeadModel.from_pretrained(MODEL).num_parameters() == 3_451_136


def test_the_model_is_small_and_its_pages_say_what_was_measured() -> None:
    pages = importlib.import_module("benchmarks.poems")
    result = json.loads(pages.RESULT.read_text())["result"]
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 8_000_000
    assert result["after"] < result["beside"][1]
    assert result["in_a_form"] >= 0.8
    assert result["copied_lines"] <= 0.02
    for page in pages.PAGES:
        assert pages.with_results(page.read_text()) == page.read_text()
