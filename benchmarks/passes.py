"""How many forward passes a measurement needs, on a character chain fitted to the Python manual: n = 256, exact curve known.

Run as a script; about two minutes. Root mean square relative errors over independent measurements, and what the 16-step
plan from the measured curve costs more than the plan from the exact one.
"""

from pydoc_data.topics import topics

import numpy as np

from demask import optimal, oracles
from demask.information.measure import increments

CASES = ((64, 12), (256, 12), (1024, 6), (4096, 3))  # passes, repetitions


def main() -> None:
    """Print a table."""
    chain = oracles.fit("".join(topics.values()), length=256)
    curve = chain.curve()
    best = optimal(curve, 16).cost(curve)
    print("| passes | repetitions | TC | DTC | 16-step cost, point | plan's extra cost, mean | largest |")
    print("|---|---|---|---|---|---|---|")
    for passes, repetitions in CASES:
        errors, extra = [], []
        for key in range(repetitions):
            data = chain.sample(max(8, passes // 16), key=1000 + key)
            found = increments(chain, data, passes=passes, key=key)
            learned = found.curve()
            plan = optimal(learned, 16)
            errors.append([found.tc / chain.tc() - 1, found.dtc / chain.dtc() - 1, plan.cost(learned) / best - 1])
            extra.append(plan.cost(curve) / best - 1)
        rms = " | ".join(f"{value:.1%}" for value in np.sqrt(np.mean(np.square(errors), axis=0)))
        print(f"| {passes} | {repetitions} | {rms} | {np.mean(extra):.1%} | {max(extra):.1%} |", flush=True)


if __name__ == "__main__":
    main()
