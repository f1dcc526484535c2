"""The parser of all commands: a wrong call is told in one line, as is all else that a user can mend. Knows no command."""

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from app.errors import CommandError


class Parser(argparse.ArgumentParser):
    """argparse's, and that of its sub-commands; what it would print with its usage it raises as CommandError."""

    def __init__(self, *arguments: Any, **given: Any) -> None:  # argparse's own, and those that it makes a sub-command's parser of
        super().__init__(*arguments, **given)
        self.set_defaults(parser=self)  # of the sub-command that was called, the innermost: it is the last to set its defaults

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """In place of `parse_args`, by which the outermost parser would refuse, and name its own help."""
        options, others = self.parse_known_args(arguments)
        if others:
            options.parser.refuse(others[0])
        return options

    def refuse(self, argument: str) -> NoReturn:
        """One that the command does not know."""
        if not argument.startswith("-"):
            self.error(f"{argument!r} is an argument too many")
        name = argument.partition("=")[0]
        nearest = get_close_matches(name, self._option_string_actions, 1)
        self.error(f"{self.prog} has no option {name}" + "".join(f"; the nearest is {option}" for option in nearest))

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message.removeprefix('argument ')}; see {self.prog} --help")
