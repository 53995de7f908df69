"""What a network learns from at one step: a batch with some of its tokens masked, and the loss of predicting them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from demask.chance import Keyed
from demask.denoisers.permutation import streams
from demask.denoisers.transformer import Network
from demask.training.data import Batch, Data
from demask.training.masked import Masked, draw


@dataclass(frozen=True)
class Lesson:
    """Rows, what is masked of them, and in which order a permutation network learns it.

    Parameters:
        batch: B rows.
        masked: of the same rows.
        ranks: (B, N) integers, 1, 2, .. where masked, 0 elsewhere; None: each masked token given the visible ones alone.
    """

    batch: Batch
    masked: Masked
    ranks: Tensor | None

    @classmethod
    def draw(cls, data: Data, chance: Keyed, *, shares: tuple[float, float], network: str) -> "Lesson":
        """Return a lesson that is a function of the chance alone, a row per name of it."""
        batch = data.batch(chance.fork("data"))
        masked = draw(torch.ones_like(batch.tokens, dtype=torch.bool), chance, shares=shares)
        if batch.asked is not None:
            masked = masked.asking(batch.asked.where)
        ranks = None
        if network == "permutation":
            keys = chance.fork("order").permutation(masked.where)
            ranks = (keys.argsort(1, descending=True).argsort(1) + 1).masked_fill(~masked.where, 0)
        return cls(batch, masked, ranks)

    def loss(self, network: Network, rows: slice, *, precision: str) -> Tensor:
        """Return these rows' share of the mean, over the rows of the batch, of the mean loss of masked tokens."""
        device = network.embedding.weight.device
        part = self.masked.rows(rows)
        part = Masked(part.where.to(device), part.weights.to(device))
        tokens = self.batch.tokens[rows].to(device)
        documents = None if self.batch.documents is None else self.batch.documents[rows].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if self.ranks is None:
                ids = tokens.masked_fill(part.where, network.shape.vocabulary)
                features = network(ids, documents=documents)
            else:
                features = streams(network, tokens, self.ranks[rows].to(device), documents=documents)
            logits = network.logits(features[part.where])
        losses = functional.cross_entropy(logits.float(), self._targets(rows, part.where, tokens), reduction="none")
        return part.sum(losses) / len(self.batch.tokens)

    def _targets(self, rows: slice, where: Tensor, tokens: Tensor) -> Tensor:
        """Return what stands at the masked positions, (M,); or its laws, (M, V), where some rows are asked for them."""
        there = tokens[where]
        if self.batch.asked is None:
            return there
        laws = self.batch.asked.laws[rows].to(there.device)
        known = laws[where.nonzero()[:, 0]]  # (M, V)
        drawn = functional.one_hot(there, known.shape[1]).to(known)
        return torch.where(known.any(1, keepdim=True), known, drawn)
