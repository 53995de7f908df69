"""Denoisers: the law of each masked token, given the visible ones."""

from demask.denoisers.wrap import Tempered

__all__ = ["Tempered"]
