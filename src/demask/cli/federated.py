"""`demask train --peers`: from texts to a model folder, by peers that share no data."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
import typer

from demask.cli.output import console, say_json, working
from demask.cli.train import Material, begun_from, check_out, network_of, score_json, told
from demask.errors import TrainingError
from demask.registry import build
from demask.tokenizer import Tokenizer
from demask.training import Data, Masks, Status, Text
from demask.training.federated import Federated, FederatedMoment, FederatedRecipe, deal, federate

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
        dealt = deal(texts, peers, concentration=concentration, key=key) if texts else [[]] * peers
        data = [_rows(material, part, tokenizer, number) for number, part in enumerate(dealt)]
    drawn = network_of(material, tokenizer, size, key, begun)
    about = {"documents": material.fill, "language": material.oracle}
    trained = federate(
        drawn, data, held, tokenizer, out=out, recipe=recipe, topology=graph, resume=resume, about=about,
        watch=_watching(quiet=as_json),
    )  # fmt: skip
    _tell(trained, out, [sum(len(text.content) for text in part) for part in dealt], as_json)
    if trained.status is Status.INTERRUPTED:
        raise typer.Exit(130)
    return trained


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
        scored = f", {told(moment.score)}" if moment.score else ""
        sys.stderr.write(
            f"{moment.seconds:.0f} s, round {turn.turn}, {len(turn.present)} peers, loss {turn.loss:.3f}, {turn.apart:.3g} "
            f"apart{scored}\n"
        )
        sys.stderr.flush()

    return line
