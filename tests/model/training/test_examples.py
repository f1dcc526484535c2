"""Prompts with completions: what is learned of them, what makes up a batch, and what is refused."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.tokenizer_files import read_tokenizer
from model.training.data.example_batches import ExampleData
from model.training.data.example_files import ExampleEncoder, hold_examples, read_examples
from model.training.data.examples import IGNORED, Example, Examples
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.objective import NextTokenLoss
from model.training.recipe import Recipe
from tests.model.tokenizer_directories import KINDS, write_directory

EOS = 499


def write_examples(file, pairs):
    file.write_text("".join(json.dumps({"prompt": prompt, "completion": completion}) + "\n" for prompt, completion in pairs))
    return file


def examples_of(lengths):
    """Examples that can be told apart: number i reads token i, and learns it in its second half."""
    return Examples.of([Example.of([i] * (length // 2), [i] * (length - length // 2 + 1)) for i, length in enumerate(lengths)])


def parted(examples, num_held_out):
    return [examples[places] for places in examples.split_places(num_held_out)]


def learned_of(examples):
    return [target for target in examples.targets.tolist() if target != IGNORED]


def encoder_of(tokenizer):
    return ExampleEncoder(tokenizer, EOS, pytest.fail)


@pytest.fixture
def read(small_tokenizer):
    def read(*files, context=64, report=lambda line: None, **options):
        return read_examples(files, encoder_of(small_tokenizer), context, report, **options)

    return read


@pytest.fixture(scope="module")
def many():
    """300 examples of 4 to 60 tokens."""
    return examples_of(np.random.default_rng(0).integers(4, 61, 300).tolist())


def test_the_completion_and_the_end_token_after_it_are_learned_and_nothing_else(read, small_tokenizer, tmp_path):
    examples = read(write_examples(tmp_path / "a.jsonl", [("The sea is", " blue."), ("Say it", " again and again")]))
    tokens, targets = examples.rows(np.array([0, 1]))
    for row, (prompt, completion) in enumerate([("The sea is", " blue."), ("Say it", " again and again")]):
        prompt_ids, learned = small_tokenizer.encode(prompt), [*small_tokenizer.encode(completion), EOS]
        assert tokens[row, : len(prompt_ids) + len(learned) - 1].tolist() == [*prompt_ids, *learned[:-1]]
        assert [target for target in targets[row].tolist() if target != IGNORED] == learned
        assert targets[row, len(prompt_ids) - 1] == learned[0], "learned where the prompt ends"
    assert examples.num_targets(np.array([0, 1])) == (targets != IGNORED).sum()


@pytest.mark.parametrize(
    ("kind", "prompt_ids", "learned"),
    [
        ("tokenizer.json", [8192, 39, 7827, 8193], [39, 7827, 8193, EOS]),
        ("BOS", [8191, 39, 7827], [39, 7827, EOS]),
    ],
)
def test_a_prompt_is_read_as_the_service_reads_it_and_a_completion_follows_it(tmp_path, kind, prompt_ids, learned):
    """Turns are tokens in both; what begins a text begins the prompt alone."""
    tokenizer = read_tokenizer(write_directory(tmp_path, KINDS[kind]()))
    prompt, completion = ("<|user|>Hello<|bot|>", "Hello<|bot|>") if kind == "tokenizer.json" else ("Hello", "Hello")
    file = write_examples(tmp_path / "a.jsonl", [(prompt, completion)])
    examples = read_examples([file], encoder_of(tokenizer), 64, lambda line: None)
    assert examples.ids.tolist() == [*prompt_ids, *learned[:-1]]
    assert learned_of(examples) == learned


@torch.no_grad()
def test_the_loss_of_a_padded_batch_is_that_of_its_completions_alone_one_by_one(read, small_tokenizer, tmp_path):
    pairs = [("The sea is", " blue."), ("Say it", " again and again and again"), ("", "Alone.")]
    examples = read(write_examples(tmp_path / "a.jsonl", pairs))
    model = GPT2(GPT2Config(500, n_positions=64, n_embd=32, n_layer=2, n_head=2, eos_token_ids=(EOS,)))
    model.init_weights(torch.Generator().manual_seed(0)).eval()
    expected = 0.0
    for prompt, completion in pairs:
        prompt_ids, learned = small_tokenizer.encode(prompt) or [EOS], [*small_tokenizer.encode(completion), EOS]
        log_probabilities = F.log_softmax(model(torch.tensor([prompt_ids + learned]))[0], dim=-1)
        expected -= sum(log_probabilities[len(prompt_ids) - 1 + i, token].item() for i, token in enumerate(learned))
    loss = NextTokenLoss(model, bfloat16=False, compiled=False).eval()(*examples.rows(np.array([0, 1, 2])))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_examples_longer_than_the_context_are_left_out_and_counted(read, tmp_path):
    file = write_examples(tmp_path / "a.jsonl", [("short", " one"), ("long " * 40, " one"), ("short", " two"), ("a", " b" * 90)])
    lines = []
    examples = read(file, context=20, report=lines.append)
    assert len(examples) == 2
    assert lines == [f"2 of 4 examples are left out: longer than 20 tokens; the first is {file}, line 2"]


def test_an_example_that_just_fits_is_kept(read, small_tokenizer, tmp_path):
    file = write_examples(tmp_path / "a.jsonl", [("What", " is it?")])
    num_inputs = len(small_tokenizer.encode("What")) + len(small_tokenizer.encode(" is it?"))
    assert len(read(file, context=num_inputs)) == 1
    assert len(read(file, context=num_inputs - 1)) == 0


def test_held_out_examples_are_chosen_by_what_they_hold_and_not_by_their_place(many):
    train, validation = parted(many, 30)
    assert (len(train), len(validation)) == (270, 30)
    held_out = firsts(validation)
    assert sorted(held_out + firsts(train)) == list(range(300))
    shuffled = many[np.random.default_rng(1).permutation(300)]
    assert firsts(parted(shuffled, 30)[1]) == held_out
    assert held_out != sorted(held_out), "those that are asked first are no matter of place either"


def test_data_whose_every_tenth_row_is_of_another_kind_is_validated_on_both_kinds():
    kinds = Examples.of([Example.of([5 if i % 10 == 9 else 6, i], [1, 2]) for i in range(1000)])
    train, validation = parted(kinds, 100)
    rare = firsts(validation).count(5)
    assert 3 <= rare <= 20, "a tenth of those held out, by chance"
    assert firsts(train).count(5) == 100 - rare


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=40), st.integers(1, 39))
def test_examples_that_are_the_same_fall_on_one_side_and_both_sides_have_some(contents, wanted):
    examples = Examples.of([Example.of([content], [content, 1]) for content in contents])
    train, validation = (firsts(part) for part in parted(examples, min(wanted, len(contents) - 1)))
    assert train
    assert validation
    assert Counter(train + validation) == Counter(contents)
    if len(set(contents)) > 1:
        assert not set(train) & set(validation)
        assert len(validation) <= max(wanted, min(Counter(contents).values()))


def test_examples_are_saved_and_loaded(many, tmp_path):
    many.save(tmp_path / "tokens" / "train.safetensors")
    restored = Examples.load(tmp_path / "tokens" / "train.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(restored.rows(np.arange(300)), many.rows(np.arange(300)), strict=True))


def test_questions_are_what_precedes_the_last_words_learned_and_these_words():
    ignored = [IGNORED] * 2
    turns = Example([1, 2, 3, 4, 5, 6], [IGNORED, 3, *ignored, 6, 7])
    examples = Examples.of([Example.of([1, 2], [3, 4, 5]), turns, Example.of([8], [9] * 6), Example.of([1], [2])])
    assert examples.questions(9, 5) == [([1, 2], [3, 4, 5]), ([1, 2, 3, 4, 5], [6, 7]), ([1], [2])]
    assert examples.questions(2, 6) == examples.questions(9, 5)[:2]
    assert ([8], [9] * 6) in examples.questions(9, 6)


def firsts(examples):
    """The first token of each example."""
    return examples.ids[np.cumsum(examples.lengths) - examples.lengths].tolist()


def data_of(examples, processes=Processes(), **recipe):  # noqa: B008 - a frozen value
    return ExampleData(examples, examples, Recipe(**{"max_steps": 1, "batch_size": 8} | recipe), processes)


def members(batch):
    return sorted(tokens[row, 0].item() for tokens, _ in batch.parts for row in range(len(tokens)))


def test_a_batch_is_a_function_of_the_seed_and_the_step(many):
    straight = data_of(many)
    batches = [straight.batch(step) for step in range(80)]
    for step in (79, 3, 41):
        again = data_of(many).batch(step)
        assert torch.equal(again.parts[0][0], batches[step].parts[0][0])
        assert torch.equal(again.parts[0][1], batches[step].parts[0][1])
    assert members(data_of(many, seed=1).batch(3)) != members(batches[3])
    assert members(batches[3]) != members(batches[3 + straight.batches_per_epoch])


def test_an_epoch_goes_through_all_examples(many):
    data = data_of(many)
    seen = Counter(member for step in range(data.batches_per_epoch) for member in members(data.batch(step)))
    assert sorted(seen) == list(range(300))
    assert seen.total() == 304, "the last batch is filled up"


def test_examples_of_like_length_share_a_batch_so_that_padding_is_small(many):
    data = data_of(many)
    parts = [data.batch(step).parts[0][0] for step in range(data.batches_per_epoch)]
    needed = int(many.lengths.sum())
    assert sum(part.numel() for part in parts) < 1.12 * needed
    assert len({part.shape[1] for part in parts}) > 10, "and yet short and long ones take turns"


def test_processes_and_parts_share_out_a_batch(many):
    whole = data_of(many).batch(5)
    shares = [data_of(many, Processes(rank, 2), accumulation=2).batch(5) for rank in range(2)]
    assert [[len(tokens) for tokens, _ in share.parts] for share in shares] == [[2, 2], [2, 2]]
    assert sorted(members(shares[0]) + members(shares[1])) == members(whole)
    assert {share.num_targets for share in shares} == {whole.num_targets}


def test_processes_share_out_the_held_out_examples(many):
    shares = [list(data_of(many, Processes(rank, 2)).validation(step=0)) for rank in range(2)]
    seen = [tokens[row, 0].item() for share in shares for tokens, _ in share for row in range(len(tokens))]
    assert sorted(seen) == list(range(300))


def test_files_are_recognised_by_their_first_lines(tmp_path):
    pairs = write_examples(tmp_path / "pairs.jsonl", [("a", " b")])
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "plain.txt").write_text('{"prompt": "a"}\n')
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(b'\n{"prompt": "a", "completion": "b"}\n'))
    assert hold_examples([pairs, tmp_path / "packed.jsonl.gz"])
    assert not hold_examples([tmp_path / "texts.jsonl", tmp_path / "plain.txt"])
    with pytest.raises(TrainingError, match=r"pairs.jsonl holds prompts and completions, .*plain.txt text; train on one kind"):
        hold_examples([tmp_path / "plain.txt", pairs])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "a"}', r'line 2: no "completion" field that is a string'),
        (b'{"completion": "a"}', r'line 2: no "prompt" field that is a string'),
        (b'{"prompt": "a", "completion": 3}', r'line 2: no "completion" field that is a string'),
        (b'{"text": "a"}', r'line 2: no "prompt" field that is a string'),
        (b'["a", "b"]', "line 2 is not a JSON object"),
        (b'{"prompt": ', "line 2 is not JSON"),
        (b'{"prompt": "\xff"}', r"is not UTF-8 text"),
    ],
)
def test_a_line_that_is_no_example_is_refused_with_its_number(read, tmp_path, line, message):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"prompt": "a", "completion": " b"}\n' + line + b"\n")
    with pytest.raises(TrainingError, match=f"a.jsonl.*{message}"):
        read(file)


def test_a_first_line_of_no_known_kind_and_files_without_a_line_are_refused(read, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(TrainingError, match=r'a.jsonl, line 1: neither a "text" nor a "prompt" and a "completion" field'):
        hold_examples([tmp_path / "a.jsonl"])
    (tmp_path / "a.csv").write_text("question,answer\na,b\n")
    with pytest.raises(TrainingError, match=r'a.csv has the columns "question", "answer"; a table has "text", or "prompt"'):
        hold_examples([tmp_path / "a.csv"], skip_bad=True)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(TrainingError, match=r"no examples in .*empty.jsonl"):
        read(tmp_path / "empty.jsonl")
