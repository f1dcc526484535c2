"""Fine-tuning from a tiny checkpoint: what is learned, what is kept, and that an interrupted run ends as an uninterrupted one."""

import json
import random
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from model.training import finetune_defaults
from model.training.adapter import load_adapter
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.examples import Examples
from model.training.finetune import FinetuneOptions, FinetunePlan, finetune, resume
from model.training.finetune_defaults import Material, choose_recipe
from model.training.lora import LoRA
from model.training.progress import read_log
from model.training.run import ProgressLine

CONFIG = GPT2Config(vocab_size=500, n_positions=64, n_embd=32, n_layer=2, n_head=2, eos_token_ids=(499,))
CPU, ALONE = torch.device("cpu"), Processes()
SHORT = {"max_steps": 12, "validate_every": 4, "batch_size": 4, "learning_rate": 1e-2, "dropout": 0.1, "bfloat16": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_tokenizer):
    directory = tmp_path_factory.mktemp("base") / "tiny"
    save_checkpoint(directory, GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0)), small_tokenizer, torch.float32)
    return directory


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
    options = FinetuneOptions(paths=[data], model=str(base), lora=lora, keep_adapter=keep_adapter, recipe=SHORT | recipe)
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
    assert lines[-1].startswith(f"validation loss {before:.4f} before, {min(losses):.4f} at step ")
    assert load_model(tmp_path / "out").config == CONFIG


def test_what_the_base_had_is_trained_by_lora_only_where_it_is_asked_to(base, pairs, tmp_path):
    run(base, pairs, tmp_path / "out", LoRA(targets=("mlp.c_fc",)))
    before, after = load_model(base).state_dict(), load_model(tmp_path / "out").state_dict()
    changed = {name for name in before if not torch.equal(after[name], before[name].bfloat16().float())}
    assert changed == {"h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight"}


def test_an_adapter_is_kept_in_place_of_a_checkpoint(base, pairs, tmp_path):
    run(base, pairs, tmp_path / "out", LoRA(rank=2), keep_adapter=True)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
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
    other = GPT2(CONFIG).init_weights(torch.Generator().manual_seed(1))
    save_checkpoint(tmp_path / "base", other, small_tokenizer, torch.float32)
    with pytest.raises(TrainingError, match="is no longer what this run began with"):
        resume(tmp_path / "out", CPU, Processes(), lambda line: None)


def test_a_run_that_makes_things_worse_says_so(base, pairs, tmp_path):
    lines = []
    run(base, pairs, tmp_path / "out", max_steps=2, learning_rate=30.0, report=lines.append)
    assert "the base predicts these texts better than what was learned" in lines[-1]


def test_a_short_text_is_learned_in_shorter_windows(base, text, tmp_path):
    few = tmp_path / "few.txt"
    few.write_text(text.read_text()[:1800])
    lines = []
    assert run(base, few, tmp_path / "out", max_steps=2, validate_every=1, report=lines.append)
    window = plan_of(tmp_path / "out").window
    assert window in (16, 32)
    assert lines[0] == f"the text is short: it is learned in windows of {window} tokens, while the context is 64"


def test_what_is_not_given_is_chosen_for_the_data(base, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune_defaults, "EPOCHS", 1)
    options = FinetuneOptions(paths=[pairs], model=str(base), recipe={"validate_every": 1000, "bfloat16": False})
    assert finetune(options, tmp_path / "out", CPU, Processes(), lambda line: None)
    recipe = plan_of(tmp_path / "out").recipe
    train = Examples.load(tmp_path / "out" / "training" / "tokens" / "train.safetensors")
    assert len(train) == 108
    assert (recipe.optimizer, recipe.windows, recipe.compiled) == ("adamw", ((0.0, 1),), False)
    assert recipe.max_steps == len(train) / recipe.batch_size


def test_a_batch_is_run_in_parts_whose_logits_fit():
    large = Material(num_rows=100_000, tokens_per_row=1024, is_examples=False)

    def chosen(config=CONFIG, processes=ALONE, **given):
        return choose_recipe({"bfloat16": False, **given}, config, large, False, CPU, processes, lambda line: None)

    assert chosen(GPT2Config(), batch_size=12).accumulation == 6, "two windows of 1,024 tokens and 50,257 logits each"
    assert chosen(batch_size=12).accumulation == 1
    assert chosen(GPT2Config(), Processes(0, 2)).batch_size == 8
    assert chosen(accumulation=3).batch_size == 3
    with pytest.raises(TrainingError, match="a batch of 3 cannot be cut into 2 equal parts"):
        chosen(processes=Processes(0, 2), batch_size=3)


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
        (one_example, {}, "1 of the examples fit; two at least are needed"),
        (enough, {"lora": LoRA(rank=33)}, "beyond the model's width of 32"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_and_leaves_nothing_behind(base, tmp_path, prepare, options, message):
    prepare(tmp_path)
    (data,) = tmp_path.glob("data.*")
    with pytest.raises(TrainingError, match=message):
        finetune(FinetuneOptions(paths=[data], model=str(base), **options), tmp_path / "out", CPU, Processes(), lambda line: None)
    assert not (tmp_path / "out").exists()


def test_examples_are_not_compiled(base, pairs, tmp_path):
    with pytest.raises(TrainingError, match="leave out --compile"):
        run(base, pairs, tmp_path / "out", compiled=True)
    assert not (tmp_path / "out").exists()
