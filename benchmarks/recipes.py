"""What GPT-2 can be used for, measured: runs the recipes of examples/recipes and writes their results into docs/recipes.md.

`python -m benchmarks.recipes CORPUS [NAME ...]`, where CORPUS is the folder of the training texts; without NAME all five are run.
"""

import argparse
import json
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
}


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
        write_result(f"{FOLDER}/{name}", " ".join([command(name), *further]), result)
        PAGE.write_text(with_results(PAGE.read_text(), read_results()))


def command(name: str) -> str:
    """What a reader types."""
    given = (f'"{value}"' if " " in value else value for value in RECIPES[name])
    return " ".join(["python", f"examples/recipes/{name}.py", *given, "--out", name]).replace("{}", "corpus")


def _run(name: str, corpus: Path, out: Path, further: list[str]) -> dict[str, Any]:
    script = ROOT / "examples" / "recipes" / f"{name}.py"
    given = [value.replace("{}", str(corpus)) for value in RECIPES[name]]
    output = subprocess.run([sys.executable, script, *given, "--out", out, *further], stdout=subprocess.PIPE, check=True).stdout
    return json.loads(output)  # type: ignore[no-any-return]


def read_results() -> dict[str, dict[str, Any]]:
    """The documents that there are, by the recipes' names."""
    files = {name: RESULTS / FOLDER / f"{name}.json" for name in RECIPES}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def with_results(page: str, documents: dict[str, dict[str, Any]]) -> str:
    """The page with what stands between its markers made anew: the table, and each recipe's samples."""
    made = {"table": _table(documents)} | {name: SAMPLES[name](document["result"]) for name, document in documents.items()}
    for name, text in made.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
        page = marked.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)  # type: ignore[misc]
    return page


def _table(documents: dict[str, dict[str, Any]]) -> str:
    rows = [
        "| recipe | trained on | tested on | measure | before | after | for comparison | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, document in documents.items():
        result, measure = document["result"], document["result"]["measure"]
        beside = f"{result['beside'][0]} {_figure(measure, result['beside'][1])}" if result["beside"] else ""
        before, after = (_figure(measure, result[when]) for when in ("before", "after"))
        cells = name, result["trained_on"], result["tested_on"], measure, before, f"**{after}**", beside, result["seconds"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*rows, "", *_bases(documents)])


def _bases(documents: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each checkpoint and machine among the results, as a rule one."""
    named: dict[str, list[str]] = {}
    for name, document in documents.items():
        base, machine = document["result"]["base"], document["machine"]
        line = (
            f"checkpoint of {base['parameters']:,} parameters, {base['vocabulary']:,} tokens and a context of {base['context']}; "
            f"{machine['cpu']}; GPU: {machine['gpu']}; torch {machine['torch']}; {machine['date']}"
        )
        named.setdefault(line, []).append(f"{name} ({document['result']['steps']} steps)")
    return [f"{', '.join(names)}: {line}." for line, names in named.items()]


def _figure(measure: str, value: float) -> str:
    return f"{value:.3f}" if measure.startswith("bits") else f"{value:.1%}".replace("%", " %")


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _story(result: dict[str, Any]) -> str:
    parts = [f"{result['book']}.", "Before:", _quoted(result["sample_before"]), "After:", _quoted(result["sample_after"])]
    return "\n\n".join(parts)


def _dialogue(result: dict[str, Any]) -> str:
    before, after = (_quoted("\n\n".join(result[f"conversation_{when}"])) for when in ("before", "after"))
    return "\n\n".join([f"The adapter has {result['adapter_bytes']:,} bytes.", "Before:", before, "After:", after])


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
    labels = result["labels"]
    rows = [f"| is, taken for | {' | '.join(labels)} |", "|---" * (len(labels) + 1) + "|"]
    rows += [f"| {label} | {' | '.join(str(result['confusion'][label][given]) for given in labels)} |" for label in labels]
    calibrated = f"Before, calibrated by the label's probability after no passage: {_figure('', result['before_calibrated'])}."
    mistakes = [f"> {m['passage']}\n>\n> {m['expected']}, taken for {m['after']}" for m in result["mistakes"]]
    return "\n\n".join([calibrated, "\n".join(rows), *mistakes])


def _translation(result: dict[str, Any]) -> str:
    rows = ["| English | French after training | |", "|---|---|---|"]
    for sample in result["samples"]:
        verdict = "right" if sample["after"] == sample["expected"] else f"wrong: {sample['expected']}"
        rows.append(f"| {sample['english']} | {sample['after']} | {verdict} |")
    return "\n".join(rows)


SAMPLES = {"story": _story, "dialogue": _dialogue, "questions": _questions, "topics": _topics, "translation": _translation}


if __name__ == "__main__":
    main()
