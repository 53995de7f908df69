"""Denoisers: the law of each masked token, given the visible ones."""

from demask.denoisers.causal import Causal
from demask.denoisers.permutation import Permutation
from demask.denoisers.transformer import Shape, Transformer
from demask.denoisers.wrap import Continued, Nucleus, Restricted, Tempered

__all__ = ["Causal", "Continued", "Nucleus", "Permutation", "Restricted", "Shape", "Tempered", "Transformer"]
