"""Draw the pictures of the README and the guide: `make pictures`."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from matplotlib.figure import Figure

from demask import Canvas, Parallel, Random, measure, minimax, oracles, panels, plots, sample, uniform
from demask.cli import continuous
from demask.cli.compare import measured
from demask.cli.sample import cells_of
from demask.schedules import Sizes

HERE = Path(__file__).parent / "pictures"
STEPS = (4, 8, 16, 32, 64)
NOTES = Path(__file__).resolve().parents[1] / "benchmarks" / "notes.csv"  # from `python benchmarks/notes.py`
LEVELS = (25, 50, 100, 200, 400, 800)


def main() -> None:
    """Draw a canvas unmasked in 12 steps, path KL against steps, and a measured curve, for English of 256 characters."""
    HERE.mkdir(exist_ok=True)
    text = "\n".join(topics[name] for name in sorted(topics))
    words = " ".join(re.findall("[a-z]+", text.lower()))
    row = oracles.fit(words, length=72, order=3, smoothing=1e-4)
    run = sample(row, Parallel(minimax(72, 12), Random()), Canvas.blank(1, 72), key=1)
    cells = cells_of(row)
    plots.save(plots.canvas(run, [cells[token] for token in run.tokens[0].tolist()]), HERE / "canvas.png")
    english = oracles.fit(text, length=256)
    plots.save(plots.compare(measured(english, STEPS)), HERE / "compare.png")
    assert english.alphabet is not None
    windows = english.alphabet.encode(text)[: len(text) // 256 * 256].view(-1, 256)
    plots.save(
        plots.curve([measure(english, windows, passes=2048, name="a character chain on English")]), HERE / "curve.png"
    )
    rows = continuous.measured(steps=LEVELS, dimensions=(8, 32, 128, 512), rank=4)
    plots.save(panels.continuous(rows), HERE / "continuous.png")
    plots.save(twice(), HERE / "twice.png")
    plots.save(notes(), HERE / "notes.png")


def notes() -> Figure:
    """Draw the share of right notes against passes, in honest draws beside the model's own way."""
    settings: dict[str, list[dict[str, Any]]] = {}
    with NOTES.open(newline="") as table:
        for row in csv.DictReader(table):
            numbers = {name: float(row[name]) for name in ("nfe", "right", "low", "high")}
            steps = int(row["steps"]) if row["steps"] else None
            settings.setdefault(row["setting"], []).append({"schedule": row["schedule"], "steps": steps, **numbers})
    return panels.right(settings)


def twice() -> Figure:
    """Draw one bit, repeated, of several lengths, beside a plane in several dimensions: steps that adapt, and others."""
    codes = {n: oracles.repetition(n) for n in (32, 128, 512, 2048)}
    rows = continuous.measured(steps=LEVELS, dimensions=tuple(codes), rank=2)

    def masked(schedule: Callable[[int, int], Sizes]) -> dict[str, list[tuple[int, float]]]:
        return {
            f"n = {n}": [(k, schedule(n, k).cost(code.curve())) for k in STEPS if k < n] for n, code in codes.items()
        }

    def points(rule: str) -> dict[str, list[tuple[int, float]]]:
        return {
            f"d = {d}": [
                (r["steps"], r["path_kl_nats"]) for r in rows if (r["dimension"], r["coefficients"]) == (d, rule)
            ]
            for d in codes
        }

    ignoring = [
        panels.Panel("one bit, repeated n times: uniform", masked(uniform)),
        panels.Panel("a plane in d dimensions: General()", points("General()")),
    ]
    adapting = [
        panels.Panel('minimax(target="both")', masked(minimax)),
        panels.Panel("LowDimensional()", points("LowDimensional()")),
    ]
    return panels.grid([("path KL, nats", ignoring), ("path KL, nats", adapting)])


if __name__ == "__main__":
    main()
