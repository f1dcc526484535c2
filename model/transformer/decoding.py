"""From a source to the likeliest target: greedily, or by beam search. Knows token ids, no text.

Each search runs on a batch of sources; a row's result does not depend on the others. The network is to be in evaluation mode.

Shapes: B sources, K beams, S and T tokens, H heads, D head size, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.transformer.network import Memory, Transformer


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A target without its bos_id and eos_id, and how good it is."""

    tokens: list[int]
    log_prob: float  # of all its tokens, eos_id included, in nats
    score: float  # log_prob over the length penalty


class CachedAttention:
    """Attention of the newest position to itself and to all before it, whose keys and values it keeps.

    The newest sees everything that there is, so that no mask is needed. The first call alone may have several positions. Rows are
    as many in each call, or are chosen by `keep`. It serves GPT-2's layers too.
    """

    def __init__(self) -> None:
        self._keys_values: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, 1, D), or (B, H, T, D) at first
        if is_later := layer in self._keys_values:
            past_k, past_v = self._keys_values[layer]
            k, v = torch.cat((past_k, k), dim=2), torch.cat((past_v, v), dim=2)  # (B, H, T, D)
        self._keys_values[layer] = k, v
        return F.scaled_dot_product_attention(q, k, v, is_causal=not is_later).transpose(1, 2)  # (B, 1 or T, H, D)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, in this order; one may come more than once, as beams do that part."""
        self._keys_values = {layer: (k[rows], v[rows]) for layer, (k, v) in self._keys_values.items()}


class Decoder:
    """The decoder a position at a time: each step takes the last token of every row and says what may follow."""

    def __init__(self, model: Transformer, memory: Memory) -> None:
        self._model, self._memory = model, memory
        self._attention = CachedAttention()
        self._position = 0

    def step(self, tokens: Tensor) -> Tensor:
        """Log-probabilities (B, V) of what follows tokens (B,); that of pad_id, which is no token, is -inf."""
        logits = self._model.decode(tokens[:, None], self._memory, self._attention, first=self._position)[:, 0]  # (B, V)
        self._position += 1
        log_probs = logits.float().log_softmax(dim=-1)
        log_probs[:, self._model.config.pad_id] = -torch.inf
        return log_probs

    def keep(self, rows: Tensor) -> None:
        self._attention.keep(rows)


def length_penalty(length: int, alpha: float) -> float:
    """lp(Y) = (5 + |Y|)^alpha / (5 + 1)^alpha, Wu et al. 2016, section 7, equation 14; |Y| counts eos_id."""
    return float(((5 + length) / 6) ** alpha)


@torch.inference_mode()
def greedy(model: Transformer, source: Tensor, max_tokens: int) -> list[list[int]]:
    """For each row of source (B, S) the likeliest token after the likeliest, to eos_id, which is left out, or `max_tokens`."""
    _check_length(model, max_tokens)
    config = model.config
    decoder = Decoder(model, model.encode(source))
    tokens = source.new_full((len(source),), config.bos_id)  # (B,)
    has_ended = torch.zeros_like(tokens, dtype=torch.bool)
    steps: list[Tensor] = []
    while len(steps) < max_tokens and not has_ended.all():
        tokens = decoder.step(tokens).argmax(dim=-1)
        tokens = tokens.masked_fill(has_ended, config.eos_id)
        has_ended = tokens == config.eos_id
        steps.append(tokens)
    return [_until(row, config.eos_id) for row in torch.stack(steps, dim=1).tolist()]


@torch.inference_mode()
def beam_search(model: Transformer, source: Tensor, max_tokens: int, num_beams: int = 4, alpha: float = 0.6) -> list[Hypothesis]:
    """For each row of source (B, S) the best of the hypotheses that end with eos_id or at `max_tokens`.

    Section 6.1's search: 4 beams and alpha 0.6. A step tries every token after every beam. Of the 2K likeliest continuations those
    that end are hypotheses, if they are among the first K, and the first K others go on. It stops when no beam can become better
    than the best hypothesis, so that a search as wide as there are prefixes finds the best of all targets.
    """
    _check_length(model, max_tokens)
    config, memory, num_rows = model.config, model.encode(source), len(source)
    rows = torch.arange(num_rows, device=source.device)  # (B,)
    decoder = Decoder(model, memory.rows(rows.repeat_interleave(num_beams)))
    tokens = source.new_full((num_rows, num_beams, 1), config.bos_id)  # (B, K, 1 + length)
    log_probs = torch.full((num_rows, num_beams), -torch.inf, device=source.device)  # (B, K)
    log_probs[:, 0] = 0.0  # all beams are the same as yet, and one of them is enough
    best = [Hypothesis([], -torch.inf, -torch.inf)] * num_rows
    for length in range(1, max_tokens + 1):
        following = decoder.step(tokens[:, :, -1].flatten()).view(num_rows, num_beams, -1)  # (B, K, V)
        totals = (log_probs[:, :, None] + following).flatten(1)  # (B, K * V)
        found, places = totals.topk(min(2 * num_beams, totals.shape[1]))  # (B, 2K), the likeliest first
        beams, words = places // config.vocab_size, places % config.vocab_size
        ends = words == config.eos_id
        tokens = torch.cat((_pick(tokens, beams), words[:, :, None]), dim=-1)  # (B, 2K, 1 + length)
        finished = (ends | (length == max_tokens))[:, :num_beams]  # (B, K)
        _note(best, finished, tokens, found, length_penalty(length, alpha), config.eos_id)
        log_probs, going = found.masked_fill(ends, -torch.inf).topk(num_beams)  # (B, K)
        if _is_over(best, log_probs, length_penalty(max_tokens, alpha)):
            break
        tokens = _pick(tokens, going)
        decoder.keep((rows[:, None] * num_beams + beams.gather(1, going)).flatten())
    return best


def _pick(tokens: Tensor, beams: Tensor) -> Tensor:
    """Of tokens (B, K, T) the beams (B, N) of each source: (B, N, T)."""
    return tokens.gather(1, beams[:, :, None].expand(-1, -1, tokens.shape[-1]))


def _note(best: list[Hypothesis], finished: Tensor, tokens: Tensor, log_probs: Tensor, penalty: float, eos_id: int) -> None:
    """Let what has finished, beams of tokens (B, 2K, T) with log_probs (B, 2K), take the place of worse hypotheses."""
    for row, beam in finished.nonzero().tolist():
        log_prob = log_probs[row, beam].item()
        if log_prob / penalty > best[row].score:
            best[row] = Hypothesis(_until(tokens[row, beam, 1:].tolist(), eos_id), log_prob, log_prob / penalty)


def _is_over(best: list[Hypothesis], log_probs: Tensor, largest_penalty: float) -> bool:
    """Whether no beam can become better: a longer one is no likelier, and the largest penalty is what helps it most."""
    bounds = (log_probs.amax(dim=1) / largest_penalty).tolist()
    return all(hypothesis.score >= bound for hypothesis, bound in zip(best, bounds, strict=True))


def _until(tokens: list[int], eos_id: int) -> list[int]:
    return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens


def _check_length(model: Transformer, max_tokens: int) -> None:
    if not 1 <= max_tokens <= model.config.max_positions:
        raise ValueError(f"max_tokens is {max_tokens}; the model's targets have 1 to {model.config.max_positions}")
