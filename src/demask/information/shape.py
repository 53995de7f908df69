"""The shape of a curve from how far predictions move: many times less noisy than its losses."""

from typing import Final

import numpy as np

from demask.curve import Floats
from demask.information.measurement import Ints

# Prior weight of a second difference of the log slope, over the whole curve; weaker where the data contradict it.
_SMOOTH: Final = (0.3, 0.03, 0.003)
_RISK: Final = 1e-3  # at which a smooth slope counts as contradicted
_PRIOR: Final = 16  # paths that the prediction of an error counts for
_ROUNDS: Final = 64


def falls(grid: Ints, length: int, movement: Floats, effective: Floats) -> Floats:
    """Return how much the curve falls from each count to the next, (n-1,) nats >= 0, from movements along a grid.

    A cell k of w_k counts, in which predictions moved by m_k, has the log slope f_k, found by

        min over f of  sum_k N_k (m_k / (w_k e^f_k) - 1)^2  (as iterated weighted least squares)  +  smooth * |f''|^2,

    the second differences being those of f over the share of visible tokens. So few cells and few paths give a smooth
    slope, and many of them whatever they say. If a cell lies further from every smooth slope than chance explains, the
    slope of each cell is taken as it was measured.

    Parameters:
        grid: (G,) counts from 0 to n - 1.
        length: n.
        movement: (G-1,) nats, >= 0.
        effective: (G-1,) N_k, one over the squared relative error of m_k.

    Cost: O(G^3 + n).

    Example:
        >>> falls(np.array([0, 1, 2, 3]), 4, np.array([0.4, 0.2, 0.1]), np.full(3, 100.0)).round(4)
        array([0.4, 0.2, 0.1])
    """
    from scipy.special import chdtri

    width = np.diff(grid).astype(np.float64)
    measured = movement / width
    middle = (grid[1:] + grid[:-1]) / 2 / length
    if len(width) >= 3 and np.any(measured > 0):
        bend = _second_differences(middle)
        for smooth in _SMOOTH:
            fit = _fitted(measured, effective, smooth * bend.T @ bend)
            if (effective * (measured / np.exp(fit) - 1) ** 2).sum() <= chdtri(len(width), _RISK):
                return np.asarray(np.exp(np.interp((np.arange(1, length) - 0.5) / length, middle, fit)))
    return np.repeat(measured, np.diff(grid))


def effective_numbers(grid: Ints, length: int, passes: Ints, movement: Floats, error: Floats) -> Floats:
    """Return one over the squared relative errors of movements, (G-1,), as tokens counted predict them.

    A cell's error comes from the tokens revealed in it and those scored after it: its square is about proportional to
    1/revealed + 1/scored, with one factor for all cells, the median of what the standard errors say and at least 1. A
    cell's own standard error, from few paths, is a noisy weight: where the movement happens to be small, it is too. So the
    two squares are averaged, the predicted one counting for as much as 16 paths.

    Example:
        >>> effective_numbers(np.array([0, 2, 4]), 5, np.array([6, 6, 12]), np.array([0.3, 0.2]), np.zeros(2)).round(2)
        array([9.9 , 8.25])
    """
    scored = (length - grid[1:]) * passes[1:]
    base = 1.0 / scored + 1.0 / (np.diff(grid) * passes[:-1])
    own = (error / np.maximum(movement, 1e-300)) ** 2
    some = movement > 0
    factor = max(1.0, float(np.median(own[some] / base[some]))) if np.any(some) else 1.0
    paths = np.where(some, passes[0], 0)
    square = (_PRIOR * factor * base + paths * np.where(some, own, 0.0)) / (_PRIOR + paths)
    return np.asarray(1.0 / square)


def _fitted(measured: Floats, effective: Floats, penalty: Floats) -> Floats:
    """Return the log slopes, by Newton's steps of the weighted least squares."""
    fit = np.log(np.maximum(measured, 0.05 * measured.mean()))
    for _ in range(_ROUNDS):
        ratio = np.minimum(measured / np.exp(fit), 5.0) - 1.0
        step = np.linalg.solve(np.diag(effective) + penalty, effective * ratio - penalty @ fit)
        fit = fit + step.clip(-1.0, 1.0)
        if np.abs(step).max() < 1e-9:
            break
    return np.asarray(fit)


def _second_differences(place: Floats) -> Floats:
    """Return the matrix of second differences at uneven places, weighted so that its square is the integral of f''^2."""
    before, after = np.diff(place)[:-1], np.diff(place)[1:]
    rows = np.zeros((len(place) - 2, len(place)))
    k = np.arange(len(rows))
    rows[k, k] = 2 / (before * (before + after))
    rows[k, k + 1] = -2 / (before * after)
    rows[k, k + 2] = 2 / (after * (before + after))
    return np.asarray(rows * np.sqrt((before + after) / 2)[:, None])
