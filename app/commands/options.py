"""Options that commands share: the settings, each also a variable of the environment."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.errors import CommandError, ModelUnusable, StartupError
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
    """Raises StartupError that names what is refused. Who calls it tells what of the settings is `unread`."""
    given = {name: value for name, value in vars(options).items() if name in Settings.model_fields}
    return settings_from(given, lambda name: f"--{name.replace('_', '-')}")


def read_text(given: str) -> str:
    """A text as an argument, or standard input's for "-". Raises CommandError for what is no UTF-8."""
    try:
        if given == "-":
            return sys.stdin.read()
        given.encode()
        return given
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input is no UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise CommandError(f"{given!r} is no UTF-8") from None


def name_of_model(options: argparse.Namespace) -> str:
    """What the model was named by."""
    return "--model" if "model" in options else "GPT2_MODEL"


@contextlib.contextmanager
def model_faults(options: argparse.Namespace) -> Iterator[None]:
    """A model that an option named and that cannot be loaded is a wrong call, CommandError; a variable's stays StartupError."""
    try:
        yield
    except ModelUnusable as error:
        if "model" not in options:
            raise
        raise CommandError(f"{name_of_model(options)}: {error.reason}") from error


def settings_from(given: Mapping[str, Any], origin_of: Callable[[str], str]) -> Settings:
    """Those given, then the environment's, then `.env`'s; `origin_of` tells what one of those given is called there.

    Raises StartupError.
    """
    logging.getLogger("dotenv.main").setLevel(logging.ERROR)  # it would tell of lines in a line of its own, in none of our formats
    try:
        return Settings(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0])
        origin = origin_of(name) if name in given else f"GPT2_{name.upper()}"
        reason = fault["msg"].removeprefix("Value error, ")
        raise StartupError(f"{origin}: {fault['input']!r} is refused: {reason[0].lower()}{reason[1:]}") from None
    except UnicodeDecodeError as error:
        raise StartupError(f".env cannot be read: it is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise StartupError(f".env cannot be read: {error.strerror}; let this user read it, or take it away") from None
