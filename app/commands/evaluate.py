"""`gpt2 eval`: how well a checkpoint predicts a text, as JSON."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from app.commands.data_options import TEXTS, add_selection_options, data_options
from app.commands.parser import named_path
from app.commands.training import report, training_errors
from app.environment import prepare_for_training
from app.errors import CommandError
from app.settings import DEFAULT_MODEL

if TYPE_CHECKING:  # torch takes a second to import: not for --help and wrong options
    from model.tokenizer import Tokenizer
    from model.training.data.options import DataOptions


def add_command(commands: Any) -> None:  # argparse's subparsers, whose type is private
    parser = commands.add_parser(
        "eval",
        help="measure how well a checkpoint predicts a text",
        description="Print, as JSON, a checkpoint's perplexity and bits per byte on a text: less is better.",
        epilog="Documents (parted by files, records and marks <|endoftext|>) follow each other behind end tokens, as they are "
        "trained. All is scored, in windows of the model's context; each begins half a context after the one before. Bits per byte "
        "compare models of any vocabulary, perplexities those of one alone.",
    )
    parser.set_defaults(run=_evaluate)
    parser.add_argument("paths", nargs="+", type=named_path, metavar="PATH", help=TEXTS)
    add_selection_options(parser)
    parser.add_argument(
        "--model",
        default=str(DEFAULT_MODEL),
        help="a Hugging Face GPT-2 directory, or a name on the hub (default: the checkpoint that comes with the service)",
    )
    parser.add_argument("--max-bytes", type=int, metavar="N", help="take so much of the text, from its beginning (default: all)")
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of matrix products (default: %(default)s)"
    )


def _evaluate(options: argparse.Namespace) -> int:
    if options.max_bytes is not None and options.max_bytes < 1:
        raise CommandError(f"--max-bytes is {options.max_bytes}; it must be at least 1")
    prepare_for_training()
    with training_errors():
        measured = _measure(options)
    print(json.dumps(measured, indent=2))
    return 0


def _measure(options: argparse.Namespace) -> dict[str, object]:
    from tqdm import tqdm

    from model.checkpoint import load_tokenizer, resolve_model
    from model.network_files import load_model
    from model.training.distributed import training_device
    from model.training.evaluation import evaluate

    device, bfloat16 = training_device(options.device), options.precision == "bfloat16"
    directory = resolve_model(options.model)
    # Before the text: one that is no model is soon told.
    model, tokenizer = load_model(directory).to(device), load_tokenizer(directory)
    documents = _read_documents(data_options(options), options.max_bytes)
    token_ids = _token_ids(documents, tokenizer, model.config.eos_token_id)
    num_bytes = sum(len(document.encode()) for document in documents)
    with tqdm(total=len(token_ids), unit="token", desc="evaluating", leave=False, disable=None) as bar:
        result = evaluate(model, token_ids, num_bytes, bfloat16, bar.update)
    return {
        "model": options.model,
        "device": str(device),
        "precision": options.precision,
        "context": result.context,
        "stride": result.stride,
        "documents": len(documents),
        "bytes": result.num_bytes,
        "tokens": result.num_tokens,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "seconds": round(result.seconds, 3),
        "tokens_per_second": round(result.tokens_per_second, 1),
    }


def _token_ids(documents: list[str], tokenizer: "Tokenizer", eos_token_id: int) -> list[int]:
    """Those of all documents, an end token between two; the one before the first is the evaluation's."""
    from model.tokenizer import WITHIN_TEXT

    token_ids = list(tokenizer.encode(documents[0], WITHIN_TEXT))
    for document in documents[1:]:
        token_ids += [eos_token_id, *tokenizer.encode(document, WITHIN_TEXT)]
    return token_ids


def _read_documents(options: "DataOptions", max_bytes: int | None) -> list[str]:
    from model.training.data.corpus import beginning
    from model.training.data.selection import select
    from model.training.errors import TrainingError

    documents = beginning(select(options), max_bytes, report)
    if not documents:
        raise TrainingError(f"there is no text to measure in {', '.join(map(str, options.paths))}; name files that are not empty")
    return documents
