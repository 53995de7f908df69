"""`demask measure`: the loss curve of a model on a text, and its total correlations, with intervals."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from demask import files, plots
from demask.canvas import ABSENT
from demask.cli.options import LENGTH
from demask.cli.output import console, estimated, say_json, working
from demask.cli.source import Source
from demask.contracts import Denoiser
from demask.errors import OracleError, SpecError
from demask.information.measure import Progress, increments, measure
from demask.information.measurement import Measurement


def run(
    model: str,
    source: Source,
    texts: list[str],
    *,
    passes: int | None,
    seconds: float | None,
    precision: float | None,
    sequences: int,
    key: int,
    movement: bool,
    out: Path | None,
    resume: Path | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Measure and tell."""
    if plot is not None:
        plots.check(plot)
    if out is not None:
        files.check_folder(out)
    with working("reading"):
        oracle, data, name = _model_and_data(model, source, texts, sequences, key)
    spent = 0
    with _bar() as show:

        def progress(done: int, wanted: int | None, sofar: Measurement) -> None:
            nonlocal spent
            spent = done
            show(done, wanted, sofar)

        found = (increments if movement else measure)(
            oracle, data, passes=passes, seconds=seconds, precision=precision, key=key, name=name, save=resume,
            progress=progress,
        )  # fmt: skip
    if out is not None:
        found.save(out)
    if plot is not None:
        plots.save(plots.curve([found]), plot)
    if as_json:
        say_json(found.to_json())
        return
    screen = console()
    n = found.length
    screen.print(
        f"{name}: {n} positions, {spent} passes on {found.passes[0]} sequences, model {found.fingerprint}",
        soft_wrap=True,
    )
    for label, value in (("NELBO", found.nelbo), ("TC", found.tc), ("DTC", found.dtc)):
        screen.print(f"{label:6}{estimated(value)}", soft_wrap=True)
    screen.print("\nvisible    loss, nats    95%           passes")
    for j, loss, error, count in zip(found.grid, found.loss, found.error, found.passes, strict=True):
        screen.print(f"{j:7d}    {loss:10.4f}    +- {1.96 * error:<8.4f}   {count:6d}")
    for path in (out, plot):
        if path is not None:
            screen.print(f"wrote {path}", soft_wrap=True, markup=False)
    if out is not None:
        screen.print(f"next: demask plan {out} --steps 16", soft_wrap=True, markup=False)


def _model_and_data(
    model: str, source: Source, texts: list[str], sequences: int, key: int
) -> tuple[Denoiser, Tensor, str]:
    """Return the model, the sequences that it is measured on, and their name.

    A model folder is measured on windows of the texts, or on new texts of the language that it was trained on. `chain` is
    the Markov chain fitted to the text, measured on windows of it. An oracle is measured on its own samples.
    """
    if model.startswith("demask/") or Path(model).is_dir():
        return _folder_and_data(model, source, texts, sequences, key)
    if model != "chain":
        if texts:
            raise SpecError(f"the oracle {model} is measured on its own samples; leave out {' '.join(texts)}")
        oracle = source.open()
        return oracle, oracle.sample(sequences, key=key), model
    if len(texts) != 1:
        raise SpecError("demask measure chain needs one TEXT to fit the chain to and to measure on; - reads stdin")
    oracle = source.open()
    if oracle.alphabet is None:
        raise OracleError("a fitted chain has an alphabet")
    length = LENGTH if source.length is None else source.length
    tokens = oracle.alphabet.encode(source.content)
    windows = len(tokens) // length
    if windows < 2:
        raise OracleError(
            f"{texts[0]} has {len(tokens)} {source.unit}: {windows} windows of {length}; an interval needs 2 or more: "
            f"--length {max(1, len(tokens) // 8)}"
        )
    return oracle, tokens[: windows * length].view(windows, length), Path(texts[0]).name if texts[0] != "-" else "stdin"


def _folder_and_data(
    model: str, source: Source, texts: list[str], sequences: int, key: int
) -> tuple[Denoiser, Tensor, str]:
    from demask.cli.train import HELD_OUT_KEY, language
    from demask.denoisers.folder import read as read_folder
    from demask.generate.load import find
    from demask.training import HeldOut, read

    loaded = read_folder(find(model))
    fill, known = str(loaded.about.get("documents", "packed")), loaded.about.get("language")
    context = loaded.denoiser.context
    if texts:
        contents = [text.content for text in read(texts)]
        name = Path(texts[0]).name + (f" and {len(texts) - 1} more" if len(texts) > 1 else "")
    elif isinstance(known, str):
        contents, name = language(known).sample(sequences, key=2 * HELD_OUT_KEY + key), known
    else:
        raise SpecError(f"demask measure {model} needs TEXT to measure on: files that it was not trained on")
    length = context if source.length is None else source.length
    if length > context:
        raise SpecError(f"--length {length}, but {model} has a context of {context}; expected at most that")
    held = HeldOut.of(contents, loaded.tokenizer, context=length, fill=fill)
    whole = held.tokens[(held.tokens != ABSENT).all(1)]
    if len(whole) < 2:
        raise SpecError(
            f"{len(whole)} full windows of {length} tokens in {name}; an interval needs 2 or more: give longer texts, or a "
            "smaller --length"
        )
    return loaded.denoiser, whole[torch.randperm(len(whole), generator=torch.Generator().manual_seed(key))], name


@contextmanager
def _bar() -> Iterator[Progress]:
    """Show a bar on stderr with the present interval of TC, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, wanted, found: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("measuring"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def update(done: int, wanted: int | None, found: Measurement) -> None:
            low, high = found.tc.interval()
            bar.update(
                task, completed=done, total=wanted, description=f"{done} passes, TC {low:.4g} to {high:.4g} nats"
            )

        yield update
