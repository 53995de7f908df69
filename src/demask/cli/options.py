"""The options that commands share, each written once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from typer import Option

MARKOV: Final = 1
SMOOTHING: Final = 0.01
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


_DATA, _SCHEDULE, _OUTPUT = "Data", "Schedule and order", "Output"

Text = Annotated[
    str | None,
    Option(
        "--text", metavar="FILE", help="Text that a Markov chain is fitted to; - reads stdin.", rich_help_panel=_DATA
    ),
]
Oracle = Annotated[
    str | None,
    Option(
        "--oracle",
        metavar="SPEC",
        help="A known distribution instead of a text: latin_square, 'shuffle(4)', 'reed_solomon(16, 8)', "
        "'table(4, 2, key=0)'.",
        rich_help_panel=_DATA,
    ),
]
UnitOption = Annotated[Unit, Option("--unit", help="What a token of the text is.", rich_help_panel=_DATA)]
Markov = Annotated[
    int, Option("--markov", min=1, help="How many tokens the chain's next one depends on.", rich_help_panel=_DATA)
]
Smoothing = Annotated[
    float,
    Option(
        "--smoothing",
        min=0.0,
        help="Added to every count of the chain. At 0, tokens drawn in parallel may be impossible together.",
        rich_help_panel=_DATA,
    ),
]
Length = Annotated[
    int | None, Option("--length", min=1, help=f"Positions.  [default: {LENGTH}]", rich_help_panel=_DATA)
]
Steps = Annotated[int | None, Option("--steps", min=1, help=f"Steps.  [default: {STEPS}]", rich_help_panel=_SCHEDULE)]
Schedule = Annotated[
    str | None,
    Option(
        "--schedule",
        metavar="SPEC",
        help="How many go at each step: uniform, cosine, 'minimax(target=\"tc\")', 'Plan((4, 2, 1, 1))'.",
        rich_help_panel=_SCHEDULE,
    ),
]
TargetOption = Annotated[
    Target | None,
    Option(
        "--target",
        help="Short for --schedule 'minimax(target=..)', the default with both.",
        rich_help_panel=_SCHEDULE,
    ),
]
Order = Annotated[
    str,
    Option(
        "--order",
        metavar="SPEC",
        help="Which go first: random, confidence, 'blockwise(entropy, 32)'. Guarantees need random.",
        rich_help_panel=_SCHEDULE,
    ),
]
Key = Annotated[int, Option("--key", help="The seed; equal keys give equal output.", rich_help_panel=_SCHEDULE)]
Json = Annotated[bool, Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=_OUTPUT)]
Plot = Annotated[
    Path | None, Option("--plot", metavar="FILE", help="Draw to a .png, .svg or .pdf file.", rich_help_panel=_OUTPUT)
]
Csv = Annotated[
    Path | None, Option("--csv", metavar="FILE", help="Write all rows with full precision.", rich_help_panel=_OUTPUT)
]
