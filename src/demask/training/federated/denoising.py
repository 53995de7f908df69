"""A peer's objective when a denoiser is trained: the masked loss on texts that only this peer has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from demask.chance import Keyed
from demask.denoisers.transformer import Network
from demask.errors import TrainingError
from demask.training.data import Data, Text
from demask.training.federated.recipe import FederatedRecipe
from demask.training.lesson import Lesson

_LEAST: Final = 1e-12


class Bench:
    """A network whose weights, and their gradient, are each one vector; peers in one process share it.

    Parameters:
        network: from now on a view of the vectors.
    """

    def __init__(self, network: Network) -> None:
        self.network = network.requires_grad_(True)
        parameters = list(network.parameters())
        self.weights = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        self.gradient = torch.zeros_like(self.weights)
        place = 0
        for parameter in parameters:
            size = parameter.numel()
            parameter.data = self.weights[place : place + size].view_as(parameter)
            parameter.grad = self.gradient[place : place + size].view_as(parameter)
            place += size

    def named(self, point: Tensor) -> dict[str, Tensor]:
        """Return a vector as tensors by name, copies."""
        out, place = {}, 0
        for name, parameter in self.network.named_parameters():
            out[name] = point[place : place + parameter.numel()].view_as(parameter).clone()
            place += parameter.numel()
        return out


@dataclass(frozen=True, eq=False)
class Denoising:
    """The mean loss of masked tokens on one peer's rows, and its clipped gradient; rows are drawn by peer, round and step.

    Parameters:
        bench: that computes.
        data: of this peer alone.
        recipe: the same for all peers.
        peer: its number.
    """

    bench: Bench
    data: Data
    recipe: FederatedRecipe
    peer: int

    def __call__(self, point: Tensor, turn: int, step: int) -> tuple[float, Tensor]:
        """Return loss and gradient (P,), the latter valid until the next call of any peer at the bench."""
        recipe, bench = self.recipe, self.bench
        chance = Keyed.of(recipe.key, torch.arange(recipe.batch)).fork("peer", self.peer, turn, step)
        shares = recipe.masks.range(turn / recipe.rounds)
        lesson = Lesson.draw(self.data, chance, shares=shares, network=recipe.network)
        bench.weights.copy_(point)
        bench.gradient.zero_()
        loss = lesson.loss(bench.network, slice(0, recipe.batch), precision=recipe.precision)
        loss.backward()  # type: ignore[no-untyped-call]
        bench.gradient.mul_((recipe.clip / bench.gradient.norm().clamp(min=_LEAST)).clamp(max=1.0))
        return float(loss.detach()), bench.gradient


def deal(texts: Sequence[Text], peers: int, *, concentration: float = 0.6, key: int = 0) -> list[list[Text]]:
    """Deal texts to peers, each text whole and to one peer, in shares as uneven as those of a Dirichlet law.

    Shares of the characters are drawn from Dirichlet(concentration, .., concentration); the texts, in their order, are cut
    into runs of about these shares, one text or more each. So peers have what lies together, such as a folder of one author,
    and differ in what they have as well as in how much.

    Parameters:
        concentration: > 0; 0.3 is very uneven, 100 nearly even.
        key: of the shares.

    Raises:
        TrainingError: fewer texts than peers, so that one would have no data; a concentration that is not > 0.

    Example:
        >>> dealt = deal([Text(str(i), "word " * (i + 1)) for i in range(8)], 3, concentration=0.6)
        >>> [[text.name for text in part] for part in dealt]
        [['0', '1', '2', '3'], ['4', '5', '6'], ['7']]
    """
    if len(texts) < peers:
        raise TrainingError(
            f"{len(texts)} texts for {peers} peers, and a text goes to one peer whole, so one would have no data; give more "
            f"files, or take fewer peers: --peers {len(texts)}"
        )
    if not (concentration > 0 and concentration < float("inf")):
        raise TrainingError(f"a concentration of {concentration}; expected a finite number > 0, such as 0.6")
    sizes = [len(text.content) for text in texts]
    shares = np.random.default_rng(key).dirichlet([concentration] * peers)
    goals = shares.cumsum() * sum(sizes)
    dealt: list[list[Text]] = [[] for _ in range(peers)]
    peer = passed = 0
    for index, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        left = len(texts) - index
        if dealt[peer] and peer < peers - 1 and (passed + size / 2 > goals[peer] or left <= peers - 1 - peer):
            peer += 1
        dealt[peer].append(text)
        passed += size
    return dealt
