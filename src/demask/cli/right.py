"""`demask compare --model`: how many texts of a trained model are right, against the passes that they cost."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Final

from rich import box
from rich.table import Table

from demask import files, plots
from demask.cli.compare import parse_specs, parse_steps
from demask.cli.output import console, progress, say_json, working
from demask.cli.train import language
from demask.errors import SpecError
from demask.generate import Model, load
from demask.oracles.notes import Share

SPECS: Final = ("uniform", "cosine", 'minimax(target="both")', "optimal")
TEXTS: Final = 64
_BATCH: Final = 64


@dataclass(frozen=True)
class Row:
    """One schedule with one number of steps.

    Parameters:
        schedule: its specification; "optimal" plans on the model's own curve.
        order: its specification.
        steps: as asked; None for one token at each.
        nfe: mean passes per text.
        tokens_per_pass: mean new tokens, over mean passes.
        right: share of the texts that satisfy every constraint.
        low, high: its exact 95 % interval.
        held: the share that satisfies each constraint, by name.
    """

    schedule: str
    order: str
    steps: int | None
    nfe: float
    tokens_per_pass: float
    right: float
    low: float
    high: float
    held: dict[str, float]


def run(
    model: str,
    *,
    steps: str,
    schedules: str | None,
    order: str | None = None,
    temperature: float | None = None,
    texts: int,
    key: int,
    as_json: bool,
    csv_file: Path | None,
    plot: Path | None,
) -> None:
    """Generate, check and tell."""
    counts = parse_steps(steps)
    if plot is not None:
        plots.check(plot)
    if csv_file is not None:
        files.check_folder(csv_file)
    with working("loading"):
        loaded = load(model)
    known = [spec for spec in SPECS if spec != "optimal" or loaded.curve is not None]
    specs = known if schedules is None else parse_specs(schedules)
    cases: list[tuple[str, int | None]] = [("uniform", None), *((spec, k) for k in counts for spec in specs)]
    recipe = loaded.recipe.changed({"order": order, "temperature": temperature})  # refused before anything is generated
    recipe.open(loaded.curve)
    measure = partial(measured, loaded, order=order, temperature=temperature, texts=texts, key=key)
    rows = [row for case in progress(cases, "generating") for row in measure([case])]
    if csv_file is not None:
        files.write(csv_file, _as_csv(rows).encode())
    if plot is not None:
        with working("drawing"):
            plots.save(plots.right([asdict(row) for row in rows]), plot)
    if as_json:
        shaped = {"order": str(recipe.order), "temperature": recipe.temperature}
        say_json({"model": model, "texts": texts, "key": key, **shaped, "rows": [asdict(row) for row in rows]})
        return
    screen = console()
    screen.print(
        f"{model}: {texts} texts each, key {key}, {recipe.order}, temperature {recipe.temperature:g}; "
        "right: all constraints of the language hold",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    screen.print(_table(rows))
    for path in (csv_file, plot):
        if path is not None:
            screen.print(f"wrote {path}", soft_wrap=True, markup=False)


def measured(
    model: Model,
    cases: Sequence[tuple[str, int | None]],
    *,
    order: str | None = None,
    temperature: float | None = None,
    texts: int = TEXTS,
    key: int = 0,
) -> Iterator[Row]:
    """Generate texts for every schedule and number of steps, and check them.

    Parameters:
        model: of a language that can be checked.
        cases: a schedule's specification and its steps each; None for one token at each.
        order, temperature: None for the model's own.
        texts: for each case.
        key: the same for all cases.

    Raises:
        SpecError: a model of no known language.
    """
    known = model.about.get("language")
    if known is None:
        raise SpecError(
            f"{model.name}: its texts cannot be checked; expected a model of a known language: demask/notes"
        )
    checker = language(str(known))
    for spec, steps in cases:
        results = model.generate(
            "", n=texts, key=key, batch=_BATCH, order=order, temperature=temperature, steps=steps or model.context,
            schedule=None if spec == "optimal" else spec,
        )  # fmt: skip
        found: dict[str, Share] = checker.satisfied(result.text for result in results)
        nfe = sum(result.nfe for result in results) / texts
        low, high = found["all"].interval()
        held = {name: share.value for name, share in found.items() if name != "all"}
        pace = sum(result.new for result in results) / texts / nfe
        yield Row(spec, order or str(model.recipe.order), steps, nfe, pace, found["all"].value, low, high, held)


def _as_csv(rows: Sequence[Row]) -> str:
    out = StringIO()
    fields = [name for name in Row.__dataclass_fields__ if name != "held"]
    writer = csv.DictWriter(out, [*fields, *rows[0].held], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        plain = asdict(row)
        held = plain.pop("held")
        writer.writerow({name: "" if value is None else value for name, value in (plain | held).items()})
    return out.getvalue()


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("schedule", no_wrap=True)
    for name in ("passes", "tokens/pass", "right", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("most often broken", no_wrap=True)
    for row in rows:
        worst = sorted((share, name) for name, share in row.held.items() if share < 1)[:2]
        table.add_row(
            "one each" if row.steps is None else str(row.steps),
            row.schedule,
            f"{row.nfe:.1f}",
            f"{row.tokens_per_pass:.1f}",
            f"{row.right:.0%}",
            f"{row.low:.0%} to {row.high:.0%}",
            ", ".join(f"{name} {1 - share:.0%}" for share, name in worst),
        )
    return table
