"""An environment of the slim image's packages, linked from those installed here: what the image lacks cannot be imported there."""

import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.licences import ROOT, left_out, locked


def needed(without: str) -> set[str]:
    """What the package and its extras `hub` and `otel` need, and what these need in turn; not `without` and what it alone needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    waiting = [Requirement(line) for line in (*project["dependencies"], *extras["hub"], *extras["otel"])]
    found: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        for extra in {"", *wanted.extras}:
            if (node := (canonicalize_name(wanted.name), extra)) in found or node[0] == without:
                continue
            found.add(node)
            inner = map(Requirement, distribution(wanted.name).requires or ())
            waiting += [one for one in inner if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def environment(directory: Path) -> Path:
    """The interpreter of a new environment with nothing but those packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    [site] = directory.glob("lib/python*/site-packages")
    for name in locked().keys() - left_out():
        package = distribution(name)
        tops = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))))
    return directory / "bin/python"
