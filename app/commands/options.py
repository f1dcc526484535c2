"""Options that commands share: the settings, each also a variable of the environment."""

import argparse
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.errors import StartupError
from app.settings import DEFAULT_MODEL, Settings


def add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    group = parser.add_argument_group("settings", "Each is also read from the environment and from .env, as GPT2_ and its name.")
    for name in names:
        field = Settings.model_fields[name]
        text = f"{field.description} (default: {_shown_default(field)})".replace("%", "%%")
        choices = get_args(field.annotation) if isinstance(field.default, str) else ()
        metavar = "{" + ",".join(choices) + "}" if choices else name.rpartition("_")[2].upper()
        group.add_argument("--" + name.replace("_", "-"), metavar=metavar, help=text, default=argparse.SUPPRESS)


def _shown_default(field: FieldInfo) -> str:
    if field.default == str(DEFAULT_MODEL):
        return "the checkpoint that comes with the service"
    return "none" if field.default in ((), "") else str(field.default)


def read_settings(options: argparse.Namespace) -> Settings:
    given: dict[str, Any] = {name: value for name, value in vars(options).items() if name in Settings.model_fields}
    try:
        return Settings(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0])
        origin = f"--{name.replace('_', '-')}" if name in given else f"GPT2_{name.upper()}"
        raise StartupError(f"{origin}: {fault['input']!r} is refused: {fault['msg'][0].lower()}{fault['msg'][1:]}") from None
