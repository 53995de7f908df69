"""The minimax solver and its draws. Wanted: n=4096, K=256 in 0.3 s; n=131072, K=1024 in 6 s; 64 plans in 5 ms."""

import tracemalloc

import numpy as np
import pytest

from demask.schedules import minimax, optimal, weights
from demask.schedules.minimax import from_weights


@pytest.mark.parametrize(("length", "steps"), [(1024, 64), (4096, 256), (131072, 1024)])
@pytest.mark.parametrize("target", ["tc", "dtc", "both"])
def bench_solve(benchmark, length, steps, target):
    w = weights(length, target)
    rounds = 3 if length > 10_000 else 10
    schedule = benchmark.pedantic(from_weights, args=(w, steps), rounds=rounds, warmup_rounds=1)
    benchmark.extra_info["constant"] = schedule.constant(target)


def bench_draw_64_plans(benchmark):
    schedule = minimax(4096, 256)
    schedule.draw(1, key=0)
    benchmark(schedule.draw, 64, key=1)


def bench_optimal(benchmark):
    benchmark.pedantic(optimal, args=(np.exp(-3 * np.arange(4096) / 4096), 256), rounds=5, warmup_rounds=1)


def bench_memory_is_linear(benchmark):
    """Peak bytes per position at n and 4 n: the same number, so memory is O(n)."""

    def peak(length):
        w = weights(length, "both")
        tracemalloc.start()
        from_weights(w, 64)
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_used / length

    benchmark.pedantic(peak, args=(4096,), rounds=1)
    benchmark.extra_info |= {"bytes per position at 4096": round(peak(4096)), "at 16384": round(peak(16384))}
