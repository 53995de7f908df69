"""`demask eval`: how well a model predicts texts, and what schedules cost it."""

from pathlib import Path
from typing import Final

from rich import box
from rich.table import Table
from torch import Tensor

from demask.canvas import ABSENT
from demask.cli.choose import built
from demask.cli.output import console, progress, say_json, short, working
from demask.cli.train import language, score_json, told
from demask.denoisers.folder import Folder, read
from demask.errors import SpecError, TrainingError
from demask.generate.load import find
from demask.information import measure, path_nll
from demask.training import HeldOut, evaluate
from demask.training import read as read_texts

SCHEDULES: Final = ("uniform", "cosine", 'minimax(target="both")', "optimal")


def run(
    folder: Path,
    files: list[Path],
    *,
    oracle: str | None,
    texts: int,
    glob: str,
    rounds: int,
    steps: str,
    passes: int,
    key: int,
    as_json: bool,
) -> None:
    """Evaluate and tell."""
    if (oracle is None) == (not files):
        raise SpecError("nothing to evaluate on, or two things; give FILES, or --oracle notes, one of them")
    counts = _counts(steps)
    with working("reading"):
        model = read(find(folder))
        held, truth = _held(model, files, oracle, texts, glob, key)
    with working("scoring"):
        score = evaluate(model.denoiser, held, key=key, rounds=rounds)
    whole = held.tokens[(held.tokens != ABSENT).all(1)]
    rows = _paths(model, whole, counts, passes, key)
    if as_json:
        say_json({
            "model": str(folder), **score_json(score), "entropy_nats_per_text": truth,
            "path_nll_nats_per_window": [
                {"schedule": spec, "steps": count, "value": value, "error": error} for spec, count, value, error in rows
            ],
        })  # fmt: skip
        return
    screen = console()
    screen.print(told(score), soft_wrap=True, markup=False)
    if truth is not None:
        low, high = score.nats_per_text.interval()
        screen.print(
            f"the language's own entropy is {short(truth)} nats per text: the model is {short(score.nats_per_text - truth)} "
            f"nats above it (95%: {short(low - truth)} to {short(high - truth)})",
            soft_wrap=True,
        )
    table = Table(box=box.SIMPLE, title=f"path NLL, nats per window of {whole.shape[1]} tokens", title_justify="left")
    table.add_column("schedule")
    for count in counts:
        table.add_column(f"{count} steps", justify="right")
    for spec in SCHEDULES:
        table.add_row(spec, *(f"{value:.2f} +- {1.96 * error:.2f}" for name, _, value, error in rows if name == spec))
    screen.print(table)


def _held(
    model: Folder, files: list[Path], oracle: str | None, texts: int, glob: str, key: int
) -> tuple[HeldOut, float | None]:
    """Return what to score on, and the true entropy of a text where it is known."""
    context = model.denoiser.context
    if oracle is None:
        fill = str(model.about.get("documents", "packed"))
        contents = [text.content for text in read_texts(files, glob=glob)]
        return HeldOut.of(contents, model.tokenizer, context=context, fill=fill), None
    source = language(oracle)
    # No training key comes near: one that did would show the model its own texts.
    held = HeldOut.of(source.sample(texts, key=(1 << 41) + key), model.tokenizer, context=context, fill="windows")
    return held, float(source.entropy)


def _paths(
    model: Folder, data: Tensor, counts: list[int], passes: int, key: int
) -> list[tuple[str, int, float, float]]:
    if len(data) < 2:
        raise TrainingError(
            f"{len(data)} full windows of {model.denoiser.context} tokens; path NLLs need 2 or more: give longer texts"
        )
    measured = measure(model.denoiser, data, passes=passes, key=key)
    length = data.shape[1]
    rows = []
    cells = [(spec, count) for spec in SCHEDULES for count in counts]
    for spec, count in progress(cells, "planning"):
        sizes = built(spec, "schedule", length=length, steps=count, curve=measured.curve())
        cost = path_nll(measured, sizes)
        rows.append((spec, count, float(cost), cost.error))
    return rows


def _counts(steps: str) -> list[int]:
    try:
        counts = [int(count) for count in steps.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise SpecError(f"--steps {steps}: expected numbers of steps such as 4,8,16,32")
    return counts
