"""Every path of a sampler on a small problem, with its probability."""

import torch

from demask.canvas import Canvas
from demask.chance import Scripted, Tape
from demask.loop import sample

BATCH = 2048


def paths(denoiser, sampler, max_steps=4096, collect=()):
    """Return the probability of everything that can happen, (P,), and the runs in which it does, one per batch.

    `collect` are classes of collectors: every batch has its own.
    """
    pending, shares, runs = [[]], [], []
    while pending:
        scripts, pending = pending[-BATCH:], pending[:-BATCH]
        tapes = [Tape(script) for script in scripts]
        canvas = Canvas.blank(len(tapes), denoiser.length)
        collectors = [collector() for collector in collect]
        chance = Scripted.of(tapes)
        runs.append(sample(denoiser, sampler, canvas, key=chance, max_steps=max_steps, collect=collectors))
        for tape in tapes:
            shares.append(tape.logp)
            for turn in range(len(tape.script), len(tape.taken)):
                pending += [[*tape.taken[:turn], other] for other in range(1, tape.widths[turn])]
    return torch.tensor(shares, dtype=torch.float64).exp(), runs
