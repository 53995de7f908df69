"""Samplers: what the one loop turns."""

from demask.samplers.adaptive import Adaptive
from demask.samplers.beam import Beam, Logp
from demask.samplers.editing import Editing
from demask.samplers.ended import Ended
from demask.samplers.parallel import Asked, Parallel, State, largest
from demask.samplers.remasking import Cap, Confident, Loop, Remasking, Rescale
from demask.samplers.speculative import Speculative
from demask.samplers.stable import Stable
from demask.samplers.stopped import Stopped

__all__ = [
    "Adaptive",
    "Asked",
    "Beam",
    "Cap",
    "Confident",
    "Editing",
    "Ended",
    "Logp",
    "Loop",
    "Parallel",
    "Remasking",
    "Rescale",
    "Speculative",
    "Stable",
    "State",
    "Stopped",
    "largest",
]
