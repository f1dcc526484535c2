"""A system's own files (/proc, /sys) as a test has them, under a root directory of its own."""

from collections.abc import Mapping
from pathlib import Path


def lay_out(root: Path, files: Mapping[str, object]) -> Path:
    """The root, with these files in it, a line each."""
    for name, contents in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{contents}\n")
    return root
