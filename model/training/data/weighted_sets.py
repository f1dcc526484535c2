"""What --weights makes of sets: each one's share, and how often a run goes through it. Knows sizes alone, no order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from model.training.data.shards import Ids, TokenShards


@dataclass(frozen=True, slots=True)
class WeightedSet:
    """What one path has to train on: tokens of text, or rows."""

    name: str
    share: float  # of what a run trains on
    size: int

    @property
    def until_repeated(self) -> float:
        """The size of a run, of all sets together, that goes through this one once."""
        return self.size / self.share

    def times(self, run_size: int) -> str:
        return f"{run_size / self.until_repeated:.1f} times"


def sets_of_shards(shards: TokenShards) -> list[list[Ids]]:
    """The shards to train on, set by set."""
    remaining = iter(shards.train)
    return [list(islice(remaining, size)) for size in shards.set_sizes]


def set_name(names: Sequence[str], number: int) -> str:
    """The path of a set as the user named it or, where that is not known here, which one it is."""
    return names[number] if names else f"path {number + 1}"


def weighted_sets(shards: TokenShards, names: Sequence[str] = ()) -> list[WeightedSet]:
    """`names` are those of the paths, as they were given; without weights all text is one set."""
    if not shards.weights:
        return [WeightedSet("the text", 1.0, sum(map(len, shards.train)))]
    return with_shares([sum(map(len, ids)) for ids in sets_of_shards(shards)], shards.weights, names)


def with_shares(sizes: Sequence[int], weights: Sequence[float], names: Sequence[str]) -> list[WeightedSet]:
    """Sets of these sizes; their shares are the weights over the sum of all."""
    total = sum(weights)
    return [
        WeightedSet(set_name(names, number), weight / total, size)
        for number, (weight, size) in enumerate(zip(weights, sizes, strict=True))
    ]


def most_repeated(shards: TokenShards, names: Sequence[str] = ()) -> WeightedSet:
    """The set that any run goes through more often than through the others."""
    return min(weighted_sets(shards, names), key=lambda texts: texts.until_repeated)


def weights_line(sets: Sequence[WeightedSet], run_size: int, what: str) -> str:
    """What the weights do in a run of so many tokens or rows, which `what` says, in one line."""
    told = [f"{one.name} {100 * one.share:.3g} % of the {what}, {one.times(run_size)} through it" for one in sets]
    return f"weights: {'; '.join(told)}"
