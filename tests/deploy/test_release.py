"""A release is refused where tag, version, changelog and tree do not agree; its SBOM and its list of licences leave nothing out."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import deploy.licences
from app.errors import ENGINE_LOST_EXIT_CODE, StartupError
from app.version import VERSION
from deploy.licences import (
    ALLOWED,
    PAGE,
    PARTS,
    ROOT,
    LicenceUnknown,
    left_out,
    licence_of,
    locked,
    packages,
    page,
    refused,
    with_licences,
)
from deploy.repack import repack

COMPATIBILITY = (ROOT / "docs/compatibility.md").read_text()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of its own with what a release is judged by, at a tag that all of it bears out."""
    for name in ("app/version.py", "deploy/release.py"):
        (tmp_path / name).parent.mkdir()
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {VERSION} (2026-11-27)\n\nAll.\n\n## 0.1.0\n")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    git(tmp_path, "tag", f"v{VERSION}")
    return tmp_path


def git(tree: Path, *arguments: str) -> None:
    who = {f"GIT_{who}_{what}": "somebody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = os.environ | who | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", *arguments], cwd=tree, env=environment, check=True, capture_output=True)


def commit(tree: Path) -> None:
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "All")


def judged(tree: Path) -> tuple[int, str]:
    command = [sys.executable, "-B", "-m", "deploy.release", "check"]
    result = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    return result.returncode, result.stderr


# ---- refusals


def test_a_release_that_its_tag_its_version_and_its_changelog_agree_on_may_be_made(tree: Path) -> None:
    assert judged(tree) == (0, "")


def test_a_tree_that_differs_from_its_commit_is_refused(tree: Path) -> None:
    (tree / "new.txt").write_text("not committed")
    assert judged(tree) == (1, "release: the tree differs from its commit: ?? new.txt; commit it, or put it away\n")


def test_a_commit_without_a_tag_is_refused(tree: Path) -> None:
    git(tree, "commit", "--allow-empty", "--quiet", "--message", "One more")
    code, line = judged(tree)
    assert code == 1
    assert line == f"release: app/version.py says {VERSION}, and this commit's tags are none; git tag v{VERSION}, or mend it\n"


def test_a_tag_of_another_version_is_refused(tree: Path) -> None:
    (tree / "app/version.py").write_text('VERSION = "9.9.9"\n')
    commit(tree)
    git(tree, "tag", "v9.9.8")
    code, line = judged(tree)
    assert code == 1
    assert line == "release: app/version.py says 9.9.9, and this commit's tags are v9.9.8; git tag v9.9.9, or mend it\n"


@pytest.mark.parametrize("heading", [f"{VERSION} (unreleased)", "9.9.9 (2026-11-27)", VERSION])
def test_a_changelog_that_begins_with_another_version_or_an_unreleased_one_is_refused(tree: Path, heading: str) -> None:
    (tree / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n")
    commit(tree)
    git(tree, "tag", "--force", f"v{VERSION}")
    code, line = judged(tree)
    assert code == 1
    assert line == f"release: CHANGELOG.md begins with '{heading}'; it must be '{VERSION} (YEAR-MONTH-DAY)'\n"


def test_make_release_refuses_before_it_makes_anything() -> None:
    [recipe] = re.findall(r"(?m)^release: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
    assert [line.strip() for line in recipe.splitlines()] == [
        "$(VENV)/bin/python -m deploy.release check",
        "$(MAKE) wheel $(TOOLS)/.stamp",
        "$(VENV)/bin/python -m deploy.release write --tools $(TOOLS)",
    ]


def test_an_sdist_that_was_packed_elsewhere_and_later_is_the_same_file_once_it_is_packed_again(tmp_path: Path) -> None:
    files = [tmp_path / name / "sdist.tar.gz" for name in ("here", "there")]
    for number, file in enumerate(files):
        source = file.parent / "package-1"
        source.mkdir(parents=True)
        for name in ("b.py", "a.py")[:: 1 - 2 * number]:
            (source / name).write_text("print()\n")
            (source / name).chmod((0o644, 0o600)[number])
            os.utime(source / name, (number, number))
        with tarfile.open(file, "w:gz") as archive:
            for path in (source, *source.iterdir()):
                archive.add(path, str(path.relative_to(file.parent)), recursive=False)
    assert files[0].read_bytes() != files[1].read_bytes()
    for file in files:
        repack(file, 1_700_000_000)
    assert files[0].read_bytes() == files[1].read_bytes()
    with tarfile.open(files[0]) as archive:
        assert archive.getnames() == ["package-1", "package-1/a.py", "package-1/b.py"]
        assert {member.mtime for member in archive} == {1_700_000_000}
        member = archive.extractfile("package-1/a.py")
        assert member is not None
        assert member.read() == b"print()\n"


# ---- licences and SBOM


def test_the_page_of_licences_is_the_one_that_is_made_of_what_is_installed() -> None:
    assert PAGE.read_text() == page(), "make licences"


def test_every_package_that_an_image_brings_is_installed_here_at_its_locked_version_with_a_licence_that_was_read() -> None:
    listed = {one.name: one for one in packages()}
    assert listed.keys() == locked().keys() | {"torch"}
    for name, one in listed.items():
        assert distribution(name).version.partition("+")[0] == one.version
        assert not refused(one.licence), name
    assert {name for name, one in listed.items() if one.images == "cpu, cuda"} == left_out() | {"torch"}


def test_every_library_that_lies_within_a_package_has_a_licence_too() -> None:
    folders = {file.parts[0] for name in locked() for file in distribution(name).files or () if file.parts[0].endswith(".libs")}
    bundled = {str(file) for name in locked() for file in distribution(name).files or () if file.parts[0] in folders}
    assert bundled, "numpy's at least"
    known = {str(file) for file in bundled if any(Path(file).match(part.file) for part in PARTS)}
    assert bundled == known
    for part in PARTS:
        assert not refused(part.licence), part.name


def test_a_licence_that_nobody_has_read_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy.licences, "ALLOWED", ALLOWED - {"MIT"})
    with pytest.raises(LicenceUnknown, match=r"^fastapi: its licence is MIT; read it, and add it to deploy/licences.py$"):
        licence_of("fastapi")
    assert refused("MPL-2.0 AND (Apache-2.0 OR GPL-3.0-only)") == {"GPL-3.0-only"}


def test_an_sbom_tells_licences_and_images_and_no_package_of_other_systems() -> None:
    made = [{"bom-ref": name, "name": name, "description": "a line of the lock"} for name in ("sympy", "colorama")]
    sbom = {"components": made, "dependencies": [{"ref": "sympy"}, {"ref": "colorama"}, {"ref": "root-component"}]}
    assert with_licences(sbom) == {
        "components": [
            {
                "bom-ref": "sympy",
                "name": "sympy",
                "licenses": [{"expression": "BSD-3-Clause"}],
                "properties": [{"name": "gpt2-service:images", "value": "cpu, cuda"}],
            }
        ],
        "dependencies": [{"ref": "sympy"}, {"ref": "root-component"}],
    }


# ---- what a version promises


def test_the_promises_name_every_exit_code_and_every_kind_of_thing_that_others_depend_on() -> None:
    rows = set(re.findall(r"(?m)^\| ([\d, ]+) \|", (ROOT / "docs/compatibility.md").read_text()))
    assert rows == {"0", "1", "2", str(ENGINE_LOST_EXIT_CODE), str(StartupError.exit_code), "130, 141, 143"}
    kinds = set(re.findall(r"(?m)^\| ([A-Za-z ]+?)(?: \(.*?\))? \| ", (ROOT / "docs/compatibility.md").read_text()))
    assert {"HTTP", "metrics", "settings", "command line", "log", "checkpoints", "bytes", "images"} <= kinds
