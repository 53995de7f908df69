"""Which positions are unmasked first, and which may not go at this step."""

from demask.orders.deferred import Deferred
from demask.orders.independence import Independent
from demask.orders.places import Dilated, Hierarchical
from demask.orders.rules import Blockwise, EntropyBudget, Factor, Noisy, Pooled, Threshold
from demask.orders.scores import Confidence, Entropy, LeftToRight, Margin, Random

__all__ = [
    "Blockwise",
    "Confidence",
    "Deferred",
    "Dilated",
    "Entropy",
    "EntropyBudget",
    "Factor",
    "Hierarchical",
    "Independent",
    "LeftToRight",
    "Margin",
    "Noisy",
    "Pooled",
    "Random",
    "Threshold",
]
