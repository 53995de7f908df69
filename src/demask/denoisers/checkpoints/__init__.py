"""Published checkpoints as denoisers: LLaDA, Dream, LLaDA2, SDAR, MDLM, BERT and its kin; safetensors, no code of theirs."""

from demask.denoisers.checkpoints.base import Checkpoint
from demask.denoisers.checkpoints.chat import ChatTemplate
from demask.denoisers.checkpoints.facts import Facts
from demask.denoisers.checkpoints.open import Given, Opened, read
from demask.denoisers.checkpoints.tokens import PublishedTokenizer

__all__ = ["ChatTemplate", "Checkpoint", "Facts", "Given", "Opened", "PublishedTokenizer", "read"]
