"""Heads of a checkpoint that look back in a pattern, and what is lost without them: `python examples/heads.py [--model MODEL]`.

- previous-token heads look at the token before, on English text;
- duplicate-token heads look at an earlier occurrence of the same token, on random tokens that are repeated once;
- induction heads look at what followed that occurrence, and so can foretell a repetition (Olsson et al. 2022, "In-context Learning
  and Induction Heads").

A score is the mean attention weight there; on random tokens nothing but the pattern itself can help. The heads that score best are
then zeroed, beside as many others drawn by the seed: what the loss becomes on the repetition and on the text. Without HTTP: the
same numbers come from POST /v1/inspect with `ablations`.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from app.environment import prepare_for_torch
from app.settings import DEFAULT_MODEL

if TYPE_CHECKING:  # torch is imported when the arguments are known to be right
    from torch import Tensor

    from model.inspection.network import InspectedNetwork
    from model.tokenizer import Tokenizer

TEXTS = (
    "The harbour was quiet when the old captain came down to the water. He had not slept, and the wind, which had blown from the "
    "north for three days, had turned in the night. He looked at his boat and at the sky, and then he went back to the house to "
    "wake his son. The boy was already at the table, with his coat on and a piece of bread in his hand.",
    "Mrs. Harding had never liked the new doctor, and she said so to everybody who would listen to her. The new doctor, for his "
    "part, had never said a word against Mrs. Harding, though he had been asked for his opinion more than once. It was thought in "
    "the village that this was very much to his credit, and that nothing good could come of it.",
    "There is a road that leads out of the town to the east, between two walls of grey stone, and climbs to the old mill upon the "
    "hill. Nobody has ground any corn there for forty years. The wheel has fallen into the stream, and the roof has fallen upon "
    "the floor, but the children of the town still go up to the old mill in the summer and come home after dark.",
    "In the first place, gentlemen, I must tell you that I have no money; in the second place, that I have no wish to have any. My "
    "father had a great deal of it, and it made him the most unhappy man in the county. My brother has it now, and he cannot sleep "
    "at night. I have a garden, a dog and a good pair of boots, and I sleep as well as any man in England.",
)
KINDS = {"previous": "the token before", "duplicate": "the same token before", "induction": "what followed it before"}
NUM_SHOWN = 5
NUM_OTHERS = 4  # draws of other heads that the best ones are compared with
Head = tuple[int, int]  # layer and head


@dataclass(frozen=True, slots=True)
class Inputs:
    """Token ids: an end token, then English text, or random tokens twice over."""

    texts: list[tuple[int, ...]]
    repeated: list[tuple[int, ...]]
    length: int  # of what is repeated


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEFAULT_MODEL), help="checkpoint (default: the one of the service)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random tokens and the other heads (default: 0)")
    parser.add_argument("--length", type=int, default=64, metavar="N", help="random tokens that are repeated (default: 64)")
    parser.add_argument("--sequences", type=int, default=4, metavar="N", help="sequences of them (default: 4)")
    parser.add_argument("--json", action="store_true", help="print all scores and losses as JSON")
    return parser


def main() -> None:
    options = arguments().parse_args()
    prepare_for_torch()
    from model.checkpoint import CheckpointError

    try:
        found = look_for_heads(options.model, options.seed, options.length, options.sequences)
    except (CheckpointError, ValueError) as error:
        print(f"heads.py: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(found) if options.json else "\n".join(shown(found)))


def look_for_heads(model: str, seed: int, length: int, num_sequences: int, with_losses: bool = True) -> dict[str, Any]:
    """Scores by kind, layer and head, and the losses with and without the best heads, which take far longer."""
    from model.checkpoint import load_tokenizer, resolve_model
    from model.inspection.network import InspectedNetwork
    from model.network_files import load_model

    directory = resolve_model(model)
    network, tokenizer = InspectedNetwork(load_model(directory)), load_tokenizer(directory)
    drawn = random.Random(seed)
    inputs = inputs_for(network, tokenizer, drawn, length, num_sequences)
    scores = scores_of(network, inputs)
    groups = {"no head": [], **groups_of(scores, drawn)} if with_losses else {}
    rows = tqdm(groups.items(), "zeroing heads", leave=False, disable=None)
    return {
        "model": Path(model).name,
        "scores": scores,
        "chance": chances(inputs),
        "losses": [{"zeroed": name, "heads": heads, **losses(network, inputs, heads)} for name, heads in rows],
    }


def inputs_for(
    network: "InspectedNetwork", tokenizer: "Tokenizer", drawn: random.Random, length: int, num_sequences: int
) -> Inputs:
    """Raises ValueError for what the network or its vocabulary cannot take."""
    end, known = network.config.eos_token_id, [i for i in range(tokenizer.vocab_size) if not tokenizer.is_special(i)]
    most = min(len(known), (network.config.n_positions - 1) // 2)
    if not 2 <= length <= most:
        raise ValueError(f"--length is {length}; this checkpoint takes from 2 to {most}")
    if num_sequences < 1:
        raise ValueError(f"--sequences is {num_sequences}; it must be at least 1")
    random_tokens = [drawn.sample(known, length) for _ in range(num_sequences)]  # none comes twice in one
    texts = [(end, *tokenizer.encode(text))[: network.config.n_positions] for text in TEXTS]
    return Inputs(texts, [(end, *tokens, *tokens) for tokens in random_tokens], length)


# ---- scores


def scores_of(network: "InspectedNetwork", inputs: Inputs) -> dict[str, list[list[float]]]:
    """The mean attention weight of each head where its kind looks, by kind, layer and head."""
    import torch

    def mean(token_ids: Sequence[tuple[int, ...]], weights: Callable[[Any], Any]) -> list[list[float]]:
        rows = [torch.stack([weights(pattern).mean(-1) for pattern in patterns(network, ids)]) for ids in token_ids]
        return torch.stack(rows).mean(0).tolist()  # (L, H)

    def diagonal(offset: int, first: int) -> Callable[[Any], Any]:
        """Of a pattern (H, T, T): the weights of the queries from `first` on upon the key `offset` before each, (H, T - first)."""
        return lambda pattern: pattern.diagonal(-offset, 1, 2)[:, first - offset :]

    second = 1 + inputs.length  # the repetition's first query
    return {
        "previous": mean(inputs.texts, diagonal(1, 1)),
        "duplicate": mean(inputs.repeated, diagonal(inputs.length, second)),
        "induction": mean(inputs.repeated, diagonal(inputs.length - 1, second)),
    }


def patterns(network: "InspectedNetwork", token_ids: tuple[int, ...]) -> "Iterable[Tensor]":
    """Of each layer the attention pattern (H, T, T), [head, query, key]."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(network.config.n_layer)]
    run = network.run(token_ids, names)
    return [run.activations[name] for name in names]


def chances(inputs: Inputs) -> dict[str, float]:
    """What a head would score that looks at all it sees alike."""

    def mean(first: int, last: int) -> float:
        return sum(1 / (query + 1) for query in range(first, last)) / (last - first)

    repetition = mean(1 + inputs.length, 1 + 2 * inputs.length)
    texts = [mean(1, len(text)) for text in inputs.texts]
    return {"previous": sum(texts) / len(texts), "duplicate": repetition, "induction": repetition}


def best_of(scores: list[list[float]]) -> list[tuple[float, Head]]:
    """All heads with their scores, the best first."""
    ranked = [(score, (layer, head)) for layer, heads in enumerate(scores) for head, score in enumerate(heads)]
    return sorted(ranked, key=lambda one: -one[0])


# ---- what is lost without them


def groups_of(scores: dict[str, list[list[float]]], drawn: random.Random) -> dict[str, list[Head]]:
    """The heads that are zeroed together: the best of each kind, the best three, and as many others that are none of these."""
    groups: dict[str, list[Head]] = {}
    best = {kind: [head for _, head in best_of(scores[kind])] for kind in KINDS}
    shown_heads = {head for heads in best.values() for head in heads[:NUM_SHOWN]}
    others = [head for head in best["previous"] if head not in shown_heads]
    for number in (1, 3):
        for kind in KINDS:
            groups[f"{kind}, the best {number}" if number > 1 else f"{kind}, the best"] = best[kind][:number]
        for i in range(NUM_OTHERS if len(others) >= number else 0):
            groups[f"other heads, {number}, draw {i + 1}"] = drawn.sample(sorted(others), number)
    return groups


def losses(network: "InspectedNetwork", inputs: Inputs, zeroed: Sequence[Head]) -> dict[str, float]:
    """Mean negative log-probability of a token, in nats: of random tokens, of their repetition, and of the texts."""
    import torch

    repeated = torch.stack([surprises(network, ids, zeroed) for ids in inputs.repeated])  # (sequences, 2 * length)
    texts = torch.cat([surprises(network, ids, zeroed) for ids in inputs.texts])
    return {
        "random": repeated[:, : inputs.length].mean().item(),
        # Its first token follows the last random one at random; its second is the first that can be foretold.
        "repetition": repeated[:, inputs.length + 1 :].mean().item(),
        "text": texts.mean().item(),
    }


def surprises(network: "InspectedNetwork", token_ids: tuple[int, ...], zeroed: Sequence[Head]) -> "Tensor":
    """The negative log-probability of each token after the first, (T - 1,)."""
    from model.inspection.ablations import changes_of
    from model.inspection.request import HeadAblation, InspectionRequest

    ablations = tuple(HeadAblation(layer, head, "zero") for layer, head in zeroed)
    changes = changes_of(network, InspectionRequest(token_ids, ablations=ablations))
    logprobs = network.run(token_ids, changes=changes).logits.log_softmax(-1)
    return -logprobs[range(len(token_ids) - 1), token_ids[1:]]


# ---- as a table


def shown(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['model']}: mean attention weight, by layer.head"
    for kind, meaning in KINDS.items():
        heads = "".join(
            f"{f'{layer}.{head}':>7} {score:.3f}" for score, (layer, head) in best_of(found["scores"][kind])[:NUM_SHOWN]
        )
        yield f"  {meaning:<24}{heads}   (chance {found['chance'][kind]:.3f})"
    yield ""
    yield f"{'loss in nats a token; heads zeroed':<54}{'random':>8}{'repeated':>10}{'text':>8}"
    for row in found["losses"]:
        heads = " ".join(f"{layer}.{head}" for layer, head in row["heads"])
        yield f"  {row['zeroed']:<28}{heads:<24}{row['random']:>8.3f}{row['repetition']:>10.3f}{row['text']:>8.3f}"


if __name__ == "__main__":
    main()
