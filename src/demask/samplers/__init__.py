"""Samplers: what the one loop turns."""

from demask.samplers.adaptive import Adaptive
from demask.samplers.ctmc import Absorbing, UniformState
from demask.samplers.editing import Editing
from demask.samplers.ended import Ended
from demask.samplers.grids import Constant, ExponentialThenConstant, Grid, Linear
from demask.samplers.parallel import Asked, Parallel, State, largest
from demask.samplers.remasking import Cap, Confident, Loop, Remasking, Rescale
from demask.samplers.renoising import Renoising
from demask.samplers.speculative import Speculative
from demask.samplers.stable import Stable
from demask.samplers.stopped import Stopped

__all__ = [
    "Absorbing",
    "Adaptive",
    "Asked",
    "Cap",
    "Confident",
    "Constant",
    "Editing",
    "Ended",
    "ExponentialThenConstant",
    "Grid",
    "Linear",
    "Loop",
    "Parallel",
    "Remasking",
    "Renoising",
    "Rescale",
    "Speculative",
    "Stable",
    "State",
    "Stopped",
    "UniformState",
    "largest",
]
