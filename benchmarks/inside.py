"""The figures of docs/inside.md, measured on the default checkpoint by `gpt2 inspect` and examples/heads.py, and written into it.

`python -m benchmarks.inside`: after a new default checkpoint, this makes the page right again; read it once more all the same.
"""

import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from app import cli
from app.settings import DEFAULT_MODEL
from benchmarks.inside_tables import ABLATIONS, with_figures
from benchmarks.machine import RESULTS, ROOT, write_result

PAGE = ROOT / "docs" / "inside.md"
NAME = "inside"
SEA = "The old man looked at the sea and"
LETTERS = "The harbour master wrote to the old captain, and the old captain wrote to the harbour"
Json = dict[str, Any]


def main() -> None:
    figures = measure()
    write_result(NAME, "python -m benchmarks.inside", figures)
    PAGE.write_text(with_figures(PAGE.read_text(), figures))
    draw(figures)


# ---- measured


def heads_example() -> Any:  # a module that is no part of a package
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        return importlib.import_module("heads")
    finally:
        sys.path.pop(0)


def measure(with_losses: bool = True) -> Json:
    """All figures; without `with_losses` those that take a few seconds alone."""
    heads = heads_example()
    best = found_heads(heads, with_losses)
    look = f"blocks.{best['best']['previous'][0]}.attn"
    sea = inspect(SEA, "--names", f"{look}.hook_attn_scores,{look}.hook_pattern", "--layer-norm-order")
    induction = form_of(best["best"]["induction"])
    letters = inspect(LETTERS, "--max-new-tokens", "8", "--ablate", induction)
    return {
        "sea": _of_sea(sea, best["best"]["previous"]),
        "heads": best,
        "letters": {name: _of_letters(letters[name]) for name in ("run", "ablated")},
        "without": [_without(heads.TEXTS[0], form) for form in ABLATIONS],
    }


def inspect(text: str, *options: str) -> Json:
    """What `gpt2 inspect` writes as JSON."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        file = Path(folder) / "answer.json"
        code = cli.main(["inspect", text, *options, "--json", str(file)])
        if code:  # it has said why
            sys.exit(code)
        return json.loads(file.read_text())  # type: ignore[no-any-return]


def form_of(head: Sequence[int]) -> str:
    return f"head:{head[0]}.{head[1]}=zero"


def found_heads(heads: Any, with_losses: bool) -> Json:
    found = heads.look_for_heads(str(DEFAULT_MODEL), 0, 64, 4, with_losses)
    best = {kind: heads.best_of(scores) for kind, scores in found["scores"].items()}
    return {
        "shown": {kind: [[f"{layer}.{head}", score] for score, (layer, head) in row[:5]] for kind, row in best.items()},
        "best": {kind: list(row[0][1]) for kind, row in best.items()},
        "chance": found["chance"],
        "losses": found["losses"],
    }


def _of_sea(answer: Json, head: Sequence[int]) -> Json:
    run, tokens = answer["run"], answer["tokens"]
    found = run["summaries"]
    look = {name.rpartition("_")[2]: kept["data"][head[1]] for name, kept in run["activations"].items()}
    row = len(tokens) - 2  # that of " sea"
    lens = found["lens"]
    last = {"said": [stream[-1][0] for stream in lens["top"]]}
    return {
        "tokens": [token["text"] for token in tokens],
        "ids": [token["id"] for token in tokens],
        "loss": run["loss"],
        "logprobs": run["logprobs"],
        "next": run["next"],
        "goes_on": run["continuation"]["text"],
        "embed": found["norms"]["embed"],
        "pos_embed": found["norms"]["pos_embed"],
        "stream": {name: [layer[-1] for layer in rows] for name, rows in found["norms"].items() if "embed" not in name},
        "layer_norm": {
            name: {of: [layer[-1] for layer in rows] for of, rows in found["layer_norm"][name].items()} for name in ("ln1", "ln2")
        },
        "look": {"scores": look["scores"][row], "pattern": look["pattern"][row], "query": row},
        "lens": last | {name: [stream[-1] for stream in lens[name]] for name in ("rank", "probability")},
        "attribution": found["attribution"],
        "pull": found["prompt_attribution"]["scores"],
        "order": {name: answer["layer_norm_order"][name] for name in ("pre", "post")},
    }


def _of_letters(run: Json) -> Json:
    return {"loss": run["loss"], "next": run["next"][:3], "goes_on": run["continuation"]["text"]}


def _without(text: str, form: str) -> Json:
    answer = inspect(text, "--ablate", form, "--max-new-tokens", "12")
    row = {name: {"loss": answer[name]["loss"], "goes_on": answer[name]["continuation"]["text"]} for name in ("run", "ablated")}
    return {"form": form, **row}


def kept() -> Json:
    """The figures that were measured last."""
    return json.loads((RESULTS / f"{NAME}.json").read_text())["result"]  # type: ignore[no-any-return]


# ---- pictures


def draw(figures: Json) -> None:
    head = ".".join(map(str, figures["heads"]["best"]["induction"]))
    for text, name, options in ((SEA, "inside_stream", ()), (LETTERS, "inside_induction", ("--map", head))):
        with redirect_stdout(StringIO()):
            cli.main(["inspect", text, "--png", str(ROOT / "docs" / f"{name}.png"), *options])


if __name__ == "__main__":
    main()
