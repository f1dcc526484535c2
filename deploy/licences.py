"""The licences of all that the wheel and the images bring: docs/licences.md, made by `make licences`.

A licence that is not among those below ends it: somebody has to read that one first. Needs the locked packages installed.
"""

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/licences.md"
IMAGES = ROOT / "benchmarks/results/images.json"
# What may be passed on within an image, with the package's own licence text, which stays in it.
ALLOWED = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Open-MPI", "BSL-1.0", "CC0-1.0", "CNRI-Python", "MIT",
    "PSF-2.0", "Zlib",
    "Apache-2.0 WITH LLVM-exception",
    "MPL-2.0",  # by files, which nobody here has changed; their source is the package's on PyPI
    "GPL-3.0-or-later WITH GCC-exception-3.1",  # libraries of a compiler, linked to by anybody
    "LGPL-2.1-or-later",  # a library of its own, which may be exchanged
}  # fmt: skip
# How packages write it that do not use SPDX's names, and those whose metadata says less than their licence file.
NAMES = {
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str
    licence: str
    images: str


@dataclass(frozen=True, slots=True)
class Part:
    """What lies in another's package: `file` is a pattern, from where packages are installed or from this tree."""

    name: str
    file: str
    licence: str


PARTS = (
    Part("OpenBLAS, with LAPACK", "numpy.libs/libscipy_openblas*", "BSD-3-Clause AND BSD-3-Clause-Open-MPI"),
    Part("libgfortran", "numpy.libs/libgfortran*", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    Part("libquadmath", "numpy.libs/libquadmath*", "LGPL-2.1-or-later"),
    Part("libgomp", "torch/lib/libgomp*", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    Part("Swagger UI", "app/web/swagger/swagger-ui-bundle.js", "Apache-2.0"),
    Part("the default checkpoint", "model/default/model.safetensors", "MIT"),
)


class LicenceUnknown(Exception):
    """The message names the package and what it says of its licence."""


def locked() -> dict[str, str]:
    """The packages of requirements.lock that this system installs, with their versions."""
    lines = re.findall(r"(?m)^([a-z0-9].*?) \\$", (ROOT / "requirements.lock").read_text())
    wanted = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate()]
    return {one.name: str(one.specifier).removeprefix("==") for one in wanted}


def left_out() -> set[str]:
    """Those that the slim image's stage removes again; pip, which it removes too, is none of them."""
    [names] = re.findall(r"AS build-slim\nRUN pip uninstall --yes (.*) \\\n", (ROOT / "Dockerfile").read_text())
    return {*names.split()} - {"pip"}


def packages() -> list[Package]:
    [torch] = re.findall(r"(?m)^torch==(\S+)$", (ROOT / "requirements-torch.txt").read_text())
    without_slim = left_out() | {"torch"}
    return [
        Package(name, version, licence_of(name), "cpu, cuda" if name in without_slim else "all")
        for name, version in sorted((locked() | {"torch": torch}).items())
    ]


def licence_of(name: str) -> str:
    """In SPDX's names. Raises LicenceUnknown."""
    said = _said(distribution(name).metadata)
    licence = " AND ".join(NAMES.get(one, one) for one in said)
    if not said or not refused(licence) <= set():
        raise LicenceUnknown(f"{name}: its licence is {', '.join(said) or 'not told'}; read it, and add it to deploy/licences.py")
    return licence


def refused(licence: str) -> set[str]:
    """What of an expression is not allowed; of two to choose from both have to be."""
    return {one.strip("() ") for one in re.split(r" AND | OR ", licence)} - ALLOWED


def _said(metadata: PackageMetadata) -> list[str]:
    """An expression first, then classifiers, then the old field; where that holds the whole text, its first line is the name."""
    if expression := metadata.get_all("License-Expression"):
        return list(expression)
    classifiers = [one.rpartition(" :: ")[2] for one in metadata.get_all("Classifier") or () if one.startswith("License ::")]
    return classifiers or [text.splitlines()[0] for text in metadata.get_all("License") or () if text]


def page() -> str:
    rows = [f"| {one.name} | {one.version} | {one.licence} | {one.images} |" for one in packages()]
    parts = [f"| {one.name} | `{one.file}` | {one.licence} |" for one in PARTS]
    debian = json.loads(IMAGES.read_text())["slim"]["debian"]
    base = [f"| {name} | {', '.join(licences) or 'in words, in its file'} |" for name, licences in sorted(debian.items())]
    return TEXT.format(packages="\n".join(rows), parts="\n".join(parts), base="\n".join(base))


def with_licences(sbom: dict[str, object]) -> dict[str, object]:
    """An SBOM of the locks, CycloneDX in JSON, with each component's licence and images, without those of other systems."""
    known = {one.name: one for one in packages()}
    components = sbom["components"]
    assert isinstance(components, list)
    told = [_told(component, known[component["name"]]) for component in components if component["name"] in known]
    refs = {component["bom-ref"] for component in told} | {"root-component"}
    dependencies = sbom["dependencies"]
    assert isinstance(dependencies, list)
    return {**sbom, "components": told, "dependencies": [one for one in dependencies if one["ref"] in refs]}


def _told(component: dict[str, object], package: Package) -> dict[str, object]:
    """Its description, as made, is the lock's line with all the hashes, which stand beside it too."""
    images = {"name": "gpt2-service:images", "value": package.images}
    kept = {name: value for name, value in component.items() if name != "description"}
    return kept | {"licenses": [{"expression": package.licence}], "properties": [images]}


def debian_licences(root: Path) -> dict[str, list[str]]:
    """Of each package of an image's base, by the files that Debian has for machines to read."""
    names = re.findall(r"(?m)^Package: (\S+)$", (root / "var/lib/dpkg/status").read_text())
    return {name: _copyright(root / "usr/share/doc" / name / "copyright") for name in names}


def _copyright(file: Path) -> list[str]:
    text = file.read_text(errors="replace") if file.exists() else ""
    if not text.startswith("Format:"):
        return []
    return sorted({*_listed(re.findall(r"(?m)^License: *(\S.*)$", text))})


def _listed(licences: Iterable[str]) -> Iterable[str]:
    return (one.strip(" ,") for licence in licences for one in re.split(r" and | or |, ", licence))


TEXT = """# Licences

The service's own code and its default checkpoint are under the MIT licence ([LICENSE](../LICENSE)). This page lists what is
passed on with them; `make licences` makes it, and ends at a licence that nobody has read. Each package's own text stays beside
it, in its `dist-info` folder, in the images too; Debian's lie in `/usr/share/doc/*/copyright`.

## Python packages of the images

The wheel brings none of them; `pip` installs them from their own makers.

| package | version | licence | images |
|---|---|---|---|
{packages}

orjson, certifi and tqdm are under the MPL in whole or in part: their files are passed on unchanged, and their source is on
PyPI. tokenizers has no text of its licence in its wheel. The image `cuda` has besides Triton, under the MIT licence, and NVIDIA's
libraries (`nvidia-*`, `cuda-*`), which PyTorch's wheel asks for: they are not free software, and NVIDIA's licences of the CUDA
toolkit, cuDNN, NCCL and the others say how they may be passed on. Read them before you publish that image.

## What lies within packages, and within this one

| what | where | licence |
|---|---|---|
{parts}

PyTorch's row says what its makers say of their wheel, in whose `dist-info/licenses` the third parties' own texts lie.

## The base

Debian's packages as `BASE=debootstrap` installs them; `python:3.11-slim` has about the same. They are programs and libraries of
their own, passed on as Debian makes them, whose source is on Debian's mirrors.

| package | licences, as Debian names them |
|---|---|
{base}
"""


def main() -> None:
    try:
        PAGE.write_text(page())
    except LicenceUnknown as error:
        sys.exit(f"licences: {error}")


if __name__ == "__main__":
    main()
