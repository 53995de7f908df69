"""What parallel steps cost a real network, in notes that are still right: `demask/notes` against its grammar.

Run: python benchmarks/notes.py [MODEL] [COUNT]; some ten minutes for 64 notes a cell on two cores. Twice: in honest draws,
random positions at temperature 1, which is what schedules and certificates speak of, and as the model is sampled by default.
Every schedule gets the steps with which it takes about as many passes as the others: a note ends before its window does, and
what is behind its end costs none. Two tables of the share of notes that satisfy every constraint, with exact 95 % intervals,
one of the constraints that break first, and notes.csv beside this file, which `make pictures` draws.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from demask.cli.right import Row, measured
from demask.generate import load

POINTS = Path(__file__).parent / "notes.csv"
HONEST = {
    "uniform": (8, 16, 32, 64),
    "cosine": (8, 16, 34, 72),
    'minimax(target="both")': (8, 16, 35, 74),
    "optimal": (8, 17, 34, 70),
}
DEFAULT = dict.fromkeys(HONEST, (24, 48))


def main(name: str = "demask/notes", count: str = "64") -> None:
    """Measure, write the points, print the tables."""
    torch.set_num_threads(1)  # sixteen short rows are no faster on more
    model = load(name)
    recipe = model.recipe
    honest = {"order": "Random()", "temperature": 1.0}
    settings: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
        "honest draws: Random(), temperature 1": (honest, HONEST),
        f"by default: {recipe.order}, temperature {recipe.temperature:g}": ({}, DEFAULT),
    }
    rows: list[tuple[str, Row]] = []
    for title, (given, steps) in settings.items():
        cases = [("uniform", None), *((spec, k) for spec, all_of_it in steps.items() for k in all_of_it)]
        found = measured(model, cases, texts=int(count), key=1, **given)
        print(
            f"{title}\n\n| schedule | steps | passes | notes right | 95 % | tokens per pass |\n|---|---|---|---|---|---|"
        )
        rows += ((title, row) for row in shown(found))
        print()
    with POINTS.open("w", newline="") as out:
        fields = ["setting", "schedule", "steps", "nfe", "right", "low", "high", "tokens_per_pass", *rows[0][1].held]
        table = csv.DictWriter(out, fields, lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        for title, row in rows:
            table.writerow({"setting": title, **vars(row), **row.held, "steps": row.steps or ""})
    broken(next(iter(settings)), rows)


def shown(rows: Iterator[Row]) -> Iterator[Row]:
    """Print each row as it comes."""
    for row in rows:
        print(
            f"| {row.schedule} | {row.steps or 'one token each'} | {row.nfe:.0f} | {row.right:.0%} | "
            f"{row.low:.0%} to {row.high:.0%} | {row.tokens_per_pass:.1f} |",
            flush=True,
        )
        yield row


def broken(title: str, rows: list[tuple[str, Row]]) -> None:
    """Print how often each constraint holds in honest draws with uniform steps."""
    uniform = [row for setting, row in rows if setting == title and row.schedule == "uniform"]
    uniform = [uniform[0], *reversed(uniform[1:])]
    print("| constraint | " + " | ".join(f"{row.nfe:.0f} passes" for row in uniform) + " |")
    print("|---" * (len(uniform) + 1) + "|")
    for constraint in uniform[0].held:
        print(f"| {constraint} | " + " | ".join(f"{row.held[constraint]:.0%}" for row in uniform) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
