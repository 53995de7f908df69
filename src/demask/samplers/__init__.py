"""Samplers: what the one loop turns."""

from demask.samplers.parallel import Parallel, State, largest

__all__ = ["Parallel", "State", "largest"]
