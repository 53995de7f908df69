"""`demask schedule`: the sizes, or the mixture that they are drawn from, and what they guarantee."""

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from demask import plots
from demask.cli.choose import Choice
from demask.cli.options import LENGTH
from demask.cli.output import console, counted, listed, say_json, working
from demask.errors import PlanError, SpecError
from demask.schedules import Binomial, Plan, Sizes, Systematic, minimax
from demask.schedules.plan import TARGETS

_PLANS = 8  # of a mixture that are shown
_MEANING = {
    "tc": "E KL <= constant x TC",
    "dtc": "E KL <= constant x DTC",
    "both": "E KL <= constant x min(TC, DTC)",
    "complexity": "E KL <= constant x sum_i delta_i i (n - i) / n",
}


def run(choice: Choice, *, constant: float | None, draw: int, key: int, as_json: bool, plot: Path | None) -> None:
    """Build the schedule and tell."""
    if plot is not None:
        plots.check(plot)
    if constant is not None:
        choice = _with_constant(choice, constant)
    with working("solving"):
        sizes = choice.open()
        if not isinstance(sizes, Sizes):
            raise SpecError(
                f"--schedule {choice.spec} has no sizes of its own before a row is seen; name the schedule inside it, "
                "such as minimax or uniform"
            )
        mixture = _mixture(sizes)
        constants = {target: sizes.constant(target) for target in TARGETS}  # type: ignore[arg-type]
        drawn = sizes.draw(draw, key=key) if draw else []
    if plot is not None:
        with working("drawing"):
            plots.save(plots.schedule(sizes), plot)
    if as_json:
        say_json(_json(sizes, mixture, constants, drawn))
        return
    screen = console()
    screen.print(repr(sizes), style="bold", soft_wrap=True, markup=False)
    screen.print(_heading(sizes, mixture), soft_wrap=True)
    screen.print(_plans(sizes, mixture, screen.width))
    screen.print(_constants(constants))
    if drawn:
        screen.print(f"drawn with key {key}:")
        for row, plan in enumerate(drawn):
            screen.print(f"  row {row}: {listed(plan.sizes, most=_words(screen.width))}", soft_wrap=True)
    if plot is not None:
        screen.print(f"wrote {plot}", soft_wrap=True, markup=False)


def _with_constant(choice: Choice, constant: float) -> Choice:
    if choice.steps is not None:
        raise SpecError(f"--constant {constant} and --steps {choice.steps}: give one of them")
    if choice.schedule is not None:
        raise SpecError(
            f"--constant {constant} and --schedule {choice.schedule}: it is minimax that knows; use --target"
        )
    length = LENGTH if choice.length is None else choice.length
    return choice.with_steps(minimax.steps_for(length, constant, target=choice.target or "both"))  # type: ignore[arg-type]


def _mixture(sizes: Sizes) -> list[tuple[float, Plan]] | None:
    """Return the plans with their probabilities, None if there are too many to list."""
    try:
        return sizes.mixture()
    except PlanError:
        return None


def _steps(sizes: Sizes) -> float | int:
    return sizes.steps  # type: ignore[attr-defined, no-any-return]


def _heading(sizes: Sizes, mixture: list[tuple[float, Plan]] | None) -> str:
    steps = f"{counted(sizes.length, 'position')} in {counted(_steps(sizes), 'step')}"
    if isinstance(sizes, Plan):
        return steps
    if mixture is None:
        most = " at most" if isinstance(sizes, Binomial) else ""
        return f"{steps}{most}; a mixture of too many plans to list, some draws (key 0):"
    if len(mixture) <= _PLANS:
        return f"{steps}; a mixture of {counted(len(mixture), 'plan')}:"
    covered = sum(share for share, _ in mixture[:_PLANS])
    return f"{steps}; a mixture of {len(mixture)} plans, the {_PLANS} most probable ({covered:.1%} of the draws):"


def _plans(sizes: Sizes, mixture: list[tuple[float, Plan]] | None, width: int) -> Table:
    most = _words(width)
    table = Table(box=box.SIMPLE_HEAD)
    if isinstance(sizes, Plan):
        table.add_column("sizes", overflow="fold")
        table.add_row(listed(sizes.sizes, most=3 * most))
    elif mixture is None:
        table.add_column("sizes", no_wrap=True)
        for plan in sizes.draw(4, key=0):
            table.add_row(listed(plan.sizes, most=most))
    else:
        table.add_column("probability", justify="right")
        table.add_column("sizes", no_wrap=True)
        for share, plan in mixture[:_PLANS]:
            table.add_row(f"{share:.4f}", listed(plan.sizes, most=most))
    return table


def _constants(constants: dict[str, float]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("target")
    table.add_column("constant", justify="right")
    table.add_column("with positions in random order, for every distribution")
    for target, value in constants.items():
        table.add_row(target, f"{value:.6g}", _MEANING[target])
    return table


def _json(
    sizes: Sizes, mixture: list[tuple[float, Plan]] | None, constants: dict[str, float], drawn: list[Plan]
) -> dict[str, Any]:
    return {
        "schedule": repr(sizes),
        "length": sizes.length,
        "steps": _steps(sizes),
        "kind": "plan" if isinstance(sizes, Plan) else "mixture",
        "plans": None
        if mixture is None
        else [{"probability": share, "sizes": list(plan.sizes)} for share, plan in mixture[:_PLANS]],
        "plans_in_all": None if mixture is None else len(mixture),
        "inclusion": sizes.inclusion.tolist() if isinstance(sizes, Systematic) else None,
        "residual": sizes.residual().tolist(),
        "constants": constants,
        "draws": [list(plan.sizes) for plan in drawn],
    }


def _words(width: int) -> int:
    """Return how many sizes fit on a line."""
    return max(6, (width - 24) // 4)
