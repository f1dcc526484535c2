"""Tries what the service is to withstand, and prints each goal beside its figure.

python -m tests.chaos                 the quick form, minutes
python -m tests.chaos --long          the form that docs/reliability.md states, an hour or two
python -m tests.chaos --goals 9 17    some of them; figures of others are kept where --write puts them
"""

import argparse
import sys
import time

from tests.chaos.goals import Figure, Goal, Scale
from tests.chaos.progress import Progress
from tests.chaos.report import RESULTS, Result, write
from tests.chaos.suite import GOALS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--long", action="store_true", help="as many tries as docs/reliability.md states")
    parser.add_argument(
        "--goals", type=int, nargs="+", choices=sorted(GOALS), default=sorted(GOALS), metavar="N", help="only these"
    )
    parser.add_argument("--write", action="store_true", help=f"put the figures into {RESULTS.name} and docs/reliability.md")
    options = parser.parse_args()
    results = []
    for number in options.goals:
        results.append(_tried(GOALS[number], options.long))
        if options.write:
            write(results[-1])  # at once: what has been measured is kept, whatever comes next
    return 0 if all(figure.holds for result in results for figure in result.figures) else 1


def _tried(one: Goal, is_long: bool) -> Result:
    print(f"goal {one.number}: {one.title}", flush=True)
    started = time.monotonic()
    with Progress() as progress:
        figures = _measured(one, Scale(is_long, progress.tell))
    for figure in figures:
        print(f"    {'holds ' if figure.holds else 'MISSED'}  {figure.what}: {figure.found} (wanted {figure.wanted})", flush=True)
    return Result(one.number, one.title, figures, is_long, round(time.monotonic() - started))


def _measured(one: Goal, scale: Scale) -> list[Figure]:
    try:
        return one.measure(scale)
    except Exception as error:  # the other goals can be measured all the same
        return [Figure("it could be measured", "figures", f"{type(error).__name__}: {error}", holds=False)]


if __name__ == "__main__":
    sys.exit(main())
