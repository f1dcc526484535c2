"""A model card in the form of Hugging Face's hub: what a model was made of, how, and how good it was found to be."""

import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

import torch

from model.config import GPT2Config
from model.training.dpo_loss import DPO
from model.training.lora import LoRA
from model.training.progress import clock, counted
from model.training.recipe import Recipe
from model.training.segments import Story
from model.training.trainer import Progress, Score

NAME = "README.md"
# By this line a card is known as the trainer's own, which it may write anew.
MARK = "<!-- Written by `gpt2 train`, anew with each better model. Take this line away to keep changes of your own. -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is known of a run from its beginning on."""

    title: str
    kind: str  # of `gpt2 train`
    stored: torch.dtype  # of the weights that are written
    config: GPT2Config
    recipe: Recipe
    story: Story
    base: str | None = None
    lora: LoRA | None = None
    is_adapter: bool = False
    bits_per_nat: float | None = None  # bits per byte for each nat a token, of the text held out
    num_questions: int = 0
    dpo: DPO | None = None
    base_loss: float | None = None  # before the first step
    before: tuple[str, ...] = ()  # figures of the base

    def text(self, progress: Progress) -> str:
        sections = [
            self._head(),
            f"{MARK}\n",
            f"# {_line(self.title)}\n\n{self._sentence()}\n",
            _table([("", ""), *self._sizes(), *self._figures(progress)]),
            _section("Data", [f"- {_line(said)}" for said in self.story.data]),
            _section("Recipe", [_table([("field", "value"), *self._recipe(progress.best_step)])]),
            _section("Time and machines", [_table([("from step", "steps", "tokens", "time", "machine"), *_parts(progress)])]),
            _section(
                "Commands",
                [f"From step {s.first_step:,} on:\n\n{_code(s.command)}\n" for s in self.story.segments if s.command],
            ),
            _section("Use", [self._use()]),
        ]
        return "\n\n".join(section.strip("\n") for section in sections if section) + "\n"

    def _head(self) -> str:
        fields = [f"library_name: {'peft' if self.is_adapter else 'transformers'}", "pipeline_tag: text-generation"]
        if self.base is not None and not Path(self.base).exists():  # a folder of this machine is nobody's model on the hub
            fields.append(f"base_model: {self.base}")
        return "\n".join(["---", *fields, "tags:", "- gpt2", "---\n"])

    def _sentence(self) -> str:
        whole = f"a GPT-2 of {self.config.num_parameters:,} parameters"
        if self.base is None:
            return f"{whole[0].upper()}{whole[1:]}, trained from random weights by `gpt2 train {self.kind}`."
        how = "" if self.lora is None else f" with LoRA of rank {self.lora.rank} on {', '.join(self.lora.targets)}"
        name = Path(self.base).name if Path(self.base).exists() else self.base
        return f"`{_line(name)}`, {whole}, trained on by `gpt2 train {self.kind}`{how}."

    def _sizes(self) -> list[tuple[str, str]]:
        config = self.config
        sizes = {"layers": config.n_layer, "heads": config.n_head, "width": config.n_embd, "context": config.n_positions}
        rounded = "" if self.stored == torch.float32 else ", to which they were rounded after they were measured"
        weights = f"{str(self.stored).removeprefix('torch.')}{rounded}"
        rows = [(name, f"{size:,}") for name, size in {**sizes, "vocabulary": config.vocab_size}.items()]
        return [*rows, ("weights", weights)]

    def _figures(self, progress: Progress) -> list[tuple[str, str]]:
        at = f"at step {progress.best_step:,}; the run has made {progress.step:,} of {self.recipe.max_steps:,}"
        unit = "token" if self.dpo is None else "pair"
        rows = [("validation loss", f"{progress.best_loss:.4f} nats a {unit}, {at}")]
        if self.bits_per_nat is not None:
            rows.append(("bits per byte", f"{progress.best_loss * self.bits_per_nat:.4f}, of the text held out"))
        if (score := progress.best_score) is not None:
            asked = f"{self.num_questions} held-out examples, decoded greedily"
            what = asked if self.dpo is None else "the held-out pairs: the chosen answer has gained on the rejected one"
            rows.append((score.name, f"{score.share:.1%} of {what}"))
        return rows + [("before", line) for line in self.before]

    def _recipe(self, step: int) -> list[tuple[str, str]]:
        """The fields by which this step was made, as they were applied, without those that the run did not use."""
        recipe = self.story.recipe_at(step) or self.recipe
        unused = {"windows", *(() if recipe.optimizer == "muon" else ("muon_learning_rate",))}
        unused |= set() if recipe.first_step else {"first_step"}
        fields = {name: value for name, value in recipe.to_json().items() if value is not None and name not in unused}
        fields["warmup_steps"] = recipe.num_warmup_steps
        fields |= {} if self.dpo is None else {"beta": self.dpo.beta}
        rows = [(f"`{name}`", f"{value:.3g}" if isinstance(value, float) else str(value)) for name, value in fields.items()]
        return rows if recipe.windows == ((0.0, 1),) else [*rows, ("`windows`", _windows(recipe))]

    def _use(self) -> str:
        command = "gpt2 train merge --adapter . --out ../MERGED" if self.is_adapter else "gpt2 serve --model ."
        return f"In the directory of this file:\n\n{_code(command)}\n\nWritten on {time.strftime('%Y-%m-%d')}."


def figures(loss: float, bits_per_nat: float | None, score: Score | None) -> str:
    """As in the last line of a run: the loss, and what can be compared with other models."""
    parts = [f"validation loss {loss:.4f}"]
    parts += [f"{loss * bits_per_nat:.4f} bits per byte"] if bits_per_nat is not None else []
    parts += [f"{score.name} {score.share:.1%}"] if score is not None else []
    return ", ".join(parts)


def machine_name(device: torch.device) -> str:
    """What computes, with how many threads, by which PyTorch."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        name = f"{next(names, platform.machine())}, {counted(torch.get_num_threads(), 'thread')}"
    return f"{name}, torch {torch.__version__}"


def _windows(recipe: Recipe) -> str:
    """The lengths of the windows, each from that part of the steps on."""
    lengths = [(begin, f"{'all' if divisor == 1 else f'1/{divisor}'} of the context") for begin, divisor in recipe.windows]
    return ", ".join(f"{length} from {begin:.0%}" for begin, length in lengths)


def _parts(progress: Progress) -> list[tuple[str, ...]]:
    """What each machine did, one after another."""
    ends = [
        *((part.step, part.tokens, part.seconds) for part in progress.parts[1:]),
        (progress.step, progress.tokens, progress.seconds),
    ]
    return [
        (f"{part.step:,}", f"{step - part.step:,}", f"{tokens - part.tokens:,}", clock(seconds - part.seconds), part.machine)
        for part, (step, tokens, seconds) in zip(progress.parts, ends, strict=True)
    ]


def _line(text: str) -> str:
    """Names may have line breaks, which would end a title or an item of a list."""
    return " ".join(text.splitlines())


def _code(command: str) -> str:
    return indent(command, "    ", lambda line: True)


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * (lines[0].count("|") - 1), *lines[1:]]) + "\n"


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}\n", *lines, ""]) if lines else ""
