"""The recipes of examples/recipes: their data are right, each runs to its end, and docs/recipes.md says what was measured.

The texts in tests/data/texts are excerpts of public-domain works: two novels, plays and the World Factbook; moods.txt was
written for the tests.
"""

import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from app.chat.conversation import Chat, Conversation
from app.chat.turns import Turns
from app.settings import Settings
from model.chat_template import ChatTemplate
from model.tokenizer import Tokenizer
from model.training.errors import TrainingError
from tests.conftest import running_server

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "examples" / "recipes"
TEXTS = ROOT / "tests" / "data" / "texts"
PAGE = (ROOT / "docs" / "recipes.md").read_text()

GIVEN = {
    "story": [str(TEXTS / "novels.txt")],
    "dialogue": [str(TEXTS / "plays.txt"), "--lora-rank", "2"],
    "questions": [str(TEXTS / "almanac.txt")],
    "topics": [f"{label}={TEXTS / label}s.txt" for label in ("novel", "play")] + [f"almanac={TEXTS / 'almanac.txt'}"],
    "translation": [],
    "sentiment": [str(TEXTS / "moods.txt"), str(TEXTS / "moods.txt")],
}
Module = Any  # an imported recipe


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As for a script of that folder; its modules are forgotten afterwards, for their names are short."""
    monkeypatch.syspath_prepend(RECIPES)
    monkeypatch.syspath_prepend(ROOT)
    known = set(sys.modules)
    yield
    for name in ("common", "labels", *GIVEN):
        if name not in known:
            sys.modules.pop(name, None)


def recipe(name: str) -> Module:
    return importlib.import_module(name)


def run(module: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    """Run a recipe as its script does, in this process; the result is what it prints."""
    name = module.__name__
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    options = module.arguments()
    importlib.import_module("common").main(getattr(module, name), options)
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


@pytest.mark.parametrize("name", GIVEN)
def test_a_recipe_runs_to_its_end(
    name: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    chosen = ["--out", out, "--model", tiny_checkpoint, "--steps", 2, "--tests", 6, *GIVEN[name], "--batch-size", 4]
    result = run(recipe(name), capsys, monkeypatch, *chosen)
    assert result["before"] >= 0
    assert result["after"] >= 0
    assert result["steps"] == 2
    assert result["base"]["vocabulary"] == 500
    assert (out / "model" / "model.safetensors").exists()
    assert (out / "model" / "chat_template.jinja").exists() == (name == "dialogue")
    # What the page shows of a result can be made of this one.
    pages = importlib.import_module("benchmarks.recipes")
    shown = pages.with_results(PAGE, {name: {"result": result, "machine": {"cpu": "", "gpu": "", "torch": "", "date": ""}}})
    assert f"| {name} | {result['trained_on']} |" in shown


def test_what_is_given_in_place_of_a_recipes_own_steps_and_held_out_share_counts(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (validation := tmp_path / "more.txt").write_text((TEXTS / "novels.txt").read_text(encoding="utf-8"), encoding="utf-8")
    chosen = ["--out", tmp_path / "out", "--model", tiny_checkpoint, "--tests", 6, *GIVEN["story"], "--batch-size", 4]
    result = run(recipe("story"), capsys, monkeypatch, *chosen, "--minutes=0.01", "--validation", validation)
    assert result["steps"] is None, "as many as the minutes had room for"
    assert json.loads((tmp_path / "out" / "model" / "training" / "run.json").read_text())["recipe"]["max_steps"] >= 1


def test_a_recipe_is_a_script_that_prints_its_result_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["--out", tmp_path / "out", "--model", tiny_checkpoint, "--steps", "1", "--tests", "2", "--batch-size", "4"]
    command = [sys.executable, "-X", "utf8", "-W", "error", RECIPES / "translation.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, env=environment)
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    assert json.loads(line)["measure"] == "exact match"
    assert "$ gpt2 train finetune" in ended.stderr


@pytest.mark.parametrize("name", [name for name in GIVEN if GIVEN[name]])
def test_a_text_that_is_missing_gets_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [f"a={tmp_path / 'nowhere'}"] if name == "topics" else [tmp_path / "nowhere"] * (2 if name == "sentiment" else 1)
    with pytest.raises(SystemExit) as ended:
        run(recipe(name), capsys, monkeypatch, *missing, "--out", tmp_path / "out")
    assert ended.value.code == 2
    assert re.fullmatch(rf"{name}.py: no such file or folder: .*nowhere\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("dialogue", "Nobody speaks here.\n", "speeches"),
        ("questions", "Nothing is stated here.\n", "World Factbook"),
        ("topics", "Too short.\n", "passages"),
        ("sentiment", "Neither happy nor sad.\n", "of the other"),
    ],
)
def test_a_text_of_another_kind_gets_one_line(
    name: str, text: str, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text)
    given = {"topics": [f"a={file}"], "sentiment": [file, file]}.get(name, [file])
    with pytest.raises(SystemExit) as ended:
        run(recipe(name), capsys, monkeypatch, *given, "--out", tmp_path / "out")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert cause in line


def test_a_folder_that_exists_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(recipe("translation"), capsys, monkeypatch, "--out", tmp_path)
    assert ended.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_a_wrong_call_of_a_recipe_gets_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        run(recipe("translation"), capsys, monkeypatch, "--steps", "many")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "translation.py: --steps: invalid int value: 'many'; see translation.py --help\n"


def test_no_tests_at_all_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        run(recipe("translation"), capsys, monkeypatch, "--out", tmp_path / "out", "--tests", 0)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "translation.py: --tests is 0; it must be at least 1 and at most 5,000\n"


def test_a_book_is_split_at_a_paragraph_without_loss() -> None:
    book = "\n\n".join(f"Paragraph {i}, which is as long as any other." for i in range(100, 200))
    first, last = recipe("story").split_book(book)
    assert first + "\n" + last == book + "\n"
    assert last.startswith("Paragraph 189")  # 11 of 100: the least that makes a tenth, with the blank lines


def test_speeches_keep_their_speakers_and_their_order() -> None:
    speeches = recipe("dialogue").speeches((TEXTS / "plays.txt").read_text())
    assert speeches[:3] == [
        ("First Citizen", "Before we proceed any further, hear me speak."),
        ("All", "Speak, speak."),
        ("First Citizen", "You are all resolved rather to die than to famish?"),
    ]
    assert speeches[6] == ("First Citizen", "Let us kill him, and we'll have corn at our own price. Is't a verdict?")


def test_a_reply_follows_the_speech_before_it_and_long_ones_are_left_out() -> None:
    dialogue = recipe("dialogue")
    long = "word " * dialogue.MAX_CHARACTERS
    said = [("A", "Who?"), ("B", "I."), ("A", long), ("B", "Stop."), ("A", "Why?")]
    assert dialogue.replies(said) == [("A: Who?\nB:", " I."), ("B: Stop.\nA:", " Why?")]


@pytest.fixture
def dialogue_chat(small_tokenizer: Tokenizer) -> Iterator[Chat]:
    """A chat by the template that the recipe writes."""
    chat = Chat(ChatTemplate(recipe("dialogue").CHAT_TEMPLATE, "checkpoint", {}), small_tokenizer)
    yield chat
    chat.close()


def test_a_dialogues_chat_template_writes_what_it_was_trained_on(dialogue_chat: Chat) -> None:
    dialogue = recipe("dialogue")

    def rendered(*messages: dict[str, str]) -> object:
        return asyncio.run(dialogue_chat.prompt(Conversation(messages)))

    asked = {"role": "user", "content": " Who comes\nso late?"}
    assert rendered(asked) == dialogue.prompt((dialogue.SPEAKERS[0], "Who comes so late?"), dialogue.SPEAKERS[1])
    replied = {"role": "assistant", "content": "The king."}
    ((before, reply),) = dialogue.replies([(dialogue.SPEAKERS[0], "Who comes so late?"), (dialogue.SPEAKERS[1], "The king.")])
    assert rendered(asked, replied, asked | {"name": "ROMEO"}) == f"{before}{reply}\nROMEO: Who comes so late?\nMESSENGER:"
    assert rendered({"role": "system", "content": "Act III."}, asked) == f"Act III.\n{before}"


def test_a_dialogues_reply_has_no_space_before_it_and_ends_before_the_next_speech(dialogue_chat: Chat) -> None:
    assert dialogue_chat.turns == Turns(lead=" ", stop=("\nQUEEN:",))


def test_facts_are_found_in_the_factbooks_paragraphs() -> None:
    paragraphs = (TEXTS / "almanac.txt").read_text().split("\n\n")
    asked = {(q.question, q.answer) for paragraph in paragraphs for q in recipe("questions").ask(paragraph)}
    assert {
        ("What is the country code?", "213"),
        ("Has the parliament one chamber or two?", "two"),
        ("How many seats has the Council of the Nation?", "144"),
        ("How long is a term in the Council of the Nation?", "6"),
        ("What are the forces called?", "Angolan Armed Forces"),
        ("Which tier is it?", "Tier 3"),
        ("Which country is it?", "Algeria"),
    } <= asked


def test_a_question_is_asked_only_if_its_passage_shows_the_answer() -> None:
    questions = recipe("questions")
    paragraph = "country code - 213; " + "cable; " * questions.MAX_CHARACTERS + "satellite earth stations - 51 (2011)"
    (question,) = questions.ask(paragraph)
    assert question.answer == "213"
    assert len(question.passage) <= questions.MAX_CHARACTERS
    assert question.prompt.endswith("\nQuestion: What is the country code?\nAnswer:")


def test_questions_on_the_last_countries_are_held_out() -> None:
    text = "\n\n".join(f"country code - {i}; cable" for i in range(100, 200))
    train, test = recipe("questions").split(text)
    assert [q.answer for q in train] == [str(i) for i in range(100, 180)]
    assert [q.answer for q in test] == [str(i) for i in range(180, 200)]


def test_a_number_has_the_same_tokens_in_the_passage_as_in_the_answer(small_tokenizer: Tokenizer) -> None:
    (question,) = recipe("questions").ask("unicameral Council (7 seats; four appointed)")[1:]
    assert question.prompt.startswith("Passage: unicameral Council ( 7 seats;")
    assert small_tokenizer.encode(f" {question.answer}")[0] in small_tokenizer.encode(question.prompt)


def test_as_many_questions_of_each_kind_are_learned_and_their_answers_can_only_be_read() -> None:
    questions = recipe("questions")
    train, _ = questions.split((TEXTS / "almanac.txt").read_text())
    variants = questions.variants(train)
    kinds = {q.kind for q in train}
    assert [q.kind for q in variants].count("Which country is it?") == questions.NUM_EACH
    assert len(variants) == questions.NUM_EACH * len(kinds)
    assert all(q.answer in q.passage for q in variants if q.kind != "Has the parliament one chamber or two?")
    first, last = questions.YEARS
    assert all(first <= int(q.answer) <= last for q in variants if re.fullmatch(r"\d{4}", q.answer))
    countries = {q.answer for q in variants if q.kind == "Which country is it?"}
    assert len(countries) > len({q.answer for q in train if q.kind == "Which country is it?"})


def test_the_usual_answer_is_that_of_the_training_questions() -> None:
    questions = recipe("questions")
    train = [question for n in (7, 7, 8) for question in questions.ask(f"country code - {n}; cable")]
    assert questions.usual_answers(train) == {"What is the country code?": "7"}


def test_a_reply_after_another_line_keeps_who_answers() -> None:
    replies = [("A: Who?\nB:", " I."), ("C: Stop.\nD:", " Why?")]
    assert recipe("dialogue").after_other_lines(replies) == [("C: Stop.\nB:", " I."), ("A: Who?\nD:", " Why?")]


def test_no_reply_comes_after_itself_where_its_line_is_anothers() -> None:
    """In a play most replies are the next one's line."""
    dialogue = recipe("dialogue")
    replies = dialogue.replies([(speaker, f"{speaker} says {number}.") for number, speaker in enumerate("ABCDEFGH" * 3)])
    assert all(reply.strip() not in prompt for prompt, reply in dialogue.after_other_lines(replies))


def test_a_dialogue_that_was_trained_is_served_as_a_chat(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a chat's client gets over HTTP is what the recipe's own prompt is continued by, up to the line's end."""
    dialogue, out = recipe("dialogue"), tmp_path / "out"
    chosen = ["--out", out, "--model", tiny_checkpoint, "--steps", 20, "--tests", 2, "--batch-size", 4]
    run(dialogue, capsys, monkeypatch, *GIVEN["dialogue"], *chosen)
    asked = dialogue.CONVERSATION[0]
    chat = {"messages": [{"role": "user", "content": asked}], "max_tokens": 12, "temperature": 0, "stop": "\n"}
    prompt = {"prompt": dialogue.prompt((dialogue.SPEAKERS[0], asked), dialogue.SPEAKERS[1]), **chat}
    with running_server(Settings(model=str(out / "model"), port=0, device="cpu", _env_file=None)) as server:
        answered, continued = (
            httpx.post(f"{server.url}/v1/{path}", json=body, timeout=60).raise_for_status().json()["choices"][0]
            for path, body in (("chat/completions", chat), ("completions", {k: v for k, v in prompt.items() if k != "messages"}))
        )
    assert answered["message"]["content"] == continued["text"].removeprefix(" ")


def test_what_begins_with_random_weights_has_the_checkpoints_sizes_and_another_vocabulary_never(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from model.checkpoint import load_config, load_tokenizer

    made = Path(recipe("common").random_checkpoint(str(tiny_checkpoint), tmp_path / "random"))
    assert load_config(made) == load_config(tiny_checkpoint)
    assert load_tokenizer(made).encode("The old man") == load_tokenizer(tiny_checkpoint).encode("The old man")
    assert (made / "model.safetensors").read_bytes() != (tiny_checkpoint / "model.safetensors").read_bytes()


def test_a_recipe_begins_with_random_weights_if_told_to(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["--model", tiny_checkpoint, "--steps", 1, "--tests", 2, "--batch-size", 4, "--from-random"]
    result = run(recipe("translation"), capsys, monkeypatch, "--out", tmp_path / "out", *chosen)
    assert result["base"]["vocabulary"] == 500
    assert (tmp_path / "out" / "random" / "model.safetensors").exists()


def test_xz_needs_few_bits_for_what_it_has_seen_and_many_for_what_it_has_not() -> None:
    xz = recipe("common").xz_bits_per_byte
    text = "".join(chr(97 + i * i * 7 % 26) + str(i * 7919 % 1000) for i in range(2000))
    assert xz(text, text) < 0.1 < 2 < xz("", text) < 8


def test_passages_are_whole_sentences_on_one_line_without_speakers() -> None:
    topics = recipe("topics")
    found = topics.passages_of((TEXTS / "plays.txt").read_text())
    assert found
    assert all(topics.MIN_CHARACTERS <= len(passage) <= topics.MAX_CHARACTERS and "\n" not in passage for passage in found)
    assert not any("First Citizen:" in passage for passage in found)


def test_the_likeliest_label_wins_and_calibration_takes_the_prior_away() -> None:
    likeliest = recipe("labels").likeliest
    assert likeliest([[-1.0, -2.0], [-5.0, -4.0]], ["a", "b"]) == ["a", "b"]
    assert likeliest([[-1.0, -2.0], [-5.0, -4.0]], ["a", "b"], prior=[-1.0, -3.0]) == ["b", "b"]


def test_each_text_has_a_score_for_each_label(tiny_checkpoint: Path) -> None:
    pairs = [(text, f" {label}") for text in ("One.", "Another.") for label in ("a", "bc", "d")]
    expected = recipe("common").log_probabilities(tiny_checkpoint, pairs)
    assert recipe("labels").score(tiny_checkpoint, ["One.", "Another."], ["a", "bc", "d"]) == [expected[:3], expected[3:]]


def test_naive_bayes_judges_by_the_words_and_how_common_a_label_is() -> None:
    train = [("Rain, rain!", "wet"), ("Rain on snow", "wet"), ("Sand and sun", "dry")]
    assert recipe("labels").naive_bayes(train, ["the sun", "a RAIN", "unheard of"]) == ["dry", "wet", "wet"]


def test_what_is_said_each_time_is_right_as_often_as_the_commonest_label() -> None:
    assert recipe("labels").most_frequent(["a", "b", "a", "c"]) == 0.5


def test_a_confusion_counts_what_each_label_was_taken_for() -> None:
    taken = recipe("labels").confusion(["a", "b", "b"], expected=["a", "a", "b"], labels=["a", "b"])
    assert taken == {"a": {"a": 1, "b": 1}, "b": {"a": 0, "b": 1}}


@pytest.mark.parametrize(
    ("passage", "label"),
    [
        ("Joy, and more joy.", "happy"),
        ("She WEPT bitterly.", "sad"),
        ("One tear; a single sob.", None),  # the first is in no list
        ("Joy and laughter, and then grief.", None),
        ("Joyless.", None),
    ],
)
def test_a_passages_mood_needs_two_words_of_one_list_and_none_of_the_other(passage: str, label: str | None) -> None:
    assert recipe("sentiment").label(passage) == label


def test_no_word_that_labels_a_passage_is_left_in_it() -> None:
    sentiment = recipe("sentiment")
    assert sentiment.blanked("Joy! He smiled at her tears.") == "----! He ---- at her ----."
    drawn = sentiment.labelled(TEXTS / "moods.txt", 3)
    assert {name for _, name in drawn} == {"happy", "sad"}
    assert all(sentiment.label(passage) is None and passage.count("----") >= sentiment.LEAST for passage, _ in drawn)


def test_log_probabilities_are_the_networks_whatever_else_is_scored(tiny_checkpoint: Path) -> None:
    import torch

    from model.checkpoint import load_tokenizer
    from model.network_files import load_model

    pairs = [("The old", " man"), ("A much longer prompt than that, on", " and on it goes"), ("He", "y")]
    tokenizer, model = load_tokenizer(tiny_checkpoint), load_model(tiny_checkpoint).eval()
    for (prompt, completion), score in zip(pairs, recipe("common").log_probabilities(tiny_checkpoint, pairs), strict=True):
        ids = tokenizer.encode(prompt) + tokenizer.encode(completion)
        with torch.inference_mode():
            log_probs = model(torch.tensor([ids]))[0].log_softmax(-1)
        first = len(tokenizer.encode(prompt))
        assert score == pytest.approx(sum(log_probs[t - 1, ids[t]].item() for t in range(first, len(ids))), abs=1e-3)


def test_what_the_model_cannot_take_gets_a_clear_error(tiny_checkpoint: Path) -> None:
    with pytest.raises(TrainingError, match=r"has \d+ tokens; .*tiny-gpt2 takes at most 1024"):
        recipe("common").log_probabilities(tiny_checkpoint, [("word " * 2000, "word")])


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zéro"),
        (16, "seize"),
        (17, "dix-sept"),
        (21, "vingt et un"),
        (22, "vingt-deux"),
        (61, "soixante et un"),
        (70, "soixante-dix"),
        (71, "soixante et onze"),
        (72, "soixante-douze"),
        (80, "quatre-vingts"),
        (81, "quatre-vingt-un"),
        (91, "quatre-vingt-onze"),
        (99, "quatre-vingt-dix-neuf"),
        (100, "cent"),
        (101, "cent un"),
        (200, "deux cents"),
        (203, "deux cent trois"),
        (380, "trois cent quatre-vingts"),
        (1000, "mille"),
        (1101, "mille cent un"),
        (2000, "deux mille"),
        (4771, "quatre mille sept cent soixante et onze"),
        (80_000, "quatre-vingt mille"),
        (200_200, "deux cent mille deux cents"),
    ],
)
def test_french_numbers_are_spelled_as_in_france(number: int, words: str) -> None:
    assert recipe("translation").french(number) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (42, "forty-two"),
        (105, "one hundred and five"),
        (1005, "one thousand and five"),
        (9999, "nine thousand nine hundred and ninety-nine"),
    ],
)
def test_english_numbers_are_spelled_as_in_britain(number: int, words: str) -> None:
    assert recipe("translation").english(number) == words


@pytest.mark.parametrize(
    ("english", "french"),
    [
        ("two thousand three hundred and forty-five", "deux mille trois cent quarante-cinq"),  # right
        ("one hundred and seventy-one", "un cent soixante-dix-un"),  # wrong: cent soixante et onze
    ],
)
def test_word_by_word_keeps_the_english_order_and_no_rules(english: str, french: str) -> None:
    assert recipe("translation").word_by_word(english) == french


def test_no_two_numbers_are_spelled_alike() -> None:
    translation = recipe("translation")
    for spelled in (translation.english, translation.french):
        assert len({spelled(n) for n in range(translation.LARGEST + 1)}) == translation.LARGEST + 1


def test_the_page_shows_the_results_that_were_kept() -> None:
    pages = importlib.import_module("benchmarks.recipes")
    documents = pages.read_results()
    assert documents.keys() == pages.RECIPES.keys()
    assert pages.with_results(PAGE, documents) == PAGE


def test_the_page_gives_each_recipes_command() -> None:
    pages = importlib.import_module("benchmarks.recipes")
    joined = re.sub(r" \\\n\s+", " ", PAGE)
    for name in pages.RECIPES:
        assert f"    {pages.command(name)}\n" in joined
        assert (RECIPES / f"{name}.py").exists()
