"""The options that commands share, each written once."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from typer import CallbackParam, Option

from demask.errors import SpecError

if TYPE_CHECKING:
    from demask.generate.recipe import Settings

MARKOV: Final = 1
SMOOTHING: Final = 0.0
LENGTH: Final = 256
STEPS: Final = 16


class Unit(StrEnum):
    """What a token is."""

    characters = "characters"
    bytes = "bytes"


class Target(StrEnum):
    """What the minimax schedule is safe against."""

    tc = "tc"
    dtc = "dtc"
    both = "both"
    complexity = "complexity"


def at_least(least: int) -> Callable[[CallbackParam, Any], Any]:
    """Return what refuses a smaller number, and `nan`, by name and value."""

    def check(param: CallbackParam, value: Any) -> Any:
        if value is not None and not value >= least:
            raise SpecError(f"{param.opts[0]} {value}: expected {least} or more")
        return value

    return check


Text = Annotated[
    str | None,
    Option("--text", metavar="FILE", help="Text that a Markov chain is fitted to; - reads stdin."),
]
Oracle = Annotated[
    str | None,
    Option(
        "--oracle",
        metavar="SPEC",
        help="A known distribution instead of a text: latin_square, 'shuffle(4)', 'reed_solomon(16, 8)', "
        "'table(4, 2, key=0)'.",
    ),
]
UnitOption = Annotated[Unit, Option("--unit", help="What a token of the text is.")]
Markov = Annotated[
    int, Option("--markov", callback=at_least(1), help="How many tokens the chain's next one depends on.")
]
Smoothing = Annotated[
    float,
    Option(
        "--smoothing",
        callback=at_least(0),
        help="Added to every count of the chain.",
    ),
]
Length = Annotated[int | None, Option("--length", callback=at_least(1), help=f"Positions.  [default: {LENGTH}]")]
Steps = Annotated[int | None, Option("--steps", callback=at_least(1), help=f"Steps.  [default: {STEPS}]")]
Schedule = Annotated[
    str | None,
    Option(
        "--schedule",
        metavar="SPEC",
        help="How many go at each step: uniform, cosine, 'minimax(target=\"tc\")', 'Plan((4, 2, 1, 1))'.",
    ),
]
TargetOption = Annotated[
    Target | None,
    Option(
        "--target",
        help="Short for --schedule 'minimax(target=..)', the default with both.",
    ),
]
Order = Annotated[
    str,
    Option(
        "--order",
        metavar="SPEC",
        help="Which go first: random, confidence, 'blockwise(entropy, 32)'. Guarantees need random.",
    ),
]
Key = Annotated[int, Option("--key", help="The seed; equal keys give equal output.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object and nothing else.")]
Plot = Annotated[Path | None, Option("--plot", metavar="FILE", help="Draw to a .png, .svg or .pdf file.")]
Csv = Annotated[Path | None, Option("--csv", metavar="FILE", help="Write all rows with full precision.")]

MODEL: Final = "demask/notes"
ModelOption = Annotated[
    str, Option("--model", metavar="NAME_OR_DIR", help="A model inside the package, or a folder of demask train.")
]
Seed = Annotated[int, Option("--key", "--seed", help="The seed; equal keys give equal output.")]
Sizes = Annotated[
    str | None,
    Option(
        "--schedule",
        metavar="SPEC",
        help="How many go at each step: uniform, 'minimax(steps=8)'.  [default: the model's]",
    ),
]
Ranking = Annotated[
    str | None, Option("--order", metavar="SPEC", help="Which go first: random, confidence.  [default: the model's]")
]
StepsAsked = Annotated[int | None, Option("--steps", callback=at_least(1), help="Steps.  [default: the model's]")]
Excess = Annotated[
    float | None,
    Option("--excess", callback=at_least(0), help="Instead of --steps: nats per token that speed may cost."),
]
Temperature = Annotated[
    float | None, Option("--temperature", callback=at_least(0), help="At which tokens are drawn; 0 takes the mode.")
]
TopP = Annotated[
    float | None, Option("--top-p", callback=at_least(0), help="Probability that is kept of every law, at most 1.")
]
Save = Annotated[Path | None, Option("--save", metavar="RUN.json", help="Keep the run, for --replay.")]


def settings(
    schedule: str | None,
    order: str | None,
    steps: int | None,
    excess: float | None,
    temperature: float | None,
    top_p: float | None,
) -> "Settings":
    """Return what was asked of a recipe; None where nothing was."""
    return {
        "schedule": schedule, "order": order, "steps": steps, "excess": excess, "temperature": temperature,
        "top_p": top_p,
    }  # fmt: skip
