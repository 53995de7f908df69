"""What parallel steps cost a real network, in notes that are still right: `demask/notes` against its grammar.

Run: python benchmarks/notes.py [MODEL] [COUNT] [ORDER ...]; about ten minutes for 256 notes a cell on two cores. The first
table holds the share of notes that satisfy every constraint of the grammar, with its exact 95 % interval, for schedules and
orders at equal numbers of steps; the second says which constraints break first.
"""

import sys
from time import perf_counter

from demask.generate import load
from demask.oracles import Notes

STEPS = (8, 12, 16, 24, 32, 48)
SCHEDULES = ("uniform", "cosine", 'minimax(target="both")', "optimal")
ORDERS = ("Random()", "Confidence()", "Entropy()")
ONE = 128  # steps, at least one per position


def main(name: str = "demask/notes", count: str = "256", *orders: str) -> None:
    """Print the tables."""
    model, notes = load(name), Notes()
    cells: dict[tuple[str, str, int], dict] = {}
    wanted = [(order, "uniform", ONE) for order in orders or ORDERS]
    wanted += [(order, schedule, k) for order in orders or ORDERS for schedule in SCHEDULES for k in STEPS]
    print("| order | schedule | steps | notes right | 95 % | passes | tokens per pass |\n|---|---|---|---|---|---|---|")
    for order, schedule, steps in wanted:
        if order != "Random()" and schedule in SCHEDULES[2:]:
            continue  # what they promise, they promise for random positions
        begin = perf_counter()
        chosen = None if schedule == "optimal" else schedule
        results = model.generate("", n=int(count), key=1, batch=64, schedule=chosen, order=order, steps=steps)
        found = notes.satisfied(result.text for result in results)
        cells[order, schedule, steps] = found
        low, high = found["all"].interval()
        nfe = sum(result.nfe for result in results) / len(results)
        pace = sum(result.new for result in results) / len(results) / nfe
        said = "one token each" if steps == ONE else steps
        print(
            f"| {order} | {schedule} | {said} | {found['all'].value:.1%} | {low:.1%} to {high:.1%} | {nfe:.1f} | "
            f"{pace:.2f} | <!-- {perf_counter() - begin:.0f} s -->",
            flush=True,
        )
    print("\n| constraint | " + " | ".join("one each" if k == ONE else str(k) for k in (ONE, *reversed(STEPS))) + " |")
    print("|---" * (len(STEPS) + 2) + "|")
    first = (orders or ORDERS)[0]
    for constraint in notes.constraints:
        values = [cells[first, "uniform", k][constraint].value for k in (ONE, *reversed(STEPS))]
        print(f"| {constraint} | " + " | ".join(f"{value:.1%}" for value in values) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
