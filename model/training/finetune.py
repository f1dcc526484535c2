"""Fine-tuning: a checkpoint trained on, on text or on prompts with their completions, whole or by LoRA."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from model.gpt2 import GPT2
from model.training.adapter import save_adapter
from model.training.base import Base
from model.training.card import Card, figures
from model.training.data.described import data_story
from model.training.data.prepared import PreparedData, prepare
from model.training.data.prepared_preferences import PreparedPreferences, prepare_preferences
from model.training.data.task import Task
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.finetune_defaults import (
    NO_COMPILED_EXAMPLES,
    choose_recipe,
    measured_speed,
    steps_within,
    with_steps,
)
from model.training.finetune_plan import FinetuneOptions, FinetunePlan
from model.training.lora import build_network
from model.training.objective import Objective
from model.training.precision import warn_of_slow_bfloat16
from model.training.pretrain import Report
from model.training.progress import counted
from model.training.run import NOTHING_SHOWN, Shown, train
from model.training.run_directory import NOTHING_SAVED, RunDirectory
from model.training.sampling import Probes
from model.training.segments import NO_CHANGES, Changes, Story, changed, describe_change
from model.training.trainer import DataSource


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
) -> bool:
    """Go on with a run of this kind: its base, its data and, but for the changes, its recipe are those it began with."""
    return _Finetuning(RunDirectory(out), device, processes, report, shown).resume(changes, kind)


@dataclass(frozen=True, slots=True)
class _Finetuning:
    """One run: where, on what, with whom."""

    directory: RunDirectory
    device: torch.device
    processes: Processes
    to_user: Report
    shown: Shown

    def begin(self, options: FinetuneOptions) -> bool:
        with self.directory.locked(self.processes):
            return self._begin(options)

    def _begin(self, options: FinetuneOptions) -> bool:
        if self.processes.is_first:
            self.directory.check_unused()
        self._report(f"reading the model in {options.model}")
        base = Base.load(options.model)
        with self.directory.nothing_left_on_failure(self.processes):
            if self.processes.is_first:
                self.directory.begin(self._report)
            task = self.processes.agree(self._prepare(options, base) if self.processes.is_first else None)  # and it is there
            assert task is not None
            plan, model = self._plan(options, base, task)
            if self.processes.is_first:
                self.directory.write_plan(plan.to_json())
        self._report(_describe(plan, model, task))
        return self._train(plan, base, model, task)

    def _plan(self, options: FinetuneOptions, base: Base, task: Task) -> tuple[FinetunePlan, GPT2]:
        """What is to be done, and the network to do it with, both as they are before the first step."""
        material, lora = task.material, options.lora is not None
        given, machine = options.given_recipe(base.config), (self.device, self.processes, self._report)
        recipe = choose_recipe(given, base.config, material, lora, *machine)
        model = base.network(options.lora, recipe, self.device)
        if self.processes.is_first:
            task.measure_base(model, recipe)
        self.processes.wait()
        source = task.source(recipe, self.processes)
        self._report("measuring the model as it is on what is held out")
        began = time.monotonic()
        base_loss = self._validation_loss(task.objective(model, replace(recipe, compiled=False)), source)
        measured = (model, task.objective, source, time.monotonic() - began)
        recipe = self.processes.agree(with_steps(recipe, options.recipe, material, options.minutes, *measured, self._report))
        story = Story(data_story(options.data.paths, task.counts), samples=self.shown.samples)
        plan = FinetunePlan(
            base=base.name,
            base_fingerprint=base.fingerprint,
            base_loss=base_loss,
            window=task.window,
            lora=options.lora,
            keep_adapter=options.keep_adapter,
            recipe=recipe,
            base_exact_match=Probes(questions=task.questions()).exact_match(model),
            story=story.asked(0, self.shown.command, options.recipe),
            dpo=options.dpo,
        )
        return plan, model

    def resume(self, changes: Changes, kind: str) -> bool:
        with self.directory.locked(self.processes):
            return self._resume(changes, kind)

    def _resume(self, changes: Changes, kind: str) -> bool:
        read = FinetunePlan.from_json(self.directory.read_plan(kind)) if self.processes.is_first else None
        plan = self.processes.agree(read)
        assert plan is not None
        base = Base.load(plan.base)
        if base.fingerprint != plan.base_fingerprint:
            raise TrainingError(f"{plan.base} is no longer what this run began with; put it back, or begin anew with another --out")
        if not self.directory.has_state:
            self._report(NOTHING_SAVED)
        task = self._task(plan)
        if changes:
            plan = self._changed(plan, changes, base, task)
        if self.shown.samples:
            plan = replace(plan, story=replace(plan.story, samples=self.shown.samples))
        if plan.recipe.bfloat16:
            warn_of_slow_bfloat16(self.device, base.config.n_embd, self._report)
        return self._train(plan, base, base.network(plan.lora, plan.recipe, self.device), task)

    def _changed(self, plan: FinetunePlan, changes: Changes, base: Base, task: Task) -> FinetunePlan:
        """The plan of a run that goes on otherwise, written down."""
        if changes.recipe.get("compiled") and task.material.is_examples:
            raise TrainingError(NO_COMPILED_EXAMPLES)

        def steps_of(minutes: float) -> int:
            self._report("measuring the speed of a training step here")
            model = build_network(base.config, {name: weight.clone() for name, weight in base.weights.items()}, plan.recipe.dropout)
            objective = task.objective(model.to(self.device), plan.recipe)
            batch_tokens = plan.recipe.batch_size * task.material.tokens_per_row
            speed = measured_speed(objective, task.source(plan.recipe, self.processes), plan.recipe, batch_tokens)
            seconds = batch_tokens / speed.tokens_per_second
            return max(1, steps_within(60 * minutes, seconds, 0.0))

        progress = self.directory.read_progress()
        recipe, story = changed(plan.recipe, plan.story, progress, changes, steps_of, self.processes, self.shown.command)
        plan = replace(plan, recipe=recipe, story=story)
        self.processes.wait()  # until all have read where the run stands
        if self.processes.is_first:
            self.directory.write_plan(plan.to_json())
        self._report(describe_change(recipe, progress))
        return plan

    def _train(self, plan: FinetunePlan, base: Base, model: GPT2, task: Task) -> bool:
        out = self.directory.out
        told = task.tokenizer_files
        base.tokenizer.files.update(told)

        def export() -> None:
            if plan.lora is not None and plan.keep_adapter:
                save_adapter(out, model, plan.lora, plan.base, plan.base_fingerprint, told)
            else:
                base.save(out, model)

        bits, questions = task.bits_per_nat(base.tokenizer), task.questions()
        card = self._card(plan, model, bits, len(questions))
        probes = Probes(base.tokenizer, plan.story.samples, questions, plan.recipe.seed)
        source = task.source(plan.recipe, self.processes)
        watched = (self.shown.tensorboard, None, probes, card, task.objective(model, plan.recipe))
        finished = train(model, source, plan.recipe, self.directory, export, self.processes, *watched)
        if finished:
            self._report(self._outcome(plan, bits))
        return finished

    def _card(self, plan: FinetunePlan, model: GPT2, bits: float | None, num_questions: int) -> Card:
        return Card(
            title=self.directory.out.resolve().name,
            kind=plan.kind,
            config=model.config,
            recipe=plan.recipe,
            story=plan.story,
            base=plan.base,
            lora=plan.lora,
            is_adapter=plan.lora is not None and plan.keep_adapter,
            bits_per_nat=bits,
            num_questions=num_questions,
            base_loss=plan.base_loss,
            before=(figures(plan.base_loss, bits, plan.base_exact_match),),
        )

    def _prepare(self, options: FinetuneOptions, base: Base) -> Task:
        into = (base, self.directory.tokens, self._report)
        return prepare(options.data, *into) if options.dpo is None else prepare_preferences(options.data, options.dpo, *into)

    def _task(self, plan: FinetunePlan) -> Task:
        tokens = self.directory.tokens
        return PreparedData(tokens, plan.window) if plan.dpo is None else PreparedPreferences(tokens, plan.dpo)

    @torch.no_grad()
    def _validation_loss(self, objective: Objective, source: DataSource) -> float:
        """As the trainer measures it, which cannot be asked yet: its network is set up for gradients between processes."""
        objective.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        hidden = None if self.processes.is_first else True  # the bar; by None, where nobody watches
        for part in tqdm(source.validation(0), desc="measuring", unit=" batches", delay=2, leave=False, disable=hidden):
            total[0] += objective(*(tensor.to(self.device) for tensor in part))
            total[1] += objective.num_targets(*part)
        loss_sum, count = map(float, self.processes.sum(total))
        return loss_sum / count

    def _outcome(self, plan: FinetunePlan, bits: float | None) -> str:
        progress = self.directory.read_progress()
        loss = progress.best_loss
        before = figures(plan.base_loss, bits, plan.base_exact_match)
        after = figures(loss, bits, progress.best_exact_match)
        if loss < plan.base_loss:
            return f"{before} before; {after} at step {progress.best_step}, which is what was kept"
        return (
            f"{before} before; {after} at step {progress.best_step}, the best that was learned, which was kept: the base "
            "predicts these texts better; more data or a smaller --learning-rate helps"
        )

    def _report(self, line: str) -> None:
        if self.processes.is_first:
            self.to_user(line)


def _describe(plan: FinetunePlan, model: GPT2, task: Task) -> str:
    recipe, material = plan.recipe, task.material
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return (
        f"{material.num_rows:,} {task.rows} to train on; {num_trained:,} of {model.config.num_parameters:,} parameters; "
        f"{counted(recipe.max_steps, 'step')} of {recipe.batch_size}, {material.epochs(recipe):.1f} epochs, "
        f"{'bfloat16' if recipe.bfloat16 else 'float32'}{', compiled' if recipe.compiled else ''}; "
        f"validation loss now {plan.base_loss:.4f}"
    )
