"""Samplers: what the one loop turns."""

from demask.samplers.ended import Ended
from demask.samplers.parallel import Parallel, State, largest
from demask.samplers.stable import Stable
from demask.samplers.stopped import Stopped

__all__ = ["Ended", "Parallel", "Stable", "State", "Stopped", "largest"]
