"""What of `make release` is no wheel and no sdist: whether there may be a release, and what is written beside them in dist."""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from app.version import VERSION

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
SBOM_VERSION = "1.6"  # of CycloneDX
LOCKS = ("requirements.lock", "requirements-torch.txt")  # what the images install


class ReleaseRefused(Exception):
    """The message says what to mend."""


def check() -> None:
    """Raises ReleaseRefused unless this tree is that of a tag which version and changelog agree with."""
    if dirty := _git("status", "--porcelain"):
        raise ReleaseRefused(f"the tree differs from its commit: {dirty.splitlines()[0].strip()}; commit it, or put it away")
    tags = _git("tag", "--points-at", "HEAD").split()
    if f"v{VERSION}" not in tags:
        raise ReleaseRefused(
            f"app/version.py says {VERSION}, and this commit's tags are {', '.join(tags) or 'none'}; git tag v{VERSION}, or mend it"
        )
    headings = re.findall(r"(?m)^## (.*)$", (ROOT / "CHANGELOG.md").read_text())
    if not headings or not re.fullmatch(rf"{re.escape(VERSION)} \(\d{{4}}-\d\d-\d\d\)", headings[0]):
        raise ReleaseRefused(
            f"CHANGELOG.md begins with {headings[0] if headings else 'no version'!r}; it must be '{VERSION} (YEAR-MONTH-DAY)'"
        )


def write(tools: Path) -> None:
    """SBOM, licences, the images' build arguments, and the checksums of all that is in dist; `tools` is where cyclonedx-py lies."""
    from deploy.licences import PAGE  # whose packages checking needs not

    moment = int(_git("log", "-1", "--format=%ct"))
    _write_sbom(tools, moment)
    shutil.copyfile(PAGE, DIST / "licences.md")
    shutil.copyfile(ROOT / "LICENSE", DIST / "LICENSE")
    (DIST / "image-arguments.env").write_text("".join(f"{name}={value}\n" for name, value in _image_arguments(moment).items()))
    files = sorted(file for file in DIST.iterdir() if file.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (DIST / "SHA256SUMS").write_text("".join(lines))


def _image_arguments(moment: int) -> dict[str, str]:
    """As deploy/image/build.sh gives them; `docker build` takes each by --build-arg."""
    created = datetime.fromtimestamp(moment, UTC).isoformat()
    return {"VERSION": VERSION, "REVISION": _git("rev-parse", "HEAD"), "CREATED": created}


def _write_sbom(tools: Path, moment: int) -> None:
    """Of the locks by cyclonedx-py, with the licences that it does not look up, and checked against the schema once more."""
    from deploy.licences import with_licences

    locks = "".join((ROOT / name).read_text() for name in LOCKS)
    command = [str(tools / "bin/cyclonedx-py"), "requirements", "-", "--pyproject", str(ROOT / "pyproject.toml")]
    options = ["--short-PURLs", "--output-reproducible", "--spec-version", SBOM_VERSION, "--validate"]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(moment)}
    made = subprocess.run([*command, *options], input=locks, env=environment, capture_output=True, text=True, check=True)
    sbom = json.loads(made.stdout)
    sbom["metadata"]["component"]["version"] = VERSION
    text = json.dumps(with_licences(sbom), indent=2, sort_keys=True) + "\n"
    subprocess.run([tools / "bin/python", "-c", VALIDATE], input=text, text=True, check=True)
    (DIST / f"gpt2_service-{VERSION}.cdx.json").write_text(text)


VALIDATE = f"""import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
if fault := JsonStrictValidator(SchemaVersion.from_version("{SBOM_VERSION}")).validate_str(sys.stdin.read()):
    sys.exit(f"the SBOM is none of CycloneDX: {{fault}}")
"""


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.release", description="Parts of `make release`.")
    parser.add_argument("part", choices=("check", "write"))
    parser.add_argument("--tools", type=Path, help="the environment with cyclonedx-py")
    options = parser.parse_args()
    try:
        check()
        if options.part == "write":
            write(options.tools)
    except ReleaseRefused as error:
        sys.exit(f"release: {error}")


if __name__ == "__main__":
    main()
