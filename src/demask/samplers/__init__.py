"""Samplers: what the one loop turns."""

from demask.samplers.ended import Ended
from demask.samplers.parallel import Parallel, State, largest

__all__ = ["Ended", "Parallel", "State", "largest"]
