"""`demask train --peers`: from texts to a model folder, by peers that share no data."""

import sys
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Final

import torch
import typer

from demask.batch.cluster import LOCAL, joined
from demask.cli.output import console, say_json, working
from demask.cli.train import Material, begun_from, check_out, network_of, score_json, told
from demask.errors import SpecError, TrainingError
from demask.registry import build
from demask.tokenizer import Tokenizer
from demask.training import Data, Masks, Status, Text
from demask.training.federated import Federated, FederatedMoment, FederatedRecipe, Federation, deal, federate
from demask.training.federated.actors import Actors, federate_actors
from demask.training.federated.processes import Processes, federate_processes

TRANSPORTS: Final = ("here", "processes", "ray")
_LINE_EVERY: Final = 10.0  # seconds


def run(
    material: Material,
    peers: int,
    topology: str,
    method: str,
    *,
    out: Path,
    rounds: int,
    batch: int,
    early: float,
    network: str,
    precision: str,
    key: int,
    size: str,
    concentration: float,
    spread: Processes | Actors | None = None,
    cluster: str = LOCAL,
    resume: bool = False,
    start: Path | None = None,
    threads: int | None = None,
    as_json: bool = False,
) -> Federated:
    """Train and tell.

    Raises:
        typer.Exit: with 130, after a clean stop by Ctrl-C.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    part = spread.here if isinstance(spread, Processes) else None
    if part is not None and material.tokenizer is None and start is None:
        raise SpecError("--here: all machines need one tokenizer; make one, and name it everywhere: --tokenizer FILE")
    graph = build(topology, "topology", peers=peers)
    if graph.peers != peers:
        raise TrainingError(
            f"--topology {topology} has {graph.peers} peers; expected {peers}, or --peers {graph.peers}"
        )
    recipe = FederatedRecipe(
        rounds, build(method, "method"), batch, masks=Masks(early=early), network=network, precision=precision, key=key
    )
    check_out(out)
    with working("reading"):
        begun = None if start is None else begun_from(start, material)
        texts, held, tokenizer = material.gather(None if begun is None else begun.tokenizer)
        here = part or range(peers)
        dealt = deal(texts, len(here), concentration=concentration, key=key) if texts else [[]] * len(here)
        data = {number: _rows(material, part, tokenizer, number) for number, part in zip(here, dealt, strict=True)}
    drawn = network_of(material, tokenizer, size, key, begun)
    about = {"documents": material.fill, "language": material.oracle}
    watch = _watching(quiet=as_json)
    federation = Federation(drawn, held, tokenizer, out, recipe, graph, about)
    if isinstance(spread, Processes):
        trained = federate_processes(federation, data, way=spread, resume=resume, watch=watch)
    elif spread is not None:
        with joined(cluster, "ray"):
            trained = federate_actors(federation, data, way=spread, resume=resume, watch=watch)
    else:
        trained = federate(
            drawn, [*data.values()], held, tokenizer, out=out, recipe=recipe, topology=graph, resume=resume, about=about,
            watch=watch,
        )  # fmt: skip
    _tell(trained, out, [sum(len(text.content) for text in part) for part in dealt], as_json)
    if trained.status is Status.INTERRUPTED:
        raise typer.Exit(130)
    return trained


def spread_by(transport: str, *, meet: str | None, here: str | None, threads: int | None) -> Processes | Actors | None:
    """Return how peers are spread over processes, None: all in this one.

    Raises:
        SpecError: an unknown transport, or places for peers that are all in this process.
    """
    if transport not in TRANSPORTS:
        raise SpecError(f"--transport {transport}; expected one of {', '.join(TRANSPORTS)}")
    if transport == "here":
        if meet is not None or here is not None:
            raise SpecError("--meet and --here are for peers on several machines; add --transport processes")
        return None
    if transport == "ray":
        if here is not None:
            raise SpecError("--here: a Ray cluster spreads peers by itself; leave it out")
        return Actors(threads=threads or 1)
    return Processes(meet, None if here is None else seats(here), threads=threads or 1)


def seats(text: str) -> tuple[int, ...]:
    """Return the peers of a list such as 0-3,6.

    Raises:
        SpecError: something else.

    Example:
        >>> seats("0-2,6")
        (0, 1, 2, 6)
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise SpecError(f"--here {text}: expected numbers of peers, such as 0-3 or 4,6")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _rows(material: Material, texts: list[Text], tokenizer: Tokenizer, number: int) -> Data:
    try:
        return material.rows(texts, tokenizer)
    except TrainingError as error:
        raise TrainingError(
            f"peer {number} has too little data: {error}; or fewer --peers, or more --concentration"
        ) from None


def _tell(trained: Federated, out: Path, characters: list[int], as_json: bool) -> None:
    facts = {
        "out": str(out), "status": trained.status.name.lower(), "rounds": trained.turns, "gradients": trained.gradients,
        "sent": trained.sent, "apart": trained.apart, "characters": characters,
    }  # fmt: skip
    if as_json:
        say_json({**facts, **score_json(trained.score)})
        return
    screen = console()
    lines = [f"{trained.turns} rounds, {trained.gradients} gradients: the mean model has {told(trained.score)}"]
    if any(characters):
        lines.append(f"characters of each peer: {', '.join(map(str, characters))}")
    lines.append(f"{trained.sent / 1e6:.1f} MB sent over all edges; peers are {trained.apart:.3g} from their mean")
    lines.append(f"wrote {out}")
    if trained.status is Status.INTERRUPTED:
        lines.append("stopped before its end; the same command with --resume goes on")
    for line in lines:
        screen.print(line, soft_wrap=True, markup=False)


def _watching(*, quiet: bool) -> Callable[[FederatedMoment], None]:
    last = -_LINE_EVERY

    def line(moment: FederatedMoment) -> None:
        nonlocal last
        if quiet or (moment.score is None and moment.seconds - last < _LINE_EVERY):
            return
        last, turn = moment.seconds, moment.turn
        facts = [f"{moment.seconds:.0f} s, round {turn.turn}, {len(turn.present)} peers, loss {turn.loss:.3f}"]
        facts += [] if isnan(turn.apart) else [f"{turn.apart:.3g} apart"]
        facts += [told(moment.score)] if moment.score else []
        sys.stderr.write(f"{', '.join(facts)}\n")
        sys.stderr.flush()

    return line
