"""Measurements made from a known curve: seen at some counts only, with given errors and given noise."""

import numpy as np

from demask.curve import Curve, Estimate
from demask.information.measurement import Measurement


def on_grid(curve, grid, error=0.0, noise=None):
    """The measurement that would have found curve[grid] + noise, with standard errors `error`."""
    grid, n = np.asarray(grid), len(curve)
    loss = np.maximum(np.asarray(curve)[grid] + (0.0 if noise is None else noise), 0.0)
    exact = Curve(np.asarray(curve))
    return Measurement(
        length=n,
        grid=grid,
        loss=loss,
        error=np.full(len(grid), error),
        passes=np.full(len(grid), 64),
        nelbo=Estimate(exact.entropy, n * error / 4),
        tc=Estimate(exact.tc, n * error / 4),
        dtc=Estimate(exact.dtc, n * error / 4),
        movement=None,
        movement_error=None,
        fingerprint="0123456789abcdef",
        data="a known curve",
        key=7,
        seconds=0.5,
    )
