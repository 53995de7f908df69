"""Peers, and the rounds in which they exchange what they propose, all in this process."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Protocol

import torch
from torch import Tensor

from demask.errors import TrainingError
from demask.training.federated.descent import Memory
from demask.training.federated.methods import Method
from demask.training.federated.topology import Topology


class Objective(Protocol):
    """What one peer alone knows: its own loss."""

    def __call__(self, point: Tensor, turn: int, step: int) -> tuple[float, Tensor]:
        """Return the loss and its gradient (P,), valid until the next call; equal turns and steps ask equal minibatches."""
        ...


@dataclass(eq=False)
class Peer:
    """One of those who train together.

    Parameters:
        number: what it is called.
        objective: never sent.
        point: (P,) its weights.
        memory: what its method remembers, never sent.
        loss: mean of the last round's losses.
        gradients: how many it has asked for.
        sent: bytes.
    """

    number: int
    objective: Objective
    point: Tensor
    memory: Memory = field(default_factory=dict)
    loss: float = float("nan")
    gradients: int = 0
    sent: int = 0

    def propose(self, method: Method, turn: int, height: float) -> Tensor:
        """Take the local steps of a round; return what to send.

        Raises:
            TrainingError: a loss or a vector that is not finite; the peer stays as it was.
        """
        losses: list[float] = []

        def gradient(point: Tensor, step: int) -> Tensor:
            loss, found = self.objective(point, turn, step)
            if not isfinite(loss):
                raise TrainingError(
                    f"the loss of peer {self.number} is {loss} in round {turn}, local step {step}; lower the rate "
                    f"of {method!r}"
                )
            losses.append(loss)
            return found

        message, memory = method.propose(self.point, self.memory, gradient, height)
        if not bool(message.isfinite().all()):
            raise TrainingError(
                f"peer {self.number} would send numbers that are not finite in round {turn}; lower the rate of {method!r}"
            )
        self.memory = memory
        self.loss, self.gradients = sum(losses) / len(losses), self.gradients + len(losses)
        return message

    def accept(self, method: Method, mixed: Tensor) -> None:
        """Take up what was heard."""
        self.point = method.accept(mixed, self.memory)


@dataclass(frozen=True)
class Turn:
    """What a human may want to know of a round.

    Parameters:
        turn: rounds done.
        loss: mean over the peers that were there, nats per masked token for a denoiser.
        apart: root mean square distance of the peers to their mean, after mixing; not a number where nobody has seen all.
        present: who was there.
        parts: groups that heard of each other.
        sent: bytes over all edges, both ways, in this round.
    """

    turn: int
    loss: float
    apart: float
    present: tuple[int, ...]
    parts: int
    sent: int


def mixed(peer: int, weights: Tensor, messages: Mapping[int, Tensor]) -> Tensor:
    """Return sum_j W_ij z_j over those who were heard; the weight of the others is the peer's own.

    The order of the sum is that of the numbers, so every transport rounds alike.
    """
    row = weights[peer].tolist()
    heard = sorted(other for other in messages if row[other] or other == peer)
    own = 1.0 - sum(row[other] for other in heard if other != peer)
    total = torch.zeros_like(messages[peer])
    for other in heard:
        total.add_(messages[other], alpha=own if other == peer else row[other])
    return total


def mean(points: Sequence[Tensor]) -> Tensor:
    """Return the mean of points, (P,)."""
    total = torch.zeros_like(points[0])
    for point in points:
        total.add_(point)
    return total.div_(len(points))


def apart(points: Sequence[Tensor]) -> float:
    """Return the root mean square distance of points to their mean."""
    centre = mean(points)
    squares = [float((point - centre).double().square().sum()) for point in points]
    return sqrt(sum(squares) / len(points))


def gossip(
    peers: Sequence[Peer],
    topology: Topology,
    method: Method,
    *,
    rounds: int,
    first: int = 0,
    height: Callable[[int], float] = lambda turn: 1.0,
    away: Callable[[int], Collection[int]] = lambda turn: (),
    watch: Callable[[Turn], bool | None] = lambda turn: None,
) -> list[Turn]:
    """Let peers in this process train together: one loop for every method.

    Per round every peer that is there proposes, and accepts the mixture of what it and its neighbours proposed. A peer that
    is away keeps what it has, and goes on from it when it returns; the others mix among themselves by the Metropolis
    weights of those who are there.

    Parameters:
        peers: numbered 0 .. m - 1, moved in place.
        topology: of m peers.
        method: the same for all.
        rounds: after which it ends, counted from 0.
        first: the round that comes first, > 0 to go on.
        height: round -> share of the peak rate.
        away: round -> who is not there.
        watch: called after every round; True ends the training.

    Raises:
        TrainingError: another number of peers than the topology has; nobody there; a loss that is not finite.

    Cost: K gradients per peer and round, 2K with a radius; one vector per edge and direction.

    Example:
        >>> from demask.training.federated import DFedADMM, SGD, full
        >>> def pulled(to):
        ...     return lambda point, turn, step: (0.0, point - to)
        >>> peers = [Peer(i, pulled(float(i)), torch.zeros(1, dtype=torch.float64)) for i in range(3)]
        >>> turns = gossip(peers, full(3), DFedADMM(5, 0.5, SGD(0.1)), rounds=200)
        >>> [round(float(peer.point), 9) for peer in peers], turns[-1].sent
        ([1.0, 1.0, 1.0], 48)
    """
    if [peer.number for peer in peers] != list(range(topology.peers)):
        raise TrainingError(
            f"{len(peers)} peers for a topology of {topology.peers}; expected 0 .. {topology.peers - 1}, in order"
        )
    turns = []
    for turn in range(first, rounds):
        present = [peer for peer in peers if peer.number not in away(turn)]
        if not present:
            raise TrainingError(f"no peer is there in round {turn}; expected one or more")
        names = {peer.number for peer in present}
        weights = topology.weights(names)
        messages = {peer.number: peer.propose(method, turn, height(turn)) for peer in present}
        sent = 0
        for peer in present:
            heard = {
                other: messages[other] for other in (*topology.neighbours(peer.number), peer.number) if other in names
            }
            peer.accept(method, mixed(peer.number, weights, heard))
            size = (len(heard) - 1) * messages[peer.number].nbytes
            peer.sent, sent = peer.sent + size, sent + size
        turns.append(
            Turn(
                turn + 1, sum(peer.loss for peer in present) / len(present), apart([peer.point for peer in present]),
                tuple(sorted(names)), len(topology.parts(names)), sent,
            )
        )  # fmt: skip
        if watch(turns[-1]):
            break
    return turns
