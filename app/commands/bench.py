"""`gpt2 bench`: how fast a server answers, this one or any that speaks its dialects."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.commands.outputs import STANDARD_OUTPUT, check_files, check_picture, write_json
from app.commands.parser import named_path
from app.errors import CommandError
from model.files import naming

if TYPE_CHECKING:
    from app.bench.dialects import Asked
    from app.bench.exchange import Endpoint
    from app.bench.load import Answer, ClosedLoop, Measurement, OpenLoop
    from app.bench.prompts import Range
    from app.bench.report import Plan

PROBE_TOKENS = 4
DIALECTS = ("generate", "completions", "chat")


def add_command(commands: Any) -> None:  # argparse's subparsers, whose type is private
    parser = commands.add_parser(
        "bench",
        help="measure how fast a server answers",
        description="Send streamed requests to a server and print tokens a second, latencies and errors.",
        epilog="Between tokens: the time between two events of a stream, shared by the tokens of the second. A request's "
        "connection is a part of its time. One short request goes before the load and is not measured. Ctrl-C prints what has "
        "been measured so far.",
    )
    parser.set_defaults(run=_bench)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server's address (default: %(default)s)")
    parser.add_argument(
        "--dialect",
        choices=DIALECTS,
        default="generate",
        help="generate: TGI's /generate_stream; completions: /v1/completions; chat: /v1/chat/completions (default: %(default)s)",
    )
    parser.add_argument("--model", help="the model to name in requests (default: the first of /v1/models)")
    parser.add_argument(
        "--api-key",
        default=os.environ.get("GPT2_API_KEY"),
        metavar="KEY",
        help="sent as a bearer token (default: GPT2_API_KEY of the environment, which no list of processes shows)",
    )
    _add_load_options(parser)
    parser.add_argument("--json", type=named_path, metavar="FILE", help="write the report as JSON; - is standard output")
    parser.add_argument("--plot", type=named_path, metavar="FILE.png", help="draw requests, tokens a second and latencies")


def _add_load_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the load")
    pace = group.add_mutually_exclusive_group()
    pace.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests at once (default: %(default)s)")
    pace.add_argument("--rate", type=float, metavar="X", help="requests a second, as a Poisson process, in place of --concurrency")
    group.add_argument("--requests", type=int, default=100, metavar="N", help="requests in all (default: %(default)s)")
    for name, default in (("prompt", "128"), ("output", "128")):
        group.add_argument(
            f"--{name}-tokens", default=default, metavar="N|LOW-HIGH", help=f"length, or range of lengths (default: {default})"
        )
    group.add_argument("--shared-prefix", type=int, default=0, metavar="N", help="tokens more before each prompt, the same in all")
    group.add_argument(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="answers go on behind an end token, so that their lengths hold; --no-ignore-eos for servers that do not know it",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of prompts, lengths and arrivals (default: %(default)s)")


def _bench(options: argparse.Namespace) -> int:
    from app.bench.plot import plot_measurement
    from app.bench.report import document, table

    _check(options)
    endpoint, pace = _endpoint(options), _pace(options)
    plan, asked = asyncio.run(_prepare(options, endpoint))
    measurement = _run(options, endpoint, asked, pace)
    found = document(plan, measurement)
    print(table(found), file=sys.stderr if options.json == STANDARD_OUTPUT else sys.stdout)
    try:
        if options.json:
            write_json(options.json, found)
        if options.plot:
            with naming(options.plot):
                plot_measurement(measurement, options.plot, f"{plan.url}, {plan.dialect}: {plan.pace}; {plan.lengths}")
    except OSError as error:
        if error.filename is None:  # standard output's
            raise
        raise CommandError(f"cannot write {error.filename}: {error.strerror}; what was measured is in the table") from error
    if measurement.is_interrupted:
        return 130
    return 0 if measurement.whole else 1


def _check(options: argparse.Namespace) -> None:
    limits = (("concurrency", 1), ("requests", 1), ("shared_prefix", 0))
    for name, least in limits:
        if getattr(options, name) < least:
            raise CommandError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least {least}")
    if options.rate is not None and not 0 < options.rate < float("inf"):
        raise CommandError(f"--rate is {options.rate:g}; it must be above 0")
    check_picture("--plot", options.plot)
    check_files(options.json, options.plot)


def _endpoint(options: argparse.Namespace) -> "Endpoint":
    from app.bench.exchange import Endpoint

    try:
        return Endpoint(options.url, options.api_key)
    except ValueError as error:
        raise CommandError(f"--url: {error}") from None


def _pace(options: argparse.Namespace) -> "ClosedLoop | OpenLoop":
    from app.bench.load import ClosedLoop, OpenLoop

    if options.rate is None:
        return ClosedLoop(options.concurrency)
    return OpenLoop(options.rate, options.seed)


def _range(options: argparse.Namespace, name: str) -> "Range":
    from app.bench.prompts import Range

    text = getattr(options, name)
    low, _, high = text.partition("-")
    if not low.isdecimal() or not (high or low).isdecimal() or not 1 <= int(low) <= int(high or low):
        raise CommandError(f"--{name.replace('_', '-')} is {text!r}; it must be a number from 1, or a range such as 64-256")
    return Range(int(low), int(high or low))


async def _prepare(options: argparse.Namespace, endpoint: "Endpoint") -> tuple["Plan", list["Asked"]]:
    """What will be sent, once the server has shown with a short request that it answers."""
    from app.bench.dialects import Asked
    from app.bench.prompts import draw_lengths, fetch_vocabulary, make_prompts
    from app.bench.report import Plan

    prompt_range, output_range = _range(options, "prompt_tokens"), _range(options, "output_tokens")
    model = options.model or await _first_model(endpoint)
    vocabulary = await fetch_vocabulary(endpoint)
    lengths = draw_lengths(prompt_range, options.requests, options.seed)
    num_new = draw_lengths(output_range, options.requests, options.seed + 1)
    probe, *prompts = make_prompts(vocabulary, [prompt_range.low, *lengths], options.seed, options.shared_prefix)
    await _probe(options, endpoint, Asked(probe, PROBE_TOKENS, model, options.ignore_eos))
    shared = f" after {options.shared_prefix} that all share" if options.shared_prefix else ""
    plan = Plan(
        url=endpoint.url,
        dialect=options.dialect,
        model=model,
        pace=f"{options.rate:g} requests/s" if options.rate is not None else f"{options.concurrency} requests at once",
        lengths=f"prompts of {prompt_range} tokens{shared}, answers of {output_range}",
        num_prompt=[length + options.shared_prefix for length in lengths],
        num_new=num_new,
        is_exact=vocabulary.is_exact,
        seed=options.seed,
    )
    pairs = zip(prompts, num_new, strict=True)
    return plan, [Asked(prompt, number, model, options.ignore_eos) for prompt, number in pairs]


async def _first_model(endpoint: "Endpoint") -> str | None:
    from app.bench.exchange import RequestFailed

    try:
        return str((await endpoint.fetch("GET", "/v1/models"))["data"][0]["id"])
    except RequestFailed as error:
        if error.kind == "no connection":
            raise CommandError(f"{error}; is the server running?") from error
    except (LookupError, TypeError):
        pass  # a server without models that it names
    return None


async def _probe(options: argparse.Namespace, endpoint: "Endpoint", asked: "Asked") -> None:
    from app.bench.dialects import DIALECTS
    from app.bench.load import ClosedLoop, Load

    dialect = DIALECTS[options.dialect]
    load = Load(endpoint, dialect, [dialect.body(asked)])
    await load.run(ClosedLoop(1))
    if failure := load.measurement.answers[0].failure:
        remedies = {
            "HTTP 401": "; give its key with --api-key or GPT2_API_KEY",
            "HTTP 404": f"; it may not speak this dialect, try another one of {', '.join(DIALECTS)} with --dialect",
        }
        remedy = remedies.get(failure.kind, "")
        raise CommandError(f"{endpoint.url}{dialect.path} answers a first request with {failure.kind}: {failure}{remedy}")


def _run(
    options: argparse.Namespace, endpoint: "Endpoint", asked: Sequence["Asked"], pace: "ClosedLoop | OpenLoop"
) -> "Measurement":
    from tqdm import tqdm

    from app.bench.dialects import DIALECTS
    from app.bench.load import run_load

    dialect = DIALECTS[options.dialect]
    bodies = [dialect.body(one) for one in asked]
    with tqdm(total=len(bodies), unit="request", desc="measuring", leave=False, disable=None) as bar:

        def show(answer: "Answer") -> None:
            bar.update()

        return run_load(endpoint, dialect, bodies, pace, show)
