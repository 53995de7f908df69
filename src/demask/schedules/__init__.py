"""How many tokens are unmasked at each step.

A schedule for a known number of masked positions is a value with a law: `minimax(256, 16)`. A schedule for whatever a row
happens to have is that family, applied per row: `PerRow(minimax, steps=16)`.
"""

from demask.schedules.calibrated import Calibration, Calibrator, self_calibrating
from demask.schedules.fitted import optimal, two_number
from demask.schedules.fixed import Binomial, binomial, cosine, fixed, geometric, uniform
from demask.schedules.hedged import hedged
from demask.schedules.minimax import minimax
from demask.schedules.plan import PerBlock, PerRow, Plan, Sizes, Unlimited, weights
from demask.schedules.sequential import Sequential, sequential
from demask.schedules.systematic import Systematic

__all__ = [
    "Binomial",
    "Calibration",
    "Calibrator",
    "PerBlock",
    "PerRow",
    "Plan",
    "Sequential",
    "Sizes",
    "Systematic",
    "Unlimited",
    "binomial",
    "cosine",
    "fixed",
    "geometric",
    "hedged",
    "minimax",
    "optimal",
    "self_calibrating",
    "sequential",
    "two_number",
    "uniform",
    "weights",
]
