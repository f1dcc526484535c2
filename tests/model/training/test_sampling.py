"""What a model is asked while it is trained."""

import pytest
import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.sampling import Probes, sample

CONFIG = GPT2Config(vocab_size=500, n_positions=32, n_embd=32, n_layer=2, n_head=2, eos_token_ids=(499,))


@pytest.fixture
def model():
    model = GPT2(CONFIG, dropout=0.5).init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # far from all tokens alike
    return model


def greedy(model, prompt, num_tokens):
    """The slow way: all logits anew for each token."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_samples_are_those_of_the_whole_network(model):
    model.eval()
    expected = greedy(model, [1, 2, 3], 12)
    assert sample(model, [1, 2, 3], 12, seed=0, temperature=0) == expected
    assert sample(model, [7] * 40 + [1, 2, 3], 29, seed=0, temperature=0) == greedy(model, [1, 2, 3], 29), "the last ones count"


def test_samples_follow_from_the_seed_and_end_with_the_text(model, small_tokenizer):
    model.eval()
    drawn = [sample(model, [1], 20, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    with torch.no_grad():
        model.ln_f.bias.copy_(100 * model.wte.weight[499])
    assert sample(model, [1], 20, 0) == []
    assert list(Probes(small_tokenizer, ["the sea", ""]).samples(model)) == [("the sea", ""), ("", "")]


def test_an_answer_matches_if_greedy_decoding_gives_it(model):
    model.eval()
    prompts = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10]]
    questions = [(prompt, greedy(model, prompt, 1 + number)) for number, prompt in enumerate(prompts)]
    assert Probes(questions=questions).exact_match(model) == ("exact match", 1)
    wrong_in_the_end = (questions[3][0], [*questions[3][1][:-1], (questions[3][1][-1] + 1) % 500])
    assert Probes(questions=[*questions[:3], wrong_in_the_end]).exact_match(model) == ("exact match", 0.75)
    assert Probes().exact_match(model) is None


def test_what_is_asked_draws_nothing_from_the_runs_own_numbers(model, small_tokenizer):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(Probes(small_tokenizer, ["the sea"]).samples(model))
    assert torch.equal(torch.rand(3), expected)
