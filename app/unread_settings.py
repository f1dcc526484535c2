"""What somebody has written as a setting and nothing reads: misspelt names, and lines of `.env` that cannot be parsed.

Values are never told: one of them may be a key.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from app.settings import Settings

PREFIX = str(Settings.model_config["env_prefix"])
FILE = Path(str(Settings.model_config["env_file"]))
NAMES = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
# What compose files, clients, builds and tests of this repository read, which may stand in the same `.env`.
OTHERS = {
    "GPT2_API_KEY", "GPT2_CERTIFICATE_KEY_ON_HOST", "GPT2_CERTIFICATE_ON_HOST", "GPT2_HTTPS_PORT", "GPT2_HTTP_PORT",
    "GPT2_KEYS_ON_HOST", "GPT2_PROXY_ADDRESS", "GPT2_REQUIRE_NATIVE", "GPT2_TARGET", "GPT2_URL",
}  # fmt: skip
# Those of tests, and those that Kubernetes makes of a Service whose name begins with gpt2.
NOT_OURS = re.compile(r"GPT2_(TEST_\w+|(\w+_)?SERVICE_(HOST|PORT\w*)|(\w+_)?PORT_\d+_(TCP|UDP|SCTP)\w*)")
LINK = re.compile(r"(tcp|udp|sctp)://")


def unread(environment: Mapping[str, str], file: Path = FILE) -> list[str]:
    """A line for each name and part of the file that is passed over; the file is one that `Settings` has read."""
    bindings = _bindings(file)
    lines = [_unparsed(binding, file) for binding in bindings if binding.error]
    for origin, given in (
        ("the environment", environment),
        (str(file), {binding.key: binding.value or "" for binding in bindings if binding.key}),
    ):
        lines += [f"{name} in {origin} is no setting{_nearest(name)}" for name in _unknown(given)]
    return lines


def _bindings(file: Path) -> list[Binding]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as stream:
        return list(parse_stream(stream))


def _unparsed(binding: Binding, file: Path) -> str:
    """A quote that is not closed may take lines behind it along, as far as there is another."""
    text = binding.original.string
    first = binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
    last = first + text.strip().count("\n")
    where = f"line {first}" if last == first else f"lines {first} to {last}"
    return f"{where} of {file} cannot be parsed, and nothing there is heeded: write NAME=VALUE, and close each quote"


def _unknown(given: Mapping[str, str]) -> Iterable[str]:
    for name, value in given.items():
        upper = name.upper()  # settings are read in any case
        is_read = upper in NAMES | OTHERS or NOT_OURS.fullmatch(upper) or LINK.match(value)
        if upper.startswith(PREFIX) and not is_read:
            yield name


def _nearest(name: str) -> str:
    found = get_close_matches(name.upper().removeprefix(PREFIX), [known.removeprefix(PREFIX) for known in NAMES], 1)
    return f"; the nearest is {PREFIX}{found[0]}" if found else ""
