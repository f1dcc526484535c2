"""The tokens of each cache slot, on the device: what penalties look at."""

import torch
from torch import Tensor


class History:
    """Token ids (num_slots + 1, n_positions), of which a slot's first so many are its sequence's; the last slot is for padding."""

    def __init__(self, num_slots: int, n_positions: int, device: torch.device) -> None:
        self.tokens = torch.zeros(num_slots + 1, n_positions, dtype=torch.int64, device=device)

    def write(self, slots: Tensor, positions: Tensor, token_ids: Tensor) -> None:
        """Store token_ids[r] at (slots[r], positions[r]), all (R,)."""
        self.tokens[slots, positions] = token_ids

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self.tokens[target, :length] = self.tokens[source, :length]

    def counts(self, slots: Tensor, lengths: Tensor, num_prompts: Tensor, longest: int, vocab_size: int) -> tuple[Tensor, Tensor]:
        """How often each token stands among the first lengths[r] of slot slots[r], and how often behind the first num_prompts[r].

        All of the rows' numbers are (P,), no length is above `longest`; both counts are float32 (P, V).
        """
        positions = torch.arange(longest, device=slots.device)  # (T,)
        there = positions < lengths[:, None]  # (P, T)
        # What lies behind the sequence may be no token of the vocabulary, of a step that failed.
        token_ids = self.tokens[:, :longest].index_select(0, slots).masked_fill(~there, 0)
        generated = there & (positions >= num_prompts[:, None])
        return _counts(token_ids, there, vocab_size), _counts(token_ids, generated, vocab_size)


def _counts(token_ids: Tensor, counted: Tensor, vocab_size: int) -> Tensor:
    counts = torch.zeros(len(token_ids), vocab_size, device=token_ids.device)
    return counts.scatter_add_(1, token_ids, counted.float())  # whole numbers: exact in any order
