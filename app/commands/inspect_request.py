"""What `gpt2 inspect` is asked becomes a request of the inspector, in token ids; faults are told by the options' names."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from pydantic import ValidationError

from app.api.faults import invalid
from app.api.inspect import ablations_of
from app.commands.inspect_ablations import read_ablation
from app.errors import CommandError, InvalidRequest
from app.inspection import requests
from app.prompt import read_prompts
from app.schemas.inspection import InspectRequest
from model.config import GPT2Config
from model.inspection.request import DEFAULT_SUMMARIES, InspectionError, InspectionRequest
from model.tokenizer import Reading, Tokenizer

OPTIONS = {"prompt": "the text", "target_token": "--target"}  # the others are called as the request's fields are


def request_of(options: argparse.Namespace, text: str, tokenizer: Tokenizer, config: GPT2Config) -> InspectionRequest:
    """Raises CommandError; what the network cannot answer is found by the inspector, as InspectionError."""
    with faults_of(options):
        body = _checked(options, text)
        ablations = ablations_of([read_ablation(form) for form in options.ablate])
        given = requests.prompts_of(body, ablations)
        read = read_prompts(tokenizer, list(given.values()), Reading(), None, config.eos_token_id)
        prompts = {field: tuple(prompt.ids) for field, prompt in zip(given, read, strict=True)}
        encode = partial(tokenizer.encode, reading=Reading(add_special_tokens=False))
        return requests.request_of(body, ablations, prompts, encode, config.n_positions)


@contextmanager
def faults_of(options: argparse.Namespace) -> Iterator[None]:
    """What is wrong with a request as CommandError, which names the option."""
    try:
        yield
    except InspectionError as error:
        raise CommandError(f"{_option(error.field, options)}: {error.message}") from None
    except InvalidRequest as error:
        message, param = error.message, error.param or ""
        raise CommandError(f"{_option(param, options)}: {message.removeprefix(f'{param}: ')}") from None


def _checked(options: argparse.Namespace, text: str) -> InspectRequest:
    names = ("names", "positions", "top_n", "target_position", "max_new_tokens")
    summaries = [*DEFAULT_SUMMARIES, *(["layer_norm_order"] if options.layer_norm_order else [])]
    body = {name: getattr(options, name) for name in names}
    body |= {"prompt": text, "summaries": summaries, "target_token": _token(options.target)}
    try:
        return InspectRequest.model_validate(body)
    except ValidationError as error:
        raise invalid(error, body, InspectRequest) from None


def _token(given: str | None) -> str | int | None:
    return int(given[3:]) if given and re.fullmatch(r"id:\d{1,10}", given) else given


def _option(field: str, options: argparse.Namespace) -> str:
    """A request's field as who typed the command knows it: `ablations[1].layer` is a part of the second --ablate."""
    if found := re.match(r"ablations\[(\d+)\]\.?", field):
        part = field[found.end() :]
        return f"--ablate {options.ablate[int(found[1])]:.60}" + (f", {part}" if part else "")
    name = re.split(r"[.\[]", field)[0]
    return OPTIONS.get(name, "--" + name.replace("_", "-"))
