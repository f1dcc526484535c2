"""What GPT-2 can be used for, measured: runs the recipes of examples/recipes and writes their results into docs/recipes.md.

`python -m benchmarks.recipes CORPUS [NAME ...]`, where CORPUS is the folder of the training texts; without NAME all are run.
What trains a checkpoint on is run twice, the second time from random weights: the difference is what its training was worth.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, ROOT, write_result

PAGE = ROOT / "docs" / "recipes.md"
FOLDER = "recipes"  # below RESULTS
# What each recipe is given; {} is the folder of the texts. The order is that of the page.
RECIPES: dict[str, tuple[str, ...]] = {
    "story": ("{}/books_core.txt.xz", "--title", "The Mysterious Rider, by Zane Grey (1920)"),
    "dialogue": ("{}/tinyshakespeare.txt",),
    "questions": ("{}/factbook.txt.xz",),
    "topics": (
        "novel={}/books_wide.txt.xz",
        "speech={}/sotu_1934_2018.txt.xz",
        "almanac={}/factbook.txt.xz",
        "play={}/tinyshakespeare.txt",
    ),
    "translation": (),
    "sentiment": ("{}/books_wide.txt.xz", "{}/books_eval.txt.xz"),
    "poems": ("{}/tang_poems.jsonl.xz",),
    "seq2seq": (),
}
FROM_NOTHING = {"poems", "seq2seq"}  # these make their network themselves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder that holds books_core.txt.xz, factbook.txt.xz and the others")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)} (default: all)")
    options, further = parser.parse_known_args()
    if unknown := [name for name in options.names if name not in RECIPES]:
        parser.error(f"there is no recipe {unknown[0]}; they are {', '.join(RECIPES)}")
    (RESULTS / FOLDER).mkdir(parents=True, exist_ok=True)
    for name in options.names or RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            result = _run(name, options.corpus, Path(folder) / name, further)
            if name not in FROM_NOTHING:
                again = _run(name, options.corpus, Path(folder) / "random", ["--from-random", *further])
                result["from_random"] = again["after"]
        write_result(f"{FOLDER}/{name}", " ".join([command(name), *further]), result)
        PAGE.write_text(with_results(PAGE.read_text(), read_results()))


def command(name: str) -> str:
    """What a reader types."""
    given = (f'"{value}"' if " " in value else value for value in RECIPES[name])
    return " ".join(["python", f"examples/recipes/{name}.py", *given, "--out", name]).replace("{}", "corpus")


def _run(name: str, corpus: Path, out: Path, further: list[str]) -> dict[str, Any]:
    script = ROOT / "examples" / "recipes" / f"{name}.py"
    given = [value.replace("{}", str(corpus)) for value in RECIPES[name]]
    order = [sys.executable, "-X", "utf8", script, *given, "--out", out, *further]
    output = subprocess.run(order, stdout=subprocess.PIPE, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}).stdout
    return json.loads(output)  # type: ignore[no-any-return]


def read_results() -> dict[str, dict[str, Any]]:
    """The documents that there are, by the recipes' names."""
    files = {name: RESULTS / FOLDER / f"{name}.json" for name in RECIPES}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def with_results(page: str, documents: dict[str, dict[str, Any]]) -> str:
    """The page with what stands between its markers made anew: the table, and each recipe's samples."""
    shown = {name: SAMPLES[name](document["result"]) for name, document in documents.items() if name in SAMPLES}
    made = {"table": _table(documents)} | shown
    for name, text in made.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
        page = marked.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)  # type: ignore[misc]
    return page


def _table(documents: dict[str, dict[str, Any]]) -> str:
    rows = [
        "| recipe | trained on | tested on | measure | before | after | from random weights | trivial baseline | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, document in documents.items():
        result, measure = document["result"], document["result"]["measure"]
        before, after, random = (_figure(measure, result.get(when)) for when in ("before", "after", "from_random"))
        figures = before, f"**{after}**", random, _baselines(result)
        cells = name, result["trained_on"], result["tested_on"], measure, *figures, result["seconds"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*rows, "", *_bases(documents)])


def _baselines(result: dict[str, Any]) -> str:
    """`beside` is names and figures in turn, one pair as a rule."""
    beside = result["beside"] or []
    pairs = zip(beside[::2], beside[1::2], strict=True)
    return "; ".join(f"{name} {_figure(result['measure'], figure)}" for name, figure in pairs)


def _bases(documents: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each network and machine among the results."""
    named: dict[str, list[str]] = {}
    for name, document in documents.items():
        machine = document["machine"]
        ran = f"{machine['cpu']}; GPU: {machine['gpu']}; torch {machine['torch']}; {machine['date']}"
        named.setdefault(f"{_sizes(document['result']['base'])}; {ran}", []).append(f"{name} ({document['result']['steps']} steps)")
    return [f"{', '.join(names)}: {line}." for line, names in named.items()]


def _sizes(base: dict[str, int]) -> str:
    if not base:
        return "networks of its own"
    return f"{base['parameters']:,} parameters, {base['vocabulary']:,} tokens and a context of {base['context']}"


def _figure(measure: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if measure.startswith("bits") else f"{value:.1%}".replace("%", " %")


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _story(result: dict[str, Any]) -> str:
    parts = [f"{result['book']}.", "Before:", _quoted(result["sample_before"]), "After:", _quoted(result["sample_after"])]
    return "\n\n".join(parts)


def _dialogue(result: dict[str, Any]) -> str:
    before, after = (_quoted("\n\n".join(result[f"conversation_{when}"])) for when in ("before", "after"))
    adapter = f"The adapter has {result['adapter_bytes']:,} bytes."
    other = f"Replies after a line that was said elsewhere: {result['after_other_lines']:.3f} bits per byte."
    return "\n\n".join([adapter, other, "Before:", before, "After:", after])


def _questions(result: dict[str, Any]) -> str:
    rows = [
        "| question | right |",
        "|---|---|",
        *(f"| {kind.format(name='...')} | {count} |" for kind, count in result["by_kind"].items()),
    ]
    samples = [
        f"> {sample['passage']}\n>\n> {sample['question']} **{sample['after']}** "
        + ("(right)" if sample["after"] == sample["expected"] else f"(wrong: {sample['expected']})")
        for sample in result["samples"]
    ]
    return "\n\n".join(["\n".join(rows), *samples])


def _topics(result: dict[str, Any]) -> str:
    mistakes = [f"> {m['passage']}\n>\n> {m['expected']}, taken for {m['after']}" for m in result["mistakes"]]
    return "\n\n".join([_confusion(result), *mistakes])


def _sentiment(result: dict[str, Any]) -> str:
    samples = [f"> {s['passage']}\n>\n> {s['expected']}, taken for {s['after']}" for s in result["samples"]]
    return "\n\n".join([_confusion(result), *samples])


def _confusion(result: dict[str, Any]) -> str:
    """What each label was taken for, with the share of it that was found, and how far one comes before any training."""
    labels = result["labels"]
    rows = [f"| is, taken for | {' | '.join(labels)} | found |", "|---" * (len(labels) + 2) + "|"]
    for label in labels:
        taken = result["confusion"][label]
        counts = " | ".join(str(taken[given]) for given in labels)
        rows.append(f"| {label} | {counts} | {_figure('', taken[label] / sum(taken.values()))} |")
    calibrated = f"Before, calibrated by the label's probability after no passage: {_figure('', result['before_calibrated'])}."
    return "\n".join([calibrated, "", *rows])


def _translation(result: dict[str, Any]) -> str:
    rows = ["| English | French after training | |", "|---|---|---|"]
    for sample in result["samples"]:
        verdict = "right" if sample["after"] == sample["expected"] else f"wrong: {sample['expected']}"
        rows.append(f"| {sample['english']} | {sample['after']} | {verdict} |")
    return "\n".join(rows)


SAMPLES = {  # of poems and seq2seq, pages of their own show them
    "story": _story,
    "dialogue": _dialogue,
    "questions": _questions,
    "topics": _topics,
    "translation": _translation,
    "sentiment": _sentiment,
}


if __name__ == "__main__":
    main()
