"""Samplers: what the one loop turns."""

from demask.samplers.editing import Editing
from demask.samplers.ended import Ended
from demask.samplers.parallel import Asked, Parallel, State, largest
from demask.samplers.remasking import Cap, Confident, Loop, Remasking, Rescale
from demask.samplers.stable import Stable
from demask.samplers.stopped import Stopped

__all__ = [
    "Asked",
    "Cap",
    "Confident",
    "Editing",
    "Ended",
    "Loop",
    "Parallel",
    "Remasking",
    "Rescale",
    "Stable",
    "State",
    "Stopped",
    "largest",
]
