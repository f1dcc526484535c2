"""What a model is asked while it is trained: continuations of given prompts, and questions whose answers are known.

Nothing of it changes the run: it draws from a generator of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.gpt2 import GPT2, CausalAttention
from model.kv_cache import GridAttention, KVCache
from model.tokenizer import Tokenizer
from model.training.data.examples import Question
from model.training.trainer import EXACT_MATCH, Score

SAMPLE_TOKENS = 64
TEMPERATURE = 0.8  # plain sampling from so small models strays within a line
QUESTION_ROWS = 16


@dataclass(frozen=True, slots=True)
class Probes:
    """Prompts to be continued and questions to be answered at each validation; none of them by default."""

    tokenizer: Tokenizer | None = None
    prompts: Sequence[str] = ()
    questions: Sequence[Question] = ()
    seed: int = 0

    def exact_match(self, model: GPT2) -> Score | None:
        """The share of the questions that greedy decoding answers token by token as they are; None without questions."""
        if not self.questions:
            return None
        model.eval()
        longest_first = sorted(self.questions, key=lambda question: -sum(map(len, question)))
        groups = (longest_first[i : i + QUESTION_ROWS] for i in range(0, len(longest_first), QUESTION_ROWS))
        return Score(EXACT_MATCH, sum(_num_matching(model, group) for group in groups) / len(self.questions))

    def samples(self, model: GPT2) -> Iterator[tuple[str, str]]:
        """Each prompt with its continuation, the same draws each time: what differs is the model."""
        model.eval()
        for prompt in self.prompts:
            assert self.tokenizer is not None
            ids = self.tokenizer.encode(prompt) or [model.config.eos_token_id]
            yield prompt, self.tokenizer.decode(sample(model, ids, SAMPLE_TOKENS, self.seed))


@torch.no_grad()
def _num_matching(model: GPT2, questions: Sequence[Question]) -> int:
    """How many are answered right: greedy decoding gives an answer exactly if each of its tokens is the most probable one behind
    those before it, so that one pass over the answers themselves decides, without decoding.
    """
    device, length = model.wte.weight.device, max(len(prompt) + len(answer) for prompt, answer in questions) - 1
    tokens = torch.zeros(len(questions), length, dtype=torch.long)
    for row, (prompt, answer) in enumerate(questions):
        ids = torch.tensor([*prompt, *answer[:-1]])
        tokens[row, : len(ids)] = ids
    positions = torch.arange(length, device=device)
    hidden = model.hidden_states(tokens.to(device), positions, CausalAttention())  # (B, T, C)
    num_matching = 0
    for row, (prompt, answer) in enumerate(questions):
        asked = hidden[row, len(prompt) - 1 : len(prompt) - 1 + len(answer)]  # (len(answer), C)
        num_matching += torch.equal(model.lm_head(asked).argmax(-1).cpu(), torch.tensor(answer))
    return num_matching


@torch.no_grad()
def sample(model: GPT2, prompt: Sequence[int], num_tokens: int, seed: int, temperature: float = TEMPERATURE) -> list[int]:
    """At most so many tokens that follow the prompt's last ones, up to an end token; temperature 0 takes the most probable ones."""
    config, device = model.config, model.wte.weight.device
    num_tokens = min(num_tokens, config.n_positions - 1)
    prompt = prompt[-(config.n_positions - num_tokens) :]
    cache = KVCache(replace(config, n_positions=len(prompt) + num_tokens), 1, torch.float32, device)
    generator = torch.Generator().manual_seed(seed)
    ids, tokens, first = torch.tensor(prompt), list[int](), 0
    while len(tokens) < num_tokens:
        logits = _next_logits(model, cache, ids.to(device), first)
        first += len(ids)
        ids = _draw(logits.float().cpu(), temperature, generator)
        if (token := int(ids)) in config.eos_token_ids:
            break
        tokens.append(token)
    return tokens


def _next_logits(model: GPT2, cache: KVCache, ids: Tensor, first: int) -> Tensor:
    """Logits (V,) behind ids (T,) at the positions from `first` on."""
    positions = torch.arange(first, first + len(ids), device=ids.device)
    attention = GridAttention(cache, None, torch.zeros_like(positions), positions, len(ids))
    return model.lm_head(model.hidden_states(ids, positions, attention)[-1])  # type: ignore[no-any-return]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if not temperature:
        return logits.argmax(keepdim=True)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
