"""Compose's overlay with nginx and several services, and what becomes of a container whose settings are wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.chaos.service import PATIENCE_SECONDS, tiny_checkpoint
from tests.deploy.nginx import OVERLAY, ROOT, TEMPLATE, Config, defaults, overlay

BIN = Path(sys.executable).parent
FILES = ("--file=docker-compose.yml", "--file=deploy/docker-compose.scale.yml")
PROMETHEUS = ROOT / "deploy/nginx/prometheus.yml"
# Of Docker's restart manager: seconds before the first restart, and before any; a container that ran for ten begins anew.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 60.0


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Without our own settings, so that a developer's shell changes no result."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GPT2_", "COMPOSE_"))}
    return subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


def compose(*options: str, **env: str) -> dict[str, Any]:
    """Base and overlay as compose understands them. Its exit status is 0 even on errors, so stderr has to be empty."""
    result = run(BIN / "docker-compose", "--env-file=/dev/null", *FILES, *options, "config", "--format=json", **env)
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


def test_the_overlay_follows_the_compose_schema(tmp_path: Path) -> None:
    # The checker knows none of compose's own tags, and what compose makes of both files is for its own eyes in places.
    file = tmp_path / "docker-compose.yml"
    file.write_text(yaml.safe_dump(overlay()))
    result = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    assert result.returncode == 0, result.stdout + result.stderr


def test_nginx_alone_has_ports_and_they_are_this_machines_until_they_are_opened() -> None:
    services = compose("--profile=gpu")["services"]
    assert {name for name, service in services.items() if service.get("ports")} == {"nginx"}
    ports = services["nginx"]["ports"]
    assert {(port["host_ip"], port["published"], port["target"]) for port in ports} == {
        ("127.0.0.1", "443", 8443),
        ("127.0.0.1", "80", 8080),
    }
    opened = compose(GPT2_PROXY_ADDRESS="0.0.0.0", GPT2_HTTPS_PORT="8443")["services"]["nginx"]
    assert [(port["host_ip"], port["published"]) for port in opened["ports"]] == [("0.0.0.0", "8443"), ("0.0.0.0", "80")]
    assert opened["environment"]["GPT2_HTTPS_PORT"] == "8443"


@pytest.mark.parametrize("name", ["gpt2", "gpt2-gpu"])
def test_any_number_of_services_may_run_and_no_operator_can_make_them_close_before_nginx(name: str) -> None:
    service = compose("--profile=gpu", GPT2_KEEP_ALIVE_SECONDS="5")["services"][name]
    assert "container_name" not in service
    assert "ports" not in service
    assert service["environment"]["GPT2_KEEP_ALIVE_SECONDS"] == str(Settings.model_fields["keep_alive_seconds"].default)


def test_what_an_operator_sets_reaches_service_and_nginx_alike() -> None:
    services = compose(GPT2_MAX_BODY_BYTES="2048", GPT2_READ_TIMEOUT_SECONDS="3")["services"]
    for name in ("gpt2", "nginx"):
        assert services[name]["environment"]["GPT2_MAX_BODY_BYTES"] == "2048"
        assert services[name]["environment"]["GPT2_READ_TIMEOUT_SECONDS"] == "3"


def test_nginx_can_do_no_more_than_it_must() -> None:
    service = compose()["services"]["nginx"]
    assert service["user"] == "101:101"
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp:size=256m"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert all(mount["read_only"] for mount in service["volumes"])
    assert all(port["target"] >= 1024 for port in service["ports"]), "it is not root"


def test_nginx_finds_its_file_its_values_and_its_certificate_where_they_are() -> None:
    document = compose(GPT2_CERTIFICATE_ON_HOST="/a/chain.pem", GPT2_CERTIFICATE_KEY_ON_HOST="/a/key.pem")
    service = document["services"]["nginx"]
    [mount] = service["volumes"]
    assert Path(mount["source"]) == TEMPLATE
    written = Path(service["environment"]["NGINX_ENVSUBST_OUTPUT_DIR"]) / Path(mount["target"]).name.removesuffix(".template")
    assert service["command"][:5] == ["nginx", "-p", "/tmp", "-c", str(written)]
    text = TEMPLATE.read_text()
    assert set(re.findall(r"\$\{(\w+)\}", text)) == {name for name in defaults() if name.startswith("GPT2_")}
    assert {f"/run/secrets/{secret['source']}" for secret in service["secrets"]} == set(re.findall(r"/run/secrets/\w+", text))
    assert {secret["file"] for secret in document["secrets"].values()} == {"/a/chain.pem", "/a/key.pem"}


@pytest.mark.skipif(shutil.which("envsubst") is None, reason="envsubst is missing: apt-get install gettext-base")
def test_the_images_start_fills_in_what_these_tests_fill_in() -> None:
    environment = defaults()
    names = " ".join(f"${{{name}}}" for name in environment if re.search(environment["NGINX_ENVSUBST_FILTER"], name))
    command = ["envsubst", names]  # as the image's script calls it
    result = subprocess.run(command, input=TEMPLATE.read_text(), env=os.environ | environment, capture_output=True, text=True)
    assert result.stdout == Config().text


def test_docker_stops_nginx_only_after_its_streams() -> None:
    [seconds] = re.findall(r"worker_shutdown_timeout (\d+)s;", TEMPLATE.read_text())
    assert int(compose()["services"]["nginx"]["stop_grace_period"].removesuffix("s")) > int(seconds)


def test_the_image_is_one_whose_nginx_follows_a_name() -> None:
    [version] = re.findall(r"nginx:(\d+)\.(\d+)\.(\d+)-alpine$", compose()["services"]["nginx"]["image"])
    assert tuple(map(int, version)) >= (1, 27, 3)


def test_prometheus_asks_each_container_and_is_else_configured_as_ever(tmp_path: Path) -> None:
    services = compose("--profile=monitoring")["services"]
    mounts = {mount["target"]: Path(mount["source"]) for mount in services["prometheus"]["volumes"]}
    assert mounts["/etc/prometheus/prometheus.yml"] == PROMETHEUS
    ours, usual = (yaml.safe_load(file.read_text()) for file in (PROMETHEUS, ROOT / "deploy/prometheus/prometheus.yml"))
    [discovery] = ours["scrape_configs"][0].pop("dns_sd_configs")
    [target] = usual["scrape_configs"][0].pop("static_configs")[0]["targets"]
    assert ours == usual
    assert f"{discovery['names'][0]}:{discovery['port']}" == target


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus")
def test_promtool_accepts_it(tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"  # as the two mounts make it
    shutil.copytree(ROOT / "deploy/prometheus", folder)
    shutil.copy(PROMETHEUS, folder)
    result = run("promtool", "check", "config", folder / "prometheus.yml")
    assert result.returncode == 0, result.stdout + result.stderr


# ---- a container that cannot start


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("GPT2_MODEL", "models/none", "models/none"),
        ("GPT2_MAX_RUNNING", "many", "GPT2_MAX_RUNNING: 'many'"),
        pytest.param(
            "GPT2_DEVICE",
            "cuda",
            "GPT2_DEVICE",
            marks=pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="a GPU is here"),
        ),
    ],
)
def test_a_wrong_setting_ends_the_containers_process_by_exit_78_and_one_line_that_names_it(
    name: str, value: str, said: str
) -> None:
    given = compose(**{name: value})["services"]["gpt2"]["environment"]
    environment = {setting: text for setting, text in given.items() if text is not None}
    environment = {"GPT2_MODEL": str(tiny_checkpoint()), "GPT2_PORT": "0", "HF_HUB_OFFLINE": "1"} | environment
    result = run(sys.executable, "-m", "app", "serve", **environment)
    assert result.returncode == 78, result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("gpt2: ")]
    assert said in line


def test_docker_starts_it_again_ever_more_slowly_as_the_page_says() -> None:
    page = (ROOT / "docs/proxy.md").read_text()
    assert f"{starts_within(60)} starts in the first minute" in page
    assert f"{starts_within(3600)} in the first hour" in page
    assert {service["restart"] for service in compose("--profile=gpu", "--profile=monitoring")["services"].values()} == {
        "unless-stopped"
    }


def starts_within(seconds: float, each_lasts: float = 1.0) -> int:
    """How often Docker has started by then what fails after a second."""
    now, pause, count = 0.0, FIRST_PAUSE, 0
    while now < seconds:
        count += 1
        now += each_lasts + pause
        pause = min(2 * pause, LONGEST_PAUSE)
    return count


def test_the_overlay_names_the_commands_that_the_page_names() -> None:
    page = (ROOT / "docs/proxy.md").read_text()
    assert "docker compose -f docker-compose.yml -f deploy/docker-compose.scale.yml" in page
    assert "docker compose -f docker-compose.yml -f deploy/docker-compose.scale.yml" in OVERLAY.read_text()
