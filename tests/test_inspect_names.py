"""docs/api.md lists the names of an inspection's activations as model/inspection/names.py has them, and its summaries' fields."""

import re
from pathlib import Path

from model.inspection.attribution import Attribution
from model.inspection.names import BLOCK_HOOKS, FIRST_HOOKS, LAST_HOOKS

PAGE = Path(__file__).parents[1].joinpath("docs/api.md").read_text()


def test_the_page_lists_every_name_with_its_shape_in_the_networks_order():
    blocks = {f"blocks.{{i}}.{hook}": axes for hook, axes in BLOCK_HOOKS.items()}
    due = [(name, ", ".join(axes)) for name, axes in (FIRST_HOOKS | blocks | LAST_HOOKS).items()]
    assert re.findall(r"^\| `([\w.{}]*hook_\w+)` \| `\[(.*?)\]` \|", PAGE, flags=re.MULTILINE) == due


def test_the_page_tells_every_part_of_an_attribution():
    (row,) = (line for line in PAGE.splitlines() if line.startswith("| `inspect.attribution`"))
    for name in ("position", "token", *Attribution.__annotations__):
        assert f"`{name}`" in row, name
