"""Pairs of answers: what is read, what the reference says of them, and what makes up a batch."""

import json

import numpy as np
import pytest
import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.data.conversations import ChatWriter
from model.training.data.example_files import ExampleEncoder
from model.training.data.examples import IGNORED, Example
from model.training.data.preference_files import read_preferences
from model.training.data.preferences import PreferenceData, Preferences
from model.training.distributed import Processes
from model.training.dpo_loss import DPOLoss
from model.training.errors import TrainingError
from model.training.recipe import Recipe
from model.training.tasks.preferences import measured_by
from tests.model.training.test_conversations import template_of

EOS = 499
CONFIG = GPT2Config(vocab_size=500, n_positions=64, n_embd=32, n_layer=1, n_head=2, eos_token_ids=(EOS,))


def write(file, pairs):
    file.write_text("".join(json.dumps(dict(zip(("prompt", "chosen", "rejected"), pair, strict=True))) + "\n" for pair in pairs))
    return file


def encoder_of(tokenizer):
    return ExampleEncoder(tokenizer, EOS, lambda: ChatWriter(template_of("plain"), tokenizer, EOS))


@pytest.fixture
def read(small_tokenizer):
    def read(*files, context=64, report=lambda line: None):
        return read_preferences(files, encoder_of(small_tokenizer), context, report)

    return read


@pytest.fixture(scope="module")
def many():
    """60 pairs: number i begins with token i, is chosen with 1 to 12 tokens and rejected with 1 to 12."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 13, (60, 2)).tolist()
    return Preferences.of([(Example.of([i], [400] * a), Example.of([i], [401] * b)) for i, (a, b) in enumerate(lengths)])


def test_a_part_has_the_chosen_answers_first_and_then_the_rejected_ones_of_the_same_prompts(read, tmp_path, small_tokenizer):
    pairs = read(write(tmp_path / "a.jsonl", [("Is it blue?", " Yes.", " No, never."), ("Again", "!", "?")]))
    tokens, targets, reference = pairs.part(np.array([1, 0]))
    assert tokens.shape == targets.shape == (4, tokens.shape[1])
    answers = [small_tokenizer.decode(row[row != IGNORED][:-1].tolist()) for row in targets]
    assert answers == ["!", " Yes.", "?", " No, never."]
    assert all(row[row != IGNORED][-1] == EOS for row in targets)
    assert torch.equal(tokens[0, :2], tokens[2, :2])
    assert reference.tolist() == [0, 0]


def test_a_network_prefers_nothing_over_itself(many):
    model = GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0)).eval()
    measured = measured_by(model, many)
    margins = DPOLoss(model, 0.1, bfloat16=False).margins(*measured.part(np.arange(60)))
    assert np.abs(measured.reference).max() > 1
    assert margins.abs().max() < 1e-4


def test_what_was_saved_is_read_again(many, tmp_path):
    measured = measured_by(GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0)), many)
    measured.save(tmp_path / "pairs.safetensors")
    again = Preferences.load(tmp_path / "pairs.safetensors")
    places = np.arange(len(many))
    assert all(torch.equal(a, b) for a, b in zip(again.part(places), measured.part(places), strict=True))


def test_each_pair_comes_once_an_epoch_and_the_processes_share_a_batch(many):
    recipe = Recipe(max_steps=10, batch_size=12, accumulation=2)
    data = [PreferenceData(many, many, recipe, Processes(rank, 2)) for rank in (0, 1)]
    prompts = []
    for step in range(5):
        batches = [source.batch(step) for source in data]
        assert all(batch.num_targets == 12 and len(batch.parts) == 2 for batch in batches)
        prompts += [int(row[0]) for batch in batches for tokens, _, reference in batch.parts for row in tokens[: len(reference)]]
    assert sorted(prompts) == list(range(60))


def test_pairs_are_held_out_whole(many):
    train, held_out = (many[places] for places in many.split_places(6))
    begins = [{int(row[0]) for row in pairs.part(np.arange(len(pairs)))[0]} for pairs in (train, held_out)]
    assert len(held_out) == 6
    assert not begins[0] & begins[1]
    assert len(begins[0] | begins[1]) == 60


def test_what_prefers_nothing_or_is_too_long_is_left_out_and_counted(read, tmp_path):
    said = []
    file = write(tmp_path / "a.jsonl", [("a", "b", "b"), ("a", "", "c"), ("a", "b" * 300, "c")])
    with file.open("a") as more:
        more.write('{"prompt": "a", "chosen": "b", "rejected": "d", "label": 1}\n')
    assert len(read(file, report=said.append)) == 2
    assert said == [
        f"1 of 4 pairs are left out: the chosen answer is the rejected one; the first is {file}, line 1",
        f"1 of 4 pairs are left out: longer than 64 tokens; the first is {file}, line 3",
        "1 of 4 pairs have an empty chosen answer, which teaches to say nothing",
        'fields that are not used, with the number of pairs that have them: "label" (1)',
    ]


def test_chosen_answers_that_are_all_empty_are_refused(read, tmp_path):
    said, file = [], write(tmp_path / "a.jsonl", [("a", "", "b"), ("b", "", "c")])
    with file.open("a") as more:
        more.write(json.dumps({"chosen": [*ASKED, {"role": "assistant", "content": ""}], "rejected": ASKED + NO}) + "\n")
    with pytest.raises(TrainingError, match=r"all chosen answers in .*a\.jsonl are empty; there is nothing to learn"):
        read(file, report=said.append)
    assert said == ["3 of 3 pairs have an empty chosen answer, which teaches to say nothing"]


def test_bad_records_are_left_out_where_that_is_asked_for(small_tokenizer, tmp_path):
    said, file = [], write(tmp_path / "a.jsonl", [("a", "b", "c")])
    with file.open("a") as more:
        more.write('{"prompt": "a"}\nnot json\n')
    assert len(read_preferences([file], encoder_of(small_tokenizer), 64, said.append, skip_bad=True)) == 1
    assert said[0].startswith(f'left out: 2 bad records; the first: {file}, line 2: no "chosen" field')


ASKED = [{"role": "user", "content": "Is it blue?"}]
YES, NO = [{"role": "assistant", "content": "Yes."}], [{"role": "assistant", "content": "No."}]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": ASKED, "chosen": YES, "rejected": NO},
        {"chosen": ASKED + YES, "rejected": ASKED + NO},
        {"prompt": [], "chosen": ASKED + YES, "rejected": ASKED + NO},
        {"prompt": "Is it blue?", "chosen": YES, "rejected": NO},
        {"prompt": "Is it blue?", "chosen": ASKED + YES, "rejected": ASKED + NO},
        {"prompt": ASKED, "chosen": ASKED + YES, "rejected": ASKED + NO},
        {"prompt": ASKED, "chosen": ASKED + YES, "rejected": NO},
        {"prompt": ASKED, "chosen": YES, "rejected": ASKED + NO},
    ],
)
def test_answers_may_be_messages_however_the_prompt_stands_beside_them(small_tokenizer, read, tmp_path, record):
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    tokens, targets, _ = read(tmp_path / "a.jsonl").part(np.array([0]))
    shown = [small_tokenizer.decode(row.tolist()) for row in tokens]
    assert all(text.startswith("User: Is it blue?\nAssistant:") for text in shown)
    assert [small_tokenizer.decode(row[row != IGNORED][:-1].tolist()) for row in targets] == [" Yes.", " No."]


def test_what_both_answers_said_before_they_part_is_not_preferred(small_tokenizer, read, tmp_path):
    said = [*ASKED, *YES, {"role": "user", "content": "Sure?"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"chosen": said + YES, "rejected": said + NO}) + "\n")
    _, targets, _ = read(tmp_path / "a.jsonl").part(np.array([0]))
    assert [small_tokenizer.decode(row[row != IGNORED][:-1].tolist()) for row in targets] == [" Yes.", " No."]


def test_a_message_before_both_answers_that_the_template_does_not_write_counts_once(small_tokenizer, tmp_path):
    encoder = ExampleEncoder(small_tokenizer, EOS, lambda: ChatWriter(template_of("alpaca"), small_tokenizer, EOS))
    said, asked = [], [*ASKED, {"role": "tool", "content": "It is."}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": asked, "chosen": YES, "rejected": NO}) + "\n")
    read_preferences([tmp_path / "a.jsonl"], encoder, 256, said.append)
    assert said == ["messages that the chat template does not write: 1 of the role tool; --template names another"]


def test_a_prompt_may_be_the_last_of_the_messages_that_ask_or_stand_beside_answers_that_are_the_same(read, tmp_path):
    said, before = [], [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}, *YES, *ASKED]
    lines = [
        {"prompt": " Is it blue?\n", "chosen": before + YES, "rejected": before + NO},
        {"prompt": "Is it blue?", "chosen": ASKED + YES, "rejected": ASKED + YES},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(read(tmp_path / "a.jsonl", report=said.append)) == 1
    assert [line.split(";")[0] for line in said] == ["1 of 2 pairs are left out: the chosen answer is the rejected one"]


OTHER = [{"role": "user", "content": "Is it green?"}]


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"chosen": ASKED + YES, "rejected": OTHER + NO}, "differ in what was asked"),
        ({"prompt": "a", "chosen": ASKED + YES, "rejected": OTHER + NO}, "differ in what was asked"),
        ({"prompt": ASKED, "chosen": ASKED + YES, "rejected": OTHER + NO}, "differ in what was asked"),
        ({"chosen": ASKED + YES, "rejected": NO}, "differ in what was asked"),
        ({"chosen": YES + ASKED + YES, "rejected": YES + OTHER + NO}, "differ in what was asked"),
        ({"prompt": "Is it green?", "chosen": ASKED + YES, "rejected": ASKED + NO}, '"prompt" is not what "chosen" and "rejected"'),
        ({"prompt": "Yes.", "chosen": ASKED + YES, "rejected": ASKED + NO}, '"prompt" is not what "chosen" and "rejected"'),
        ({"prompt": 7, "chosen": ASKED + YES, "rejected": ASKED + NO}, 'no "prompt" field that is a string'),
    ],
)
def test_a_pair_of_answers_to_different_questions_is_refused_with_its_line(small_tokenizer, read, tmp_path, record, fault):
    file, said = tmp_path / "a.jsonl", []
    file.write_text(json.dumps({"chosen": ASKED + YES, "rejected": ASKED + NO}) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(TrainingError) as refused:
        read(file)
    assert str(refused.value).startswith(f"{file}, line 2: ")
    assert fault in str(refused.value)
    assert len(read_preferences([file], encoder_of(small_tokenizer), 64, said.append, skip_bad=True)) == 1
    assert said == [f"left out: 1 bad record; the first: {refused.value}"]


def test_an_end_token_that_an_answer_brings_along_is_not_learned_twice_and_one_inside_is_counted(read, tmp_path):
    said = []
    records = [("a", " b<|endoftext|>", " c"), ("a", " b", " c<|endoftext|>"), ("a", " b", "<|endoftext|>c")]
    pairs = read(write(tmp_path / "a.jsonl", records), report=said.append)
    _, targets, _ = pairs.part(np.arange(3))
    assert (targets == EOS).sum(1).tolist() == [1, 1, 1, 1, 1, 2]
    assert said == ["1 of 3 pairs have <|endoftext|> inside: it is the end token there, too; take it out if no text ends there"]


def test_text_is_no_preference(read, tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(
        TrainingError,
        match=r"a\.txt is text, which gpt2 train finetune learns from; preferences are records with prompt, chosen, rejected",
    ):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "chosen": "b"}', 'line 1: no "rejected" field that is a string; a pair has prompt, chosen, rejected$'),
        (
            '{"prompt": "a", "completion": "b"}',
            'line 1: no "chosen" .*; "prompt" and "completion" are examples; gpt2 train finetune',
        ),
        (
            '{"messages": []}',
            'line 1: no "prompt" .*; "messages" are examples; gpt2 train finetune learns from files of these alone',
        ),
        ('{"text": "a"}', 'line 1: no "prompt" .*; "text" is what gpt2 train finetune learns from'),
        ('{"prompt": "a", "chosen": [{"role": "assistant", "content": "b"}]}', 'line 1: no "rejected" field that is a list'),
        ('{"prompt": "a", "rejected": [{"role": "assistant", "content": "b"}]}', 'line 1: no "chosen" field that is a list'),
        ('{"prompt": "a", "chosen": "b", "rejected": "\\ud800"}', 'line 1: "rejected" has half a surrogate pair'),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "there are no pairs to learn from"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_line(read, tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(TrainingError, match=message):
        read(tmp_path / "a.jsonl")
