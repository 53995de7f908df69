"""Peers as Ray actors: vectors go from actor to actor; the driver sees who is there, and states when they are saved."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from demask.denoisers.transformer import Network
from demask.errors import TrainingError
from demask.training.data import Data
from demask.training.federated.denoising import Bench, Denoising
from demask.training.federated.federate import Federated, FederatedMoment, Federation, check_rows
from demask.training.federated.gossip import Peer, Turn, mixed
from demask.training.stopping import stoppable
from demask.training.train import Status


class Seat:
    """What an actor does: it is one peer, and keeps that peer's rows."""

    def __init__(self, number: int, federation: Federation, data: Data, kept: Peer, threads: int) -> None:
        torch.set_num_threads(threads)
        self.method, self.height = federation.recipe.method, federation.recipe.height
        self.objective = Denoising(Bench(federation.network), data, federation.recipe, number)
        self.peer = replace(kept, objective=self.objective)

    def propose(self, turn: int) -> tuple[Tensor, int]:
        """Return what to send, for the neighbours, and its bytes, for the driver."""
        message = self.peer.propose(self.method, turn, self.height(turn))
        return message, message.nbytes

    def accept(self, weights: Tensor, numbers: tuple[int, ...], *messages: Tensor) -> float:
        """Take up what was heard; return the loss of the round."""
        heard = dict(zip(numbers, messages, strict=True))
        self.peer.sent += sum(message.nbytes for other, message in heard.items() if other != self.peer.number)
        self.peer.accept(self.method, mixed(self.peer.number, weights, heard))
        return self.peer.loss

    def state(self) -> Peer:
        """Return the peer without its rows."""
        return _bare(self.peer)


@dataclass(frozen=True)
class Actors:
    """How peers are spread over a Ray cluster, which the caller has joined.

    Parameters:
        restarts: how often a peer that died is started again.
        threads: of torch in each actor.

    Raises:
        TrainingError: numbers out of their range.
    """

    restarts: int = 3
    threads: int = 1

    def __post_init__(self) -> None:
        if not (self.restarts >= 0 and self.threads >= 1):
            raise TrainingError(f"restarts {self.restarts}, threads {self.threads}; expected >= 0 and >= 1")


def federate_actors(
    federation: Federation,
    data: Mapping[int, Data],
    *,
    way: Actors,
    resume: bool = False,
    watch: Callable[[FederatedMoment], None] = lambda moment: None,
) -> Federated:
    """Train a network by gossip, every peer an actor of the Ray cluster that this process has joined.

    The arithmetic is that of `federate`, bit for bit while all are there. An actor that dies is missed by the round in which
    it dies, and started again before the next one from the last state that was saved. Ctrl-C ends the current round.

    Parameters:
        federation: what all transports share; its network is the common start.
        data: rows of each peer.
        way: how they are spread.
        resume: go on from the states in the folder.
        watch: called after every round.

    Raises:
        CheckpointError: as `federate`.
        TrainingError: no cluster was joined, rows that do not fit, nobody left, a loss that is not finite.
    """
    check_rows(data, federation)
    if len(data) != federation.topology.peers:
        raise TrainingError(
            f"data of {len(data)} peers for a topology of {federation.topology.peers}; expected one each"
        )
    ray = import_module("ray")
    if not ray.is_initialized():
        raise TrainingError("no Ray cluster was joined; call ray.init() first, or demask train --transport ray")
    federation.open(resume)
    return _Driver(ray, federation, data, way, watch).run(resume)


class _Driver:
    """What the driver knows of the actors."""

    def __init__(
        self,
        ray: Any,
        federation: Federation,
        data: Mapping[int, Data],
        way: Actors,
        watch: Callable[[FederatedMoment], None],
    ) -> None:
        self.ray, self.federation, self.data, self.way, self.watch = ray, federation, data, way, watch
        self.bench, self.states = Bench(federation.network), federation.states
        # Peers may be more than CPUs: they take none from the books, and are spread over the machines.
        self.remote = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")(Seat)
        self.actors: dict[int, Any] = {}
        self.left = dict.fromkeys(data, way.restarts + 1)
        self.begun = time.monotonic()

    def run(self, resume: bool) -> Federated:
        """Drive all rounds."""
        recipe = self.federation.recipe
        saved, last = self.states.begin(self.data) if resume else ({}, 0)
        try:
            with stoppable() as stop:
                self._seat(saved)
                while last < recipe.rounds and not stop.asked:
                    self._seat(saved)
                    turn = self._round(last)
                    last, score = turn.turn, None
                    if last % recipe.evaluate_every == 0 and last < recipe.rounds:
                        kept = self.federation.result(self.bench, self._peers(), last, Status.INTERRUPTED)
                        self.federation.write(kept)
                        score, turn = kept.score, replace(turn, apart=kept.apart)
                    if last % recipe.save_every == 0:
                        saved = self._save(last)
                    self.watch(FederatedMoment(turn, time.monotonic() - self.begun, score))
                self._save(last)
                peers = self._peers()
        finally:
            for actor in self.actors.values():
                self.ray.kill(actor)
        status = Status.FINISHED if last >= recipe.rounds else Status.INTERRUPTED
        trained = self.federation.result(self.bench, peers, last, status)
        self.federation.write(trained)
        return trained

    def _seat(self, saved: Mapping[int, int]) -> None:
        """Start the peers that have no actor, from their last state."""
        plain = replace(self.federation, network=Network(self.federation.network.shape))
        for number, rows in self.data.items():
            if number in self.actors or self.left[number] == 0:
                continue
            self.left[number] -= 1
            kept = Peer(number, _nothing, self.bench.weights.clone())
            if number in saved:
                kept = self.states.load(number, saved[number], _nothing)
            self.actors[number] = self.remote.remote(number, plain, rows, kept, self.way.threads)

    def _round(self, turn: int) -> Turn:
        topology = self.federation.topology
        asked = {number: actor.propose.options(num_returns=2).remote(turn) for number, actor in self.actors.items()}
        sizes = self._answers({number: size for number, (_, size) in asked.items()})
        if not sizes:
            raise TrainingError(f"no peer is left in round {turn}; the last states are in {self.states.folder}")
        weights, sent, promised = topology.weights(sizes), 0, {}
        for number in sizes:
            heard = tuple(other for other in (*topology.neighbours(number), number) if other in sizes)
            promised[number] = self.actors[number].accept.remote(weights, heard, *(asked[other][0] for other in heard))
            sent += (len(heard) - 1) * sizes[number]
        losses = self._answers(promised)
        present = tuple(sorted(sizes))
        mean = sum(losses.values()) / max(1, len(losses))
        return Turn(turn + 1, mean, float("nan"), present, len(topology.parts(sizes)), sent)

    def _answers(self, promised: Mapping[int, Any]) -> dict[int, Any]:
        """Return what came back; those that nothing came back from have no actor any more."""
        found = {}
        for number, promise in promised.items():
            try:
                found[number] = self.ray.get(promise)
            except self.ray.exceptions.RayActorError:
                self.actors.pop(number, None)
            except self.ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, TrainingError):
                    raise TrainingError(str(error.cause)) from None
                raise
        return found

    def _peers(self) -> list[Peer]:
        asked = {number: actor.state.remote() for number, actor in self.actors.items()}
        found = self._answers(asked)
        if not found:
            raise TrainingError(f"no peer is left; the last states are in {self.states.folder}")
        return [found[number] for number in sorted(found)]

    def _save(self, turn: int) -> dict[int, int]:
        """Save those who are there; return the last state of all who have one."""
        for peer in self._peers():
            self.states.save(peer, turn)
        turns = {number: self.states.turns(number) for number in self.data}
        return {number: found[-1] for number, found in turns.items() if found}


def _bare(peer: Peer) -> Peer:
    return replace(peer, objective=_nothing)


def _nothing(point: Tensor, turn: int, step: int) -> tuple[float, Tensor]:
    """Be the objective of a peer whose rows are elsewhere."""
    raise NotImplementedError
