"""Translation by the encoder-decoder Transformer of 2017, beside a GPT-2 of as many parameters on the same pairs for the same time.

`python examples/recipes/seq2seq.py --out DIR` needs no data: it makes English and French sentences with dates and numbers in words,
trains both networks from nothing, and measures how many of other sentences each translates without a mistake, both ways.
Needs matplotlib and sacrebleu: `pip install -e '.[dev]'`.
"""

import argparse
import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from common import Result, main, write_pairs, write_text
from seq2seq_contenders import MAX_TOKENS, Contender, Length, decoder_only, encoder_decoder, exact_match, learn
from seq2seq_data import BEGIN, END, PAD, SPECIAL, Words, statements, text_pairs
from seq2seq_pictures import attention_picture, curves_picture
from torch import Tensor

from app.commands.parser import Parser
from model.gpt2 import CausalAttention
from model.training.errors import TrainingError
from model.transformer.config import TransformerConfig
from model.transformer.decoding import beam_search
from model.transformer.files import save_transformer
from model.transformer.network import MaskedAttention, Transformer
from model.transformer.training import Pair, sources, to_batch

NUM_TRAIN, TESTS = 20_000, 400
MINUTES = 3.0  # of one core; half as many on two
WIDTH, HEADS, LAYERS = 96, 4, 3  # as many layers of the encoder as of the decoder
CURVE_POINTS, CURVE_TESTS = 16, 100
SHOWN = 4


class WatchedAttention(MaskedAttention):
    """Attention that keeps its weights: a layer's (B, H, T, S)."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask)
        self.weights: dict[int, Tensor] = {}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
        self.weights[layer] = scores.masked_fill(~self.mask, -torch.inf).softmax(dim=-1)
        return super().__call__(layer, q, k, v)


def seq2seq(options: argparse.Namespace) -> Result:
    check(options)
    texts = text_pairs(statements(NUM_TRAIN + options.tests))
    test, training = texts[: options.tests], texts[options.tests :]
    words = Words([text for pair in training for text in pair])
    pairs, tests = ([(words.encode(source), words.encode(target)) for source, target in part] for part in (training, test))
    config = TransformerConfig(
        vocab_size=len(words),
        pad_id=SPECIAL.index(PAD),
        bos_id=SPECIAL.index(BEGIN),
        eos_id=SPECIAL.index(END),
        max_positions=MAX_TOKENS,
        d_model=WIDTH,
        n_head=HEADS,
        num_encoder_layers=LAYERS,
        num_decoder_layers=LAYERS,
        d_ff=4 * WIDTH,
    )
    write_pairs(options.out / "train.jsonl", training)
    write_pairs(options.out / "test.jsonl", test)
    ours, other = encoder_decoder(config), decoder_only(config)
    before = exact_match(ours.translate([source for source, _ in tests]), tests)
    for contender in (ours, other):
        learn(contender, pairs, tests[:CURVE_TESTS], config, Length(60 * options.minutes, options.steps, CURVE_POINTS))
    result = measured((ours, other), tests, words)
    save(options.out, ours, words)
    curves_picture(options.out / "curves.png", {contender.name: contender.curve for contender in (ours, other)})
    draw_attention(options.out / "attention.png", ours, tests[0], words)
    options.steps = ours.steps
    return {
        "trained_on": f"{NUM_TRAIN:,} pairs of sentences",
        "tested_on": f"{len(test):,} others",
        "measure": "exact match",
        "before": before,
        **result,
        "base": {"parameters": ours.num_parameters, "vocabulary": len(words), "context": config.max_positions},
    }


def check(options: argparse.Namespace) -> None:
    if options.further:
        raise TrainingError(f"there is no option {options.further[0]}; --help names those that there are")
    if not 0 < options.minutes < math.inf:
        raise TrainingError(f"--minutes is {options.minutes}; it must be above 0 and finite")
    if options.steps is not None and options.steps < 1:
        raise TrainingError(f"--steps is {options.steps}; it must be at least 1")
    for name in ("matplotlib", "sacrebleu"):
        if importlib.util.find_spec(name) is None:
            raise TrainingError(f"{name} is not installed; pip install {name}")


def measured(contenders: Sequence[Contender], tests: Sequence[Pair], words: Words) -> Result:
    """Of the encoder-decoder by beam search as published, and of both by the likeliest token after the likeliest."""
    ours, other = contenders
    assert isinstance(ours.network, Transformer)
    asked = [source for source, _ in tests]
    beams = [best.tokens for best in beam_search(ours.network, sources(asked, ours.network.config), MAX_TOKENS)]
    answers = {contender.name: contender.translate(asked) for contender in contenders}
    return {
        "after": exact_match(beams, tests),
        "beside": [f"{other.name} in the same time", exact_match(answers[other.name], tests)],
        "greedy": exact_match(answers[ours.name], tests),
        "bleu": {"beam search": bleu(beams, tests, words)} | {name: bleu(rows, tests, words) for name, rows in answers.items()},
        "into_french": exact_match(beams[::2], tests[::2]),
        "into_english": exact_match(beams[1::2], tests[1::2]) if len(tests) > 1 else None,
        "curves": {contender.name: contender.curve for contender in contenders},
        "training_steps": {contender.name: contender.steps for contender in contenders},
        "parameters": {contender.name: contender.num_parameters for contender in contenders},
        "samples": [
            {"source": words.decode(source), "expected": words.decode(target), "after": words.decode(row)}
            for (source, target), row in zip(tests[:SHOWN], beams, strict=False)
        ],
    }


def bleu(found: Sequence[Sequence[int]], tests: Sequence[Pair], words: Words) -> float:
    """Papineni et al. 2002, by sacrebleu; of all sentences at once, 100 at best."""
    from sacrebleu.metrics import BLEU

    targets = [words.decode(target) for _, target in tests]
    return round(BLEU().corpus_score([words.decode(row) for row in found], [targets]).score, 2)


def save(out: Path, contender: Contender, words: Words) -> None:
    assert isinstance(contender.network, Transformer)
    save_transformer(out / "model", contender.network)
    write_text(out / "model" / "words.json", json.dumps(words.words, ensure_ascii=False))


@torch.inference_mode()
def draw_attention(picture: Path, contender: Contender, pair: Pair, words: Words) -> None:
    """Where the last decoder layer looks while it writes the right target, its heads' mean."""
    model = contender.network
    assert isinstance(model, Transformer)
    batch = to_batch([pair], model.config)
    memory = model.encode(batch.source)
    watched = WatchedAttention(memory.mask)
    model.decode(batch.target[:, :-1], memory, CausalAttention(), cross=watched)
    weights = watched.weights[LAYERS - 1][0].mean(dim=0)  # (T, S)
    rows, columns = ([words.words[i] for i in ids[0].tolist()] for ids in (batch.target[:, 1:], batch.source))
    attention_picture(picture, weights.tolist(), rows, columns)


def arguments() -> argparse.ArgumentParser:
    options = Parser(description=__doc__)
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for pairs, network and pictures")
    options.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        metavar="N",
        help="processor time, all cores together, for each network (default: %(default)s)",
    )
    options.add_argument("--steps", type=int, metavar="N", help="steps of training of each, in place of minutes")
    options.add_argument("--tests", type=int, default=TESTS, metavar="N", help="pairs tested (default: %(default)s)")
    return options


if __name__ == "__main__":
    main(seq2seq, arguments())
