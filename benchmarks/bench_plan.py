"""Plans for measured curves. Wanted: n=4096, K=256 in 0.4 s; run as a script for the side-by-side table in Markdown."""

from pydoc_data.topics import topics

import numpy as np
import pytest

from demask.information.certificate import extent
from demask.information.plan import best_of, plan
from demask.information.totals import effective_weights
from demask.oracles.text import fit
from demask.schedules import optimal
from demask.schedules.hedged import hedged


def smooth(length):
    return np.exp(-3 * np.arange(length) / length)


@pytest.mark.parametrize(("length", "steps"), [(4096, 256), (32768, 512)])
def bench_optimal(benchmark, length, steps):
    benchmark.pedantic(optimal, args=(smooth(length), steps), rounds=3, warmup_rounds=1)


def bench_hedged(benchmark):
    benchmark.pedantic(hedged, args=(smooth(4096), 256), rounds=3, warmup_rounds=1)


def bench_fewest_steps(benchmark):
    benchmark.pedantic(plan, args=(smooth(1024),), kwargs={"excess": 5.0}, rounds=3, warmup_rounds=1)


def bench_extent(benchmark):
    z, grid = smooth(4096), np.unique(np.append(np.arange(0, 4096, 64), 4095))
    benchmark(extent, optimal(z, 256).residual(), grid, z[grid], np.full(len(grid), 0.01))


def bench_effective_weights(benchmark):
    benchmark(effective_weights, 4096)


def main() -> None:
    """Print the cost of every family, nats per sequence, on the character chain fitted to the Python manual."""
    curve = fit("".join(topics.values()), length=256).curve()
    counts = (8, 16, 32)
    tables = [{row.name: row for row in best_of(curve, steps)} for steps in counts]
    print(f"n = 256, NELBO {curve.entropy:.1f}, TC {curve.tc:.1f}, DTC {curve.dtc:.1f} nats\n")
    print(f"| schedule | {' | '.join(f'{k} steps | per min(TC, DTC)' for k in counts)} |")
    print(f"|---|{'---|' * 2 * len(counts)}")
    for name in tables[0]:
        cells = [f"{table[name].cost:.2f} | {table[name].constant:.3f}" for table in tables]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
