"""What a recipe is worth: the same small network trained for the same steps by variants of it, measured on a held-out text.

    python -m benchmarks.recipe_trials books_core.txt.xz --held-out books_eval.txt.xz

Steps are fixed, so that other load on the machine does not matter; what a variant's step costs is the processor time that it took
beside the baseline's. Most trials see each token once; those named "epochs" go six times through a sixth of the text, as a
larger run does, where strong decay and averages are said to pay. Each result is written as soon as it is there, and trials that
have theirs are not run again. Differences below that between two seeds of the baseline are noise.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.environment import prepare_for_training
from benchmarks.machine import RESULTS, write_result
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.tokenizer import Tokenizer
from model.training.data.corpus import documents, read_corpus
from model.training.data.examples import IGNORED
from model.training.data.shards import TokenShards
from model.training.data.source import Batch
from model.training.data.windows import WindowData
from model.training.distributed import Processes
from model.training.evaluation import evaluate
from model.training.fused import linear_cross_entropy
from model.training.objective import NextTokenLoss
from model.training.precision import compare_products
from model.training.recipe import Recipe
from model.training.trainer import Step, Trainer, Validation
from model.training.vocabulary import learn_vocabulary, load_vocabulary

CPU, EPOCHS = torch.device("cpu"), 6
CONTEXT, WIDTH, LAYERS, HEADS, VOCABULARY = 256, 192, 6, 3, 4096
HELD_OUT_CHARACTERS = 300_000
Rates = Callable[[float], float]  # the share of a run that is over, to a factor


def cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def linear(share: float) -> float:
    return 1 - share


def cosine_from(begin: float) -> Rates:
    """Constant, then down to zero by half a cosine."""
    return lambda share: cosine(max(0.0, (share - begin) / (1 - begin)))


def cooled_from(begin: float) -> Rates:
    """Constant, then linearly down to zero: warm-up, stable, decay (Hu et al. 2024, "MiniCPM")."""
    return lambda share: min(1.0, (1 - share) / (1 - begin))


@dataclass(frozen=True)
class Trial:
    name: str
    recipe: dict[str, object]
    rates: Rates = cosine
    decay: Rates | None = None  # weight decay by the share of the run; the learning rate multiplies it besides
    average: float | None = None  # of the weights, each step's share of what was before
    offsets: bool = False  # of positions, while windows are short: drawn for each row
    zero_projections: bool = False
    growth: bool = False  # half the batch in the first third of the tokens, as many steps more
    foresight: float | None = None  # the weight of the loss by which the token after the next is foretold, too
    epochs: bool = False


# Of the baseline, which is the recipe as it was before these trials: those of the optimisers, and `cosine`.
RATES = {"learning_rate": 3e-3, "muon_learning_rate": 0.02}


def rates_of(factor: float) -> dict[str, object]:
    return {name: factor * rate for name, rate in RATES.items()}


DOUBLED: dict[str, object] = {"learning_rate": 6e-3}
ADAMW: dict[str, object] = {"optimizer": "adamw"}
WHOLE_WINDOWS: dict[str, object] = {"windows": ((0.0, 1),)}
TRIALS = (
    Trial("baseline", {}),
    Trial("baseline, another seed", {"seed": 1}),
    Trial("linear to zero", {}, rates=linear),
    Trial("constant, cooled down in the last 40 %", {}, rates=cooled_from(0.6)),
    Trial("constant, cooled down in the last 20 %, averaged", {}, rates=cooled_from(0.8), average=0.95),
    Trial("averaged weights", {}, average=0.95),
    Trial("decay 0.4", {"weight_decay": 0.4}),
    Trial("position offsets", {}, offsets=True),
    Trial("residual projections of zero", {}, zero_projections=True),
    Trial("batch grows", {}, growth=True),
    Trial("two tokens foretold", {}, foresight=0.3),
    Trial("epochs: baseline", {}, epochs=True),
    Trial("epochs: decay 0.4", {"weight_decay": 0.4}, epochs=True),
    Trial("epochs: decay 0.8", {"weight_decay": 0.8}, epochs=True),
    Trial("epochs: decay 0.8, rising from 0", {}, decay=lambda share: 0.8 * share, epochs=True),
    Trial("epochs: decay 0.8, falling to 0", {}, decay=lambda share: 0.8 * (1 - share), epochs=True),
    Trial("epochs: dropout 0.1", {"dropout": 0.1}, epochs=True),
    Trial("whole windows from the start", WHOLE_WINDOWS),
    Trial("whole windows from the start, constant, cooled down in the last 40 %", WHOLE_WINDOWS, rates=cooled_from(0.6)),
    Trial("constant, cooled down in the last 60 %", {}, rates=cooled_from(0.4)),
    Trial("rates of 1.6 times", rates_of(1.6)),
    Trial("constant, cooled down in the last 40 %, rates of 0.6 times", rates_of(0.6), rates=cooled_from(0.6)),
    Trial("the embeddings' rate doubled", DOUBLED),
    Trial("the embeddings' rate times four", {"learning_rate": 12e-3}),
    Trial("Muon's rate doubled", {"muon_learning_rate": 0.04}),
    Trial("constant, cooled down in the last 40 %, the embeddings' rate doubled", DOUBLED, rates=cooled_from(0.6)),
    Trial("constant, cooled down in the last 40 %, Muon's rate doubled", {"muon_learning_rate": 0.04}, rates=cooled_from(0.6)),
    Trial("constant, half a cosine in the last 30 %, the embeddings' rate doubled", DOUBLED, rates=cosine_from(0.7)),
    Trial("constant, half a cosine in the last 40 %, the embeddings' rate doubled", DOUBLED, rates=cosine_from(0.6)),
    Trial("constant, half a cosine in the last 50 %, the embeddings' rate doubled", DOUBLED, rates=cosine_from(0.5)),
    Trial("AdamW alone", ADAMW),
    Trial("AdamW alone, its rate doubled", ADAMW | DOUBLED),
    Trial("AdamW alone, constant, half a cosine in the last 40 %", ADAMW, rates=cosine_from(0.6)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe(Recipe):
    """A recipe with other rates than its own."""

    rates: Rates = cosine

    def learning_rate_factor(self, step: int, share: float | None = None) -> float:
        warmup = self.num_warmup_steps
        return (step + 1) / warmup if step < warmup else self.rates((step - warmup) / max(1, self.max_steps - warmup))


class _OffsetLoss(NextTokenLoss):
    """The loss with each row's positions begun at a place of its own, where its windows are shorter than the context."""

    def _hidden_states(self, tokens: Tensor) -> Tensor:
        rows, length = tokens.shape
        positions = torch.randint(CONTEXT - length + 1, (rows, 1)) + torch.arange(length)
        return self._blocks(self.model.embed(tokens, positions))


class _ForesightLoss(NextTokenLoss):
    """The loss, and `weight` times that of the token after the next, foretold from the same hidden state through a head of its own.

    Multi-token prediction (Gloeckle et al. 2024, section 2); the head is a linear map before the shared embedding, and is dropped
    after training.
    """

    def __init__(self, model: GPT2, head: nn.Linear, bfloat16: bool, weight: float) -> None:
        super().__init__(model, bfloat16, compiled=False)
        self._head, self._weight = head, weight

    def forward(self, *part: Tensor) -> Tensor:
        tokens, targets = part
        after_next = F.pad(targets[:, 1:], (0, 1), value=IGNORED)
        hidden = self._hidden_states(tokens)
        further = hidden + self._head(hidden.float()).to(hidden.dtype)
        embedding = self.model.wte.weight
        loss = linear_cross_entropy(hidden, embedding, targets.flatten(), False)
        return loss + self._weight * linear_cross_entropy(further, embedding, after_next.flatten(), False)


class _GrowingData:
    """The windows of `data` in the same order: as halves of its batches in the first third of them, whole afterwards."""

    def __init__(self, data: WindowData, num_batches: int) -> None:
        self._data, self._num_halved = data, num_batches // 3

    def batch(self, step: int) -> Batch:
        if step >= 2 * self._num_halved:
            return self._data.batch(step - self._num_halved)
        batch = self._data.batch(step // 2)
        ((tokens, targets),) = batch.parts
        half = slice(0, len(tokens) // 2) if step % 2 == 0 else slice(len(tokens) // 2, None)
        return Batch([(tokens[half], targets[half])], batch.num_targets // 2)

    def validation(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError("what was learned is measured at the end, on another text")


class _Nobody:
    """The observer of a run of which the end alone is looked at."""

    def on_step(self, step: Step) -> None: ...

    def on_validation(self, validation: Validation) -> None: ...

    def on_checkpoint(self) -> None: ...


class _Run(Trainer):
    """A trial's network from its first step to its last, with what the recipe of the service cannot do."""

    def __init__(self, trial: Trial, shards: TokenShards, num_batches: int, bfloat16: bool) -> None:
        num_steps = num_batches + num_batches // 3 if trial.growth else num_batches
        recipe = _Recipe(max_steps=num_steps, rates=trial.rates, bfloat16=bfloat16, **(RATES | trial.recipe))  # type: ignore[arg-type]
        sizes = {"n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
        config = GPT2Config(vocab_size=VOCABULARY, eos_token_ids=(VOCABULARY - 1,), **sizes)
        model = GPT2(config, recipe.dropout).init_weights(torch.Generator().manual_seed(recipe.seed))
        if trial.zero_projections:
            for name, parameter in model.named_parameters():
                parameter.data.mul_(0 if name.endswith("c_proj.weight") else 1)
        if trial.foresight:
            model.foresight = nn.Linear(WIDTH, WIDTH, bias=False)  # of the model, so that the optimiser finds it
            nn.init.zeros_(model.foresight.weight)
        data = WindowData(shards, CONTEXT, recipe, Processes())
        super().__init__(model, _GrowingData(data, num_batches) if trial.growth else data, recipe, _Nobody())
        if trial.offsets:
            self._loss = self._parallel = _OffsetLoss(model, bfloat16, compiled=False)
        if trial.foresight:
            self._loss = self._parallel = _ForesightLoss(model, model.foresight, bfloat16, trial.foresight)
        self._trial, self._average = trial, [parameter.detach().clone() for parameter in model.parameters()]

    def to_the_end(self) -> None:
        while self.progress.step < self.recipe.max_steps:
            if self._trial.decay is not None:
                self._set_decay(self._trial.decay(self.progress.step / self.recipe.max_steps))
            step = self._step()
            if self._trial.average:  # of the run so far at first, lest random weights stay in it
                share = min(self._trial.average, step.number / (step.number + 9))
                torch._foreach_lerp_(self._average, [parameter.detach() for parameter in self.model.parameters()], 1 - share)
        if self._trial.average:
            for parameter, average in zip(self.model.parameters(), self._average, strict=True):
                parameter.data.copy_(average)

    def _set_decay(self, decay: float) -> None:
        for optimizer in self.optimizers._optimizers:
            for group in optimizer.param_groups:
                group["weight_decay"] = decay if group["weight_decay"] else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="text to train on")
    parser.add_argument("--held-out", type=Path, required=True, help="text to measure on")
    parser.add_argument("--batches", type=int, default=120, help="of 4,096 tokens, in a trial (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="trials to run (default: all)")
    parser.add_argument("--again", action="store_true", help="also those that have a result already")
    options = parser.parse_args()
    prepare_for_training()
    torch.set_num_threads(1)
    tokenizer, few, many = _tokens(options.text, options.batches)
    held_out = "".join(documents(options.held_out))[:HELD_OUT_CHARACTERS]
    ids, num_bytes = tokenizer.encode(held_out), len(held_out.encode())
    bfloat16 = compare_products(CPU, WIDTH).bfloat16_pays
    command = (
        f"python -m benchmarks.recipe_trials {options.text.name} --held-out {options.held_out.name} --batches {options.batches}"
    )
    for trial in TRIALS:
        done = not options.again and trial.name in _rows_before(options.batches)
        if done or (options.only and trial.name not in options.only):
            continue
        run = _Run(trial, few if trial.epochs else many, options.batches, bfloat16)
        begin = time.process_time()
        run.to_the_end()
        seconds = time.process_time() - begin
        bits = evaluate(run.model, ids, num_bytes, bfloat16).bits_per_byte
        row = {"bits_per_byte": round(bits, 4), "cpu_seconds": round(seconds, 1)}
        print(f"{trial.name}: {bits:.4f} bits per byte, {seconds:.0f} s of the processor", flush=True)
        sizes = {"vocabulary": VOCABULARY, "context": CONTEXT, "width": WIDTH, "layers": LAYERS}
        rows = _rows_before(options.batches) | {trial.name: row}  # others may run trials at the same time
        write_result(_name(options.batches), command, {**sizes, "batches": options.batches, "trials": rows})


def _rows_before(num_batches: int) -> dict[str, dict[str, float]]:
    file = RESULTS / f"{_name(num_batches)}.json"
    return json.loads(file.read_text())["result"]["trials"] if file.exists() else {}  # type: ignore[no-any-return]


def _name(num_batches: int) -> str:
    return f"recipe_trials_{num_batches}"


def _tokens(text: Path, num_batches: int) -> tuple[Tokenizer, TokenShards, TokenShards]:
    """A vocabulary learned from a part of the text, and as many tokens as the epochs and the other trials need."""
    wanted = num_batches * 4096
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.txt"
        pieces: list[str] = []
        for document in documents(text):
            pieces.append(document)
            if sum(map(len, pieces)) > 5 * wanted:
                break
        sample.write_text("\n<|endoftext|>\n".join(pieces))
        learn_vocabulary(read_corpus([sample]), VOCABULARY, Path(folder) / "vocabulary", print)
        tokenizer = load_vocabulary(Path(folder) / "vocabulary")
    ids = np.concatenate([np.array([VOCABULARY - 1, *tokenizer.encode(piece)], dtype=np.uint16) for piece in pieces])
    many = ids[: wanted + 4 * CONTEXT]
    few = many[: len(many) // EPOCHS]
    return tokenizer, TokenShards([few], [few], 0), TokenShards([many], [many], 0)


if __name__ == "__main__":
    main()
