"""What --weights makes of sets of text: each one's share, and how often a run goes through it. Knows sizes alone, no order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from model.training.data.shards import Ids, TokenShards


@dataclass(frozen=True, slots=True)
class WeightedSet:
    """The text of one path, as far as it is trained on."""

    name: str
    share: float  # of the tokens that a run trains on
    num_tokens: int  # that the text has

    @property
    def run_tokens(self) -> float:
        """Of all sets together, those of a run that goes through this one once."""
        return self.num_tokens / self.share

    def times(self, run_tokens: int) -> str:
        return f"{run_tokens / self.run_tokens:.1f} times"


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
    total = sum(shards.weights)
    sizes = [sum(map(len, ids)) for ids in sets_of_shards(shards)]
    return [
        WeightedSet(set_name(names, number), weight / total, size)
        for number, (weight, size) in enumerate(zip(shards.weights, sizes, strict=True))
    ]


def most_repeated(shards: TokenShards, names: Sequence[str] = ()) -> WeightedSet:
    """The set that any run goes through more often than through the others."""
    return min(weighted_sets(shards, names), key=lambda texts: texts.run_tokens)


def weights_line(shards: TokenShards, names: Sequence[str], num_windows: int, context: int) -> str:
    """What the weights do in a run of so many windows of `context` tokens, in one line."""
    sets = weighted_sets(shards, names)
    told = [
        f"{texts.name} {100 * texts.share:.3g} % of the tokens, {texts.times(num_windows * context)} through it" for texts in sets
    ]
    return f"weights: {'; '.join(told)}"
