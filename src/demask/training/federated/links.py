"""Vectors over the wires: a gloo group of two for every edge, so that whoever dies takes nothing down but its own edges."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from demask.training.federated.gossip import Peer, mixed
from demask.training.federated.methods import Method
from demask.training.federated.roll import Roll
from demask.training.federated.topology import Topology


class Edges:
    """The edges of one peer to those of its neighbours that are there.

    Parameters:
        store: a torch.distributed store, for addresses alone.
        number: of this peer.
        patience: seconds to wait for a neighbour, which may be some rounds behind, before it counts as lost.
        host: the address of this machine that neighbours can reach; None: what its name resolves to.
    """

    def __init__(self, store: Any, number: int, *, patience: float = 120.0, host: str | None = None) -> None:
        self.store, self.number, self.patience, self.host = store, number, patience, host
        self._groups: dict[int, tuple[str, Any]] = {}

    def match(self, life: int, others: Mapping[int, int]) -> set[int]:
        """Keep the edges to these lives of others, open those that are missing, all at once; return who did not come."""
        wanted = {other: self._name(life, other, theirs) for other, theirs in others.items()}
        self._groups = {other: held for other, held in self._groups.items() if wanted.get(other) == held[0]}
        missing = [other for other in wanted if other not in self._groups]
        lost = set()
        with ThreadPoolExecutor(max(1, len(missing))) as pool:
            opened = {other: pool.submit(self._open, wanted[other], other) for other in missing}
        for other, future in opened.items():
            try:
                self._groups[other] = (wanted[other], future.result())
            except RuntimeError:  # torch's errors of stores and sockets
                lost.add(other)
        return lost

    def exchange(self, message: Tensor, *, tag: int = 0) -> tuple[dict[int, Tensor], set[int]]:
        """Send a vector over every edge; return what came back under the same tag, and whom nothing came back from."""
        plain = message.detach().cpu().contiguous()
        works, heard, lost = [], {}, set()
        for other, (_, group) in self._groups.items():
            side, buffer = int(other > self.number), torch.empty_like(plain)
            try:
                works.append((other, buffer, group.send([plain], side, tag), group.recv([buffer], side, tag)))
            except RuntimeError:
                lost.add(other)
        for other, buffer, sent, received in works:
            try:
                received.wait()
                sent.wait()
                heard[other] = buffer.to(message.device)
            except RuntimeError:
                lost.add(other)
        self.drop(lost)
        return heard, lost

    def part(self) -> None:
        """Wait until the neighbours are through their last round: an edge that closes takes along what is under way on it.

        A word of parting comes from a neighbour when it has heard all that there was; from one that is gone, nothing.
        """
        self.exchange(torch.zeros(1), tag=1)

    def drop(self, others: Iterable[int] | None = None) -> None:
        """Close the edges to some, None: to all."""
        for other in list(self._groups if others is None else others):
            self._groups.pop(other, None)

    def _name(self, life: int, other: int, theirs: int) -> str:
        ends = sorted([(self.number, life), (other, theirs)])
        return "edge/" + "-".join(f"{number}.{count}" for number, count in ends)

    def _open(self, name: str, other: int) -> Any:
        from torch.distributed import ProcessGroupGloo
        from torch.distributed.distributed_c10d import PrefixStore

        gloo: Any = ProcessGroupGloo
        options = gloo._Options()  # torch gives no other way to name the address
        options._timeout = timedelta(seconds=self.patience)
        options._devices = [
            gloo.create_default_device() if self.host is None else gloo.create_device(hostname=self.host)
        ]
        store = self.store.clone()  # a client that waits for one neighbour lets no other thread through
        return gloo(PrefixStore(name, store), int(self.number > other), 2, options)


def take_part(
    peer: Peer,
    topology: Topology,
    method: Method,
    *,
    roll: Roll,
    edges: Edges,
    rounds: int,
    first: int = 0,
    height: Callable[[int], float] = lambda turn: 1.0,
    watch: Callable[[int, tuple[int, ...]], None] = lambda turn, present: None,
) -> int:
    """Let one peer take part in a training whose others are elsewhere; the rounds are those of `gossip`, bit for bit.

    A neighbour that is lost in the middle of a round leaves its weight to those who missed it. From the next list on it is
    not waited for. When it has returned, edges to its new life are opened.

    Parameters:
        peer: moved in place.
        topology, method, rounds, height: the same for all.
        roll, edges: of this peer.
        first: the round to begin with, if all begin.
        watch: called after every round with the rounds done and who took part.

    Returns:
        The rounds done.

    Raises:
        TrainingError: a loss that is not finite.
    """
    turn = roll.enter(first)
    done = first
    while turn is not None and turn < rounds:
        members = roll.members(turn)
        if not members:
            break
        if (
            members.get(peer.number) != roll.life
        ):  # others took this peer for lost, or the list was older than its return
            edges.drop()
            turn = roll.enter(first)
            continue
        near = {other: members[other] for other in topology.neighbours(peer.number) if other in members}
        lost = edges.match(roll.life, near)
        message = peer.propose(method, turn, height(turn))
        heard, silent = edges.exchange(message)
        for other in lost | silent:
            roll.lose(other, members[other])
        peer.sent += len(heard) * message.nbytes
        peer.accept(method, mixed(peer.number, topology.weights(members), {peer.number: message, **heard}))
        turn += 1
        done = turn
        watch(turn, tuple(sorted(members)))
    if done >= rounds:
        edges.part()
        roll.finish()
    edges.drop()
    return done
