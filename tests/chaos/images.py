"""Goal 28: the images are built, and start hardened, as they should be.

The quick form looks at the files that they are built and run by. The long one builds two images and runs them: it needs root,
buildah and mmdebstrap, and takes ten minutes.
"""

import os
import subprocess
import sys
from pathlib import Path

from deploy.image.check import Requirement, check
from tests.chaos.goals import Figure, Scale, exactly, goal

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SCHEMA = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
# Its exit code is 0 whatever it finds: what it has to say against a file stands in stderr.
COMPOSE = ("docker-compose", "--env-file=/dev/null", "--profile=*", "config", "--quiet")
FIGURES = ("size", "ready")  # of the requirements those that are numbers; the others are counted


@goal(28, "Images")
def images(scale: Scale) -> list[Figure]:
    figures = [
        exactly("lines that hadolint writes of the Dockerfile", 0, _num_lines("hadolint", "Dockerfile")),
        exactly("exit code of the compose specification's schema", 0, _run(*SCHEMA).returncode),
        exactly("lines that Compose's own parser writes of faults", 0, len(_run(*COMPOSE).stderr.splitlines())),
    ]
    for target in scale.each(("slim", "cpu") if scale.is_long else ()):
        environment = os.environ | {"BASE": "debootstrap", "PYTHON": sys.executable}
        subprocess.run(["deploy/image/build.sh", target], cwd=ROOT, env=environment, check=True, capture_output=True)
        figures += _of_image(target, check(target).requirements)
    return figures


def _of_image(target: str, requirements: list[Requirement]) -> list[Figure]:
    missed = [one.what for one in requirements if not one.holds and not one.what.startswith(FIGURES)]
    return [
        Figure(f"{target}: {what}", wanted, found, holds, by_clock=what.startswith("ready"))
        for what, wanted, found, holds in requirements
        if what.startswith(FIGURES)
    ] + [exactly(f"{target}: other requirements missed, of {len(requirements) - len(FIGURES)}", 0, len(missed))]


def _num_lines(*command: str) -> int:
    result = _run(*command)
    return len(result.stdout.splitlines()) + len(result.stderr.splitlines())


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GPT2_", "COMPOSE_"))}
    return subprocess.run([BIN / program, *arguments], cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
