"""Fine-tuning: a checkpoint trained on, on text, examples or preferences, whole or by LoRA."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from model.checkpoint import CheckpointError
from model.gpt2 import GPT2
from model.training.adapter import save_adapter
from model.training.base import Base
from model.training.card import Card, figures
from model.training.data.described import data_story
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.finetune_defaults import NO_COMPILED_EXAMPLES, Trial, choose_recipe, more_steps, with_steps
from model.training.finetune_plan import FinetuneOptions, FinetunePlan, check_for_preferences
from model.training.objective import measure
from model.training.progress import counted
from model.training.recipe import Recipe
from model.training.run import NOTHING_SHOWN, Shown, train
from model.training.run_context import Report, RunContext
from model.training.run_directory import RunDirectory
from model.training.sampling import Probes
from model.training.segments import NO_CHANGES, Changes, Story
from model.training.tasks.prepared import prepare, prepared
from model.training.tasks.task import Task


def finetune(
    options: FinetuneOptions, out: Path, device: torch.device, processes: Processes, report: Report, shown: Shown = NOTHING_SHOWN
) -> bool:
    """Train a checkpoint on; `report` takes a line on each decision. The result: whether the end was reached."""
    return _Finetuning(RunDirectory(out), device, processes, report, shown).begin(options)


def resume(
    out: Path,
    device: torch.device,
    processes: Processes,
    report: Report,
    shown: Shown = NOTHING_SHOWN,
    changes: Changes = NO_CHANGES,
    kind: str = "finetune",
    model: str | None = None,
) -> bool:
    """Go on with a run of this kind: its base, its data and, but for the changes, its recipe are those it began with.

    `model` is where its base is now, if that has moved.
    """
    return _Finetuning(RunDirectory(out), device, processes, report, shown).resume(changes, kind, model)


class _Finetuning(RunContext):
    def begin(self, options: FinetuneOptions) -> bool:
        with self.directory.locked(self.processes):
            return self._begin(options)

    def _begin(self, options: FinetuneOptions) -> bool:
        if self.processes.is_first:
            self.directory.check_unused()
            self.directory.check_no_tokenizer()
        self.report(f"reading the model in {options.model}")
        base = Base.load(options.model)
        with self.directory.nothing_left_on_failure(self.processes):
            if self.processes.is_first:
                self.directory.begin(self.report)
            task = self.processes.agree(self._prepared(options, base) if self.processes.is_first else None)  # and it is there
            assert task is not None
            plan, model = self._plan(options, base, task)
            self.write(plan)
        for line in (_describe(plan, model, task), *task.remarks(plan.recipe)):
            self.report(line)
        return self._train(plan, base, model, task)

    def _prepared(self, options: FinetuneOptions, base: Base) -> Task:
        return prepare(options.data, options.dpo, base, self.directory.tokens, self.report)

    def _plan(self, options: FinetuneOptions, base: Base, task: Task) -> tuple[FinetunePlan, GPT2]:
        """What is to be done, and the network to do it with, both as they are before the first step."""
        material, lora = task.material, options.lora is not None
        given, machine = options.given_recipe(base.config), (self.device, self.processes, self.report)
        recipe = choose_recipe(given, base.config, material, lora, *machine)
        model = base.network(options.lora, recipe, self.device)
        if self.processes.is_first:
            task.measure_reference(model, recipe, self.report)
        self.processes.wait()
        self.report("measuring the model as it is on what is held out")
        trial, base_loss = self._trial(task, model, recipe)
        recipe = self.processes.agree(with_steps(recipe, options.recipe, material, options.minutes, trial))
        story = Story(data_story(options.data.paths, task.counts), samples=self.shown.samples)
        plan = FinetunePlan(
            base=base.name,
            base_fingerprint=base.fingerprint,
            base_loss=base_loss,
            window=task.window,
            lora=options.lora,
            keep_adapter=options.keep_adapter,
            recipe=recipe,
            base_score=Probes(questions=task.questions()).exact_match(model),
            story=story.asked(0, self.shown.command, options.recipe),
            dpo=options.dpo,
        )
        return plan, model

    def _trial(self, task: Task, model: GPT2, recipe: Recipe) -> tuple[Trial, float]:
        """The network ready to be timed, and its loss on what is held out."""
        source, began = task.source(recipe, self.processes), time.monotonic()
        # Not the trainer's own objective: that is set up for gradients between processes.
        hidden = None if self.processes.is_first else True  # the bar; by None, where nobody watches
        parts = tqdm(source.validation(recipe.first_step), desc="measuring", unit=" batches", delay=2, leave=False, disable=hidden)
        loss = measure(task.objective(model, replace(recipe, compiled=False)), parts, self.processes).loss
        trial = Trial(
            model=model,
            objective=task.objective,
            data=source,
            batch_tokens=recipe.batch_size * task.material.tokens_per_row,
            validation_seconds=time.monotonic() - began,
            report=self.report,
        )
        return trial, loss

    def resume(self, changes: Changes, kind: str, model: str | None) -> bool:
        with self.directory.locked(self.processes):
            return self._resume(changes, kind, model)

    def _resume(self, changes: Changes, kind: str, model: str | None) -> bool:
        read = self.directory.read_plan(kind, FinetunePlan.from_json) if self.processes.is_first else None
        plan = self.processes.agree(read)
        assert plan is not None
        base = _base_of(plan, model)
        has_moved, plan = base.name != plan.base, replace(plan, base=base.name)
        task = prepared(self.directory.tokens, plan.window, plan.dpo)
        if changes:
            _check_changes(changes, plan, task)
            plan = self.changed(plan, changes, partial(self._steps_of, plan, changes, base, task))
        begun = partial(self.write, plan) if changes or has_moved else None
        plan = self.going_on(plan, base.config.n_embd)
        return self._train(plan, base, base.network(plan.lora, plan.recipe, self.device), task, begun)

    def _steps_of(self, plan: FinetunePlan, changes: Changes, base: Base, task: Task, minutes: float) -> int:
        self.report("measuring how long a validation takes here")
        recipe = changes.applied(plan.recipe)
        trial, _ = self._trial(task, base.network(plan.lora, recipe, self.device), recipe)
        return more_steps(minutes, recipe, "validate_every" in plan.story.named | changes.recipe.keys(), trial)

    def _train(self, plan: FinetunePlan, base: Base, model: GPT2, task: Task, begun: Callable[[], None] | None = None) -> bool:
        out = self.directory.out
        told = task.tokenizer_files
        base.tokenizer.files.update(told)

        def export() -> None:
            if plan.lora is not None and plan.keep_adapter:
                save_adapter(out, model, plan.lora, plan.base, plan.base_fingerprint, told)
            else:
                base.save(out, model)

        bits, questions = task.bits_per_nat(plan.recipe, base.tokenizer), task.questions()
        card = self._card(plan, model, base.dtype, bits, len(questions))
        probes = Probes(base.tokenizer, plan.story.samples, questions, plan.recipe.seed)
        source = task.source(plan.recipe, self.processes)
        watched = (self.shown.tensorboard, None, probes, card, task.objective(model, plan.recipe))
        finished = train(model, source, plan.recipe, self.directory, export, self.processes, *watched, begun=begun)
        if finished:
            self.report(self._outcome(plan, bits))
        return finished

    def _card(self, plan: FinetunePlan, model: GPT2, dtype: torch.dtype, bits: float | None, num_questions: int) -> Card:
        is_adapter = plan.lora is not None and plan.keep_adapter
        return Card(
            title=self.directory.out.resolve().name,
            kind=plan.kind,
            config=model.config,
            recipe=plan.recipe,
            story=plan.story,
            base=plan.base,
            lora=plan.lora,
            is_adapter=is_adapter,
            stored=torch.float32 if is_adapter else dtype,
            bits_per_nat=bits,
            num_questions=num_questions,
            dpo=plan.dpo,
            base_loss=plan.base_loss,
            before=(figures(plan.base_loss, bits, plan.base_score),),
        )

    def _outcome(self, plan: FinetunePlan, bits: float | None) -> str:
        progress = self.directory.read_progress()
        loss = progress.best_loss
        before = figures(plan.base_loss, bits, plan.base_score)
        after = figures(loss, bits, progress.best_score)
        if loss < plan.base_loss:
            return f"{before} before; {after} at step {progress.best_step}, which is what was kept"
        better = "predicts these texts better" if plan.dpo is None else "orders these pairs as well"
        return (
            f"{before} before; {after} at step {progress.best_step}, the best that was learned, which was kept: the base "
            f"{better}; more data or a smaller --learning-rate helps"
        )


def _base_of(plan: FinetunePlan, model: str | None) -> Base:
    """What the run began with, from `model` if that is where it is now."""
    try:
        base = Base.load(model or plan.base)
    except CheckpointError as error:
        if model is not None:
            raise
        raise TrainingError(f"{error}; it is the base of this run: say by --model where it is now") from error
    if base.fingerprint == plan.base_fingerprint:
        return base
    if model is not None:
        raise TrainingError(f"--model {model} is not what this run began with, which was {plan.base}; the weights are others")
    raise TrainingError(
        f"{plan.base} is no longer what this run began with; put it back, say by --model where it is now, or begin anew with "
        "another --out"
    )


def _check_changes(changes: Changes, plan: FinetunePlan, task: Task) -> None:
    """Refuse what the kind of run does not do."""
    if changes.recipe.get("compiled") and not task.material.is_text:
        raise TrainingError(NO_COMPILED_EXAMPLES)
    if plan.dpo is not None:
        check_for_preferences(changes.recipe)
        if changes.recipe.get("bfloat16", plan.recipe.bfloat16) != plan.recipe.bfloat16:
            raise TrainingError("what the model said of all pairs was measured in the other precision; leave out --precision")


def _describe(plan: FinetunePlan, model: GPT2, task: Task) -> str:
    recipe, material = plan.recipe, task.material
    kind, blank, further = task.rows.partition(" ")
    rows = f"{counted(material.num_rows, kind.removesuffix('s'))}{blank}{further}"
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return (
        f"{rows} to train on; {num_trained:,} of {model.config.num_parameters:,} parameters; "
        f"{counted(recipe.max_steps, 'step')} of {recipe.batch_size}, {material.epochs(recipe):.1f} epochs, "
        f"{'bfloat16' if recipe.bfloat16 else 'float32'}{', compiled' if recipe.compiled else ''}; "
        f"validation loss now {plan.base_loss:.4f}"
    )
