"""What parallel steps cost a real network, in notes that are still right: `demask/notes` against its grammar.

Run: python benchmarks/notes.py [MODEL] [COUNT] [ORDER ...]; about ten minutes for 256 notes a cell on two cores, all at
temperature 1 (`demask compare --model` takes the model's own order and temperature). The first
table holds the share of notes that satisfy every constraint of the grammar, with its exact 95 % interval, for schedules and
orders at equal numbers of steps; the second says which constraints break first.
"""

import sys
from time import perf_counter

from demask.cli.right import SPECS, measured
from demask.generate import load

STEPS = (8, 12, 16, 24, 32, 48)
ORDERS = ("Random()", "Confidence()", "Entropy()")


def main(name: str = "demask/notes", count: str = "256", *orders: str) -> None:
    """Print the tables."""
    model, rows = load(name), []
    chosen = orders or ORDERS
    wanted = [(order, "uniform", None) for order in chosen]
    wanted += [(order, spec, k) for order in chosen for spec in SPECS for k in STEPS]
    print("| order | schedule | steps | notes right | 95 % | passes | tokens per pass |\n|---|---|---|---|---|---|---|")
    for order, spec, steps in wanted:
        if order != "Random()" and spec in SPECS[2:]:
            continue  # what they promise, they promise for random positions
        if spec == "optimal" and model.curve is None:
            continue
        begin = perf_counter()
        [row] = measured(model, [(spec, steps)], order=order, temperature=1.0, texts=int(count), key=1)
        rows.append(row)
        said = steps or "one token each"
        print(
            f"| {order} | {spec} | {said} | {row.right:.1%} | {row.low:.1%} to {row.high:.1%} | {row.nfe:.1f} | "
            f"{row.tokens_per_pass:.2f} | <!-- {perf_counter() - begin:.0f} s -->",
            flush=True,
        )
    shown = [row for row in rows if row.order == chosen[0] and row.schedule == "uniform"]
    shown = [shown[0], *reversed(shown[1:])]
    print("\n| constraint | " + " | ".join(str(row.steps or "one each") for row in shown) + " |")
    print("|---" * (len(shown) + 1) + "|")
    for constraint in shown[0].held:
        print(f"| {constraint} | " + " | ".join(f"{row.held[constraint]:.1%}" for row in shown) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
