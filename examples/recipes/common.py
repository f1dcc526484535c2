"""What the recipes share: the product's command line, pairs of prompt and completion, answers, scores, and how a recipe ends."""

import argparse
import asyncio
import contextlib
import io
import json
import lzma
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app import cli
from app.commands.parser import Parser
from app.environment import prepare_for_training
from app.errors import CommandError, ServiceError
from app.settings import DEFAULT_MODEL, Settings
from model.batch import SamplingParams
from model.training.data.corpus import documents
from model.training.data.selection import text_files
from model.training.errors import TrainingError

if TYPE_CHECKING:  # torch is imported when all arguments are known to be right
    from app.generation import GenerationRequest, TextGenerator

TESTS, MAX_TESTS = 300, 5000
BATCH_TOKENS = 4096
MAX_RUNNING = 32  # answers that are generated at once

Pair = tuple[str, str]  # a prompt and its completion
Result = dict[str, object]


def parser(description: str | None, steps: int) -> argparse.ArgumentParser:
    """The options of every recipe; `steps` is what it trains for unless told otherwise."""
    options = Parser(description=description, epilog="Further options, at the end, go to gpt2 train finetune.")
    options.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new folder for the data made and the new checkpoint"
    )
    options.add_argument("--model", default=str(DEFAULT_MODEL), help="checkpoint to begin with (default: the one of the service)")
    options.add_argument(
        "--from-random",
        action="store_true",
        help="begin with random weights in that checkpoint's place: what its training is worth",
    )
    options.add_argument("--steps", type=int, default=steps, metavar="N", help="steps of fine-tuning (default: %(default)s)")
    options.add_argument("--tests", type=int, default=TESTS, metavar="N", help="examples tested, at most (default: %(default)s)")
    return options


def main(recipe: Callable[[argparse.Namespace], Result], parser: argparse.ArgumentParser) -> None:
    """Run a recipe and print its result as one line of JSON; what the user can mend is one line too, with exit code 2."""
    from model.checkpoint import CheckpointError

    begin = time.monotonic()
    try:
        options, options.further = parser.parse_known_args()
        prepare_for_training()
        if options.out.exists():
            raise TrainingError(f"{options.out} exists already; choose another --out, or remove it")
        if not 1 <= options.tests <= MAX_TESTS:
            raise TrainingError(f"--tests is {options.tests}; it must be at least 1 and at most {MAX_TESTS:,}")
        base = describe(options.model) if "model" in options else {}  # what begins with nothing says itself what it made
        if base and options.from_random:
            options.model = random_checkpoint(options.model, options.out / "random")
        result = recipe(options)
    except (CommandError, TrainingError, CheckpointError, ServiceError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps({"base": base} | result | {"steps": options.steps, "seconds": round(time.monotonic() - begin)}))


def describe(model: str) -> Result:
    from model.checkpoint import load_config, resolve_model

    config = load_config(resolve_model(model))
    return {"parameters": config.num_parameters, "vocabulary": config.vocab_size, "context": config.n_positions}


def random_checkpoint(model: str, out: Path) -> str:
    """A network of the same sizes as the model's, with its tokenizer, and of the weights that pretraining begins with."""
    import torch

    from model.checkpoint import load_config, load_tokenizer, resolve_model
    from model.gpt2 import GPT2
    from model.network_files import save_checkpoint

    directory = resolve_model(model)
    network = GPT2(load_config(directory)).init_weights(torch.Generator().manual_seed(0))
    save_checkpoint(out, network, load_tokenizer(directory), torch.float32)
    return str(out)


def gpt2(*arguments: object) -> str:
    """Run a command of the product and return what it prints; it is shown, so that the reader sees what is done."""
    words = [str(argument) for argument in arguments]
    print("$ gpt2", *words, file=sys.stderr, flush=True)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = cli.main(words)
    if code:  # it has said why
        sys.exit(code)
    return output.getvalue()


def finetune(options: argparse.Namespace, data: Path, out: Path, *how: object) -> None:
    """As the recipe says or, where the user's further options say otherwise, as these: the last of two counts."""
    held_out = () if gives(options, "--validation") else ("--validation-fraction", 0.05)
    chosen = ("--model", options.model, "--out", out, *length(options, 5), *held_out, *how, *options.further)
    gpt2("train", "finetune", data, *chosen)


def length(options: argparse.Namespace, validations: int) -> tuple[object, ...]:
    """How long the recipe trains, and how often it measures on the way; nothing where the user gives minutes in place of steps."""
    if gives(options, "--minutes"):
        options.steps = None  # which are for the trainer to choose
        return ()
    return ("--steps", options.steps, "--validate-every", max(1, options.steps // validations))


def gives(options: argparse.Namespace, name: str) -> bool:
    """Whether this one is among the user's further options."""
    return any(word.partition("=")[0] == name for word in options.further)


def bits_per_byte(model: str | Path, text: Path) -> float:
    return round(json.loads(gpt2("eval", text, "--model", model))["bits_per_byte"], 4)


def xz_bits_per_byte(known: str, text: str) -> float:
    """What `xz -9` makes of a text that comes after a known one, of which it can repeat what it has seen."""
    before, both = (len(lzma.compress(content.encode(), preset=9)) for content in (known, known + text))
    return round(8 * (both - before) / len(text.encode()), 4)


def read_documents(path: Path) -> list[str]:
    """The documents of a text file or of a folder of them, compressed or not."""
    found = [document for file in text_files([path]) for document in documents(file)]
    if not found:
        raise TrainingError(f"there is no text in {path}")
    return found


def write_pairs(file: Path, pairs: Sequence[Pair]) -> Path:
    lines = (json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=False) + "\n" for prompt, completion in pairs)
    return write_text(file, "".join(lines))


def write_text(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def answers(model: str | Path, prompts: Sequence[str], max_new_tokens: int, temperature: float = 0.0) -> list[str]:
    """Continue each prompt to the end of its line by the service's own engine; at temperature 0 by the likeliest tokens."""
    from app.generation import GenerationRequest

    sampling = SamplingParams(temperature=temperature)
    requests = [GenerationRequest((prompt,), sampling, max_new_tokens, stop=("\n",)) for prompt in prompts]
    return generate(model, requests)


def generate(model: str | Path, requests: Sequence["GenerationRequest"]) -> list[str]:
    """The text of each request, by the service's own engine."""
    return asyncio.run(_generate(str(model), requests))


async def _generate(model: str, requests: Sequence["GenerationRequest"]) -> list[str]:
    from app.bootstrap import build_service

    limits = {"max_waiting": len(requests), "max_queued_tokens": sys.maxsize, "max_wait_seconds": 0}  # nobody else is waiting
    settings = Settings(model=model, max_running=min(len(requests), MAX_RUNNING), **limits)
    generator = build_service(settings, report=lambda line: None).generator
    await generator.client.start()
    try:
        return list(await asyncio.gather(*(_answer(generator, request) for request in requests)))
    finally:
        await generator.client.stop()


async def _answer(generator: "TextGenerator", request: "GenerationRequest") -> str:
    generation = await generator.start(request)
    try:
        while not generation.is_finished:
            await generation.next()
        return generation.samples[0].text.strip()
    finally:
        generation.abort()


def log_probabilities(model: str | Path, pairs: Sequence[Pair]) -> list[float]:
    """log p(completion | prompt) of each pair in nats, without the end token, which a base does not expect there."""
    import torch
    import torch.nn.functional as F

    from model.checkpoint import load_tokenizer, resolve_model
    from model.network_files import load_model

    directory = resolve_model(str(model))
    tokenizer, network = load_tokenizer(directory), load_model(directory).eval()
    rows = [(tokenizer.encode(prompt), tokenizer.encode(completion)) for prompt, completion in pairs]
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
    scores, context = [0.0] * len(rows), network.config.n_positions
    if rows and (longest := sum(map(len, rows[order[-1]]))) > context:
        raise TrainingError(f"a prompt with its completion has {longest} tokens; {model} takes at most {context}")
    with torch.inference_mode():
        while order:
            longest = sum(map(len, rows[order[-1]]))
            chosen = [order.pop() for _ in range(min(len(order), max(1, BATCH_TOKENS // longest)))]
            ids = torch.zeros(len(chosen), longest, dtype=torch.long)  # (B, T); the padding comes last, where nobody sees it
            for row, (prompt, completion) in zip(ids, (rows[i] for i in chosen), strict=True):
                row[: len(prompt) + len(completion)] = torch.tensor(prompt + completion)
            for i, row, logits in zip(chosen, ids, network(ids[:, :-1]), strict=True):  # logits (T - 1, V)
                first, last = len(rows[i][0]), sum(map(len, rows[i]))
                scores[i] = -F.cross_entropy(logits[first - 1 : last - 1], row[first:last], reduction="sum").item()
    return scores


def completion_bits_per_byte(model: str | Path, pairs: Sequence[Pair]) -> float:
    num_bytes = sum(len(completion.encode()) for _, completion in pairs)
    return round(-sum(log_probabilities(model, pairs)) / math.log(2) / num_bytes, 4)


def share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 4)
