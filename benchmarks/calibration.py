"""What self-calibration costs and saves: exact costs of the sizes in force after 1, 8, 64 and 512 rows, as Markdown.

Run: python benchmarks/calibration.py [FIRST_KEY], two to three minutes. The rule was tuned on keys 0 to 2; the decision page
shows keys from 50 on, which were used for nothing else.
"""

import sys
from pydoc_data.topics import topics
from time import perf_counter

import numpy as np
import torch

from demask import Canvas, Parallel, Random, sample
from demask.curve import Curve
from demask.oracles import HMM, Oracle, fit, parity, reed_solomon
from demask.schedules import minimax, optimal
from demask.schedules.calibrated import Calibration, Calibrator, self_calibrating

MARKS = (1, 8, 64, 512)


def gather(oracle: Oracle, sizes, rows: int, key: int) -> Calibration:
    canvas, collect = Canvas.blank(rows, oracle.length), [Calibrator(oracle.length)]
    return sample(oracle, Parallel(sizes, Random()), canvas, key=key, collect=collect).collected["calibration"]


def hidden(length: int) -> HMM:
    random = np.random.default_rng(1)
    transition = 0.9 * np.eye(3) + 0.1 / 3
    return HMM(
        np.full(3, 1 / 3), transition / transition.sum(1, keepdims=True), random.dirichlet(np.full(6, 0.3), 3), length
    )


def study(name: str, oracle: Oracle, steps: int, *, known: Calibration | None = None, key: int = 0) -> None:
    """Print one row; with `known`, learned elsewhere, the data have just switched."""
    begin, length = perf_counter(), oracle.length
    curve = oracle.curve(samples=64).projected()
    curve = Curve(curve.values)
    best, safe = optimal(curve, steps).cost(curve), minimax(length, steps).cost(curve)
    state = known or Calibration.empty(length)
    cells, worst, rows, batch = [], 0.0, 0, 0
    while True:
        sizes = self_calibrating(length, steps, calibration=state)
        cost = sizes.cost(curve)
        worst = max(worst, cost / safe) if rows or known is None else worst
        if rows in MARKS:
            cells.append(f"{cost:.2f} ({cost / safe:.2f})")
        if rows == MARKS[-1]:
            break
        until = next(mark for mark in MARKS if mark > rows)
        size = min(1 if rows == 0 and known is None else 8 if rows < 64 else 64, until - rows)
        if known is not None and not rows:
            first = cost / safe
            size = 1
        state = state.updated(gather(oracle, sizes, size, key=1000 * key + batch))
        rows, batch = rows + size, batch + 1
    stale = f"; {first:.2f} before the first row" if known is not None else ""
    print(
        f"| {name} | {best:.2f} | {safe:.2f} | {' | '.join(cells)} | {worst:.2f}{stale} | {state.resets} |", flush=True
    )
    print(f"<!-- {perf_counter() - begin:.0f} s -->", flush=True)


def false_alarms(oracle: Oracle, steps: int, histories: int) -> None:
    alarms = 0
    for key in range(histories):
        state = Calibration.empty(oracle.length)
        for batch in range(12):
            state = state.updated(gather(oracle, minimax(oracle.length, steps), 4, key=100_000 + 100 * key + batch))
        alarms += state.resets
    print(
        f"\nFalse alarms: {alarms} in {histories} histories of 12 batches of 4 rows (nominal: at most 1 % of histories)."
    )


def main(first: int = 50) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    words = " ".join(topics.values())
    text = fit(words, length=256, smoothing=0.01)
    print("Cost in nats on the true curve of the sizes in force after so many rows, and as a share of minimax(both).\n")
    print("| data | optimal | minimax | 1 | 8 | 64 | 512 | worst / minimax | resets |")
    print("|---|---|---|---|---|---|---|---|---|")
    for key in (first, first + 1, first + 2):
        study(f"text chain, n = 256, K = 16, key {key}", text, 16, key=key)
    study("text chain, n = 128, K = 12", fit(words, length=128, smoothing=0.01), 12, key=first)
    study("text chain without smoothing", fit(words, length=256), 16, key=first)
    study("hidden Markov, n = 48, K = 6", hidden(48), 6, key=first)
    for dimension in (1, 33, 60):
        study(f"MDS code [66, {dimension}], K = 8", reed_solomon(66, dimension), 8, key=first)
    study("parity, n = 64, K = 8", parity(64), 8, key=first)
    learned = gather(text, minimax(256, 16), 64, key=7 + first)
    study("text, then MDS code [256, 2]", reed_solomon(256, 2), 16, known=learned, key=first)
    short = fit(words, length=66, smoothing=0.01)
    learned = gather(short, minimax(66, 8), 256, key=7 + first)
    study("text, then MDS code [66, 33], K = 8", reed_solomon(66, 33), 8, known=learned, key=first)
    false_alarms(fit(words, length=64, smoothing=0.01), 8, 40)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
