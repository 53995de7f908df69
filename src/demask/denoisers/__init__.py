"""Denoisers: the law of each masked token, given the visible ones."""

from demask.denoisers.cached import Cached
from demask.denoisers.causal import Causal
from demask.denoisers.guided import Guided
from demask.denoisers.permutation import Permutation
from demask.denoisers.recomputed import Recomputed
from demask.denoisers.steered import Delayed, Forbidden, Penalised
from demask.denoisers.transformer import Shape, Transformer
from demask.denoisers.truncated import MinP, TopK
from demask.denoisers.wrap import Continued, Nucleus, Restricted, Tempered

__all__ = [
    "Cached", "Causal", "Continued", "Delayed", "Forbidden", "Guided", "MinP", "Nucleus", "Penalised", "Permutation",
    "Recomputed", "Restricted", "Shape", "Tempered", "TopK", "Transformer",
]  # fmt: skip
