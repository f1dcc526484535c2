"""The Chinese model of examples/poems, made anew: runs the recipe, keeps the model and its result, and writes both their pages.

`python -m benchmarks.poems POEMS`. With `--vocabularies` it compares vocabularies instead, each in a small network that sees the
same number of tokens.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, ROOT, write_result

RECIPE = "examples/recipes/poems.py"
MODEL = ROOT / "examples" / "poems"
PAGES = (ROOT / "docs" / "poems.md", MODEL / "README.md")
FILES = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
RESULT, COMPARISON = RESULTS / "recipes" / "poems.json", RESULTS / "poems_vocabularies.json"
SMALL = ("--steps", "400", "--tests", "100", "--n-embd", "128", "--n-layer", "2", "--n-head", "2", "--no-compile")
# A context of bytes holds as many poems as one of characters if it is three times as long.
VOCABULARIES: dict[str, tuple[str, ...]] = {
    "characters": ("--vocab-size", "4096"),
    "characters, fewer": ("--vocab-size", "2048"),
    "pieces of any length (BPE)": ("--vocab-size", "4096", "--pieces"),
    "bytes": ("--vocab-size", "257", "--n-positions", "384", "--batch-size", "11"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("poems", type=Path, metavar="POEMS", help="tang_poems.jsonl.xz")
    parser.add_argument("--vocabularies", action="store_true", help="compare vocabularies; the model stays as it is")
    options, further = parser.parse_known_args()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if options.vocabularies:
            compare(options.poems, Path(folder), further)
        else:
            make(options.poems, Path(folder) / "poems", further)
    for page in PAGES:
        page.write_text(with_results(page.read_text()))


def make(poems: Path, out: Path, further: list[str]) -> None:
    result = _run(poems, out, *further)
    MODEL.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copy(out / "model" / name, MODEL / name)
    write_result("recipes/poems", " ".join(["python", RECIPE, f"corpus/{poems.name}", "--out", "poems", *further]), result)


def compare(poems: Path, out: Path, further: list[str]) -> None:
    results = {}
    for name, chosen in VOCABULARIES.items():
        results[name] = _run(poems, out / name, *SMALL, *chosen, *further)
    write_result("poems_vocabularies", f"python -m benchmarks.poems corpus/{poems.name} --vocabularies", results)


def _run(poems: Path, out: Path, *chosen: str) -> dict[str, Any]:
    command = [sys.executable, ROOT / RECIPE, poems, "--out", out, *chosen]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)  # type: ignore[no-any-return]


def with_results(page: str) -> str:
    """The page with what stands between its markers made anew."""
    made = {}
    if RESULT.exists():
        document = json.loads(RESULT.read_text())
        made |= {"figures": _figures(document), "poems": _poems(document["result"]["samples"])}
    if COMPARISON.exists():
        made["vocabularies"] = _vocabularies(json.loads(COMPARISON.read_text())["result"])
    for name, text in made.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
        page = marked.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)  # type: ignore[misc]
    return page


def _figures(document: dict[str, Any]) -> str:
    result, machine, base = document["result"], document["machine"], document["result"]["base"]
    baseline, bits = result["beside"]
    rows = [
        "| measure | the model | for comparison |",
        "|---|---|---|",
        f"| bits per character of held-out poems | **{result['after']:.2f}** | {baseline} {bits:.2f}; all tokens alike "
        f"{result['before']:.2f} |",
        f"| poems of four or eight lines of five or seven characters | **{_percent(result['in_a_form'])}** | "
        f"{baseline} {_percent(result['in_a_form_beside'])} |",
        f"| poems in the form that was asked for | **{_percent(result['in_the_form_asked'])}** | |",
        f"| lines that are a line of the training poems | **{_percent(result['copied_lines'])}** | of the real held-out poems "
        f"{_percent(result['copied_lines_of_real_poems'])} |",
    ]
    trained = (
        f"Trained on {result['trained_on']}, tested on {result['tested_on']}; {base['parameters']:,} parameters, "
        f"{base['vocabulary']:,} tokens, a context of {base['context']}; {result['steps']:,} steps, {result['seconds']} seconds "
        f"with all measurements; {machine['cpu']}; GPU: {machine['gpu']}; torch {machine['torch']}; {machine['date']}."
    )
    return "\n".join([*rows, "", trained])


def _poems(samples: list[str]) -> str:
    """Quoted, each with its title in bold."""
    quoted = []
    for sample in samples:
        title, *lines = sample.strip().splitlines()
        quoted.append("\n".join([f"> **{title}**  ", *(f"> {line}  " for line in lines)]).rstrip())
    return "\n\n<!-- -->\n\n".join(quoted)


def _vocabularies(results: dict[str, Any]) -> str:
    rows = ["| vocabulary | tokens | a character takes | bits per character | poems in a form |", "|---|---|---|---|---|"]
    for name, result in results.items():
        cells = f"{result['base']['vocabulary']:,}", f"{result['tokens_per_character']:.2f}", f"{result['after']:.2f}"
        rows.append(f"| {name} | {' | '.join(cells)} | {_percent(result['in_a_form'])} |")
    return "\n".join(rows)


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


if __name__ == "__main__":
    main()
