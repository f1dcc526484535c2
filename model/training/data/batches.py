"""Training batches out of token shards. A batch is a function of the seed and its place in the run: nothing has to be remembered.

So a resumed run sees what the uninterrupted one would have seen, and the processes of a distributed run share out each batch.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.training.data.shards import Ids, TokenShards
from model.training.data.weighted_sets import set_name, sets_of_shards
from model.training.errors import TrainingError

SHARE_BITS = 32


class WindowSampler:
    """Cuts shards into windows of `context` tokens and goes through them in an order drawn anew each epoch.

    The cuts begin at another offset each epoch, so that a token does not always have the same neighbours in view.
    """

    def __init__(self, shards: Sequence[Ids], context: int, seed: int, name: str | None = None) -> None:
        """`name` is that of the weighted set that this is; TrainingError names it where there is too little of it."""
        self._shards, self.context, self._seed = shards, context, seed
        # One window of each shard is given up to the offset, and its last token is a target alone.
        self._num_windows = [max(0, (len(shard) - 1) // context - 1) for shard in shards]
        self.windows_per_epoch = sum(self._num_windows)
        if not self.windows_per_epoch:
            raise _too_little(max(map(len, shards), default=0), context, name)
        self._epoch = -1
        self._order = np.empty((0, 2), dtype=np.int64)  # (shard, start) of each window of the epoch

    def batch(self, first: int, num_windows: int, length: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of the windows numbered from `first` on since the run began, cut into rows of `length` tokens.

        `length` divides the context; B = num_windows * context / length.
        """
        return _rows([self.window(number) for number in range(first, first + num_windows)], length)

    def window(self, number: int) -> NDArray[np.int64]:
        """The tokens of one window and the one behind them."""
        epoch, place = divmod(number, self.windows_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        shard, start = self._order[place]
        return np.asarray(self._shards[shard][start : start + self.context + 1], dtype=np.int64)

    def _shuffle(self, epoch: int) -> None:
        generator = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        cuts = []
        for shard, count in enumerate(self._num_windows):
            offset = int(generator.integers(self.context))
            starts = offset + self.context * np.arange(count)
            cuts.append(np.stack([np.full(count, shard), starts], axis=1))
        self._order = generator.permutation(np.concatenate(cuts))
        self._epoch = epoch


def _too_little(longest: int, context: int, name: str | None) -> TrainingError:
    """The refusal of text whose longest shard has so many tokens: that of the set of this name, or all there is."""
    remedy = f", or a context of at most {(longest - 1) // 2}" if longest > 2 else ""
    if name is None:
        return TrainingError(f"{longest} tokens to train on are too few for a context of {context}: more text{remedy}")
    return TrainingError(
        f"--weights: the text of {name} has {longest} tokens to train on, too few for a context of {context}: more of it{remedy}"
    )


class WeightedSampler:
    """Windows of several sets of shards, each of which has its share among any number of them, to a window or so.

    Which set a window is of follows from its number alone: set by set, so many of the first n windows are of this set and those
    before it together, and of these so many are of this set. Within a set they are as WindowSampler draws them.
    """

    def __init__(
        self, sets: Sequence[Sequence[Ids]], weights: Sequence[float], context: int, seed: int, names: Sequence[str] = ()
    ) -> None:
        self._samplers = [
            WindowSampler(shards, context, seed, set_name(names, number_of_set)) for number_of_set, shards in enumerate(sets)
        ]
        sums = np.cumsum(weights)
        # Whole numbers of 2 ** -SHARE_BITS, with which no count is ever a window off: of the sets before each, among these and it.
        self._shares_before = [round(before / upto * (1 << SHARE_BITS)) for before, upto in pairwise(sums.tolist())]
        self.windows_per_epoch = sum(sampler.windows_per_epoch for sampler in self._samplers)

    def batch(self, first: int, num_windows: int, length: int) -> tuple[Tensor, Tensor]:
        """As WindowSampler's."""
        places = [self.place(number) for number in range(first, first + num_windows)]
        return _rows([self._samplers[number_of_set].window(number) for number_of_set, number in places], length)

    def place(self, number: int) -> tuple[int, int]:
        """The set that a window is of, and its number there."""
        for number_of_set in range(len(self._samplers) - 1, 0, -1):
            before, with_it = ((n * self._shares_before[number_of_set - 1]) >> SHARE_BITS for n in (number, number + 1))
            if before == with_it:
                return number_of_set, number - before
            number = before
        return 0, number


def window_sampler(shards: TokenShards, context: int, seed: int, names: Sequence[str] = ()) -> WindowSampler | WeightedSampler:
    """`names` are those of the paths that the weights are of; TrainingError tells by them which has too little text."""
    if not shards.weights:
        return WindowSampler(shards.train, context, seed)
    return WeightedSampler(sets_of_shards(shards), shards.weights, context, seed, names)


def _rows(windows: Sequence[NDArray[np.int64]], length: int) -> tuple[Tensor, Tensor]:
    inputs = np.stack([window[:-1] for window in windows]).reshape(-1, length)
    targets = np.stack([window[1:] for window in windows]).reshape(-1, length)
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def validation_batches(shards: Sequence[Ids], context: int, num_windows: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets (B <= rows, T): `num_windows` windows spread evenly over the shards, always the same.

    T is the context or, where no shard is as long, what the longest one has. Raises TrainingError where there is no text at all.
    """
    length = min(context, max(map(len, shards), default=0) - 1)
    if length < 1:
        raise TrainingError("no text is held out for validation: more text, or a larger --validation-fraction")
    places = [(shard, start) for shard in range(len(shards)) for start in range(0, len(shards[shard]) - length, length)]
    chosen = [places[i] for i in np.linspace(0, len(places) - 1, min(num_windows, len(places))).astype(int)]
    for begin in range(0, len(chosen), rows):
        windows = torch.from_numpy(
            np.stack([shards[shard][start : start + length + 1].astype(np.int64) for shard, start in chosen[begin : begin + rows]])
        )
        yield windows[:, :-1], windows[:, 1:]
