"""Fine-tuning: a checkpoint trained on, on text or on prompts with their completions, whole or by LoRA."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from model.checkpoint import load_tokenizer, resolve_model
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from model.tokenizer import Tokenizer
from model.training.adapter import fingerprint, save_adapter
from model.training.batches import WindowSampler
from model.training.corpus import text_files
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.examples import ExampleData, Examples, hold_examples, read_examples
from model.training.finetune_defaults import Material, choose_recipe, choose_window, hold_out_every, with_steps
from model.training.lora import LoRA, add_lora, build_network, merge
from model.training.objective import NextTokenLoss
from model.training.precision import warn_of_slow_bfloat16
from model.training.pretrain import PretrainingData, Report
from model.training.progress import read_log
from model.training.recipe import Recipe
from model.training.run import SAVED_DTYPE, train
from model.training.run_directory import NOTHING_SAVED, RunDirectory
from model.training.shards import map_shards, tokenize
from model.training.trainer import DataSource


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions:
    """What a user may choose; what is not given is chosen for the data and the machine."""

    paths: Sequence[Path]
    model: str  # a checkpoint's directory, or its name on the hub
    lora: LoRA | None = None
    keep_adapter: bool = False
    validation_fraction: float | None = None
    recipe: dict[str, object] = field(default_factory=dict)  # fields of Recipe
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no data could make right, before any is read."""
        Recipe(**({"max_steps": 1} | self.recipe))  # type: ignore[arg-type]
        if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
            raise TrainingError(f"the validation fraction is {self.validation_fraction}; it must lie between 0 and 1")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise TrainingError(f"minutes is {self.minutes}; it must be above 0")


@dataclass(frozen=True, slots=True)
class Base:
    """The checkpoint that is trained on; its weights are handed to the network, which changes them."""

    name: str
    config: GPT2Config
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    fingerprint: str

    @classmethod
    def load(cls, name: str) -> "Base":
        directory = resolve_model(name)
        tokenizer, model = load_tokenizer(directory), load_model(directory)
        if tokenizer.eos_token_id is None:
            raise TrainingError(f"the vocabulary of {name} has no end token <|endoftext|>, by which texts are parted")
        # A folder is found again from anywhere; a name on the hub is one everywhere.
        name = str(directory.resolve()) if Path(name).is_dir() else name
        return cls(name, model.config, model.state_dict(), tokenizer, fingerprint(model))

    def network(self, lora: LoRA | None, recipe: Recipe, device: torch.device) -> GPT2:
        """What is trained: the base, with LoRA if wanted."""
        model = build_network(self.config, self.weights, recipe.dropout)
        if lora is not None:
            add_lora(model, lora, torch.Generator().manual_seed(recipe.seed))
        return model.to(device)


@dataclass(frozen=True, slots=True)
class FinetunePlan:
    """All that a run is, so that it can go on: kept in its directory."""

    base: str
    base_fingerprint: str
    base_loss: float  # on the data held out
    window: int | None  # tokens that text is cut into; None for examples
    lora: LoRA | None
    keep_adapter: bool
    recipe: Recipe

    def to_json(self) -> dict[str, object]:
        return {"kind": "finetune", **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FinetunePlan":
        values = {name: value for name, value in values.items() if name != "kind"}
        if (lora := values["lora"]) is not None:
            values["lora"] = LoRA(**lora | {"targets": tuple(lora["targets"])})
        return cls(**values | {"recipe": Recipe.from_json(values["recipe"])})


def finetune(
    options: FinetuneOptions, out: Path, device: torch.device, processes: Processes, report: Report, tensorboard: bool = False
) -> bool:
    """Train a checkpoint on; `report` takes a line on each decision. The result: whether the end was reached."""
    return _Finetuning(RunDirectory(out), device, processes, report, tensorboard).begin(options)


def resume(out: Path, device: torch.device, processes: Processes, report: Report, tensorboard: bool = False) -> bool:
    """Go on with an interrupted run: its base, its data and its recipe are those it began with."""
    return _Finetuning(RunDirectory(out), device, processes, report, tensorboard).resume()


@dataclass(frozen=True, slots=True)
class _Finetuning:
    """One run: where, on what, with whom."""

    directory: RunDirectory
    device: torch.device
    processes: Processes
    to_user: Report
    tensorboard: bool

    def begin(self, options: FinetuneOptions) -> bool:
        if self.processes.is_first:
            self.directory.check_unused()
        base = Base.load(options.model)
        with self.directory.nothing_left_on_failure(self.processes):
            window = self._prepare(options, base) if self.processes.is_first else None
            window = self.processes.agree(window)  # and the data is there
            material = self._material(window, base.config)
            lora, machine = options.lora is not None, (self.device, self.processes, self._report)
            recipe = choose_recipe(options.recipe, base.config, material, lora, *machine)
            model, data = base.network(options.lora, recipe, self.device), self._data(window, recipe)
            recipe = self.processes.agree(with_steps(recipe, options.recipe, material, options.minutes, model, data))
            base_loss = self._validation_loss(model, data, recipe)
            plan = FinetunePlan(base.name, base.fingerprint, base_loss, window, options.lora, options.keep_adapter, recipe)
            if self.processes.is_first:
                self.directory.write_plan(plan.to_json())
        self._report(_describe(plan, model, material))
        return self._train(plan, base.tokenizer, model, data)

    def resume(self) -> bool:
        plan = FinetunePlan.from_json(self.directory.read_plan("finetune"))
        base = Base.load(plan.base)
        if base.fingerprint != plan.base_fingerprint:
            raise TrainingError(f"{plan.base} is no longer what this run began with; put it back, or begin anew with another --out")
        if not self.directory.has_state:
            self._report(NOTHING_SAVED)
        if plan.recipe.bfloat16:
            warn_of_slow_bfloat16(self.device, base.config.n_embd, self._report)
        model, data = base.network(plan.lora, plan.recipe, self.device), self._data(plan.window, plan.recipe)
        return self._train(plan, base.tokenizer, model, data)

    def _train(self, plan: FinetunePlan, tokenizer: Tokenizer, model: GPT2, data: DataSource) -> bool:
        out = self.directory.out

        def export() -> None:
            if plan.lora is not None and plan.keep_adapter:
                save_adapter(out, model, plan.lora, plan.base, plan.base_fingerprint)
            else:
                save_checkpoint(out, merge(model), tokenizer, SAVED_DTYPE)

        finished = train(model, data, plan.recipe, self.directory, export, self.processes, self.tensorboard)
        if finished:
            self._report(self._outcome(plan))
        return finished

    def _prepare(self, options: FinetuneOptions, base: Base) -> int | None:
        """Tokenise the data; the result is the length of the windows of text, None for examples."""
        fraction, tokens, context = options.validation_fraction, self.directory.tokens, base.config.n_positions
        files = text_files(options.paths)
        if hold_examples(files):
            examples = read_examples(files, base.tokenizer, base.config.eos_token_id, context, self._report)
            for name, part in zip(("train", "validation"), examples.split(hold_out_every(len(examples), fraction)), strict=True):
                part.save(tokens / f"{name}.safetensors")
            return None
        with tqdm(unit="B", unit_scale=True, desc="tokenising", leave=False, disable=None) as bar:
            shards = tokenize(files, base.tokenizer, tokens, fraction, bar.update)
        window = choose_window(shards, context)
        if window < context:
            self._report(f"the text is short: it is learned in windows of {window} tokens, while the context is {context}")
        return window

    def _examples(self) -> tuple[Examples, Examples]:
        train, validation = (Examples.load(self.directory.tokens / f"{name}.safetensors") for name in ("train", "validation"))
        return train, validation

    def _data(self, window: int | None, recipe: Recipe) -> DataSource:
        if window is None:
            return ExampleData(*self._examples(), recipe, self.processes)
        return PretrainingData(map_shards(self.directory.tokens), window, recipe, self.processes)

    def _material(self, window: int | None, config: GPT2Config) -> Material:
        if window is None:
            train, _ = self._examples()
            return Material(len(train), len(train.ids) / len(train), is_examples=True)
        sampler = WindowSampler(map_shards(self.directory.tokens).train, window, seed=0)
        return Material(sampler.windows_per_epoch, window, is_examples=False)

    @torch.no_grad()
    def _validation_loss(self, model: GPT2, data: DataSource, recipe: Recipe) -> float:
        """As the trainer measures it, which cannot be asked yet: its network is set up for gradients between processes."""
        loss = NextTokenLoss(model, recipe.bfloat16, compiled=False).eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for tokens, targets in data.validation(0):
            total[0] += loss(tokens.to(self.device), targets.to(self.device))
            total[1] += (targets >= 0).sum()
        loss_sum, count = map(float, self.processes.sum(total))
        return loss_sum / count

    def _outcome(self, plan: FinetunePlan) -> str:
        losses = [(float(row["validation_loss"]), row["step"]) for row in read_log(self.directory.log) if row["validation_loss"]]
        loss, step = min(losses)
        if loss < plan.base_loss:
            return f"validation loss {plan.base_loss:.4f} before, {loss:.4f} at step {step}, which is what was kept"
        return (
            f"validation loss {plan.base_loss:.4f} before, {loss:.4f} at best: the base predicts these texts better than what was "
            "learned; more data or a smaller --learning-rate helps"
        )

    def _report(self, line: str) -> None:
        if self.processes.is_first:
            self.to_user(line)


def _describe(plan: FinetunePlan, model: GPT2, material: Material) -> str:
    recipe, rows = plan.recipe, "examples" if plan.window is None else f"windows of {plan.window} tokens"
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return (
        f"{material.num_rows:,} {rows} to train on; {num_trained:,} of {model.config.num_parameters:,} parameters; "
        f"{recipe.max_steps:,} steps of {recipe.batch_size}, {material.epochs(recipe):.1f} epochs, "
        f"{'bfloat16' if recipe.bfloat16 else 'float32'}{', compiled' if recipe.compiled else ''}; "
        f"validation loss now {plan.base_loss:.4f}"
    )
