"""`gpt2 doctor`: what `gpt2 serve` finds here with the same settings, what it would choose, and what an operator should change."""

import argparse
import json
import os
import sys
from typing import Any

from app.commands.options import add_settings, name_of_model, read_settings
from app.environment import prepare_for_torch
from app.errors import StartupError
from app.settings import Settings


def add_command(commands: Any) -> None:  # argparse's subparsers, whose type is private
    parser = commands.add_parser(
        "doctor",
        help="tell whether `gpt2 serve` would start here, and what to improve",
        description="Look at machine, limits, checkpoint and settings as `gpt2 serve` would, and load nothing. Exit code 0: "
        "it would start; else that of `gpt2 serve`, which would not, and the line that it would end with is told: 78, or 2 for a "
        "model that --model names. What only packing the weights shows, as a NaN among them, is not looked for.",
    )
    parser.set_defaults(run=_doctor)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_settings(parser, tuple(name for name in Settings.model_fields if name != "api_keys"))


def _doctor(options: argparse.Namespace) -> int:
    try:
        settings = read_settings(options)
    except StartupError as error:
        if not options.json:
            raise
        from app.doctor.examination import document_without_settings

        print(json.dumps(document_without_settings(error), indent=2))
        return error.exit_code
    prepare_for_torch()
    from app.doctor.examination import document, examine
    from app.doctor.report import screen

    examination = examine(settings, name_of_model(options))
    if options.json:
        print(json.dumps(document(examination), indent=2))
    else:
        sys.stdout.write(screen(examination, sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return examination.exit_code
