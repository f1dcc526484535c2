"""`gpt2 train tokenizer` and `gpt2 train pretrain`: a newcomer's way from texts to a served model, and every way to fail on it."""

import errno
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.cli import main
from model.checkpoint import load_config, load_tokenizer
from model.files import replace_file
from model.network_files import load_model
from model.training.precision import Products
from model.training.progress import read_log

pytestmark = pytest.mark.timeout(900)  # some start processes of their own, maybe on a busy machine

REPOSITORY = Path(__file__).parents[1]
SIZES = "--device cpu --n-embd 16 --n-layer 1 --n-head 2 --n-positions 16 --vocab-size 257"
TINY = f"{SIZES} --batch-size 4 --precision float32"


@pytest.fixture
def folder(tmp_path, monkeypatch, shakespeare):
    """The current directory, with a folder of texts in it."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "coriolanus.txt").write_text(shakespeare[:8000])
    (tmp_path / "texts" / "notes.pdf").write_bytes(b"%PDF\0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def shakespeare():
    return (Path(__file__).parent / "data" / "shakespeare.txt").read_text(encoding="utf-8")


@pytest.fixture
def gpt2(monkeypatch, capsys):
    """Run a command in this process; the result is its exit code, what it printed and what it reported."""
    for kind in ("pretrain", "tokenizer"):  # another malloc would stay for all tests after this one
        monkeypatch.setattr(f"app.commands.{kind}.prepare_for_training", lambda: None)

    def run(line):
        code = main(shlex.split(line))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def refusal(gpt2):
    """The one line of a command that is refused."""

    def run(line):
        code, printed, reported = gpt2(line)
        assert (code, printed) == (2, "")
        last = reported.splitlines()[-1]
        assert last.startswith("gpt2: ")
        assert "Traceback" not in reported
        assert "usage:" not in reported
        return last.removeprefix("gpt2: ")

    return run


def contents(directory):
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in directory.rglob("*") if file.is_file()}


def test_a_newcomer_names_texts_and_a_directory_and_nothing_else(folder, gpt2, monkeypatch):
    monkeypatch.setattr("model.training.defaults.DEFAULT_MINUTES", 0.02)
    code, printed, reported = gpt2("train pretrain texts --out my_model")
    assert code == 0
    assert printed == "gpt2 serve --model my_model\n"
    lines = reported.splitlines()
    assert lines[:4] == [
        "left out of the folders: 1 .pdf",
        "8,000 bytes of text in 1 file",
        "learning a vocabulary of 512 tokens",
        "tokenising",
    ]
    assert lines[4].startswith("matrices are multiplied in ")
    assert lines[5] == "measuring the speed of a training step here"
    assert "layers 2, heads 1, width 64, context 32" in reported
    assert ", the best so far" in reported
    assert lines[-1].startswith("trained in 0:0")
    assert lines[-1].endswith("is of the model in my_model; the curves are in my_model/training/loss.png")
    model, tokenizer = load_model(folder / "my_model"), load_tokenizer(folder / "my_model")
    assert model.config.vocab_size == tokenizer.vocab_size == 512
    files = {str(file.relative_to(folder / "my_model")) for file in contents(folder / "my_model")}
    assert {file for file in files if "/" not in file} == {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
        "README.md",
    }
    assert {"training/log.csv", "training/loss.png", "training/run.json", "training/state.safetensors"} < files


def test_a_run_whose_curves_cannot_be_drawn_says_so_and_is_a_run_all_the_same(folder, gpt2, monkeypatch):
    monkeypatch.setattr("model.training.plot.DRAWING", (sys.executable, "-c", "raise ValueError('no font')"))
    code, _, reported = gpt2(f"train pretrain texts --out my_model {TINY} --steps 2")
    assert code == 0
    assert "the curves could not be drawn: ValueError: no font" in reported
    assert "loss.png" not in reported
    assert load_model(folder / "my_model").config.n_layer == 1


def test_a_vocabulary_is_learned_once_for_several_models(folder, gpt2):
    code, printed, reported = gpt2("train tokenizer texts --out words --vocab-size 400")
    assert (code, printed) == (0, "gpt2 train pretrain --tokenizer words\n")
    assert reported == "left out of the folders: 1 .pdf\n8,000 bytes of text in 1 file\nlearning a vocabulary of 400 tokens\n"
    before = contents(folder / "words")
    code, _, reported = gpt2(f"train pretrain texts --out m --tokenizer words --steps 1 {TINY.replace('--vocab-size 257', '')}")
    assert code == 0
    assert "with the vocabulary of 400 tokens in words" in reported
    assert load_config(folder / "m").vocab_size == 400
    assert contents(folder / "words") == before


def test_a_vocabulary_that_is_in_the_directory_already_is_taken(folder, gpt2, refusal):
    gpt2("train tokenizer texts --out m --vocab-size 300")
    before = contents(folder / "m")
    assert refusal(f"train pretrain texts --out m --steps 1 {TINY}") == (
        "m has a vocabulary, but not of 257; leave out --vocab-size, or name another --out"
    )
    gpt2("train tokenizer texts --out other --vocab-size 300")
    (folder / "other" / "vocab.json").write_text((folder / "other" / "vocab.json").read_text().replace("<|endoftext|>", "<|end|>"))
    assert refusal("train pretrain texts --out m --steps 1 --tokenizer other").endswith("has no end token <|endoftext|>")
    gpt2("train tokenizer texts --out larger --vocab-size 301")
    assert refusal("train pretrain texts --out m --steps 1 --tokenizer larger") == (
        "m has another vocabulary than larger, which would be overwritten; choose another --out"
    )
    assert contents(folder / "m") == before
    code, _, reported = gpt2(f"train pretrain texts --out m --steps 1 {TINY.replace('257', '300')}")
    assert code == 0
    assert "with the vocabulary of 300 tokens in m" in reported


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_tensorboards_events_are_an_option(folder, gpt2, refusal, monkeypatch):
    assert gpt2(f"train pretrain texts --out m --steps 2 --tensorboard {TINY}")[0] == 0
    assert [file.name.startswith("events.") for file in (folder / "m" / "training" / "tensorboard").iterdir()] == [True]
    monkeypatch.setattr("app.commands.training.find_spec", lambda name: None)
    assert refusal("train pretrain texts --out n --tensorboard") == (
        "--tensorboard needs a package more; pip install 'gpt2-service[tensorboard]'"
    )


def test_a_missing_package_is_named(folder, refusal, monkeypatch):
    monkeypatch.setitem(sys.modules, "model.training.vocabulary", None)
    assert refusal("train tokenizer texts --out words") == (
        "model.training.vocabulary is missing; pip install 'gpt2-service[train]'"
    )


BYTES = "texts --steps 1 --vocab-size 257"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "name the text to train on, or --resume alone"),
        ("texts --resume", "--resume goes on with the data the run began with: leave the paths out"),
        ("--resume --n-layer 5", "--n-layer cannot change in a run that goes on; leave it out, or train anew with another --out"),
        ("--resume --tokenizer texts", "--tokenizer cannot change in a run that goes on"),
        ("--resume --batch-size 8", "--batch-size cannot change in a run that goes on"),
        ("--resume --validation-fraction 0.5", "--validation-fraction cannot change in a run that goes on"),
        ("--resume --steps -5", "--steps is -5; it must be at least 1"),
        ("--resume --steps 5", "m holds no run to resume"),
        ("--resume", "m holds no run to resume"),
        ("gone", "no such file or folder: gone"),
        ("texts/notes.pdf", "texts/notes.pdf: .pdf is not read as text; save its text as .txt, and name that"),
        ("texts --steps -5", "--steps is -5; it must be at least 1"),
        ("texts --minutes 0", "--minutes is 0.0; it must be above 0 and finite"),
        ("texts --minutes nan", "--minutes is nan; it must be above 0 and finite"),
        ("texts --dropout 1.5", "--dropout is 1.5; it must be at least 0 and below 1"),
        ("texts --seed -1", "--seed is -1; it must lie between 0 and 2147483647"),
        ("texts --minutes inf", "--minutes is inf; it must be above 0 and finite"),
        ("texts --learning-rate inf", "--learning-rate is inf; it must be above 0 and finite"),
        ("texts --batch-size 99999999999999", "--batch-size is 99999999999999; it must be at most 1048576"),
        (f"{BYTES} --n-layer 99999999", "a network of 4,998,400 M parameters takes 59,980,800 MB and more while it is trained, "),
        ("texts --n-layer 0", "n_layer is 0; it must be at least 1"),
        ("texts --device tpu", "--device tpu: cpu, cuda and cuda:N are known"),
        ("texts --tokenizer texts", "texts has no vocab.json; make a vocabulary by gpt2 train tokenizer"),
        ("texts --vocab-size 256", "a vocabulary of 256 is too small: the bytes and the end token alone are 257"),
        ("texts --vocab-size 60000", "the text supports a vocabulary of at most "),
        ("texts --validation-fraction 0", "the validation fraction is 0.0; it must lie between 0 and 1"),
        (f"{BYTES} --validation-fraction 1e-9", "no text is held out for validation: more text, or a larger --validation-"),
        (f"{BYTES} --n-embd 100 --n-head 3", "n_embd 100 cannot be split over n_head 3 heads"),
        (f"{BYTES} --n-positions 5000", "7173 tokens to train on are too few for a context of 5000: more text, or a context of"),
        (f"{BYTES} --batch-size 6 --accumulation 4", "a batch of 6 windows cannot be cut into 4 equal parts; "),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(folder, refusal, options, words):
    before = contents(folder / "texts")
    assert refusal(f"train pretrain {options} --out m").startswith(words)
    assert contents(folder / "texts") == before
    assert not (folder / "m" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "command",
    ["pretrain --n-embd 63 --n-head 2", "pretrain --tokenizer nosuch", "pretrain --vocab-size 100", "tokenizer --vocab-size 100"],
)
def test_what_no_text_could_make_right_is_refused_before_any_is_read(folder, refusal, monkeypatch, command):
    monkeypatch.setattr("model.training.data.corpus.survey", lambda *of: pytest.fail("the text was read"))
    monkeypatch.setattr("model.training.pretrain.survey", lambda *of: pytest.fail("the text was read"))
    kind, *options = command.split()
    assert refusal(f"train {kind} texts --out m {' '.join(options)}")


@pytest.mark.parametrize("options", ["--steps many", "--optimizer sgd", "--minutes 1 --steps 1", "--precision int8"])
def test_what_is_no_option_is_refused(refusal, options):
    assert refusal(f"train pretrain texts --out m {options}").endswith("; see gpt2 train pretrain --help")


def test_an_empty_folder_is_refused(folder, refusal):
    (folder / "empty").mkdir()
    for kind in ("pretrain", "tokenizer"):
        assert refusal(f"train {kind} empty --out m").startswith("empty has no text files (.txt, ")
    assert not (folder / "m").exists()


def test_what_is_there_is_not_trained_over(folder, gpt2, refusal):
    gpt2(f"train pretrain texts --out m --steps 2 {TINY}")
    before = contents(folder)
    assert refusal("train pretrain texts --out m") == "m holds an earlier run; go on with it by --resume, or choose another --out"
    assert refusal("train tokenizer texts --out m") == "m/vocab.json exists already and would be overwritten; choose another --out"
    assert refusal("train pretrain texts --out texts/coriolanus.txt").endswith("is a file; --out names a directory")
    shutil.rmtree("m/training")
    assert refusal("train pretrain texts --out m").startswith("m holds a checkpoint already, which would be overwritten")
    assert all(contents(folder)[file] == old for file, old in before.items() if "training" not in file.parts)


def test_resuming_a_finished_run_says_so_and_names_the_model(folder, gpt2):
    gpt2(f"train pretrain texts --out m --steps 2 {TINY}")
    code, printed, reported = gpt2("train pretrain --resume --out m --device cpu")
    assert (code, printed) == (0, "gpt2 serve --model m\n")
    assert reported.startswith("the run stands at step 2, its end: nothing is left to train\n")


def test_a_run_whose_text_is_gone_goes_on_and_one_whose_tokens_are_gone_says_so(folder, gpt2, refusal):
    gpt2(f"train pretrain texts --out m --steps 2 {TINY}")
    shutil.rmtree("texts")
    assert gpt2("train pretrain --resume --out m --device cpu")[0] == 0
    shutil.rmtree("m/training/tokens")
    assert "m/training/tokens/index.json is missing; put back a copy" in refusal("train pretrain --resume --out m --device cpu")


def started(line, folder, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GPT2_")}
    environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "app", *shlex.split(line)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes, **options)


def after_steps(process, folder, num_steps):
    """Wait until the process has made some steps."""
    log, deadline = folder / "m" / "training" / "log.csv", time.monotonic() + 600
    while not log.exists() or log.read_text().count("\n") <= num_steps:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


ENDLESS = f"train pretrain texts --out m --steps 1000000 --validate-every 500000 {TINY}"


def test_an_interrupt_saves_and_leaves_with_the_line_to_go_on_by(folder, gpt2):
    with started(ENDLESS, folder) as process:
        after_steps(process, folder, 3)
        process.send_signal(signal.SIGINT)
        printed, reported = process.communicate(timeout=600)
    assert (process.returncode, printed) == (130, "")
    assert reported.splitlines()[-1] == "stopped and saved; go on by gpt2 train pretrain --resume --out m"
    num_steps = int(read_log(folder / "m" / "training" / "log.csv")[-1]["step"])
    assert num_steps >= 3
    with started("train pretrain --resume --out m --device cpu", folder) as process:
        after_steps(process, folder, num_steps + 2)
        process.send_signal(signal.SIGTERM)
        _, reported = process.communicate(timeout=600)
    assert process.returncode == 130
    assert reported.startswith(f"the run stands at step {num_steps:,}\n")
    steps = [int(row["step"]) for row in read_log(folder / "m" / "training" / "log.csv")]
    assert steps == list(range(1, len(steps) + 1))


def test_a_second_interrupt_is_answered_by_one_line(folder, gpt2, monkeypatch):
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt_twice(*of):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("model.training.run.ProgressLine.on_step", interrupt_twice)
    code, printed, reported = gpt2(f"train pretrain texts --out m --steps 2 {TINY}")
    signal.signal(signal.SIGINT, previous)
    assert (code, printed) == (130, "")
    last = reported.splitlines()[-1]
    assert last == "gpt2: ended at once, before anything of the run was saved: --resume begins it again at its first step"


def test_a_run_that_is_killed_early_goes_on_from_its_best_model_and_ends_as_if_it_had_not_been(folder):
    """Power fails in the first half minute: there is no state but that of the best model."""
    options = f"train pretrain texts --steps 600 --validate-every 100 {TINY} --out"
    with started(f"{options} whole", folder) as process:
        assert process.wait(timeout=600) == 0
    with started(f"{options} m", folder) as process:
        after_steps(process, folder, 120)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    with started("train pretrain --resume --out m --device cpu", folder) as process:
        _, reported = process.communicate(timeout=600)
    assert process.returncode == 0
    assert reported.startswith("the run stands at step ")
    assert "stands at step 0" not in reported
    whole, parts = (folder / name for name in ("whole", "m"))
    assert losses(parts) == losses(whole)
    for file in ("model.safetensors", "training/best.json"):
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file


def test_a_directory_that_is_trained_in_names_its_process_and_is_left_alone(folder, refusal):
    """Two runs used to end well both, each with half of the other's log and model."""
    with started(ENDLESS, folder) as process:
        after_steps(process, folder, 1)
        held = f"m is being trained in by process {process.pid} since "
        before = set(contents(folder / "m"))
        for line in (f"pretrain texts --out m {TINY}", "pretrain --resume --out m --device cpu", "tokenizer texts --out m"):
            message = refusal(f"train {line}")
            assert message.startswith(held)
            assert message.endswith("; wait for it, stop it, or choose another --out")
        assert before <= set(contents(folder / "m"))
        process.kill()
    process.communicate()
    with started(f"train pretrain texts --out m --steps 2 {TINY}", folder) as process:  # a process that is gone holds nothing
        _, reported = process.communicate(timeout=600)
    assert process.returncode == 0
    assert "an earlier run here ended before anything was saved: this one begins anew\n" in reported
    assert not (folder / "m" / "training" / "lock").exists()


@pytest.mark.parametrize("while_it", ["tokenises", "trains"])
def test_a_run_killed_before_its_first_save_is_in_nobodys_way(folder, gpt2, while_it):
    """Its vocabulary, its tokens and its plan are those of other options."""
    hook = {"tokenises": "import model.training.pretrain as p; p.tokenize", "trains": "import model.training.run as p; p.Trainer"}
    code = f"{hook[while_it]} = lambda *a, **k: __import__('os').kill(__import__('os').getpid(), 9)\n"
    arguments = shlex.split(f"train pretrain texts --out m --steps 2 {TINY}")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", f"{code}from app.cli import main; main({arguments})"]
    killed = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (folder / "m" / "vocab.json").exists()
    code, _, reported = gpt2(f"train pretrain texts --out m --steps 2 {TINY.replace('257', '300')}")
    assert code == 0
    assert reported.startswith("an earlier run here ended before anything was saved: this one begins anew\n")
    assert load_config(folder / "m").vocab_size == 300


def test_a_run_killed_while_it_was_prepared_is_not_resumed(folder, gpt2, refusal):
    gpt2(f"train pretrain texts --out m --steps 2 {TINY}")
    shutil.rmtree(folder / "m" / "training" / "tokens")
    for file in ("model.safetensors", "config.json", "training/state.safetensors", "training/best.json", "training/run.json"):
        (folder / "m" / file).unlink()
    assert refusal("train pretrain --resume --out m --device cpu") == (
        "the run in m ended before it was planned; begin it again without --resume"
    )


def test_a_vocabulary_that_was_there_before_a_killed_run_stays(folder, gpt2):
    gpt2("train tokenizer texts --out m --vocab-size 300")
    vocabulary = (folder / "m" / "vocab.json").read_bytes()
    gpt2(f"train pretrain texts --out m --steps 2 {TINY.replace('257', '300')}")
    for file in ("model.safetensors", "config.json", "training/state.safetensors", "training/best.json"):
        (folder / "m" / file).unlink()
    code, _, reported = gpt2(f"train pretrain texts --out m --steps 2 {TINY.replace('257', '300')}")
    assert code == 0
    assert "with the vocabulary of 300 tokens in m" in reported
    assert (folder / "m" / "vocab.json").read_bytes() == vocabulary


def losses(out):
    return [(row["step"], row["loss"], row["validation_loss"]) for row in read_log(out / "training" / "log.csv")]


def test_a_model_whose_state_is_missing_is_not_trained_over(folder, gpt2, refusal):
    gpt2(f"train pretrain texts --out m --steps 2 {TINY}")
    (folder / "m" / "training" / "state.safetensors").unlink()
    before = contents(folder / "m")
    for line in ("--resume --out m --device cpu", "texts --out m"):
        reported = refusal(f"train pretrain {line}")
        assert "m/model.safetensors, the best model" in reported or "m holds a checkpoint already" in reported
    assert contents(folder / "m") == before


def test_a_run_that_died_before_anything_was_saved_says_that_it_begins_again(folder, gpt2):
    gpt2(f"train pretrain texts --out m --steps 2 {TINY}")
    for file in ("model.safetensors", "config.json", "training/state.safetensors", "training/best.json"):
        (folder / "m" / file).unlink()
    code, _, reported = gpt2("train pretrain --resume --out m --device cpu")
    assert code == 0
    assert reported.startswith("the run ended before anything was saved: it begins again at its first step\n")


@pytest.mark.parametrize("file", ["model.safetensors.index.json", "pytorch_model.bin", "config.json", "tokenizer.json"])
def test_what_another_program_has_left_is_not_overwritten_either(folder, refusal, file):
    (folder / "m").mkdir()
    (folder / "m" / file).write_text("{}")
    assert refusal("train pretrain texts --out m").endswith(" already, which would be overwritten; choose another --out")
    if file == "tokenizer.json":
        assert refusal("train tokenizer texts --out m").startswith("m/tokenizer.json exists already and would be overwritten")
    assert (folder / "m" / file).read_text() == "{}"


@pytest.mark.parametrize(
    "file", ["chat_template.jinja", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "vocab.txt"]
)
def test_files_of_a_tokenizer_that_would_be_taken_away_are_refused_by_name(folder, gpt2, refusal, file):
    gpt2("train tokenizer texts --out words --vocab-size 257")
    (folder / "m").mkdir()
    (folder / "m" / file).write_text("{}")
    before = contents(folder / "m")
    said = f"m/{file} exists already and would be overwritten; choose another --out"
    assert refusal("train tokenizer texts --out m") == said
    assert refusal(f"train pretrain texts --out m {TINY}") == said
    assert refusal(f"train pretrain texts --out m --tokenizer words {TINY}") == said
    assert contents(folder / "m") == before


def test_a_chat_template_beside_the_vocabulary_that_is_taken_stays(folder, gpt2):
    gpt2("train tokenizer texts --out m --vocab-size 257")
    (folder / "m" / "chat_template.jinja").write_text("{{ messages }}")
    assert gpt2(f"train pretrain texts --out m --steps 1 {TINY}")[0] == 0
    assert (folder / "m" / "chat_template.jinja").read_text() == "{{ messages }}"


@pytest.mark.parametrize("file", ["generation_config.json", "additional_chat_templates/tools.jinja"])
def test_a_file_that_would_become_a_part_of_the_checkpoint_is_refused_by_name(folder, refusal, file):
    (folder / "m" / file).parent.mkdir(parents=True)
    (folder / "m" / file).write_text("{}")
    assert refusal(f"train pretrain texts --out m {TINY}") == (
        f"m/{file.split('/')[0]} would become a part of a model that it was not made for; choose another --out"
    )


@pytest.mark.parametrize("file", ["log.csv", "loss.png", "tokens/mine.txt", "tensorboard/mine.txt"])
def test_files_of_no_run_where_one_would_write_its_own_are_refused_by_name(folder, refusal, file):
    (folder / "m" / "training" / file).parent.mkdir(parents=True)
    (folder / "m" / "training" / file).write_text("mine")
    assert refusal(f"train pretrain texts --out m {TINY}") == (
        f"m/training/{file.split('/')[0]} exists already, of no run, and would be overwritten; choose another --out"
    )
    assert (folder / "m" / "training" / file).read_text() == "mine"


def test_half_a_vocabulary_is_not_overwritten_by_another(folder, gpt2, refusal):
    gpt2("train tokenizer texts --out words --vocab-size 300")
    (folder / "m").mkdir()
    shutil.copy("words/merges.txt", "m/merges.txt")
    assert refusal(f"train pretrain texts --out m --steps 1 --tokenizer words {TINY.replace('257', '300')}") == (
        "m has another vocabulary than words, which would be overwritten; choose another --out"
    )


def test_the_precision_that_pays_here_is_said_and_kept(folder, gpt2, monkeypatch):
    monkeypatch.setattr("model.training.precision.compare_products", lambda device, width: Products(5.0))
    _, _, reported = gpt2(f"train pretrain texts --out m --steps 2 {SIZES} --batch-size 4")
    assert "matrices are multiplied in float32: bfloat16 takes 5.0 times as long as float32 here\n" in reported
    assert json.loads((folder / "m" / "training" / "run.json").read_text())["recipe"]["bfloat16"] is False
    gpt2(f"train pretrain texts --out n --steps 2 {SIZES} --batch-size 4 --precision bfloat16")
    _, _, reported = gpt2("train pretrain --resume --out n --device cpu")
    assert "this run began in bfloat16 and goes on in it, although that takes 5.0 times as long as float32 here" in reported


def test_a_disk_without_room_is_one_line_and_the_earlier_state_stays(folder, gpt2):
    """Played by a limit on the size of files, which the state alone exceeds; resumed, even a finished run saves it anew."""
    gpt2(f"train pretrain texts --out m --steps 2 {TINY}")
    state = folder / "m" / "training" / "state.safetensors"
    before = contents(folder / "m")
    limit = state.stat().st_size - 1000
    room = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}
    with started("train pretrain --resume --out m --device cpu", folder, **room) as process:
        _, reported = process.communicate(timeout=600)
    assert process.returncode == 2
    assert reported.splitlines()[-1].startswith("gpt2: ")
    assert reported.splitlines()[-1].endswith("; what was saved before is as it was")
    assert "File too large" in reported
    assert "Traceback" not in reported
    after = contents(folder / "m")
    assert after.keys() == before.keys()
    changed = {file.name for file, old in before.items() if after[file][1] != old[1]}
    assert changed <= {"loss.png", "README.md"}, "the card tells of a machine with another number of threads"


def limited_to(size):
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}


@pytest.mark.parametrize("size", [1000, 4000])
def test_a_run_that_found_no_room_to_begin_leaves_nothing_and_another_one_begins(folder, gpt2, size):
    """The vocabulary of the first, or half of it, used to be in the way of one with other options."""
    with started(f"train pretrain texts --out m --steps 2 {TINY}", folder, **limited_to(size)) as process:
        _, reported = process.communicate(timeout=600)
    assert process.returncode == 2
    *_, last = reported.splitlines()
    assert last.startswith("gpt2: m/")
    assert last.endswith(": File too large; raise the limit on the size of files (ulimit -f); what was saved before is as it was")
    assert not (folder / "m").exists()
    assert gpt2(f"train pretrain texts --out m --steps 2 {TINY.replace('257', '300')}")[0] == 0


def test_half_a_vocabulary_is_taken_away_again(folder, gpt2, refusal, monkeypatch):
    """A vocab.json without its merges.txt used to be in the way of a second try."""

    def replace_all_but_merges(file, write):
        if file.name == "merges.txt":
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        replace_file(file, write)

    with monkeypatch.context() as full:
        full.setattr("model.checkpoint.replace_file", replace_all_but_merges)
        assert refusal("train tokenizer texts --out m --vocab-size 300") == (
            "m/merges.txt: No space left on device; make room there, or name another --out; what was saved before is as it was"
        )
    assert not (folder / "m").exists()
    assert gpt2("train tokenizer texts --out m --vocab-size 300")[0] == 0


def test_lines_that_nobody_can_keep_end_no_run(folder):
    """Standard error on a full disk used to be the end of it."""
    command = [sys.executable, "-m", "app", *shlex.split("train tokenizer texts --out m --vocab-size 300")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stderr=full, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert (done.returncode, done.stdout) == (0, b"gpt2 train pretrain --tokenizer m\n")


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def closed_terminal():
    terminal, program_end = os.openpty()
    os.close(terminal)
    return program_end


@pytest.mark.parametrize("nobody", [closed_pipe, closed_terminal])
def test_a_run_goes_on_to_its_end_when_whoever_read_its_progress_is_gone(folder, nobody):
    """`2>&1 | head -1`, or a connection that broke, used to be the end of it, unsaved and unsaid."""
    command = [sys.executable, "-m", "app", *shlex.split(f"train pretrain texts --out m --steps 3 {TINY}")]
    errors = nobody()
    done = subprocess.run(command, stderr=errors, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    os.close(errors)
    assert (done.returncode, done.stdout) == (0, b"gpt2 serve --model m\n")
    assert [row["step"] for row in read_log(folder / "m" / "training" / "log.csv") if row["loss"]] == ["1", "2", "3"]


def test_a_result_that_nobody_can_keep_is_one_line_and_no_success(folder):
    command = [sys.executable, "-m", "app", *shlex.split("train tokenizer texts --out m --vocab-size 300")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1] == "gpt2: standard output: No space left on device; the command has ended there"
    assert "Traceback" not in done.stderr.decode()


def test_a_weighted_set_too_small_for_the_context_is_refused_before_anything_is_begun(folder, gpt2):
    (folder / "small.txt").write_text("A few words.")
    code, _, reported = gpt2(f"train pretrain texts small.txt --weights 1,1 --out m --steps 2 {TINY}")
    assert code == 2
    assert "gpt2: --weights: the text of small.txt has " in reported
    assert "too few for a context" in reported
    assert not (folder / "m").exists()


def test_what_weights_make_of_the_texts_is_told_in_a_line(folder, gpt2):
    (folder / "small.txt").write_text("A few words of a text that is not long. " * 60)
    code, _, reported = gpt2(f"train pretrain texts small.txt --weights 3,1 --out m --steps 10 {TINY}")
    assert code == 0
    (line,) = (line for line in reported.splitlines() if line.startswith("weights: "))
    times = r"\d\.\d times through it"
    assert re.fullmatch(rf"weights: texts 75 % of the tokens, {times}; small\.txt 25 % of the tokens, {times}", line)
