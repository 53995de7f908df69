"""From what was typed to schedules and orders."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from demask.cli import knowledge
from demask.cli.options import LENGTH, STEPS
from demask.contracts import Order, Schedule
from demask.errors import DemaskError, SpecError
from demask.oracles import Oracle
from demask.registry import build, plain
from demask.schedules import Sizes


@dataclass(frozen=True)
class Choice:
    """What the user said about the schedule; None where nothing was said.

    Parameters:
        schedule: a specification.
        target: of the minimax schedule, instead.
        steps: K.
        length: positions.
    """

    schedule: str | None
    target: str | None
    steps: int | None
    length: int | None

    @property
    def spec(self) -> str:
        """The specification: that given, or minimax for the target, "both" by default.

        Raises:
            SpecError: a schedule and a target.
        """
        if self.schedule is not None and self.target is not None:
            raise SpecError(
                f"--schedule {self.schedule} and --target {self.target}: give one of them; "
                f"--target {self.target} is short for --schedule 'minimax(target=\"{self.target}\")'"
            )
        return self.schedule if self.schedule is not None else f'minimax(target="{self.target or "both"}")'

    def open(self, oracle: Oracle | None = None) -> Schedule:
        """Return the schedule; the oracle tells its curve and totals to the schedules that ask for them.

        Raises:
            SpecError: a specification that names nothing known, or that contradicts the other options.
        """
        spec = self.spec
        calls = list(_calls(spec))
        names = {name for name, _ in calls}
        options = {option for _, given in calls for option in given}
        if self.steps is not None and settles_steps(spec):
            raise SpecError(
                f"--steps {self.steps} and --schedule {spec}, which says its steps itself: give one of them"
            )
        context: dict[str, Any] = {
            "steps": STEPS if self.steps is None else self.steps,
            "length": LENGTH if self.length is None else self.length,
        }
        if oracle is not None:
            context |= knowledge.context(oracle, names)
        elif "optimal" in names and "curve" not in options:
            raise SpecError(
                f"--schedule {spec} needs a curve; write optimal(curve=(Z_0, Z_1, ..)), or "
                "demask sample --text FILE --schedule optimal"
            )
        schedule = built(spec, "schedule", **context)
        wanted = self.length if oracle is None else oracle.length
        if wanted is not None and isinstance(schedule, Sizes) and schedule.length != wanted:
            raise SpecError(
                f"--schedule {spec} is for {schedule.length} positions, not for {wanted}; write --length {schedule.length}"
            )
        return schedule  # type: ignore[no-any-return]

    def with_steps(self, steps: int) -> "Choice":
        """Return the same with another number of steps."""
        return replace(self, steps=steps)


def built(spec: str, kind: str, **context: Any) -> Any:
    """Return the object that a specification describes; values that a component cannot use become a SpecError."""
    try:
        return build(spec, kind, **context)
    except DemaskError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise SpecError(f"{spec!r}: {error}; check the values in it") from error


def build_order(spec: str) -> Order:
    """Return the order that a specification describes."""
    return built(spec, "order")  # type: ignore[no-any-return]


def settles_steps(spec: str) -> bool:
    """Return whether a specification says its number of steps itself.

    Example:
        >>> settles_steps("Plan((4, 2))"), settles_steps("uniform(steps=4)"), settles_steps("uniform")
        (True, True, False)
    """
    return any("steps" in options or name in ("plan", "systematic") for name, options in _calls(spec))


def _calls(spec: str) -> Iterator[tuple[str, list[str]]]:
    """Return every name in a specification, plain, with the options that are given to it by name."""
    try:
        tree = ast.parse(spec.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return  # `build` says what is wrong
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield plain(node.id), []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            options = [keyword.arg for keyword in node.keywords if keyword.arg is not None]
            name = plain(node.func.id)
            families = len(node.args) > 1 and name not in ("perblock", "plan", "systematic")
            yield name, [*options, "steps"] if families else options
