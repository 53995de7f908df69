"""The options that commands share, each written once."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from typer import CallbackParam, Context, Option

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


class End(StrEnum):
    """Where an end token may be drawn."""

    anywhere = "anywhere"
    reached = "reached"
    never = "never"


class Over(StrEnum):
    """How blocks are counted."""

    masked = "masked"
    row = "row"


def given(context: Context) -> set[str]:
    """Return the options that were typed, without their dashes."""
    sources = {param.opts[0]: context.get_parameter_source(str(param.name)) for param in context.command.params}
    return {name.lstrip("-") for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def refuse(names: Iterable[str], why: str) -> None:
    """Raise a SpecError if options are named that do not go together with the others."""
    found = ", ".join(f"--{name}" for name in sorted(names))
    if found:
        raise SpecError(f"{found}: {why}; leave it out")


def at_least_each(least: int) -> Callable[[CallbackParam, Any], Any]:
    """Return what refuses a smaller number among several, by name and value."""
    check = at_least(least)

    def each(param: CallbackParam, values: Any) -> Any:
        return None if values is None else [check(param, value) for value in values]

    return each


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
Loading = Annotated[
    list[str] | None,
    Option(
        "--load",
        metavar="NAME=VALUE",
        help="Said of the model in place of its files: device=cuda, dtype=bfloat16, mask=126336, ends=2,3, shift=yes; "
        "may be repeated.",
    ),
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
Block = Annotated[
    int | None,
    Option("--block", callback=at_least(1), help="Finish so many positions before the next.  [default: the model's]"),
]
Counted = Annotated[
    Over | None,
    Option("--over", help="Blocks are counted over what is masked, or over the row with its prompt."),
]
Temperature = Annotated[
    float | None, Option("--temperature", callback=at_least(0), help="At which tokens are drawn; 0 takes the mode.")
]
TopP = Annotated[
    float | None, Option("--top-p", callback=at_least(0), help="Probability that is kept of every law, at most 1.")
]
TopK = Annotated[int | None, Option("--top-k", callback=at_least(1), help="How many tokens of every law are kept.")]
MinP = Annotated[
    float | None,
    Option("--min-p", callback=at_least(0), help="Least share of the mode's probability that is kept, at most 1."),
]
Penalty = Annotated[
    float | None,
    Option(
        "--repetition-penalty", callback=at_least(0), help="For tokens that stand in the text; 1 is none, 1.1 a little."
    ),
]
Forbid = Annotated[
    list[int] | None,
    Option("--forbid", metavar="ID", callback=at_least_each(0), help="A token that is never drawn; may be repeated."),
]
Guidance = Annotated[
    float | None,
    Option(
        "--guidance", callback=at_least(0), help="Scale of classifier-free guidance by what is given; doubles the NFE."
    ),
]
EndOption = Annotated[
    End | None,
    Option("--end", help="Where the text may end: reached, only where all before is unmasked.  [default: anywhere]"),
]
Stop = Annotated[list[str] | None, Option("--stop", metavar="TEXT", help="Stop before this text; may be repeated.")]
SamplerOption = Annotated[
    str | None,
    Option("--sampler", metavar="SPEC", help="In place of schedule, order and steps: 'Remasking(64, Rescale(0.1))'."),
]
Save = Annotated[Path | None, Option("--save", metavar="RUN.json", help="Keep the run, for --replay.")]


def settings(**asked: Any) -> "Settings":
    """Return what was asked of a recipe, by the names of its settings; None where nothing was."""
    return cast("Settings", {name: None if value == [] else value for name, value in asked.items()})
