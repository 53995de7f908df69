"""Which positions are unmasked first, and which may not go at this step."""

from demask.orders.rules import Blockwise, EntropyBudget, Factor, Noisy, Threshold
from demask.orders.scores import Confidence, Entropy, LeftToRight, Margin, Random

__all__ = [
    "Blockwise",
    "Confidence",
    "Entropy",
    "EntropyBudget",
    "Factor",
    "LeftToRight",
    "Margin",
    "Noisy",
    "Random",
    "Threshold",
]
