"""What several trajectories buy on a real network: notes of `demask/notes` that are right, by sampler and temperature.

Run: python benchmarks/particles.py [COUNT]; about a quarter of an hour for 128 notes a sampler on two cores.
"""

import sys
from time import perf_counter

from demask.generate import load
from demask.oracles import Notes

EVEN = "Parallel(uniform(steps=64), Random())"
POOLED = "Parallel(uniform(steps=64), Pooled(Confidence(), 5))"
THRESHOLD = 'Parallel(Unlimited(), Threshold(Blockwise(Confidence("draft"), 32), 0.9))'
CASES = (
    (EVEN, 1.0),
    (EVEN, 0.7),
    (EVEN, 0.5),
    (f"SMC({EVEN}, SelfReward(), 4)", 1.0),
    (f'SMC({EVEN}, SelfReward(), 4, choose="best")', 1.0),
    (f"SMC({EVEN}, Foresight(), 4)", 1.0),
    (POOLED, 1.0),
    (f"Lookahead({POOLED}, Foresight(), 2)", 1.0),
    (f"Lookahead({POOLED}, Foresight(), 4)", 1.0),
    (THRESHOLD, 1.0),
    (f'SMC({THRESHOLD}, SelfReward(), 4, every=32, choose="best")', 1.0),
    (f"Credited({THRESHOLD})", 1.0),
)


def main(count: str = "128") -> None:
    """Print the table."""
    model, checker = load("demask/notes"), Notes()
    print(
        "| sampler | temperature | notes right | 95 % | passes | different texts | seconds |\n|---|---|---|---|---|---|---|"
    )
    for sampler, temperature in CASES:
        begin = perf_counter()
        results = model.generate(n=int(count), sampler=sampler, key=1, temperature=temperature, batch=32)
        found = checker.satisfied(result.text for result in results)["all"]
        low, high = found.interval()
        nfe = sum(result.nfe for result in results) / len(results)
        texts = len({result.text for result in results})
        print(
            f"| `{sampler}` | {temperature} | {found.value:.1%} | {low:.1%} to {high:.1%} | {nfe:.1f} | {texts} | "
            f"{perf_counter() - begin:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
