"""Training: the masked-diffusion loss, data, optimisers, checkpoints and the one loop that joins them."""

from demask.training.data import Batch, Data, Fresh, HeldOut, Packed, Text, Windows, corpus, read, split
from demask.training.evaluate import Score, evaluate
from demask.training.masked import Masks, draw
from demask.training.policy import PolicyRecipe, Round, TrainedPolicy, train_policy
from demask.training.recipe import Recipe
from demask.training.sparsity import Calibration, LearnedMasks, SparsityRecipe, learn_masks, magnitude, wanda
from demask.training.task import Task, possible, texts
from demask.training.train import Moment, Status, Trained, train

__all__ = [
    "Batch",
    "Calibration",
    "Data",
    "Fresh",
    "HeldOut",
    "LearnedMasks",
    "Masks",
    "Moment",
    "Packed",
    "PolicyRecipe",
    "Recipe",
    "Round",
    "Score",
    "SparsityRecipe",
    "Status",
    "Task",
    "Text",
    "Trained",
    "TrainedPolicy",
    "Windows",
    "corpus",
    "draw",
    "evaluate",
    "learn_masks",
    "magnitude",
    "possible",
    "read",
    "split",
    "texts",
    "train",
    "train_policy",
    "wanda",
]
