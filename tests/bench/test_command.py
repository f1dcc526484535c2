"""`gpt2 bench`, from the command line to the report."""

import json
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from app.cli import main
from tests.bench.raw import HEAD, json_answer, stream

TOKEN = {"token": {"id": 1, "text": "a"}, "generated_text": None}
LAST = TOKEN | {"generated_text": "a", "details": {"input_length": 1}}
MODELS = json_answer("200 OK", '{"data": [{"id": "raw"}]}')
NO_TOKENIZER = json_answer("404 Not Found", "{}")
REFUSAL = json_answer("429 Too Many Requests", '{"error": "busy"}')


@pytest.fixture
def bench(capsys):
    """Run `gpt2 bench` with few short requests; its exit code, output and errors."""

    def run(url, *arguments):
        code = main(["bench", "--url", url, "--requests", "6", "--output-tokens", "5", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("pace", [("--concurrency", "3"), ("--rate", "500")], ids=["closed", "open"])
@pytest.mark.parametrize("dialect", ["generate", "completions"])
def test_it_prints_what_was_measured(dialect, pace, bench, server, tiny_checkpoint):
    code, output, _ = bench(server.url, "--dialect", dialect, "--prompt-tokens", "4-9", *pace)
    assert code == 0
    lines = [line.split() for line in output.splitlines()]
    assert f"{server.url}, dialect {dialect}, model tiny-gpt2" in output
    assert ["requests", "6", "whole,", "0", "failed,", "of", "6"] in lines
    assert next(line for line in lines if line[:2] == ["tokens/s", "out"])[3:] == ["(30", "tokens)"]
    assert {"first", "between", "whole"} < {line[0] for line in lines if len(line) == 7}
    assert "note" not in output


def test_a_key_is_taken_from_the_option_or_the_environment(bench, start_server, monkeypatch):
    server = start_server(api_keys="a-key-for-the-load")
    monkeypatch.delenv("GPT2_API_KEY", raising=False)
    code, _, errors = bench(server.url)
    assert code == 2
    assert "give its key with --api-key or GPT2_API_KEY" in errors
    assert bench(server.url, "--api-key", "a-key-for-the-load")[0] == 0
    monkeypatch.setenv("GPT2_API_KEY", "a-key-for-the-load")
    assert bench(server.url)[0] == 0


def test_json_goes_to_a_file(bench, server, tmp_path):
    code, output, _ = bench(server.url, "--json", tmp_path / "a.json", "--seed", "3")
    found = json.loads((tmp_path / "a.json").read_text())
    assert code == 0
    assert "first token" in output
    assert (found["dialect"], found["seed"], found["requests"]) == ("generate", 3, {"planned": 6, "whole": 6, "failed": 0})
    assert (found["prompt_tokens"], found["generated_tokens"]) == (6 * 128, 6 * 5)


def test_a_report_for_which_the_disk_has_no_room_leaves_the_earlier_one_and_the_table(bench, raw_server, tmp_path):
    """Played by a limit on the size of files; it used to leave half a report, and a line that did not name it."""
    file = tmp_path / "a.json"
    file.write_text("an earlier one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        code, output, told = bench(raw_server(MODELS, NO_TOKENIZER, stream(LAST)).url, "--json", file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert "first token" in output
    assert told == f"gpt2: cannot write {file}: File too large; what was measured is in the table\n"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "an earlier one")]


def test_a_device_that_takes_the_report_stays_one(bench, raw_server):
    assert bench(raw_server(MODELS, NO_TOKENIZER, stream(LAST)).url, "--json", "/dev/null")[0] == 0
    assert Path("/dev/null").is_char_device()


def test_a_folder_that_takes_no_report_is_refused_before_anything_is_measured(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("app.commands.bench.os.access", lambda file, mode: file != tmp_path)  # root may write to all but some disks
    file = tmp_path / "a.json"
    code, output, told = bench("http://127.0.0.1:1", "--json", file)
    assert (code, output) == (2, "")
    assert told == f"gpt2: {file}: it cannot be written there; name another file\n"


def test_with_json_on_standard_output_the_table_is_beside_it(bench, raw_server):
    _, output, table = bench(raw_server(MODELS, NO_TOKENIZER, stream(LAST)).url, "--json", "-")
    assert json.loads(output)["requests"]["whole"] == 6
    assert "first token" in table


def test_a_plot_is_drawn_if_asked(bench, server, tmp_path):
    assert bench(server.url, "--plot", tmp_path / "a.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_shared_prefix_comes_on_top_of_the_prompt(bench, server, tmp_path):
    bench(server.url, "--prompt-tokens", "10", "--shared-prefix", "20", "--json", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["prompt_tokens"] == 6 * 30


def test_without_ignore_eos_no_field_is_sent_that_openai_lacks(bench, raw_server):
    chunk = {"choices": [{"text": "a", "finish_reason": "length"}]}
    server = raw_server(MODELS, NO_TOKENIZER, stream(chunk, end="data: [DONE]\n\n"))
    code, output, _ = bench(server.url, "--dialect", "completions", "--no-ignore-eos", "--prompt-tokens", "2")
    body = json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])
    assert code == 0
    assert body.keys() == {"model", "prompt", "max_tokens", "temperature", "stream", "stream_options"}
    assert (body["model"], body["max_tokens"], body["stream_options"]) == ("raw", 5, {"include_usage": True})
    assert "note: the server told no usage" in output
    assert "note: prompt tokens are counted by words" in output
    assert "note: 6 of 6 answers are shorter than asked" in output


def test_refused_requests_are_counted_apart(bench, raw_server):
    server = raw_server(
        MODELS, NO_TOKENIZER, stream(LAST), stream(LAST), REFUSAL, REFUSAL, stream(LAST), HEAD.encode(), stream(LAST)
    )
    code, output, _ = bench(server.url, "--concurrency", "1", "--json", "-")
    found = json.loads(output)
    assert code == 0
    assert found["requests"] == {"planned": 6, "whole": 3, "failed": 3}
    assert {error["kind"]: error["number"] for error in found["errors"]} == {"HTTP 429": 2, "cut off": 1}


def test_the_exit_code_is_1_if_every_request_failed(bench, raw_server):
    code, output, _ = bench(raw_server(MODELS, NO_TOKENIZER, stream(LAST), REFUSAL).url)
    assert code == 1
    assert "HTTP 429      6: busy" in output


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (json_answer("404 Not Found", '{"error": "not found"}'), "it may not speak this dialect"),
        (json_answer("401 Unauthorized", '{"error": "no key"}'), "HTTP 401: no key; give its key with --api-key or GPT2_API_KEY"),
        (json_answer("422 Unprocessable", '{"error": "the prompt has 9 tokens"}'), "HTTP 422: the prompt has 9 tokens"),
        (b"", "cut off"),
    ],
    ids=["404", "401", "422", "silence"],
)
def test_a_server_that_refuses_the_first_request_gets_no_load(answer, message, bench, raw_server):
    server = raw_server(MODELS, NO_TOKENIZER, answer)
    code, output, complaint = bench(server.url)
    assert (code, output, len(server.requests)) == (2, "", 3)
    assert complaint.startswith("gpt2: ")
    assert complaint.count("\n") == 1
    assert message in complaint


def test_a_server_that_is_not_there_is_named(bench, raw_server):
    code, _, complaint = bench(raw_server(b"").url.replace("127.0.0.1", "127.0.0.2"))
    assert code == 2
    assert "cannot be reached" in complaint
    assert "is the server running?" in complaint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "0"], "--concurrency is 0; it must be at least 1"),
        (["--requests", "0"], "--requests is 0; it must be at least 1"),
        (["--shared-prefix", "-1"], "--shared-prefix is -1; it must be at least 0"),
        (["--rate", "0"], "--rate is 0; it must be above 0"),
        (["--rate", "nan"], "--rate is nan; it must be above 0"),
        (["--prompt-tokens", "9-4"], "--prompt-tokens is '9-4'; it must be a number from 1, or a range such as 64-256"),
        (["--output-tokens", "many"], "--output-tokens is 'many'"),
        (["--url", "ftp://x"], "--url: 'ftp://x' is no address of a server"),
        (["--url", "http://x:99999"], "--url: "),
        (["--plot", "a.txt"], "--plot is a.txt; its name must end in .png, .svg, .pdf"),
        (["--json", "/no/such/folder/a.json"], "there is no folder /no/such/folder"),
    ],
    ids=lambda value: value[0] + value[1] if isinstance(value, list) else "",
)
def test_a_wrong_option_is_named_with_its_limit(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    output, complaint = capsys.readouterr()
    assert output == ""
    assert message in complaint
    assert complaint.count("\n") == 1


def test_a_plot_without_matplotlib_is_refused_before_the_load(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("app.commands.outputs.find_spec", lambda name: None)
    assert main(["bench", "--plot", str(tmp_path / "a.png")]) == 2
    assert "pip install 'gpt2-service[train]'" in capsys.readouterr().err


def test_ctrl_c_prints_what_has_been_measured_so_far(raw_server):
    """The last stream of this server goes on for ever, until the client has gone."""
    endless = HEAD.encode() + stream(TOKEN).partition(b"\r\n\r\n")[2]
    server = raw_server(MODELS, NO_TOKENIZER, stream(LAST), stream(LAST), endless, hangs_at=5)
    command = [sys.executable, "-m", "app", "bench", "--url", server.url, "--requests", "9", "--concurrency", "1", "--json", "-"]
    # A shell's background jobs ignore SIGINT, and all that they start.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    assert server.hung.wait(60)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    found = json.loads(output)
    assert process.returncode == 130
    assert (found["interrupted"], found["requests"]) == (True, {"planned": 9, "whole": 1, "failed": 0})
    assert any("interrupted: 1 answers were under way" in note for note in found["notes"])


def test_help_and_the_load_itself_import_nothing_heavy():
    code = (
        "import sys; from app.cli import build_parser; build_parser().format_help(); "
        "assert not {'app.bench.load', 'tqdm', 'uvloop'} & set(sys.modules); import app.bench.load, app.bench.report; "
        "assert not {'torch', 'matplotlib', 'numpy', 'fastapi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
