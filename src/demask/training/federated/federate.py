"""Peers that never share data train one denoiser, and keep the mean of their weights as a model folder."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from demask.denoisers import folder as folders
from demask.denoisers.permutation import Permutation
from demask.denoisers.transformer import Network, Transformer
from demask.errors import CheckpointError, TrainingError
from demask.tokenizer import Tokenizer
from demask.training.data import Data, HeldOut
from demask.training.evaluate import Score, evaluate
from demask.training.federated.denoising import Bench, Denoising
from demask.training.federated.gossip import Peer, Turn, apart, gossip, mean
from demask.training.federated.recipe import FederatedRecipe
from demask.training.federated.states import States
from demask.training.federated.topology import Topology
from demask.training.stopping import stoppable
from demask.training.train import Status

PEERS: Final = "peers"  # the folder of their states, inside the model folder


@dataclass(frozen=True)
class FederatedMoment:
    """A round, the seconds spent so far, and the score of the mean model if it was just evaluated."""

    turn: Turn
    seconds: float
    score: Score | None = None


@dataclass(frozen=True, eq=False)
class Federated:
    """What came out: the mean model, its score, how the training ended, and what it took over all peers.

    Parameters:
        denoiser: the mean of the peers' weights.
        score: of it.
        status: finished or interrupted.
        turns: rounds done.
        gradients: over all peers.
        sent: bytes over all edges, both ways.
        apart: root mean square distance of the peers to their mean.
    """

    denoiser: Transformer | Permutation
    score: Score
    status: Status
    turns: int
    gradients: int
    sent: int
    apart: float


@dataclass(frozen=True, eq=False)
class Federation:
    """What all transports share: the choices, the evaluation of the mean model, and its folder.

    Parameters:
        network: at the common start; a view of the bench's vectors from then on.
        held: evaluated on, never trained on.
        tokenizer: common to all peers.
        out: the folder.
        recipe: every choice.
        topology: who talks to whom.
        about: facts to keep in the folder.

    Raises:
        TrainingError: a network of another size than the tokenizer's.
    """

    network: Network
    held: HeldOut
    tokenizer: Tokenizer
    out: Path
    recipe: FederatedRecipe
    topology: Topology
    about: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tokenizer.size != self.network.shape.vocabulary:
            raise TrainingError(
                f"a network of {self.network.shape.vocabulary} tokens for a tokenizer of {self.tokenizer.size}; build it "
                f"with Shape.of(size, {self.tokenizer.size}, context)"
            )

    @property
    def states(self) -> States:
        """Where the peers' states lie, and of which training they must be."""
        hashed = blake2b(self.tokenizer.source.encode(), digest_size=8)
        hashed.update(self.held.tokens.numpy().tobytes())
        facts: dict[str, Any] = {
            "recipe": self.recipe.to_json(), "topology": repr(self.topology), "shape": asdict(self.network.shape),
            "data": hashed.hexdigest(),
        }  # fmt: skip
        return States(self.out / PEERS, facts)

    def open(self, resume: bool) -> None:
        """Make the folder.

        Raises:
            CheckpointError: one that holds a training, unless it is to go on, or none to go on with.
        """
        there = any((self.out / PEERS).glob("*.safetensors"))
        if there and not resume:
            raise CheckpointError(f"{self.out} holds a training; go on with it by --resume, or choose another --out")
        if resume and not there:
            raise CheckpointError(f"{self.out} holds no states of peers to go on with; leave out --resume")
        self.out.mkdir(parents=True, exist_ok=True)

    def denoiser(self, bench: Bench, points: Sequence[Tensor]) -> Transformer | Permutation:
        """Return the network whose weights are the mean of the points."""
        named = bench.named(mean(points))
        network = folders.fill(self.network.shape, named, "the mean of the peers").requires_grad_(False)
        return folders.NETWORKS[self.recipe.network](network)

    def score(self, denoiser: Transformer | Permutation) -> Score:
        """Evaluate a denoiser on held-out windows, always the same ones."""
        return evaluate(denoiser, self.held, windows=self.recipe.windows, key=self.recipe.key)

    def result(self, bench: Bench, peers: Sequence[Peer], turn: int, status: Status) -> Federated:
        """Return what the mean of these peers is worth."""
        points = [peer.point for peer in peers]
        denoiser = self.denoiser(bench, points)
        gradients, sent = sum(peer.gradients for peer in peers), sum(peer.sent for peer in peers)
        return Federated(denoiser, self.score(denoiser), status, turn, gradients, sent, apart(points))

    def write(self, trained: Federated) -> None:
        """Write the model folder."""
        shape, estimate = trained.denoiser.network.shape, trained.score.bits_per_byte
        facts = {
            "rounds": trained.turns, "peers": self.topology.peers, "gap": round(self.topology.gap, 6), "method":
            repr(self.recipe.method), "gradients": trained.gradients, "sent": trained.sent, "apart": trained.apart,
        }  # fmt: skip
        low, high = estimate.interval()
        card = [
            f"# {self.out.resolve().name}", "",
            f"A masked diffusion language model trained by demask: {shape.parameters:,} parameters, {shape.vocabulary} "
            f"tokens, context {shape.context}; the mean of {self.topology.peers} peers that shared no data.", "",
            f"{trained.turns} rounds, {trained.gradients:,} gradients of {self.recipe.batch} rows, {trained.sent:,} bytes "
            f"sent, {self.recipe!r}.", "",
            f"Held-out NELBO: {float(estimate):.4f} bits per byte (95 %: {low:.4f} to {high:.4f}).",
        ]  # fmt: skip
        about = {**self.about, **facts}
        folders.write(self.out, trained.denoiser, self.tokenizer, card="\n".join(card) + "\n", about=about)


def federate(
    network: Network,
    data: Sequence[Data],
    held: HeldOut,
    tokenizer: Tokenizer,
    *,
    out: str | Path,
    recipe: FederatedRecipe,
    topology: Topology,
    resume: bool = False,
    about: Mapping[str, object] | None = None,
    away: Callable[[int], Collection[int]] = lambda turn: (),
    watch: Callable[[FederatedMoment], None] = lambda moment: None,
) -> Federated:
    """Train a network by gossip, all peers in this process: a simulation, with the arithmetic of the real thing.

    All peers begin with the weights of `network`. Each sees its own rows alone; what crosses an edge is a vector of weights.
    What is evaluated and kept is the mean model. Ctrl-C ends the current round, saves, and returns; resumed, it goes on bit
    for bit.

    Parameters:
        network: the common start; used as a bench from then on.
        data: of each peer.
        held: evaluated on, never trained on.
        tokenizer: kept in the folder.
        out: the folder.
        recipe: every choice.
        topology: of as many peers as there are data.
        resume: go on from the states in `out`.
        about: facts to keep in the folder.
        away: round -> peers that are not there.
        watch: called after every round.

    Raises:
        CheckpointError: no states to resume, those of another training, or ones that would be lost.
        TrainingError: another number of data than peers, rows longer than the network's context, a loss that is not finite.

    Cost: per round K gradients for each peer; memory of one network and of some vectors per peer.
    """
    federation = Federation(network, held, tokenizer, Path(out), recipe, topology, about or {})
    if len(data) != topology.peers:
        raise TrainingError(f"data of {len(data)} peers for a topology of {topology.peers}; expected one each")
    check_rows(dict(enumerate(data)), federation)
    federation.open(resume)
    bench, states = Bench(network), federation.states
    objectives = [Denoising(bench, rows, recipe, number) for number, rows in enumerate(data)]
    turns, first = states.begin(range(topology.peers)) if resume else ({}, 0)
    begin = bench.weights.clone()
    peers = [
        states.load(number, turns[number], objective) if resume else Peer(number, objective, begin.clone())
        for number, objective in enumerate(objectives)
    ]
    begun, last = time.monotonic(), first

    def keep() -> None:
        for peer in peers:
            states.save(peer, last)

    def result(status: Status) -> Federated:
        there = peers if found is None else [peers[number] for number in found.present]
        return federation.result(bench, there, last, status)

    found: Turn | None = None
    with stoppable() as stop:

        def seen(turn: Turn) -> bool:
            nonlocal last, found
            last, found, score = turn.turn, turn, None
            if last % recipe.evaluate_every == 0 and last < recipe.rounds:
                kept = result(Status.INTERRUPTED)
                score = kept.score
                federation.write(kept)
            if last % recipe.save_every == 0:
                keep()
            watch(FederatedMoment(turn, time.monotonic() - begun, score))
            return stop.asked

        gossip(
            peers,
            topology,
            recipe.method,
            rounds=recipe.rounds,
            first=first,
            height=recipe.height,
            away=away,
            watch=seen,
        )
        trained = result(Status.FINISHED if last >= recipe.rounds else Status.INTERRUPTED)
        federation.write(trained)
        keep()
    if found is not None:
        watch(FederatedMoment(found, time.monotonic() - begun, trained.score))
    return trained


def check_rows(data: Mapping[int, Data], federation: Federation) -> None:
    """Raise a TrainingError unless these are peers of the topology, with rows that the network can hold."""
    shape, peers = federation.network.shape, federation.topology.peers
    for number, rows in data.items():
        if not 0 <= number < peers:
            raise TrainingError(f"data of peer {number} for a topology of {peers}; expected 0 .. {peers - 1}")
        if rows.context > shape.context:
            raise TrainingError(
                f"peer {number} has rows of {rows.context} for a network of {shape.context} positions; build it with "
                f"Shape.of(size, {shape.vocabulary}, {rows.context})"
            )
