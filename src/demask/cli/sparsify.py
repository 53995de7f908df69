"""`demask sparsify`: from a model folder and texts to one that keeps N of every M weights."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
import typer
from rich import box
from rich.table import Table
from torch import Tensor

from demask.cli.output import console, say_json, short, working
from demask.cli.train import HELD_OUT_KEY, language, score_json
from demask.denoisers import folder as folders
from demask.denoisers import sparse
from demask.denoisers.sparse import Layers, Pattern, WeightMasks
from demask.errors import CheckpointError, DemaskError, SpecError
from demask.generate.load import find, published
from demask.training import (
    Calibration,
    HeldOut,
    LearnedMasks,
    Score,
    SparsityRecipe,
    Status,
    evaluate,
    learn_masks,
    magnitude,
    read,
    split,
    wanda,
)
from demask.training.sparsity import STARTS, Turn

METHODS: Final = ("learned", *STARTS)
BEST: Final = "best"  # the start of least loss on the windows learned from
_CALIBRATION_KEY: Final = 3 << 40  # no training and no evaluation has it
_HELD_OUT: Final = 256  # texts of a known language to evaluate on
_ROUNDS: Final = 2  # masks per held-out window
_LINE_EVERY: Final = 10.0  # seconds


@dataclass(frozen=True)
class Texts:
    """What the user said about the texts.

    Parameters:
        paths: files and folders.
        oracle: a known language instead.
        glob: of the files within folders.
        share: of the texts to hold out.
        samples: windows to learn from, at most.
        batch: of them in a minibatch.
    """

    paths: tuple[Path, ...]
    oracle: str | None
    glob: str
    share: float
    samples: int
    batch: int

    def open(self, model: folders.Folder, key: int) -> tuple[Tensor, HeldOut]:
        """Return windows to learn from, and others to evaluate on."""
        if (self.oracle is None) == (not self.paths):
            raise SpecError("nothing to learn from, or two things; give DATA, or --oracle notes, one of them")
        context, words = model.denoiser.context, model.tokenizer
        if self.oracle is not None:
            source = language(self.oracle)
            given = HeldOut.of(
                source.sample(self.samples, key=_CALIBRATION_KEY + key), words, context=context, fill="windows"
            )
            held = HeldOut.of(source.sample(_HELD_OUT, key=HELD_OUT_KEY), words, context=context, fill="windows")
            return given.tokens, held
        fill = str(model.about.get("documents", "packed"))
        kept, aside = split(read(self.paths, glob=self.glob), self.share)
        given, held = (
            HeldOut.of((text.content for text in part), words, context=context, fill=fill) for part in (kept, aside)
        )
        chosen = torch.randperm(len(given.tokens), generator=torch.Generator().manual_seed(key))[: self.samples]
        return given.tokens[chosen], held


def run(
    name: str,
    texts: Texts,
    *,
    out: Path,
    recipe: SparsityRecipe,
    method: str,
    start: str,
    only: tuple[str, ...],
    leave: tuple[str, ...],
    skip_uneven: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Make the masks and tell.

    Raises:
        typer.Exit: with 130, after a clean stop by Ctrl-C.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    for option, given, known in (("--method", method, METHODS), ("--start", start, (BEST, *STARTS))):
        if given not in known:
            raise SpecError(f"{option} {given!r}; expected one of {', '.join(known)}")
    _check_out(out)
    path = find(name)
    if published(path):
        raise CheckpointError(
            f"{path} is a published checkpoint; demask sparsify takes what demask train wrote: training.learn_masks takes "
            "the layers of any network"
        )
    with working("reading"):
        model = folders.read(path)
        layers = sparse.linear_layers(
            model.denoiser.network, recipe.pattern, only=only, leave=leave, skip_uneven=skip_uneven
        )
        tokens, held = texts.open(model, recipe.key)
    losses = Calibration.of(model.denoiser, tokens, batch=texts.batch, key=recipe.key)
    with working("calibrating"):
        masks = {
            "magnitude": magnitude(layers, recipe.pattern),
            "wanda": wanda(layers, recipe.pattern, losses),
        }

    def keep(kept: WeightMasks) -> None:
        _write(out, model, name, kept, recipe, method)

    learned: LearnedMasks | None = None
    if method == "learned":
        begun = masks[_best(layers, masks, losses) if start == BEST else start]
        keep(begun)
        learned = learn_masks(layers, begun, losses, recipe, keep=keep, watch=_watching(quiet=as_json))
        masks["learned"] = dict(learned.masks)
    else:
        keep(masks[method])
    with working("scoring"):
        scores = _scores(model, layers, masks, held, recipe.key)
    _tell(name, out, recipe.pattern, layers, scores, learned, as_json)
    if learned is not None and learned.status is Status.INTERRUPTED:
        raise typer.Exit(130)


def _best(layers: Layers, masks: dict[str, dict[str, Tensor]], losses: Calibration) -> str:
    """Return the name of the masks with the least loss."""
    found = {}
    with working("comparing"):
        for name, each in masks.items():
            with sparse.masked(layers, each):
                found[name] = sum(map(losses, range(len(losses))))
    return min(found, key=lambda name: found[name])


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DemaskError(f"--out {out} is a file; name a folder")
    if not out.resolve().parent.is_dir():
        raise DemaskError(
            f"--out {out}: there is no folder {out.resolve().parent}; make it first: mkdir -p {out.parent}"
        )
    if (out / folders.CONFIG).exists():
        raise CheckpointError(f"--out {out} holds a model, which would be lost; choose another folder")


def _write(
    out: Path, model: folders.Folder, name: str, masks: WeightMasks, recipe: SparsityRecipe, method: str
) -> None:
    """Write the sparse model; what its folder said of the dense one's training stays there."""
    about = {key: value for key, value in model.about.items() if key not in ("scores", "steps", "seconds")}
    how = {"pattern": str(recipe.pattern), "method": method, "from": name, "layers": len(masks)}
    weights = sum(mask.numel() for mask in masks.values())
    card = (
        f"# {out.resolve().name}\n\n{name} with {recipe.pattern} of the weights of {len(masks)} linear layers "
        f"({weights:,} weights), {method}. The weights that are not kept are 0 in {folders.WEIGHTS}; which ones, says "
        f"{sparse.MASKS}.\n\nMade by demask sparsify: {asdict(recipe)}.\n"
    )
    sparse.write(
        out, model.denoiser, model.tokenizer, masks, recipe.pattern, card=card, about={**about, "sparsity": how}
    )


def _scores(
    model: folders.Folder, layers: Layers, masks: dict[str, dict[str, Tensor]], held: HeldOut, key: int
) -> dict[str, Score]:
    """Return the score of the dense model and of each mask, on equal windows and questions."""
    scores = {"dense": evaluate(model.denoiser, held, key=key, rounds=_ROUNDS)}
    for method, each in masks.items():
        with sparse.masked(layers, each):
            scores[method] = evaluate(model.denoiser, held, key=key, rounds=_ROUNDS)
    return scores


def _tell(
    name: str,
    out: Path,
    pattern: Pattern,
    layers: Layers,
    scores: dict[str, Score],
    learned: LearnedMasks | None,
    as_json: bool,
) -> None:
    weights = sum(layer.weight.numel() for layer in layers.values())
    steps, seconds = (learned.steps, learned.seconds) if learned else (0, 0.0)
    status = learned.status.name.lower() if learned else "finished"
    if as_json:
        say_json({
            "out": str(out), "status": status, "pattern": str(pattern), "layers": len(layers), "weights": weights,
            "steps": steps, "seconds": seconds, "scores": {method: score_json(score) for method, score in scores.items()},
        })  # fmt: skip
        return
    screen = console()
    table = Table(box=box.SIMPLE, title=f"{name}, {pattern}, held-out NELBO", title_justify="left")
    for column in ("weights kept", "bits per byte", "95%", "nats per text", "above dense"):
        table.add_column(column, justify="left" if column == "weights kept" else "right")
    for method, score in scores.items():
        low, high = score.bits_per_byte.interval()
        above = score.nats_per_text - scores["dense"].nats_per_text
        table.add_row(
            method,
            short(score.bits_per_byte),
            f"{short(low)} to {short(high)}",
            short(score.nats_per_text),
            short(above),
        )
    screen.print(table)
    if learned:
        screen.print(
            f"{steps} steps in {seconds:.0f} s, {short(steps / max(seconds, 1e-9))} per second", soft_wrap=True
        )
    screen.print(f"wrote {out}: {len(layers)} layers, {weights:,} weights", soft_wrap=True, markup=False)
    if learned and learned.status is Status.INTERRUPTED:
        screen.print("stopped before its end; the masks so far are in the folder", soft_wrap=True)


def _watching(*, quiet: bool) -> Callable[[Turn], None]:
    last = -_LINE_EVERY

    def line(turn: Turn) -> None:
        nonlocal last
        if quiet or turn.seconds - last < _LINE_EVERY:
            return
        last = turn.seconds
        sys.stderr.write(
            f"{turn.seconds:.0f} s, step {turn.step}, {turn.step / max(turn.seconds, 1e-9):.2f} per second, "
            f"loss {turn.loss:.4f} nats per token, against the start {turn.tracker:+.5f} on the mean\n"
        )
        sys.stderr.flush()

    return line
