"""The images: what each stage does, what the slim one can do without PyTorch, how they are built and checked; in seconds.

That they are built and run as they should is measured by `make image` and `make image-check`, and by goal 28 of tests/chaos.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from app.version import VERSION
from deploy.image.check import MAX_MEGABYTES
from deploy.image.hardened import MAX_PROCESSES
from deploy.licences import ROOT, left_out, locked
from tests.chaos.service import ServiceProcess
from tests.deploy.slim import environment, needed
from tests.test_deploy import compose, run, stages

TARGETS = ("cpu", "slim", "cuda")
RESULTS = ROOT / "benchmarks/results/images.json"
REFUSED = "PyTorch is not installed here; the images gpt2-service:cpu and gpt2-service:cuda have it"


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of the slim image's packages."""
    return environment(tmp_path_factory.mktemp("slim"))


def gpt2(python: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`gpt2 ...` of this tree by another Python."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GPT2_")}
    command = [python, "-m", "app", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean | settings, capture_output=True, text=True, timeout=120)


# ---- the Dockerfile


@pytest.mark.parametrize("target", TARGETS)
def test_python_code_is_compiled_at_the_build_since_a_read_only_root_keeps_nothing(target: str) -> None:
    installs = set(re.findall(r"pip install (.*)", stages()[target]))
    assert len(installs) == (2 if target == "slim" else 3)
    assert all(line.startswith("--no-compile ") for line in installs), (
        "what pip compiles is valid by a date, which layers may change"
    )
    compiled = re.findall(r"compileall -q .*--invalidation-mode unchecked-hash (?:-s /service )?(\S+)", stages()[target])
    assert set(compiled) == {"/service", "/opt/gpt2/lib", '"${library}"'}, "whatever the base has left out of the standard library"


@pytest.mark.parametrize("target", TARGETS)
def test_the_service_is_a_layer_of_its_own_behind_the_packages(target: str) -> None:
    copies = re.findall(r"(?m)^COPY --from=(\S+) (.*)$", stages()[target])
    assert copies == [(f"build-{target}", "/opt/gpt2 /opt/gpt2"), ("service", "/service /")]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_names_its_version_and_its_revision_last_as_they_change_with_each_commit(target: str) -> None:
    runtime = stages()["runtime"]
    instructions = re.findall(r"(?m)^([A-Z]+) ", runtime)
    assert instructions[-4:] == ["ARG", "ARG", "ARG", "LABEL"]
    for name in ("version", "revision", "created"):
        assert f'org.opencontainers.image.{name}="${{{name.upper()}}}"' in runtime
    assert runtime in stages()[target]


def test_what_the_slim_image_leaves_out_is_what_nothing_but_pytorch_needs() -> None:
    without = needed(without="torch")
    assert locked().keys() - without == left_out(), "of the lock"
    assert without <= locked().keys() - left_out()
    assert not re.search(r"requirements-torch.txt\n.*pip install", stages()["slim"].split("AS build-slim")[1], re.DOTALL)


def test_a_plain_build_makes_the_image_that_does_everything() -> None:
    assert [*stages()][-1] == "cpu"


def test_no_package_index_of_whoever_builds_is_left_in_a_layer() -> None:
    """Packages come by a mount, whose folder lies in stages that are not shipped."""
    assert not re.search(r"COPY .*(packages|pip\.conf)", (ROOT / "Dockerfile").read_text())
    for target in TARGETS:
        last = stages()["runtime"] + re.split(rf"AS {target}\n", stages()[target])[-1]
        assert "--mount" not in last
        assert "PIP_" not in last


# ---- the slim image's packages


def test_a_slim_service_answers_in_every_precision_of_the_native_step_without_pytorch(slim: Path, tmp_path: Path) -> None:
    texts = {}
    for dtype in ("float32", "bfloat16", "int8"):
        settings = {"GPT2_PORT": "0", "GPT2_DTYPE": dtype, "GPT2_LOG_FORMAT": "json"}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GPT2_")}
        log = tmp_path / dtype
        with log.open("wb") as output:
            command = [slim, "-m", "app", "serve"]
            process = subprocess.Popen(command, cwd=ROOT, env=clean | settings, stdout=output, stderr=subprocess.STDOUT)
        try:
            service = ServiceProcess(process, log)
            body = {"inputs": "It was", "parameters": {"max_new_tokens": 8, "seed": 1}}
            texts[dtype] = httpx.post(f"{service.url}/generate", json=body, timeout=60).json()["generated_text"]
            assert 'torch="none"' in httpx.get(f"{service.url}/metrics").text
            assert service.end() == 0
        finally:
            process.kill()
            process.wait()
    assert all(texts.values())


def test_a_slim_service_continues_a_prompt_in_the_terminal(slim: Path) -> None:
    result = gpt2(slim, "generate", "It was", "--max-new-tokens", "4", "--seed", "1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("It was ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "README.md"),
        ("train", "tokenizer", "README.md", "--out", "OUT"),
        ("train", "pretrain", "README.md", "--out", "OUT"),
        ("train", "finetune", "README.md", "--out", "OUT"),
        ("train", "merge", "--adapter", "README.md", "--out", "OUT"),
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_what_needs_pytorch_says_so_in_a_line_and_which_image_has_it(
    slim: Path, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    result = gpt2(slim, *(str(tmp_path / "new") if word == "OUT" else word for word in arguments))
    assert (result.returncode, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith(f"gpt2: training and measuring need PyTorch: {REFUSED}")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"GPT2_DEVICE": "cuda"}, "GPT2_DEVICE"),
        ({"GPT2_DEVICE": "cpu", "GPT2_KERNELS": "torch"}, "GPT2_KERNELS"),
        ({"GPT2_KERNELS": "triton"}, "GPT2_KERNELS"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_slim_service_that_is_asked_for_pytorch_ends_with_78_and_names_the_setting(
    slim: Path, settings: dict[str, str], named: str
) -> None:
    result = gpt2(slim, "serve", "--port", "0", **settings)
    assert result.returncode == 78
    line = result.stderr.splitlines()[-1]
    assert REFUSED in line
    assert named in line


def test_without_the_native_step_a_slim_service_says_that_nothing_can_compute(slim: Path, tmp_path: Path) -> None:
    program = (
        "import sys, model.native.library as library, model.native.runner as runner\n"
        f"runner.load_library = lambda: library.load_library(library.Path({str(tmp_path)!r}))\n"
        "from app.cli import main\n"
        "sys.exit(main(['generate', 'It was']))"
    )
    result = subprocess.run([slim, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 78
    assert re.match(rf"gpt2: the native step cannot run: .*; nor can PyTorch in its place: {REFUSED}", result.stderr)


# ---- how they are built and checked


def test_the_build_script_names_the_targets_that_there_are() -> None:
    result = run("bash", "deploy/image/build.sh", "gpu")
    assert (result.returncode, result.stderr) == (2, "build.sh: the target is 'gpu'; there are cpu, slim and cuda\n")


def test_the_check_runs_images_within_the_limits_that_compose_sets() -> None:
    assert compose()["gpt2"]["pids_limit"] == MAX_PROCESSES


@pytest.mark.parametrize("target", sorted(MAX_MEGABYTES))
def test_the_figures_that_were_measured_hold_and_the_table_in_the_docs_has_them(target: str) -> None:
    measured = json.loads(RESULTS.read_text())[target]
    assert [row["what"] for row in measured["requirements"] if not row["holds"]] == []
    megabytes = sum(layer["bytes"] for layer in measured["layers"]) / 1e6
    assert megabytes <= MAX_MEGABYTES[target]
    assert f"{megabytes:,.1f} MB" in (ROOT / "docs/images.md").read_text()


def test_a_target_is_an_image_and_compose_can_build_each() -> None:
    for target in ("cpu", "slim"):
        service = compose(GPT2_TARGET=target)["gpt2"]
        assert (service["image"], service["build"]["target"]) == (f"gpt2-service:{target}", target)
    assert compose()["gpt2"]["image"] == "gpt2-service:cpu"


def test_every_label_that_changes_is_told_to_buildah_past_its_cache_which_would_keep_an_old_one() -> None:
    script = (ROOT / "deploy/image/build.sh").read_text()
    changing = re.findall(r"(?m)^ARG ([A-Z]+)=unknown$", stages()["runtime"])
    assert len(changing) == 3
    for name in changing:
        assert f'--build-arg "{name}=${name.lower()}"' in script
        assert f'"{name.lower()}=${name.lower()}"' in script.partition("for label in")[2]
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
