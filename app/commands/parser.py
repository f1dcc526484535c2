"""The parser of all commands: a wrong call is told in one line, as is all else that a user can mend. Knows no command."""

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from app.errors import CommandError


def named_path(text: str) -> Path:
    """The type of an argument that names a file or a folder. An empty name, as of a variable without a value, would become "."."""
    if not text:
        raise argparse.ArgumentTypeError("its name is empty")
    return Path(text)


class Parser(argparse.ArgumentParser):
    """argparse's, and that of its sub-commands; what it would print with its usage it raises as CommandError."""

    def __init__(self, *arguments: Any, **given: Any) -> None:  # argparse's own, and those that it makes a sub-command's parser of
        super().__init__(*arguments, **given)
        self.set_defaults(parser=self)  # of the sub-command that was called, the innermost: it is the last to set its defaults

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """In place of `parse_args`, by which the outermost parser would refuse, and name its own help."""
        options: argparse.Namespace = self.parse_known_args(arguments)[0]
        unknown: list[tuple[Parser, str]] = options.unknown
        if unknown:  # an option rather than what may have been meant as its value
            parser, argument = next((found for found in unknown if found[1].startswith("-")), unknown[0])
            parser.refuse(argument)
        return options

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Each parser takes what belongs to it, a sub-command's first; what is left is kept in `unknown`, behind its parser."""
        options, others = super().parse_known_args(args, namespace)
        of_commands = getattr(options, "unknown", [])
        own = self._take_further(options, others[: len(others) - len(of_commands)])
        options.unknown = [(self, argument) for argument in own] + of_commands
        return options, [argument for _, argument in options.unknown]

    def _take_further(self, options: argparse.Namespace, others: list[str]) -> list[str]:
        """Add what stands apart, behind an option, to the values of the argument that may be repeated: argparse would have them
        stand together. What is left is returned: all, where an option is among it, which may have meant them as its values.
        """
        repeated = next((action for action in self._get_positional_actions() if action.nargs in ("*", "+")), None)
        if repeated is None or any(argument.startswith("-") for argument in takewhile(lambda argument: argument != "--", others)):
            return others
        if "--" in others:
            others.remove("--")
        if others:
            setattr(options, repeated.dest, [*getattr(options, repeated.dest), *self._values(repeated, others)])
        return []

    def _values(self, action: argparse.Action, arguments: Sequence[str]) -> list[object]:
        try:
            return [self._get_value(action, argument) for argument in arguments]
        except argparse.ArgumentError as error:
            self.error(str(error))

    def refuse(self, argument: str) -> NoReturn:
        """One that the command does not know."""
        if not argument.startswith("-"):
            self.error(f"{argument!r} is an argument too many")
        name = argument.partition("=")[0]
        nearest = get_close_matches(name, self._option_string_actions, 1)
        self.error(f"{self.prog} has no option {name}" + "".join(f"; the nearest is {option}" for option in nearest))

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message.removeprefix('argument ')}; see {self.prog} --help")
