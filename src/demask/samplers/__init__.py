"""Samplers: what the one loop turns."""

from demask.samplers.adaptive import Adaptive
from demask.samplers.ended import Ended
from demask.samplers.parallel import Parallel, State, largest
from demask.samplers.speculative import Speculative
from demask.samplers.stable import Stable

__all__ = ["Adaptive", "Ended", "Parallel", "Speculative", "Stable", "State", "largest"]
