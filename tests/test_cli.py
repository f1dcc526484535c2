"""The command line, as a process of its own: what it says, what it prints, and how it exits."""

import contextlib
import io
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.cli import build_parser, main
from app.settings import Settings


@pytest.fixture
def gpt2(tmp_path, tiny_checkpoint):
    """Run `gpt2` with a clean environment in an empty directory."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GPT2_")}
    path = os.pathsep.join(filter(None, [os.getcwd(), environment.get("PYTHONPATH")]))  # noqa: PTH109  # the repository

    def run(*arguments, model=str(tiny_checkpoint), python=(), **variables):
        given = {"GPT2_MODEL": model, "GPT2_DEVICE": "cpu", **variables}
        command = [sys.executable, *python, "-m", "app", *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": path} | given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"GPT2_API_KEYS": "alice:too-short"}, "GPT2_API_KEYS, entry 1: a key has 16 to 512 characters"),
        ({"GPT2_API_KEYS_FILE": "absent"}, "GPT2_API_KEYS_FILE: No such file: absent"),
        ({"GPT2_API_KEYS_FILE": "/dev/zero"}, "GPT2_API_KEYS_FILE: /dev/zero is no file but a device"),
    ],
)
def test_keys_that_are_none_are_refused_before_anything_is_loaded(gpt2, variables, message):
    result = gpt2("serve", "--port", "0", model="no-such-model", **variables)
    assert result.returncode == 78
    assert result.stderr.startswith(f"gpt2: {message}")
    assert "too-short" not in result.stderr
    assert "no-such-model" not in result.stderr


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    output = capsys.readouterr().out
    assert "serve" in output
    assert "generate" in output


def test_help_of_serve_names_every_setting_with_its_description_and_default(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    output = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "--api-keys " not in output, "the list of processes would show them to everybody"
    for name, field in Settings.model_fields.items():
        if name == "api_keys":
            continue
        assert f"--{name.replace('_', '-')} " in output
        assert re.sub(r"\s+", " ", field.description) in output
    assert "(default: 8000)" in output
    assert "GPT2_" in output


def test_help_needs_no_torch():
    code = "import sys; from app.cli import build_parser; build_parser().format_help(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def imported(importtime):
    """The modules that a process with `-X importtime` named on its standard error."""
    return {line.rpartition("|")[2].strip() for line in importtime.splitlines() if line.startswith("import time:")}


# What takes long to import, or is for training: none of it is for serving by the native step.
UNNEEDED = {"torch", "transformers", "tokenizers", "huggingface_hub", "matplotlib", "tqdm", "tensorboard"}


@pytest.mark.usefixtures("needs_native")
def test_to_generate_natively_takes_no_torch(gpt2):
    result = gpt2("generate", "The old man", "--max-new-tokens", "3", python=("-X", "importtime"))
    assert (result.returncode, result.stdout[:11]) == (0, "The old man")
    assert "model.native.runner" in imported(result.stderr)
    assert not imported(result.stderr) & UNNEEDED


@pytest.mark.usefixtures("needs_native")
def test_to_serve_natively_takes_no_torch(serving):
    """From the start over requests of each kind to the end."""
    address, lines = serving("--port", "0", "--log-format", "json", python=("-X", "importtime"))
    assert httpx.get(address + "/info").json()["backend"] == "native"
    request = {"parameters": {"max_new_tokens": 3, "temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.1}}
    for path, prompt in (("/generate", "inputs"), ("/generate_stream", "inputs"), ("/v1/completions", "prompt")):
        body = {prompt: "The old man"} | (request if prompt == "inputs" else {"max_tokens": 3})
        assert httpx.post(address + path, json=body, timeout=60).status_code == 200
    for path in ("/", "/metrics", "/health", "/v1/models"):
        assert httpx.get(address + path).status_code == 200
    serving.process.send_signal(signal.SIGTERM)
    rest = serving.process.communicate(timeout=60)[1]
    assert serving.process.returncode == 0
    modules = imported("".join(lines) + rest)
    assert "uvicorn" in modules
    assert not modules & UNNEEDED


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert re.fullmatch(r"gpt2 \d+\.\d+.*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("", "the following arguments are required: COMMAND; see gpt2 --help"),
        ("sing", "COMMAND: invalid choice: 'sing'"),
        ("--foo serve --bar", "gpt2 has no option --foo; see gpt2 --help"),
        ("--foo train --bar finetune --baz --out x", "gpt2 has no option --foo; see gpt2 --help"),
        ("train --bar finetune --baz --out x", "gpt2 train has no option --bar; see gpt2 train --help"),
        ("serve --no-such-option 1", "gpt2 serve has no option --no-such-option; see gpt2 serve --help"),
        ("serve --max-runing=2", "gpt2 serve has no option --max-runing; the nearest is --max-running; see gpt2 serve --help"),
        ("generate", "the following arguments are required: prompt; see gpt2 generate --help"),
        ("generate a b", "'b' is an argument too many; see gpt2 generate --help"),
        ("generate a --top-k many", "--top-k: invalid int value: 'many'; see gpt2 generate --help"),
        ("bench --concurrency 2 --rate 1", "--rate: not allowed with argument --concurrency; see gpt2 bench --help"),
        ("inspect a --map x", "--map: 'x' is no layer and no head, as 3 or 3.5; see gpt2 inspect --help"),
        ("export --precision f8 --out a.gguf", "--precision: invalid choice: 'f8'"),
        ("train", "the following arguments are required: KIND; see gpt2 train --help"),
        ("train pretrain a.txt", "the following arguments are required: --out; see gpt2 train pretrain --help"),
        ("train finetune --beta 1 --out x", "gpt2 train finetune has no option --beta"),
        ("train finetune a --out x b --beta 1 c", "gpt2 train finetune has no option --beta"),
        ("eval --max-bytes 3", "the following arguments are required: PATH; see gpt2 eval --help"),
    ],
)
def test_a_wrong_call_is_one_line_that_names_what_is_wrong_and_where_help_is(call, line, capsys):
    assert main(shlex.split(call)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"gpt2: {line}")
    assert printed.err.count("\n") == 1
    assert printed.err.endswith(" --help\n")


@pytest.mark.parametrize(
    ("call", "paths"),
    [
        ("train finetune a b --out x", "a b"),
        ("train finetune a --out x b", "a b"),
        ("train finetune --out x a --lora b --lora-rank 3 c", "a b c"),
        ("train finetune --out x", ""),
        ("train dpo --out x a --lora -- b -c", "a b -c"),
        ("train tokenizer a --out x b", "a b"),
        ("eval a --max-bytes 3 b", "a b"),
    ],
)
def test_paths_may_stand_apart(call, paths):
    assert build_parser().parse(shlex.split(call)).paths == [Path(path) for path in paths.split()]


def test_a_wrong_value_with_line_breaks_is_one_line_too(capsys):
    assert main(["generate", "a", "--top-k", "ten\ntwenty\rthirty"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """No variables but those that a test sets, and no .env but its own."""
    for name in [name for name in os.environ if name.startswith("GPT2_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def complaint(environment, capsys):
    """The one line with which a command refuses to start."""

    def run(*arguments, code=78):
        assert main(arguments) == code
        output = capsys.readouterr().err
        assert output.startswith("gpt2: ")
        assert output.count("\n") == 1, output
        return output

    return run


@pytest.mark.parametrize(
    ("option", "value"), [("--port", "70000"), ("--max-running", "-1"), ("--device", "tpu"), ("--threads", "x")]
)
def test_a_wrong_option_is_named_with_its_value(complaint, option, value):
    assert f"{option}: '{value}' is refused" in complaint("serve", option, value)


def test_a_wrong_variable_is_named_as_a_variable(complaint, environment):
    environment.setenv("GPT2_PORT", "seventy")
    assert "GPT2_PORT: 'seventy' is refused" in complaint("serve")


def test_a_wrong_line_in_the_file_is_named_too(complaint, tmp_path):
    (tmp_path / ".env").write_text("GPT2_MAX_WAITING=-3\n")
    assert "GPT2_MAX_WAITING: '-3' is refused" in complaint("serve")


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(complaint):
    assert "device cuda is asked for, but PyTorch finds no CUDA device here" in complaint("generate", "a", "--device", "cuda")


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a CUDA device here")
def test_whether_there_is_a_cuda_device_is_found_out_without_torch(gpt2):
    result = gpt2("generate", "a", "--device", "cuda", python=("-X", "importtime"))
    assert (result.returncode, "torch" in imported(result.stderr)) == (78, False)


@pytest.mark.usefixtures("needs_native")
def test_kernels_that_are_not_there_are_refused_by_name(complaint, tiny_checkpoint):
    foreign = "neon" if platform.machine() in ("x86_64", "AMD64") else "avx2"
    message = complaint("generate", "a", "--device", "cpu", "--model", str(tiny_checkpoint), "--kernels", foreign)
    assert foreign in message
    assert "set GPT2_KERNELS to one of these" in message


BROKEN = [
    (file, damage) for file in ("config.json", "model.safetensors", "vocab.json") for damage in ("missing", "empty", "garbage")
]


def damaged(checkpoint, directory, file, damage):
    """A copy of a checkpoint, one of whose files is missing, empty or garbage."""
    shutil.copytree(checkpoint, directory)
    (directory / file).unlink()
    if damage != "missing":
        (directory / file).write_bytes(b"" if damage == "empty" else b"\xff\x00garbage" * 10)
    return str(directory)


@pytest.mark.parametrize(("file", "damage"), [*BROKEN, ("merges.txt", "missing"), ("merges.txt", "garbage")])
def test_a_broken_checkpoint_is_refused_with_the_file_named(complaint, tmp_path, tiny_checkpoint, file, damage):
    model = damaged(tiny_checkpoint, tmp_path / "broken", file, damage)
    line = complaint("generate", "a", "--device", "cpu", "--model", model, code=2)
    assert line.startswith("gpt2: --model: ")
    assert model in line
    assert file in line


@pytest.fixture
def no_models(tmp_path, tiny_checkpoint):
    """By what is wrong with each: a name that somebody might give as a model, and a part of what is said of it."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "empty").mkdir()
    damaged(tiny_checkpoint, tmp_path / "damaged", "model.safetensors", "garbage")
    return {
        "not there": ("no/such/model", "no such directory: 'no/such/model'"),
        "an adapter": ("adapter", "by gpt2 train merge --adapter adapter --out CHECKPOINT"),
        "without a checkpoint": ("empty", "empty has no config.json"),
        "damaged": ("damaged", "damaged/model.safetensors"),
    }


@pytest.mark.parametrize("fault", ["not there", "an adapter", "without a checkpoint", "damaged"])
@pytest.mark.parametrize("command", [["generate", "The"], ["serve", "--port", "0"]])
def test_what_is_no_model_is_refused_in_one_line_by_what_named_it(gpt2, no_models, command, fault):
    model, reason = no_models[fault]
    for named_by, code in (("--model", 2), ("GPT2_MODEL", 78)):
        result = gpt2(*command, "--model", model) if named_by == "--model" else gpt2(*command, model=model)
        assert (result.returncode, result.stderr.count("\n")) == (code, 1), result.stderr
        assert result.stderr.startswith(f"gpt2: {named_by}: ")
        assert reason in result.stderr


def test_generate_prints_the_prompt_and_its_continuation(gpt2):
    results = [gpt2("generate", "The old man", "--max-new-tokens", "8", "--temperature", "1", "--seed", "7") for _ in range(2)]
    assert [result.returncode for result in results] == [0, 0]
    assert results[0].stdout == results[1].stdout
    assert results[0].stdout.startswith("The old man")
    assert len(results[0].stdout) > len("The old man\n")
    assert results[0].stderr == ""


def test_generate_writes_out_what_the_outputs_encoding_lacks(gpt2):
    result = gpt2("generate", "naïve 你", "--max-new-tokens", "1", PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert result.stdout.startswith(r"na\xefve \u4f60")


def test_generate_reads_a_prompt_from_standard_input(tiny_checkpoint):
    command = [
        sys.executable,
        "-m",
        "app",
        "generate",
        "-",
        "--model",
        str(tiny_checkpoint),
        "--device",
        "cpu",
        "--max-new-tokens",
        "2",
    ]
    result = subprocess.run(command, input="from a pipe", capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.startswith("from a pipe")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens"),
        (["--temperature", "-1"], "--temperature"),
        (["--temperature", "nan"], "--temperature"),
        (["--top-p", "2"], "--top-p"),
        (["--seed", "-1"], "--seed"),
        (["--stop", ""], "--stop"),
    ],
)
def test_generate_names_a_wrong_option(capsys, arguments, named):
    assert main(["generate", "a", *arguments]) == 2
    assert named in capsys.readouterr().err


def test_generate_says_which_prompt_is_no_utf_8(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8"))
    assert main(["generate", "-"]) == 2
    assert capsys.readouterr().err == "gpt2: standard input is no UTF-8 (byte 1)\n"
    assert main(["generate", "\udcff"]) == 2
    assert capsys.readouterr().err == "gpt2: '\\udcff' is no UTF-8\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_command_that_was_started_with_closed_streams_ends_as_any_other(tiny_checkpoint, closed):
    command = shlex.join(
        [sys.executable, "-m", "app", "generate", "The old man", "--max-new-tokens", "3", "--model", str(tiny_checkpoint)]
    )
    result = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr


def test_a_prompt_from_a_closed_standard_input_is_empty(tiny_checkpoint):
    command = shlex.join([sys.executable, "-m", "app", "generate", "-", "--max-new-tokens", "3", "--model", str(tiny_checkpoint)])
    result = subprocess.run(["sh", "-c", f"{command} <&-"], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False)


@pytest.mark.parametrize(
    "line",
    [
        "train pretrain a.txt --out ''",
        "train pretrain '' --out m",
        "train pretrain a.txt --out m --tokenizer ''",
        "train tokenizer a.txt --out ''",
        "train finetune a.txt --out ''",
        "train merge --adapter '' --out m",
        "export --out ''",
        "eval ''",
    ],
)
def test_an_empty_name_as_of_a_variable_without_a_value_is_no_name(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"gpt2: .*: its name is empty; see gpt2 .*--help\n", printed.err)
    assert list(tmp_path.iterdir()) == []


def test_generate_writes_from_nothing(gpt2):
    result = gpt2("generate", "", "--max-new-tokens=5")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip()


def test_generate_ends_quietly_when_nobody_reads_on(tiny_checkpoint):
    command = [
        sys.executable,
        "-m",
        "app",
        "generate",
        "a",
        "--model",
        str(tiny_checkpoint),
        "--device",
        "cpu",
        "--max-new-tokens",
        "500",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(120) != 0


@pytest.fixture
def serving(gpt2, tmp_path, tiny_checkpoint):
    """Start `gpt2 serve` and read its start-up lines up to the one that says it is ready."""
    with contextlib.ExitStack() as processes:

        def start(*arguments, python=(), **variables):
            environment = {k: v for k, v in os.environ.items() if not k.startswith("GPT2_")} | {"PYTHONPATH": os.getcwd()}  # noqa: PTH109
            process = subprocess.Popen(
                [sys.executable, *python, "-m", "app", "serve", *arguments],
                cwd=tmp_path,
                env=environment | {"GPT2_MODEL": str(tiny_checkpoint), "GPT2_DEVICE": "cpu", **variables},
                stderr=subprocess.PIPE,
                text=True,
            )
            start.process = process
            processes.callback(process.stderr.close)
            processes.callback(process.wait)
            processes.callback(process.kill)
            lines = []
            while "ready at" not in "".join(lines[-1:]):
                lines.append(process.stderr.readline())
                assert lines[-1], "".join(lines)
            return re.search(r"ready at (http://[\d.]+:\d+)", lines[-1])[1], lines

        yield start


def test_start_up_tells_what_it_loads_and_where_it_listens(serving, tiny_checkpoint):
    address, lines = serving("--port", "0", "--log-format", "console")
    output = "".join(lines)
    assert str(tiny_checkpoint) in output
    assert re.search(r"M parameters, (float32|bfloat16|int8) on cpu, by the (native|torch) runner", output)
    assert "cache slots" in output
    assert all(line.startswith("gpt2: ") for line in lines)
    assert httpx.get(address + "/health").status_code == 200


def test_start_up_is_told_in_json_where_no_terminal_is(serving):
    _, lines = serving("--port", "0")
    assert "ready at" in json.loads(lines[-1])["event"]
    assert all(json.loads(line)["level"] == "info" for line in lines)


def test_options_go_before_variables_before_the_file(serving, tmp_path):
    (tmp_path / ".env").write_text("GPT2_MAX_RUNNING=3\nGPT2_MAX_WAITING=33\nGPT2_PREFILL_CHUNK=64\n")
    address, _ = serving("--port", "0", "--max-running", "5", GPT2_MAX_RUNNING="4", GPT2_MAX_WAITING="44")
    info = httpx.get(address + "/info").json()
    assert (info["max_running"], info["max_waiting"], info["prefill_chunk"]) == (5, 44, 64)


@pytest.mark.parametrize("command", [["eval", "text.txt"], ["inspect", "The"], ["export", "--out", "out.gguf"]])
def test_an_adapter_is_no_model_and_the_command_that_makes_one_of_it_is_named(gpt2, tmp_path, no_models, command):
    (tmp_path / "text.txt").write_text("The sea.")
    model, reason = no_models["an adapter"]
    result = gpt2(*command, "--model", model)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert reason in result.stderr
