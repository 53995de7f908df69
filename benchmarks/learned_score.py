"""How much a learned score costs: path KL with scores learned from few points, beside exact ones, in several dimensions."""

import time

import torch

from demask.information.continuous import path_kl
from demask.oracles import Gaussians, subspaces
from demask.samplers import Backward, Forward, General, LowDimensional
from demask.training import fit_score

STEPS, POINTS = 100, 1000


def bumps(dimension: int) -> Gaussians:
    """Return four bumps of standard deviation 0.1 on the corners of a square, in a random plane."""
    plane = subspaces(dimension, 2).bases
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64) / 2
    return Gaussians(corners @ plane[0].T, plane.expand(4, -1, -1), torch.full((4, 2), 0.01), torch.full((4,), 0.25))


def main() -> None:
    """Print a row per distribution and dimension."""
    print(f"T = {STEPS}, {POINTS} points; path KL in nats (standard error)")
    for name, make in (("bumps in a plane", bumps), ("three lines", lambda d: subspaces(d, 1, count=3))):
        for d in (8, 32, 128):
            target, begin = make(d), time.perf_counter()
            score = fit_score(target.sample(POINTS, key=1), Forward(STEPS))
            cells = []
            for rule in (LowDimensional(), General()):
                for asked in (target, score):
                    found = path_kl(target, Backward(Forward(STEPS), rule), score=asked, key=2)
                    cells.append(f"{found:8.3f} ({found.error:.3f})")
            span, seconds = score.basis.shape[1], time.perf_counter() - begin
            print(
                f"{name:18s} d={d:4d} span={span:2d} | exact, learned: {' '.join(cells)} | {seconds:.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
