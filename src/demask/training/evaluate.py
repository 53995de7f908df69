"""The exact NELBO over all mask shares, estimated on held-out windows, with its interval."""

from dataclasses import dataclass
from math import log, sqrt

import numpy as np
import torch

from demask.canvas import ABSENT, Canvas
from demask.chance import Keyed
from demask.contracts import Denoiser
from demask.curve import Estimate
from demask.errors import TrainingError
from demask.training.data import HeldOut
from demask.training.masked import draw


@dataclass(frozen=True)
class Score:
    """How well a denoiser predicts held-out texts; an upper bound of what coding them with it would take.

    The standard errors are over texts (over windows if there are fewer than 8 texts), with Student's factor.

    Parameters:
        bits_per_byte: NELBO / (ln 2 x bytes).
        nats_per_token: NELBO / tokens, end tokens counted.
        nats_per_text: NELBO / texts.
        windows: that were scored.
        texts: that they are of.
    """

    bits_per_byte: Estimate
    nats_per_token: Estimate
    nats_per_text: Estimate
    windows: int
    texts: int


def evaluate(
    denoiser: Denoiser, held: HeldOut, *, key: int = 0, windows: int | None = None, rounds: int = 1, batch: int = 32
) -> Score:
    """Score a denoiser on held-out texts.

    n E[mean loss of m masked tokens], m uniform on 1 .. n and stratified over windows: unbiased for every window's NELBO.
    Equal keys draw equal windows and masks, so scores along a training are paired.

    Parameters:
        denoiser: used as it is, at temperature 1.
        held: what to score.
        key: of the windows and masks.
        windows: at most this many, drawn without replacement; None: all.
        rounds: independent masks per window.
        batch: rows of one call.

    Raises:
        TrainingError: fewer than two windows, or a loss that is infinite.

    Cost: one pass per window and round.
    """
    total = len(held.tokens)
    if total < 2:
        raise TrainingError(
            f"{total} window held out; an interval needs 2 or more: hold out more text, or a smaller --context"
        )
    kept = torch.randperm(total, generator=torch.Generator().manual_seed(key))[: windows or total].sort().values
    rows = kept.repeat(rounds)  # (R,)
    chance = Keyed.of(key, torch.arange(len(rows))).fork("evaluate")
    tokens = held.tokens[rows]
    present = tokens != ABSENT
    masked = draw(present, chance)
    losses = np.zeros(len(rows))
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        where = masked.where[part]
        answer = denoiser(Canvas(tokens[part].masked_fill(where, 0), where), where)
        loss = -answer.logp(tokens[part][where]).double()
        grid = torch.zeros(where.shape, dtype=torch.float64).masked_scatter_(where, loss)
        losses[part] = (grid.sum(1) * masked.weights[part].double()).numpy()
    if not np.isfinite(losses).all():
        raise TrainingError("a held-out token has probability 0, so the loss is infinite; train on more varied text")
    length = present.sum(1).numpy().astype(np.float64)
    owner = held.owner[rows].numpy()
    unit = owner if len(np.unique(owner)) >= 8 else rows.numpy()
    rate = ratio(losses * length, length, unit)
    everything = float((held.tokens != ABSENT).sum())

    def scaled(factor: float) -> Estimate:
        return Estimate(rate * factor, rate.error * factor)

    return Score(
        scaled(everything / held.bytes / log(2)),
        rate,
        scaled(everything / held.texts),
        len(kept),
        len(np.unique(owner)),
    )


def ratio(values: np.ndarray, sizes: np.ndarray, unit: np.ndarray) -> Estimate:
    """Return sum(values) / sum(sizes), with its standard error over the units, which are independent."""
    from scipy.special import ndtri, stdtrit

    _, index = np.unique(unit, return_inverse=True)
    value, size = np.bincount(index, values), np.bincount(index, sizes)
    rate, count = value.sum() / size.sum(), len(value)
    error = sqrt(((value - rate * size) ** 2).sum() * count / (count - 1)) / size.sum()
    return Estimate(rate, error * float(stdtrit(count - 1, 0.975) / ndtri(0.975)))
