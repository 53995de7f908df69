"""Peers in processes of their own, on one machine or several; a peer that dies is started again while the others go on."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor

from demask.denoisers.transformer import Network
from demask.errors import CheckpointError, TrainingError
from demask.training.data import Data
from demask.training.federated.denoising import Bench, Denoising
from demask.training.federated.federate import Federated, FederatedMoment, Federation, check_rows
from demask.training.federated.gossip import Peer, Turn
from demask.training.federated.links import Edges, take_part
from demask.training.federated.roll import Roll, place
from demask.training.stopping import Stop, stoppable
from demask.training.train import Status

_LOOK: Final = 0.1  # seconds between two looks at the children
_FAILED: Final = 3  # exit code of a peer that says why the training cannot go on
HERE: Final = "127.0.0.1"


@dataclass(frozen=True)
class Processes:
    """How peers are spread over processes.

    One process, that which starts the peer 0, keeps the roll: who is there, by name, never weights or data. Without it a
    training ends; without any other it goes on.

    Parameters:
        meet: HOST:PORT where the roll is kept; None: on this machine alone.
        here: the peers that are started on this machine; None: all.
        restarts: how often a peer that died is started again.
        patience: seconds to wait for a neighbour before it counts as lost; more than some rounds take.
        threads: of torch in each process.

    Raises:
        TrainingError: a place that is none, numbers out of their range.
    """

    meet: str | None = None
    here: tuple[int, ...] | None = None
    restarts: int = 3
    patience: float = 120.0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.meet is not None:
            place(self.meet)
        if self.here is not None and (len(set(self.here)) != len(self.here) or not self.here or min(self.here) < 0):
            raise TrainingError(f"here = {self.here}; expected different peers, such as (4, 5, 6, 7)")
        if self.here is not None and self.meet is None:
            raise TrainingError("peers on several machines need a place to meet: meet='10.0.0.1:29500'")
        if not (self.restarts >= 0 and self.patience > 0 and self.threads >= 1):
            raise TrainingError(
                f"restarts {self.restarts}, patience {self.patience}, threads {self.threads}; expected >= 0, > 0 and >= 1"
            )


@dataclass(frozen=True, eq=False)
class _Seat:
    """What a process needs to be a peer: its own rows, and what is common to all."""

    number: int
    federation: Federation
    data: Data
    point: Tensor
    state: int | None  # the rounds after which the state to begin with was saved
    first: int
    meet: tuple[str, int]
    way: Processes


def federate_processes(
    federation: Federation,
    data: Mapping[int, Data],
    *,
    way: Processes,
    resume: bool = False,
    watch: Callable[[FederatedMoment], None] = lambda moment: None,
) -> Federated:
    """Train a network by gossip, every peer a process: vectors go over gloo from neighbour to neighbour.

    The arithmetic is that of `federate`, bit for bit while all are there. A peer that dies is started again from its last
    state, up to `way.restarts` times; meanwhile the others go on without it. Ctrl-C stops all before the same round.

    Parameters:
        federation: what all transports share; its network is the common start.
        data: rows of each peer that runs here.
        way: how they are spread.
        resume: go on from the states in the folder.
        watch: called when the peers here have saved a round.

    Raises:
        CheckpointError: as `federate`.
        TrainingError: rows that do not fit, no peer left here, a loss that is not finite at any peer.
    """
    check_rows(data, federation)
    federation.open(resume)
    return _Launch(federation, data, way, watch).run(resume)


class _Launch:
    """The peers of one machine, and what they have reached."""

    def __init__(
        self, federation: Federation, data: Mapping[int, Data], way: Processes, watch: Callable[[FederatedMoment], None]
    ) -> None:
        self.federation, self.data, self.way, self.watch = federation, data, way, watch
        self.bench, self.states = Bench(federation.network), federation.states
        self.begun, self.seen = time.monotonic(), 0
        host, port = (HERE, 0) if way.meet is None else place(way.meet)
        self.store = _store(host, port, serves=0 in data)
        self.meet = host, int(self.store.port)
        self.roll = Roll(self.store, -1, federation.topology.peers)
        self.children: dict[int, Any] = {}
        self.restarted = dict.fromkeys(data, 0)

    def run(self, resume: bool) -> Federated:
        turns, first = self.states.begin(self.data) if resume else (dict.fromkeys(self.data), 0)
        self.seen = first
        self.seats = {
            number: _Seat(
                number,
                _plain(self.federation),
                rows,
                self.bench.weights.clone(),
                turns[number],
                first,
                self.meet,
                self.way,
            )
            for number, rows in self.data.items()
        }
        try:
            with stoppable() as stop:
                for number in self.seats:
                    self._start(number)
                self._attend(stop)
        finally:
            for child in self.children.values():
                if child.is_alive():
                    child.kill()
                child.join()
        reason = self.roll.failed()
        if reason is not None:
            raise TrainingError(reason)
        return self._result()

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.children[number] = context.Process(target=_serve, args=(self.seats[number],), daemon=True)
        with _shielded():
            self.children[number].start()

    def _attend(self, stop: Stop) -> None:
        """Watch over the children until all have ended."""
        asked = False
        while any(child.is_alive() for child in self.children.values()) or self._revive():
            if stop.asked and not asked:
                self.roll.stop()
                asked = True
            self._revive()
            self._tell()
            time.sleep(_LOOK)

    def _revive(self) -> bool:
        """Strike peers that died off the roll, and start them again."""
        started = False
        for number, child in self.children.items():
            if child.exitcode in (None, 0, _FAILED) or self.restarted[number] > self.way.restarts:
                continue
            life = self.store.add(f"lives/{number}", 0)
            self.roll.lose(number, life)
            self.restarted[number] += 1
            if self.restarted[number] <= self.way.restarts and not self.store.check(["stop"]):
                saved = self.states.turns(number)
                self.seats[number] = replace(self.seats[number], state=saved[-1] if saved else None)
                self._start(number)
                started = True
        return started

    def _tell(self) -> None:
        """Evaluate and tell when those who are here have saved a round."""
        recipe, topology = self.federation.recipe, self.federation.topology
        saved = {number: self.states.turns(number) for number in self.data}
        latest = max((turns[-1] for turns in saved.values() if turns), default=0)
        there = [number for number, turns in saved.items() if latest in turns]
        behind = [number for number in saved if number not in there and self.children[number].is_alive()]
        due = latest // recipe.evaluate_every > self.seen // recipe.evaluate_every
        if not due or (behind and latest % recipe.evaluate_every < recipe.save_every):
            return
        try:
            peers = self._peers(there, latest)
        except CheckpointError:  # they were faster than this look, and have let go of it
            return
        self.seen, score, names = latest, None, tuple(there)
        kept = self.federation.result(self.bench, peers, latest, Status.INTERRUPTED)
        self.federation.write(kept)
        score = kept.score
        sent = sum(len(set(topology.neighbours(number)) & set(there)) for number in there) * peers[0].point.nbytes
        loss = sum(peer.loss for peer in peers) / len(peers)
        turn = Turn(latest, loss, kept.apart, names, len(topology.parts(names)), sent)
        self.watch(FederatedMoment(turn, time.monotonic() - self.begun, score))

    def _result(self) -> Federated:
        saved = {number: self.states.turns(number) for number in self.data}
        latest = max((turns[-1] for turns in saved.values() if turns), default=None)
        if latest is None:
            raise TrainingError(
                f"the processes of all peers died before they saved anything; what they wrote to stderr says why "
                f"(exit codes {sorted({child.exitcode for child in self.children.values()})})"
            )
        peers = self._peers([number for number, turns in saved.items() if latest in turns], latest)
        status = Status.FINISHED if latest >= self.federation.recipe.rounds else Status.INTERRUPTED
        trained = self.federation.result(self.bench, peers, latest, status)
        self.federation.write(trained)
        return trained

    def _peers(self, numbers: Sequence[int], turn: int) -> list[Peer]:
        return [
            self.states.load(number, turn, Denoising(self.bench, self.data[number], self.federation.recipe, number))
            for number in numbers
        ]


def _serve(seat: _Seat) -> None:
    """Be a peer: what a child process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops all before the same round
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(seat.way.threads)
    federation, recipe, number = seat.federation, seat.federation.recipe, seat.number
    store = _store(*seat.meet, serves=False)
    roll = Roll(store, number, federation.topology.peers, patience=seat.way.patience)
    edges = Edges(store, number, patience=seat.way.patience, host=HERE if seat.way.meet is None else None)
    bench, states = Bench(federation.network), federation.states
    objective = Denoising(bench, seat.data, recipe, number)
    peer = Peer(number, objective, seat.point.clone())
    if seat.state is not None:
        peer = states.load(number, seat.state, objective)

    def watch(turn: int, present: tuple[int, ...]) -> None:
        if turn % recipe.save_every == 0:
            states.save(peer, turn)

    try:
        done = take_part(
            peer, federation.topology, recipe.method, roll=roll, edges=edges, rounds=recipe.rounds, first=seat.first,
            height=recipe.height, watch=watch,
        )  # fmt: skip
    except TrainingError as error:
        roll.fail(str(error))
        sys.exit(_FAILED)
    if seat.state is None or done > seat.state:  # also one that was stopped before its first round, to go on from there
        states.save(peer, done)


@contextmanager
def _shielded() -> Iterator[None]:
    """Let no Ctrl-C reach a child that is started here; what comes in the meantime reaches this process afterwards.

    A terminal interrupts children too, and one that is still importing would die of it before it can say that it ignores it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _plain(federation: Federation) -> Federation:
    """Return a federation whose network can be sent to a process."""
    return replace(federation, network=Network(federation.network.shape))


def _store(host: str, port: int, *, serves: bool) -> Any:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        return import_module("torch.distributed").TCPStore(
            host, port, is_master=serves, wait_for_workers=False, timeout=timedelta(seconds=60)
        )
    except RuntimeError as error:
        verb = "kept" if serves else "found"
        raise TrainingError(
            f"the roll cannot be {verb} at {host}:{port} ({str(error).splitlines()[0]}); name a free port of the machine "
            "that starts peer 0, as all machines reach it: --meet HOST:PORT"
        ) from None
