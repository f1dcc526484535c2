"""Fine-tuning from a tiny checkpoint: what is learned, what is kept, and that an interrupted run ends as an uninterrupted one."""

import json
import random
import re
import shutil
import signal
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from model.training import defaults, finetune_defaults
from model.training.adapter import load_adapter
from model.training.base import Base
from model.training.data.examples import Examples
from model.training.data.options import DataOptions
from model.training.data.row_sets import RowSets
from model.training.data.shards import map_shards
from model.training.data.source import Batch
from model.training.defaults import Speed
from model.training.distributed import Processes
from model.training.dpo_loss import DPO
from model.training.errors import TrainingError
from model.training.finetune import finetune, resume
from model.training.finetune_defaults import Trial, choose_recipe, measured_speed, more_steps, with_steps
from model.training.finetune_plan import FinetuneOptions, FinetunePlan
from model.training.lora import LoRA, lora_layers
from model.training.objective import NextTokenLoss
from model.training.progress import read_log
from model.training.recipe import Recipe
from model.training.run import ProgressLine
from model.training.segments import Changes
from model.training.tasks.prepared import prepare, prepared
from model.training.tasks.task import Material
from tests.tiny import BASE

CPU, ALONE = torch.device("cpu"), Processes()
SHORT = {"max_steps": 12, "validate_every": 4, "batch_size": 4, "learning_rate": 1e-2, "dropout": 0.1, "bfloat16": False}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    words = random.Random(0).choices(["the", "sea", "was", "calm", "and", "grey", "today."], k=2500)
    file = tmp_path_factory.mktemp("text") / "sea.txt"
    file.write_text(" ".join(words))
    return file


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A letter is answered by the same letter, as often as a number says."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    draw = random.Random(0)
    lines = [(draw.choice("abcdef"), draw.randint(1, 6)) for _ in range(120)]
    file.write_text("".join(json.dumps({"prompt": f"{letter} {n}:", "completion": f" {letter}" * n}) + "\n" for letter, n in lines))
    return file


def run(base, data, out, lora=None, keep_adapter=False, report=lambda line: None, **recipe):
    options = FinetuneOptions(
        data=DataOptions(paths=[data]), model=str(base), lora=lora, keep_adapter=keep_adapter, recipe=SHORT | recipe
    )
    return finetune(options, out, CPU, Processes(), report)


def plan_of(out):
    return FinetunePlan.from_json(json.loads((out / "training" / "run.json").read_text()))


@pytest.mark.parametrize("lora", [None, LoRA()], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_finetuning_lowers_the_validation_loss_and_keeps_a_whole_checkpoint(base, tmp_path, request, kind, lora):
    lines = []
    assert run(base, request.getfixturevalue(kind), tmp_path / "out", lora, report=lines.append)
    losses = [
        float(row["validation_loss"]) for row in read_log(tmp_path / "out" / "training" / "log.csv") if row["validation_loss"]
    ]
    before = plan_of(tmp_path / "out").base_loss
    assert min(losses) < before - (0.5 if lora is None else 0.05)
    measure = "exact match" if kind == "pairs" else "bits per byte"
    first, last = lines[-1].removesuffix(", which is what was kept").split(" before; ")
    assert first.startswith(f"validation loss {before:.4f}, ")
    assert last.startswith(f"validation loss {min(losses):.4f}, ")
    assert measure in first
    assert measure in last
    assert load_model(tmp_path / "out").config == BASE


def test_what_the_base_had_is_trained_by_lora_only_where_it_is_asked_to(base, pairs, tmp_path):
    run(base, pairs, tmp_path / "out", LoRA(targets=("mlp.c_fc",)))
    before, after = load_model(base).state_dict(), load_model(tmp_path / "out").state_dict()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed == {"h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight"}


def test_an_adapter_is_kept_in_place_of_a_checkpoint(base, pairs, tmp_path):
    run(base, pairs, tmp_path / "out", LoRA(rank=2), keep_adapter=True)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "training",
    ]
    adapter = load_adapter(tmp_path / "out")
    assert adapter.base == str(base.resolve())
    assert adapter.fingerprint == plan_of(tmp_path / "out").base_fingerprint
    adapter.put_on(load_model(base), "base")


@pytest.mark.parametrize(("kind", "lora"), [("text", None), ("pairs", LoRA())], ids=["text-full", "pairs-lora"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(base, tmp_path, request, monkeypatch, kind, lora):
    data = tmp_path / request.getfixturevalue(kind).name
    shutil.copy(request.getfixturevalue(kind), data)
    assert run(base, data, tmp_path / "straight", lora)
    with monkeypatch.context() as patched:
        on_step = ProgressLine.on_step

        def interrupt(self, step):
            on_step(self, step)
            if step.number == 5:
                signal.raise_signal(signal.SIGINT)

        patched.setattr(ProgressLine, "on_step", interrupt)
        assert not run(base, data, tmp_path / "parts", lora)
    data.unlink()  # the run has its own copy, as tokens
    assert resume(tmp_path / "parts", CPU, Processes(), lambda line: None)
    for file in ("model.safetensors", "training/state.safetensors"):
        straight, parts = (load_file(tmp_path / name / file) for name in ("straight", "parts"))
        assert straight.keys() == parts.keys()
        assert all(torch.equal(straight[name], parts[name]) for name in straight), file


def test_the_state_of_lora_has_what_is_trained_alone(base, pairs, tmp_path):
    run(base, pairs, tmp_path / "out", LoRA(rank=2), max_steps=1)
    state = load_file(tmp_path / "out" / "training" / "state.safetensors")
    assert {name.split(".")[-1] for name in state if name.startswith("weight/")} == {"lora_A", "lora_B"}
    assert sum(tensor.numel() for tensor in state.values()) < BASE.num_parameters / 4


def test_a_state_that_lacks_a_matrix_is_damaged(base, pairs, tmp_path):
    run(base, pairs, tmp_path / "out", LoRA(rank=2), max_steps=1)
    state = tmp_path / "out" / "training" / "state.safetensors"
    with safe_open(state, framework="pt") as file:
        metadata = file.metadata()
    tensors = {name: tensor for name, tensor in load_file(state).items() if "h.1.mlp.c_fc.lora_B" not in name}
    save_file(tensors, state, metadata=metadata)
    with pytest.raises(
        TrainingError, match=r"run\.json: h\.1\.mlp\.c_fc\.lora_B is missing in the one, \[128, 2\] by the other; one .* damaged"
    ):
        resume(tmp_path / "out", CPU, Processes(), lambda line: None)


@pytest.mark.parametrize("keep_adapter", [False, True], ids=["merged", "adapter"])
def test_a_run_that_died_goes_on_and_one_that_has_lost_its_state_is_not_begun_anew(
    base, pairs, tmp_path, monkeypatch, keep_adapter
):
    out, lora = tmp_path / "out", LoRA(rank=2)
    exported = out / ("adapter_model.safetensors" if keep_adapter else "model.safetensors")
    run(base, pairs, tmp_path / "straight", lora, keep_adapter)
    with monkeypatch.context() as patched:
        patched.setattr(ProgressLine, "on_step", lambda self, step: step.number == 6 and die())
        with pytest.raises(MemoryError):
            run(base, pairs, out, lora, keep_adapter)
    best, state = exported.read_bytes(), out / "training" / "state.safetensors"
    state.rename(tmp_path / "state")
    with pytest.raises(TrainingError, match=r"state\.safetensors is missing, without which the run would begin anew"):
        resume(out, CPU, Processes(), lambda line: None)
    with pytest.raises(TrainingError, match="holds an adapter already" if keep_adapter else "holds a checkpoint already"):
        run(base, pairs, out, lora, keep_adapter)
    assert exported.read_bytes() == best
    (tmp_path / "state").rename(state)
    assert resume(out, CPU, Processes(), lambda line: None)
    straight, parts = load_file(tmp_path / "straight" / exported.name), load_file(exported)
    assert all(torch.equal(straight[name], parts[name]) for name in straight)


def die():
    raise MemoryError


def test_a_run_is_not_resumed_on_another_base(base, pairs, tmp_path, small_tokenizer):
    shutil.copytree(base, tmp_path / "base")
    run(tmp_path / "base", pairs, tmp_path / "out", max_steps=1)
    other = GPT2(BASE).init_weights(torch.Generator().manual_seed(1))
    save_checkpoint(tmp_path / "base", other, small_tokenizer, torch.float32)
    with pytest.raises(TrainingError, match="is no longer what this run began with"):
        resume(tmp_path / "out", CPU, Processes(), lambda line: None)


def test_a_run_that_makes_things_worse_says_so(base, pairs, tmp_path):
    lines = []
    run(base, pairs, tmp_path / "out", max_steps=2, learning_rate=30.0, report=lines.append)
    assert "the base predicts these texts better" in lines[-1]


def test_one_example_is_one(base, tmp_path):
    (tmp_path / "two.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    lines = []
    run(base, tmp_path / "two.jsonl", tmp_path / "out", max_steps=1, batch_size=1, report=lines.append)
    assert any(line.startswith("1 example to train on; ") for line in lines)


def test_a_short_text_is_learned_in_shorter_windows(base, text, tmp_path):
    few = tmp_path / "few.txt"
    few.write_text(text.read_text()[:1800])
    lines = []
    assert run(base, few, tmp_path / "out", max_steps=2, validate_every=1, report=lines.append)
    window = plan_of(tmp_path / "out").window
    assert window in (16, 32)
    assert lines[1] == f"the text is short: all is learned in windows of {window} tokens, while the context is 64"


def test_of_weighted_texts_the_smallest_decides_on_the_windows_and_a_line_tells_what_the_weights_do(base, text, tmp_path):
    few, lines = tmp_path / "few.txt", []
    few.write_text(text.read_text()[:200])
    data = DataOptions(paths=[text, few], weights=(3, 1))
    assert finetune(FinetuneOptions(data=data, model=str(base), recipe=SHORT), tmp_path / "out", CPU, Processes(), lines.append)
    assert plan_of(tmp_path / "out").window in (16, 32)
    assert any(line.startswith(f"the text of {few} is short: all is learned in windows of") for line in lines)
    told = next(line for line in lines if line.startswith("weights: "))
    assert re.fullmatch(rf"weights: {text} 75 % of the tokens, [\d.]+ times through it; {few} 25 % .* times through it", told)


def test_examples_may_have_weights_too(base, pairs, tmp_path):
    few, lines = tmp_path / "few.jsonl", []
    few.write_text("".join(pairs.read_text().splitlines(keepends=True)[:10]))
    data, out = DataOptions(paths=[pairs, few], weights=(1, 1)), tmp_path / "out"
    assert finetune(FinetuneOptions(data=data, model=str(base), recipe=SHORT), out, CPU, Processes(), lines.append)
    assert any(
        re.fullmatch(rf"weights: {pairs} 50 % of the examples, .*; {few} 50 % .* [\d.]+ times through it", line) for line in lines
    )
    sets = RowSets.load(out / "training" / "tokens" / "sets.json")
    assert sum(sets.sizes) == 117
    assert len(Examples.load(out / "training" / "tokens" / "validation.safetensors")) == 13


def test_an_example_that_two_weighted_files_share_is_not_both_trained_on_and_held_out(base, pairs, tmp_path):
    (few := tmp_path / "few.jsonl").write_text("".join(pairs.read_text().splitlines(keepends=True)[::4]))
    prepare(DataOptions(paths=[pairs, few], weights=(1, 1)), None, Base.load(str(base)), tmp_path, lambda line: None)
    train, held_out = (Examples.load(tmp_path / f"{name}.safetensors") for name in ("train", "validation"))
    contents = [{tuple(examples[np.array([i])].ids.tolist()) for i in range(len(examples))} for examples in (train, held_out)]
    assert not contents[0] & contents[1]


def test_a_chat_template_that_a_killed_run_left_behind_is_not_the_next_models(base, pairs, tmp_path):
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "chat_template.jinja").write_text("{{ messages }}")
    task = prepare(DataOptions(paths=[pairs]), None, Base.load(str(base)), tmp_path / "tokens", lambda line: None)
    assert task.tokenizer_files == {}


@pytest.mark.parametrize("dpo", [None, DPO()], ids=["examples", "pairs"])
def test_weights_of_records_hold_in_each_batch_of_a_run_and_when_it_is_resumed(base, tmp_path, dpo):
    many, few = tmp_path / "many.jsonl", tmp_path / "few.jsonl"
    for file, letter, count in ((many, "a", 200), (few, "b", 20)):
        record = {"completion": "c"} if dpo is None else {"chosen": "c", "rejected": "d"}
        file.write_text("".join(json.dumps({"prompt": f"{letter}{i}", **record}) + "\n" for i in range(count)))
    data, tokens = DataOptions(paths=[many, few], weights=(1, 1)), tmp_path / "tokens"
    begun = prepare(data, dpo, Base.load(str(base)), tokens, lambda line: None)
    recipe = Recipe(max_steps=1, batch_size=32)
    first_tokens = [
        [int(row[0]) for step in range(28) for part in task.source(recipe, Processes()).batch(step).parts for row in part[0]]
        for task in (begun, prepared(tokens, None, dpo))
    ]
    counts = sorted(Counter(first_tokens[0]).values())
    assert len(counts) == 2
    assert counts[0] / sum(counts) == pytest.approx(0.5, abs=0.05)
    assert first_tokens[0] == first_tokens[1]
    assert begun.material.epoch_rows == pytest.approx(2 * min(RowSets.load(tokens / "sets.json").sizes))


def test_damaged_files_of_all_sets_and_of_validation_are_named_at_once(base, pairs, tmp_path):
    damaged = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for file in damaged:
        file.write_bytes(b"\0\n")
    data = DataOptions(paths=[pairs, *damaged[:2]], weights=(1, 1, 1), validation=[damaged[2]])
    with pytest.raises(TrainingError, match=r"3 files cannot be read: .*a.jsonl is binary.*b.jsonl is binary.*c.jsonl is binary"):
        prepare(data, None, Base.load(str(base)), tmp_path / "tokens", pytest.fail)


def test_a_weighted_file_of_which_all_is_held_out_is_named(base, pairs, tmp_path):
    (few := tmp_path / "few.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    data = DataOptions(paths=[pairs, few], weights=(1, 1), validation_fraction=0.999)
    with pytest.raises(TrainingError, match=f"--weights: nothing of ({pairs}|{few}) is left to train on; more of it"):
        finetune(FinetuneOptions(data=data, model=str(base), recipe=SHORT), tmp_path / "out", CPU, Processes(), lambda line: None)


def test_a_weighted_text_without_a_window_is_named(base, text, tmp_path):
    (few := tmp_path / "few.txt").write_text("Few words.")
    options = FinetuneOptions(data=DataOptions(paths=[text, few], weights=(1, 1)), model=str(base), recipe=SHORT)
    with pytest.raises(
        TrainingError, match=f"--weights: the text of {few} is too short even for windows of 16 tokens; more of it, or leave it out"
    ):
        finetune(options, tmp_path / "out", CPU, Processes(), lambda line: None)
    assert not (tmp_path / "out").exists()


def test_what_is_not_given_is_chosen_for_the_data(base, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune_defaults, "EPOCHS", 1)
    options = FinetuneOptions(data=DataOptions(paths=[pairs]), model=str(base), recipe={"validate_every": 1000, "bfloat16": False})
    assert finetune(options, tmp_path / "out", CPU, Processes(), lambda line: None)
    recipe = plan_of(tmp_path / "out").recipe
    train = Examples.load(tmp_path / "out" / "training" / "tokens" / "train.safetensors")
    assert len(train) == 108
    assert (recipe.optimizer, recipe.windows, recipe.compiled) == ("adamw", ((0.0, 1),), False)
    assert recipe.max_steps == len(train) / recipe.batch_size


def test_a_batch_is_run_in_parts_that_fit_into_memory():
    large = Material(num_rows=100_000, tokens_per_row=1024, is_text=True)

    def chosen(config=BASE, processes=ALONE, **given):
        return choose_recipe({"bfloat16": False, **given}, config, large, False, CPU, processes, lambda line: None)

    assert chosen(GPT2Config(), batch_size=12).accumulation == 12, "a window of 1,024 tokens, 768 wide, in 12 layers"
    assert chosen(batch_size=12).accumulation == 1
    assert chosen(GPT2Config(), Processes(0, 2)).batch_size == 8
    assert chosen(accumulation=3).batch_size == 3
    with pytest.raises(TrainingError, match="a batch of 3 cannot be cut into 2 equal parts"):
        chosen(processes=Processes(0, 2), batch_size=3)


SLOW, FAST = Speed(1000, 1), Speed(1200, 20)


class Machine:
    """Measures as it is told to, and counts how often it had to compile."""

    def __init__(self, monkeypatch, plain=SLOW, compiled=FAST, bfloat16=True):
        self.num_compilations, self.lines, self._bfloat16 = 0, [], bfloat16
        monkeypatch.setattr("model.training.objective.can_compile", lambda device: True)

        def measured(objective, data, recipe, batch_tokens):
            self.num_compilations += recipe.compiled
            return compiled if recipe.compiled else plain

        monkeypatch.setattr(finetune_defaults, "measured_speed", measured)

    def recipe(self, num_rows=10_000, is_text=True, minutes=None, **given):
        material = Material(num_rows=num_rows, tokens_per_row=64, is_text=is_text)
        recipe = Recipe(**({"max_steps": 1, "batch_size": 64, "bfloat16": self._bfloat16} | given))
        trial = Trial(
            model=GPT2(BASE),
            objective=lambda *of: None,
            data=None,
            batch_tokens=recipe.batch_size * material.tokens_per_row,
            validation_seconds=0.0,
            report=self.lines.append,
        )
        return with_steps(recipe, given, material, minutes, trial)


def test_a_long_run_is_compiled_where_that_is_measured_to_pay(monkeypatch):
    machine = Machine(monkeypatch)
    assert machine.recipe().compiled
    assert machine.lines == [
        "measuring the speed of a training step here",
        "measuring the speed of a compiled step, which takes a while at first here",
    ]
    assert not Machine(monkeypatch, compiled=Speed(1010, 20)).recipe().compiled
    assert Machine(monkeypatch, compiled=Speed(1010, 20)).recipe(compiled=True).compiled


@pytest.mark.parametrize(
    "given",
    [
        {"num_rows": 1000},  # three epochs in three minutes
        {"minutes": 4},
        {"max_steps": 10},
        {"is_text": False},
        {"compiled": False},
        {"checkpoint_activations": True},
    ],
    ids=str,
)
def test_where_compiling_cannot_pay_it_is_not_even_tried(monkeypatch, given):
    machine = Machine(monkeypatch)
    assert not machine.recipe(**given).compiled
    assert machine.num_compilations == 0


def test_minutes_that_are_named_are_filled_and_others_hold_three_epochs_at_most(monkeypatch):
    machine = Machine(monkeypatch, plain=Speed(64 * 64, 1))
    assert machine.recipe(num_rows=640, is_text=False).max_steps == 30
    assert machine.recipe(num_rows=640, is_text=False, minutes=2).max_steps == 117, "seconds, but for what saving takes"
    assert machine.recipe(num_rows=640_000, is_text=False).max_steps == 882


def test_minutes_more_hold_the_validations_that_the_run_will_have():
    trial = SimpleNamespace(speed=lambda recipe: Speed(100.0, 1.0), batch_tokens=100.0, validation_seconds=5.0)
    recipe = Recipe(max_steps=40, validate_every=10)
    assert more_steps(10, recipe, True, trial) == 392, "a step and a tenth of a validation take 1.5 s, and saving 2 %"
    assert more_steps(10, recipe, False, trial) == 488, "twenty validations at most, unless their distance was named"
    assert more_steps(0.01, recipe, True, trial) == 1


def test_a_text_run_that_went_on_before_goes_on_for_minutes(base, text, tmp_path):
    run(base, text, tmp_path / "out", max_steps=2)
    for changes in (Changes(recipe={"max_steps": 2}), Changes(minutes=0.001)):
        assert resume(tmp_path / "out", CPU, Processes(), lambda line: None, changes=changes)
    assert plan_of(tmp_path / "out").recipe.max_steps > 4, "at least one step more"


class FirstOfThree(Processes):
    """One that meets no others."""

    def agree(self, value):
        return value

    def wait(self):
        pass


def test_a_run_does_not_go_on_in_parts_that_leave_some_of_a_batch_out(base, text, tmp_path):
    run(base, text, tmp_path / "out", max_steps=2)
    files = (tmp_path / "out" / "training" / "run.json").read_bytes()
    with pytest.raises(TrainingError, match="a batch of 4 cannot be cut into 3 equal parts; choose processes and --accumulation"):
        resume(tmp_path / "out", CPU, Processes(), lambda line: None, changes=Changes(recipe={"max_steps": 2, "accumulation": 3}))
    with pytest.raises(TrainingError, match="a batch of 4 cannot be cut into 3 equal parts"):
        resume(tmp_path / "out", CPU, FirstOfThree(0, 3), lambda line: None)
    assert (tmp_path / "out" / "training" / "run.json").read_bytes() == files


def test_of_weighted_texts_three_epochs_are_those_of_the_one_that_comes_round_most_often(base, text, tmp_path):
    (few := tmp_path / "few.txt").write_text(text.read_text()[:2000])
    data, tokens = DataOptions(paths=[text, few], weights=(1, 1)), tmp_path / "tokens"
    task = prepare(data, None, Base.load(str(base)), tokens, lambda line: None)
    small = len(map_shards(tokens).train[-1])
    assert task.material.epoch_rows == pytest.approx(2 * small / task.window)
    assert task.material.epoch_rows < task.material.num_rows / 2


def test_minutes_more_are_measured_on_the_network_that_is_trained(base, pairs, tmp_path, monkeypatch):
    run(base, pairs, tmp_path / "out", LoRA(rank=4), max_steps=2)
    measured = []

    def speed(objective, *of):
        measured.append(len(lora_layers(objective.model)))
        return Speed(1000.0, 1.0)

    monkeypatch.setattr(finetune_defaults, "measured_speed", speed)
    resume(tmp_path / "out", CPU, Processes(), lambda line: None, changes=Changes(minutes=0.001))
    assert measured == [8]


def test_in_float32_on_a_cpu_compiling_is_not_tried(monkeypatch):
    machine = Machine(monkeypatch, bfloat16=False)
    assert not machine.recipe().compiled
    assert machine.num_compilations == 0


def test_the_speed_is_that_of_all_processes_together_and_measuring_it_leaves_the_network_as_it_is(monkeypatch):
    tokens = torch.zeros(2, 8, dtype=torch.long)
    data = SimpleNamespace(batch=lambda step: Batch([(tokens, tokens)] * 3, 48))
    model, seconds = GPT2(BASE).init_weights(torch.Generator().manual_seed(0)), iter(range(1000))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monkeypatch.setattr(defaults.time, "monotonic", lambda: float(next(seconds)))
    recipe = Recipe(max_steps=1, batch_size=12, accumulation=3)  # of two processes
    assert measured_speed(NextTokenLoss(model, False, False), data, recipe, batch_tokens=96) == Speed(32, 1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_each_step_is_said_as_it_begins(base, text, tmp_path):
    lines = []
    run(base, text, tmp_path / "out", max_steps=1, report=lines.append)
    assert lines[0] == f"reading the model in {base}"
    assert "measuring the model as it is on what is held out" in lines


def nothing(tmp_path):
    (tmp_path / "data.txt").write_text("A few words.")


def enough(tmp_path):
    (tmp_path / "data.txt").write_text("A few words. " * 300)


def one_example(tmp_path):
    (tmp_path / "data.txt").unlink(missing_ok=True)
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (nothing, {}, "the text has .* tokens to train on and .* held out, too few even for windows of 16"),
        (one_example, {}, "1 of the records fit; two at least are needed"),
        (enough, {"lora": LoRA(rank=33)}, "beyond the model's width of 32"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_and_leaves_nothing_behind(base, tmp_path, prepare, options, message):
    prepare(tmp_path)
    (data,) = tmp_path.glob("data.*")
    with pytest.raises(TrainingError, match=message):
        finetune(
            FinetuneOptions(data=DataOptions(paths=[data]), model=str(base), **options),
            tmp_path / "out",
            CPU,
            Processes(),
            lambda line: None,
        )
    assert not (tmp_path / "out").exists()


def test_examples_are_not_compiled(base, pairs, tmp_path):
    with pytest.raises(TrainingError, match="leave out --compile"):
        run(base, pairs, tmp_path / "out", compiled=True)
    assert not (tmp_path / "out").exists()
