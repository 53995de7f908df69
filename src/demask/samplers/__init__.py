"""Samplers: what the one loop turns."""

from demask.samplers.adaptive import Adaptive
from demask.samplers.editing import Editing
from demask.samplers.ended import Ended
from demask.samplers.gaussian import Backward, Coefficients, Forward, General, LowDimensional, Score, draw
from demask.samplers.parallel import Asked, Parallel, State, largest
from demask.samplers.remasking import Cap, Confident, Loop, Remasking, Rescale
from demask.samplers.speculative import Speculative
from demask.samplers.stable import Stable
from demask.samplers.stopped import Stopped

__all__ = [
    "Adaptive",
    "Asked",
    "Backward",
    "Cap",
    "Coefficients",
    "Confident",
    "Editing",
    "Ended",
    "Forward",
    "General",
    "Loop",
    "LowDimensional",
    "Parallel",
    "Remasking",
    "Rescale",
    "Score",
    "Speculative",
    "Stable",
    "State",
    "Stopped",
    "draw",
    "largest",
]
