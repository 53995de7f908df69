"""`demask train`: from texts, or a known language, to a model folder."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import typer

from demask.cli.output import console, say_json, short, working
from demask.denoisers import folder as folders
from demask.denoisers.transformer import Network, Shape
from demask.errors import DemaskError, SpecError
from demask.tokenizer import Tokenizer
from demask.training import (
    Data,
    Fresh,
    HeldOut,
    Moment,
    Recipe,
    Score,
    Status,
    Text,
    Trained,
    corpus,
    read,
    split,
    train,
)
from demask.training.processes import Processes

ORACLES: Final = ("notes",)
_CONTEXT: Final = {"packed": 256, "windows": 100}
_HELD_OUT: Final = 256  # texts of a known language to evaluate on
HELD_OUT_KEY: Final = 1 << 40  # no step of a training has it
_LINE_EVERY: Final = 10.0  # seconds, where no terminal shows a bar


@dataclass(frozen=True)
class Material:
    """What the user said about the data.

    Parameters:
        paths: files and folders.
        oracle: a known language instead.
        glob: of the files within folders.
        share: of the texts to hold out.
        documents: "packed" or "windows"; None: packed, but windows for a known language.
        context: positions per window; None: 256 packed, 100 in windows.
        tokenizer: a tokenizer.json; None: one is learned.
        vocabulary: tokens of the learned one.
        focus: constraints of a known language for which some rows ask, in turn.
        asking: the share of those rows.
    """

    paths: tuple[Path, ...] = ()
    oracle: str | None = None
    glob: str = "*"
    share: float = 0.05
    documents: str | None = None
    context: int | None = None
    tokenizer: Path | None = None
    vocabulary: int = 2048
    focus: tuple[str, ...] = ()
    asking: float = 0.75

    @property
    def fill(self) -> str:
        """How windows are filled."""
        return self.documents or ("windows" if self.oracle else "packed")

    def open(self, tokenizer: Tokenizer | None = None) -> tuple[Data, HeldOut, Tokenizer]:
        """Return what to train on, what to evaluate on, and the tokenizer.

        Raises:
            SpecError: texts and a known language, or neither.
            TrainingError, TokenizerError: texts that nothing can be learned from.
        """
        texts, held, tokenizer = self.gather(tokenizer)
        return self.rows(texts, tokenizer), held, tokenizer

    def gather(self, tokenizer: Tokenizer | None = None) -> tuple[list[Text], HeldOut, Tokenizer]:
        """Return the texts to train on (none of a known language), what to evaluate on, and the tokenizer."""
        if (self.oracle is None) == (not self.paths):
            raise SpecError("nothing to train on, or two things; give FILES, or --oracle notes, one of them")
        if self.focus and self.oracle is None:
            raise SpecError(
                f"--focus {','.join(self.focus)} is about a known language; add --oracle notes, or leave it out"
            )
        if self.oracle is not None:
            source = language(self.oracle)
            tokenizer = Tokenizer.words(source.words)
            aside = source.sample(_HELD_OUT, key=HELD_OUT_KEY)
            return [], HeldOut.of(aside, tokenizer, context=self.positions, fill="windows"), tokenizer
        kept, aside = split(read(self.paths, glob=self.glob), self.share)
        if tokenizer is None:
            tokenizer = (
                Tokenizer.load(self.tokenizer)
                if self.tokenizer
                else Tokenizer.train((text.content for text in kept), size=self.vocabulary)
            )
        contents = (text.content for text in aside)
        return kept, HeldOut.of(contents, tokenizer, context=self.positions, fill=self.fill), tokenizer

    def rows(self, texts: Sequence[Text], tokenizer: Tokenizer) -> Data:
        """Return rows of texts, or of the known language."""
        if self.oracle is not None:
            return Fresh(language(self.oracle), tokenizer, self.positions, self.focus, self.asking)
        return corpus(texts, tokenizer, context=self.positions, fill=self.fill)

    @property
    def positions(self) -> int:
        """Positions per window."""
        return self.context or _CONTEXT.get(self.fill, 256)


def language(name: str) -> Any:
    """Return a known language by its name."""
    if name not in ORACLES:
        raise SpecError(f"--oracle {name}: no such language; there is: {', '.join(ORACLES)}")
    from demask.oracles.notes import Notes

    return Notes()


def run(
    material: Material,
    *,
    out: Path,
    recipe: Recipe,
    size: str = "tiny",
    resume: bool = False,
    start: Path | None = None,
    threads: int | None = None,
    device: str | None = None,
    as_json: bool = False,
) -> Trained:
    """Train and tell.

    Raises:
        typer.Exit: with 130, after a clean stop by Ctrl-C.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    processes = Processes.join()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_out(out)
    with working("reading"):
        begun = None if start is None else begun_from(start, material)
        data, held, tokenizer = material.open(None if begun is None else begun.tokenizer)
    network = network_of(material, tokenizer, size, recipe.key, begun)
    network = network.to(device)
    about = {"documents": material.fill, "language": material.oracle}
    with _watching(recipe, quiet=as_json or not processes.writes) as watch:
        trained = train(
            network, data, held, tokenizer, out=out, recipe=recipe, resume=resume, about=about, watch=watch
        )  # fmt: skip
    if processes.writes:
        _tell(trained, out, as_json)
    if trained.status is Status.INTERRUPTED:
        raise typer.Exit(130)
    return trained


def network_of(material: Material, tokenizer: Tokenizer, size: str, key: int, begun: folders.Folder | None) -> Network:
    """Return the network at its start: drawn, or that of a model folder.

    Raises:
        SpecError: a model folder of another shape than the options ask for.
    """
    shape = Shape.of(size, tokenizer.size, material.positions)
    if begun is None:
        return Network(shape, key=key)
    network = begun.denoiser.network.requires_grad_(True)
    if network.shape != shape:
        raise SpecError(
            f"--from {begun.path} is a {network.shape}; the options ask for a {shape}: --size, --context, --oracle"
        )
    return network


def begun_from(start: Path, material: Material) -> folders.Folder:
    """Return the model that is to be trained further, with its tokenizer."""
    if material.tokenizer is not None:
        raise SpecError(f"--from {start} brings its tokenizer; leave out --tokenizer {material.tokenizer}")
    return folders.read(start, dtype=torch.float32)


def _tell(trained: Trained, out: Path, as_json: bool) -> None:
    score = trained.score
    if as_json:
        say_json({"out": str(out), "status": trained.status.name.lower(), "steps": trained.steps,
                  "seconds": trained.seconds, **score_json(score)})  # fmt: skip
        return
    screen = console()
    screen.print(f"{trained.steps} steps in {trained.seconds:.0f} s: {told(score)}", soft_wrap=True, markup=False)
    screen.print(f"wrote {out}", soft_wrap=True, markup=False)
    if trained.status is Status.INTERRUPTED:
        screen.print("stopped before its end; the same command with --resume goes on", soft_wrap=True)


def told(score: Score) -> str:
    """Return a score in one line."""
    low, high = score.bits_per_byte.interval()
    return (
        f"{short(score.bits_per_byte)} bits per byte (95%: {short(low)} to {short(high)}), "
        f"{short(score.nats_per_token)} nats per token, {short(score.nats_per_text)} nats per text, "
        f"on {score.windows} windows of {score.texts} held-out texts"
    )


def score_json(score: Score) -> dict[str, Any]:
    """Return a score as plain values."""
    names = ("bits_per_byte", "nats_per_token", "nats_per_text")
    values = {name: getattr(score, name) for name in names}
    return {
        **{name: {"value": float(value), "error": value.error} for name, value in values.items()},
        "windows": score.windows,
        "texts": score.texts,
    }


def check_out(out: Path) -> None:
    """Raise a DemaskError if no folder can be made there."""
    if out.exists() and not out.is_dir():
        raise DemaskError(f"--out {out} is a file; name a folder")
    if not out.resolve().parent.is_dir():
        raise DemaskError(
            f"--out {out}: there is no folder {out.resolve().parent}; make it first: mkdir -p {out.parent}"
        )


@contextmanager
def _watching(recipe: Recipe, *, quiet: bool) -> Iterator[Callable[[Moment], None]]:
    """Show a bar on a terminal, plain lines elsewhere."""
    if quiet:
        yield lambda moment: None
        return
    if not sys.stderr.isatty():
        last = -_LINE_EVERY

        def line(moment: Moment) -> None:
            nonlocal last
            if moment.score is None and moment.seconds - last < _LINE_EVERY:
                return
            last = moment.seconds
            scored = f", {told(moment.score)}" if moment.score else ""
            sys.stderr.write(f"{moment.seconds:.0f} s, {_state(moment)}{scored}\n")
            sys.stderr.flush()

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.percentage:.0f}% {task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        scored = ""

        def update(moment: Moment) -> None:
            nonlocal scored
            if moment.score:
                scored = f", {short(moment.score.bits_per_byte)} bits per byte"
            left = moment.seconds * (1 / moment.progress - 1) if moment.progress else 0.0
            minutes, seconds = divmod(int(left), 60)
            bar.update(
                task, completed=moment.progress, description=f"{_state(moment)}{scored}, {minutes}:{seconds:02d} left"
            )

        yield update


def _state(moment: Moment) -> str:
    return f"step {moment.step}, loss {moment.loss:.3f}, {moment.rate:.0f} tokens/s"
