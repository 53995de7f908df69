"""How often 95 % intervals of `measure` cover the truth, from few and from many sequences: 500 repetitions on a chain.

Run as a script; about a minute.
"""

import numpy as np

from demask import Chain, Estimate, measure

NAMES = ("L_0", "L_2", "L_4", "NELBO", "TC", "DTC")


def covered(chain: Chain, sequences: int, *, repetitions: int = 500, key: int = 1000) -> np.ndarray:
    """Return the share of repetitions in which each interval covers."""
    losses = chain.curve().values
    truth = [*losses[[0, 2, 4]], chain.entropy(), chain.tc(), chain.dtc()]
    data = chain.sample(repetitions * sequences, key=key).view(repetitions, sequences, chain.length)
    hits = np.zeros(len(truth))
    for turn, rows in enumerate(data):
        m = measure(chain, rows, passes=1 + 4 * sequences, grid=[0, 2, 4], key=key + turn, batch=sequences, ends=1)
        found = [*(Estimate(*pair) for pair in zip(m.loss, m.error, strict=True)), m.nelbo, m.tc, m.dtc]
        for column, (estimate, exact) in enumerate(zip(found, truth, strict=True)):
            low, high = estimate.interval(0.95)
            hits[column] += low <= exact <= high
    return hits / repetitions


def main() -> None:
    """Print a table."""
    chain = Chain.markov([0.6, 0.4], [[0.9, 0.1], [0.3, 0.7]], length=5)
    print("| sequences |", " | ".join(NAMES), "|")
    print("|---|" + "---|" * len(NAMES))
    for sequences in (24, 50, 80):
        print(f"| {sequences} |", " | ".join(f"{share:.3f}" for share in covered(chain, sequences)), "|")


if __name__ == "__main__":
    main()
