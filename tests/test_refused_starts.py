"""What `gpt2 serve` cannot start with: one line that names the setting, exit code 78, before anything is loaded."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which

import pytest

from app.errors import StartupError
from app.listening import take_address

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 120
# The service where so much memory is available: no machine of a test's is that small.
WITH_MEMORY = "import sys, model.choice; model.choice.available_bytes = lambda: {}; from app.cli import main; sys.exit(main({!r}))"
# One that waits for a line before it loads, with the address in its hands.
WAITING = """
import sys
import app.bootstrap
from app.cli import main

def load(*arguments, really=app.bootstrap.load):
    print("gpt2: waits", file=sys.stderr, flush=True)
    sys.stdin.readline()
    return really(*arguments)

app.bootstrap.load = load
sys.exit(main({!r}))
"""

# One whose engine does not come up.
BROKEN = """
import sys
from model.native.runner import NativeRunner
from app.cli import main

def warm_up(self):
    raise RuntimeError("this is broken")

NativeRunner.warm_up = warm_up
sys.exit(main(["serve", "--port", "0"]))
"""

# One in a container that allows no more threads.
WITHOUT_THREADS = """
import sys
import threading
from app.cli import main

def start(thread, really=threading.Thread.start):
    if {refused!r} in thread.name:
        raise RuntimeError("can't start new thread")
    really(thread)

threading.Thread.start = start
sys.exit(main(["serve", "--port", "0"]))
"""

# And one that can read how much energy is taken.
WITH_ENERGY = """
import app.bootstrap

class Counter:
    name = "rapl"

    def joules(self):
        return 0.0

app.bootstrap.open_counter = lambda *arguments: Counter()
"""


@pytest.fixture
def serve(tmp_path, tiny_checkpoint):
    """Start `gpt2 serve` in an empty directory, without settings but those given; it ends with the test."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GPT2_")}
    with ExitStack() as processes:

        def serve(*arguments, before=(), code=None, **variables):
            """`code` is run in the place of the service itself."""
            given = {"GPT2_MODEL": str(tiny_checkpoint), "GPT2_DEVICE": "cpu", "GPT2_LOG_FORMAT": "console"} | variables
            program = ["-m", "app", "serve", *arguments] if code is None else ["-c", code]
            process = subprocess.Popen(
                [*before, sys.executable, *program],
                cwd=tmp_path,
                env=clean | {"PYTHONPATH": str(ROOT)} | given,
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.callback(process.stdin.close)
            processes.callback(process.stderr.close)
            processes.callback(process.wait)
            processes.callback(process.kill)
            return process

        yield serve


@pytest.fixture
def refusal(serve):
    """The line with which `gpt2 serve` ends; nothing was said before it unless it `loads`."""

    def refusal(*arguments, loads=False, **given):
        process = serve(*arguments, **given)
        output = process.communicate(timeout=PATIENCE_SECONDS)[1]
        assert process.returncode == 78, output
        *before, last = output.splitlines()
        assert loads or not before, output
        assert all(line.startswith("gpt2: ") for line in before), output
        return last

    return refusal


@contextmanager
def taken_port(host="127.0.0.1"):
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_in_use_is_found_before_anything_is_loaded(refusal, host):
    with taken_port() as port:
        line = refusal("--port", str(port), GPT2_HOST=host, GPT2_MODEL="no/such/model")
    assert line.startswith(f"gpt2: GPT2_PORT: port {port} of {host} is in use already; ")


def test_a_port_that_is_taken_while_the_service_loads_is_refused_too(serve):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))  # it does not listen yet, so that both may have it
        port = other.getsockname()[1]
        process = serve(code=WAITING.format(["serve", "--port", str(port)]))
        assert process.stderr.readline() == "gpt2: waits\n"
        other.listen()
        output = process.communicate("on\n", timeout=PATIENCE_SECONDS)[1]
    assert process.returncode == 78
    assert output.splitlines()[-1].startswith(f"gpt2: GPT2_PORT: port {port} of 127.0.0.1 is in use already; ")
    assert "Traceback" not in output
    assert "ready at" not in output


def test_nobody_is_let_in_before_the_service_is_ready(serve):
    with taken_port() as port:
        pass
    process = serve(code=WAITING.format(["serve", "--port", str(port)]))
    assert process.stderr.readline() == "gpt2: waits\n"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    process.stdin.write("on\n")
    process.stdin.flush()
    assert f"ready at http://127.0.0.1:{port} " in lines_until_ready(process)[-1]
    socket.create_connection(("127.0.0.1", port)).close()


def lines_until_ready(process):
    lines = [process.stderr.readline()]
    while lines[-1] and "ready at" not in lines[-1]:
        lines.append(process.stderr.readline())
    return lines


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", "GPT2_HOST: 192.0.2.1 is no address of this machine"),  # of those for documentation (RFC 5737)
        ("no..name", "GPT2_HOST: 'no..name' is no address, nor a name that has one here"),
        ("nowhere.invalid", "GPT2_HOST: 'nowhere.invalid' is no address, nor a name that has one here"),
    ],
)
def test_an_address_that_is_not_this_machines_is_refused(refusal, host, message):
    assert refusal("--port", "0", GPT2_HOST=host, GPT2_MODEL="no/such/model").startswith(f"gpt2: {message}")


# Root's rights without those that matter here; others lack them anyway.
UNPRIVILEGED = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if sys.platform == "linux" and os.geteuid() == 0 else []
needs_setpriv = pytest.mark.skipif(
    bool(UNPRIVILEGED) and which("setpriv") is None, reason="root's rights can be dropped by setpriv"
)


def first_free_port():
    file = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    return int(file.read_text()) if file.exists() else 0


@needs_setpriv
@pytest.mark.skipif(first_free_port() <= 1, reason="here everybody may listen on any port")
def test_a_port_that_only_root_may_have_is_refused(refusal):
    port = str(first_free_port() - 1)
    line = refusal("--port", port, before=UNPRIVILEGED, GPT2_MODEL="no/such/model")
    assert line.startswith(f"gpt2: GPT2_PORT: port {port} of 127.0.0.1 may not be listened on by this user")
    assert f"none below {first_free_port()} may" in line


@needs_setpriv
def test_a_file_of_keys_that_cannot_be_read_is_refused(refusal, tmp_path):
    file = tmp_path / "keys"
    file.write_text("alice:0123456789abcdef\n")
    file.chmod(0)
    line = refusal("--port", "0", before=UNPRIVILEGED, GPT2_API_KEYS_FILE=str(file), GPT2_MODEL="no/such/model")
    assert line == f"gpt2: GPT2_API_KEYS_FILE: {file} cannot be read: Permission denied"


def test_a_model_that_is_not_there_is_refused_by_its_setting(refusal, tmp_path):
    absent = tmp_path / "absent"
    assert refusal("--port", "0", GPT2_MODEL=str(absent)) == f"gpt2: GPT2_MODEL: no such directory: {str(absent)!r}"


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a CUDA device here")
def test_a_card_that_is_not_there_is_refused_by_its_setting(refusal):
    line = refusal("--port", "0", GPT2_DEVICE="cuda", GPT2_MODEL="no/such/model")
    assert "device cuda is asked for" in line
    assert "GPT2_DEVICE" in line


@pytest.mark.usefixtures("needs_native")
def test_more_slots_than_memory_are_refused_with_the_number_that_would_fit(refusal):
    line = refusal(loads=True, code=WITH_MEMORY.format(200_000_000, ["serve", "--port", "0", "--max-running", "1024"]))
    assert line.startswith("gpt2: GPT2_MAX_RUNNING: no room for 1024 cache slots: weights in int8 take ")
    assert "200 MB are available to this process; GPT2_MAX_RUNNING=" in line


@pytest.mark.usefixtures("needs_native")
def test_a_model_that_is_larger_than_the_memory_is_refused(refusal):
    line = refusal(loads=True, code=WITH_MEMORY.format(1_000_000, ["serve", "--port", "0"]))
    assert "no room for this model: " in line
    assert line.endswith("give it more memory, or set GPT2_MODEL to a smaller one")


@pytest.mark.usefixtures("needs_native")
def test_where_no_number_of_slots_is_asked_for_little_memory_means_fewer(serve):
    lines = lines_until_ready(serve(code=WITH_MEMORY.format(105_000_000, ["serve", "--port", "0"])))
    output = "".join(lines)
    assert "gpt2: 105 MB of memory are available, room for " in output
    assert "ready at" in lines[-1]


@pytest.mark.parametrize("refused", ["", "gpt2-engine", "gpt2-power"], ids=["all", "engine", "power"])
def test_a_limit_of_processes_that_leaves_no_thread_is_told(refusal, refused):
    line = refusal(code=WITH_ENERGY + WITHOUT_THREADS.format(refused=refused), loads=True)
    assert line.startswith("gpt2: no more threads may be started: raise the limit of processes")
    assert "GPT2_THREADS" in line


@pytest.mark.usefixtures("needs_native")
def test_an_engine_that_does_not_come_up_is_no_fault_of_the_settings(serve):
    process = serve(code=BROKEN)
    output = process.communicate(timeout=PATIENCE_SECONDS)[1]
    assert process.returncode == 70
    assert "this is broken" in output
    assert "ready at" not in output


def test_all_addresses_of_a_name_are_taken_on_one_port():
    sockets = take_address("", 0)
    try:
        assert len({taken.getsockname()[1] for taken in sockets}) == 1
        assert sockets[0].getsockname()[0] in ("0.0.0.0", "::")
    finally:
        for taken in sockets:
            taken.close()


def test_of_an_address_that_is_refused_nothing_is_kept():
    """Half of localhost would be in nobody's hands, and in the way of the next try."""
    with taken_port() as port:
        for _ in range(2):
            with pytest.raises(StartupError, match="in use already"):
                take_address("localhost", port)
    for taken in take_address("localhost", port):
        taken.close()


def test_a_misspelt_setting_is_told_in_a_line_of_the_log_and_the_service_starts(serve, tmp_path):
    (tmp_path / ".env").write_text('GPT2_PORT="8001\n')
    lines = lines_until_ready(serve("--port", "0", "--log-format", "json", GPT2_MAXRUNNING="2"))
    warnings = [json.loads(line)["event"] for line in lines if '"warning"' in line]
    assert "GPT2_MAXRUNNING in the environment is no setting; the nearest is GPT2_MAX_RUNNING" in warnings
    assert any(line.startswith("line 1 of .env cannot be parsed") for line in warnings)
    assert not any("python-dotenv" in line for line in lines), "told once, and in our own format"


def test_a_file_of_settings_that_is_no_text_is_refused(refusal, tmp_path):
    (tmp_path / ".env").write_bytes(b"\xff")
    assert refusal() == "gpt2: .env cannot be read: it is not UTF-8 (byte 0); save it as UTF-8"
