"""The series of several replicas in one answer of Prometheus' text format, each with the name of its replica as a label."""

import re
from collections.abc import Mapping

FAMILY = re.compile(r"# (?:HELP|TYPE) (\w+) ")
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


def merged(texts: Mapping[str, str]) -> str:
    """From expositions by the names of their replicas. A family's lines stay together, which the format asks for."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, text in texts.items():
        family, is_new = "", True
        for line in text.splitlines():
            if found := FAMILY.match(line):
                is_new = found[1] not in heads or (found[1] == family and is_new)
                family = found[1]
                if is_new:
                    heads.setdefault(family, []).append(line)
            else:
                samples.setdefault(family, []).append(_labelled(line, replica))
    return "".join("\n".join((*head, *samples.get(family, []))) + "\n" for family, head in heads.items())


def _labelled(line: str, replica: str) -> str:
    """A sample's line; what is none stays as it is."""
    if (found := SAMPLE.fullmatch(line)) is None:
        return line
    name, labels, value = found.groups()
    return f'{name}{{replica="{replica}"{f",{labels}" if labels else ""}}} {value}'
