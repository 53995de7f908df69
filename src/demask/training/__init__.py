"""Training: the masked-diffusion loss, data, optimisers, checkpoints and the one loop that joins them."""

from demask.training.data import Batch, Data, Fresh, HeldOut, Packed, Text, Windows, corpus, read, split
from demask.training.evaluate import Score, evaluate
from demask.training.masked import Masks, draw
from demask.training.recipe import Recipe
from demask.training.train import Moment, Status, Trained, train

__all__ = [
    "Batch",
    "Data",
    "Fresh",
    "HeldOut",
    "Masks",
    "Moment",
    "Packed",
    "Recipe",
    "Score",
    "Status",
    "Text",
    "Trained",
    "Windows",
    "corpus",
    "draw",
    "evaluate",
    "read",
    "split",
    "train",
]
