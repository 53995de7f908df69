"""What can be typed about distributions, their curves and the sizes of steps: the commands and their options.

Nothing heavy is imported until a command runs, so that help comes at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from demask.cli import options as o
from demask.cli.group import app
from demask.cli.output import working
from demask.errors import SpecError


@app.command()
def sample(
    text: o.Text = None,
    unit: o.UnitOption = o.Unit.characters,
    markov: o.Markov = o.MARKOV,
    smoothing: o.Smoothing = o.SMOOTHING,
    length: o.Length = None,
    steps: o.Steps = None,
    schedule: o.Schedule = None,
    target: o.TargetOption = None,
    order: o.Order = "random",
    key: o.Key = 0,
    rows: Annotated[int, typer.Option("--rows", callback=o.at_least(1), help="Texts to sample at once.")] = 1,
    temperature: Annotated[
        float,
        typer.Option("--temperature", callback=o.at_least(0), help="At which tokens are drawn; 0 takes the mode."),
    ] = 1.0,
    json: o.Json = False,
    plot: o.Plot = None,
) -> None:
    """Fit a Markov chain to a text and sample from it in parallel; see the canvas being unmasked.

    Prints the text, what the run cost, the exact expected path KL and the guarantee.
    """
    with working("loading"):
        from demask.cli.choose import Choice
        from demask.cli.sample import run
        from demask.cli.source import Source
    run(
        Source(text, None, unit.value, markov, smoothing, length),
        Choice(schedule, target.value if target else None, steps, length),
        order=order,
        key=key,
        rows=rows,
        temperature=temperature,
        as_json=json,
        plot=plot,
    )


@app.command()
def schedule(
    length: o.Length = None,
    steps: o.Steps = None,
    schedule: o.Schedule = None,
    target: o.TargetOption = None,
    constant: Annotated[
        float | None,
        typer.Option("--constant", help="Instead of --steps: the fewest steps whose minimax constant is at most this."),
    ] = None,
    draw: Annotated[int, typer.Option("--draw", callback=o.at_least(0), help="Draw the sizes of this many rows.")] = 0,
    key: o.Key = 0,
    json: o.Json = False,
    plot: o.Plot = None,
) -> None:
    """Show the sizes of a schedule, or the mixture that it draws from, and what they guarantee."""
    with working("loading"):
        from demask.cli.choose import Choice
        from demask.cli.schedule import run
    choice = Choice(schedule, target.value if target else None, steps, length)
    run(choice, constant=constant, draw=draw, key=key, as_json=json, plot=plot)


@app.command()
def compare(
    text: o.Text = None,
    oracle: o.Oracle = None,
    unit: o.UnitOption = o.Unit.characters,
    markov: o.Markov = o.MARKOV,
    smoothing: o.Smoothing = o.SMOOTHING,
    length: o.Length = None,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps",
            metavar="LIST",
            help="Numbers of steps.  [default: 4,8,16,32; with --continuous 25,50,100,200,400,800]",
        ),
    ] = None,
    schedules: Annotated[
        str | None, typer.Option("--schedules", metavar="LIST", help="Specs with ; between them, instead of all.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME_OR_DIR", help="A trained model of a known language instead: demask/notes."
        ),
    ] = None,
    texts: Annotated[
        int | None, typer.Option("--texts", callback=o.at_least(1), help="With --model: texts each.  [default: 64]")
    ] = None,
    order: Annotated[
        str | None, typer.Option("--order", metavar="SPEC", help="With --model: in place of the model's own.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="With --model: in place of the model's own; 0 is the mode.")
    ] = None,
    continuous: Annotated[
        bool,
        typer.Option(
            "--continuous",
            help="Points of R^d instead of tokens, --oracle subspaces, 'subspaces(count=3)', 'points(count=5)'.",
        ),
    ] = False,
    dimensions: Annotated[
        str | None,
        typer.Option("--dimensions", metavar="LIST", help="With --continuous: of the space.  [default: 8,32,128,512]"),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", callback=o.at_least(0), help="With --continuous: dimensions of the data.  [default: 4]"),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules", metavar="LIST", help="With --continuous: coefficients.  [default: General();LowDimensional()]"
        ),
    ] = None,
    key: Annotated[
        int | None, typer.Option("--key", help="With --model or --continuous: the seed.  [default: 0]")
    ] = None,
    json: o.Json = False,
    csv: o.Csv = None,
    plot: o.Plot = None,
) -> None:
    """Compare schedules on a distribution that is known exactly: path KL, guarantee, KL of the output.

    The path KL is exact on the distribution's information curve, with positions in random order; the guarantee needs only
    its total correlations TC and DTC; the KL of the output's own law is found by enumeration where that is small.

    With --model: how many of the model's texts satisfy every constraint of its language, against the passes they cost.

    With --continuous: the error of removing noise in so many steps from points of R^d whose scores are exact, for several d
    at the same intrinsic dimension, with coefficients that adapt to it and with others.
    """
    if continuous:
        own = (text, length, schedules, model, texts, order, temperature, unit, markov, smoothing)
        if own != (*[None] * 7, o.Unit.characters, o.MARKOV, o.SMOOTHING):
            raise SpecError(
                "--continuous is about points, not tokens; leave out what describes texts, schedules and models"
            )
        with working("loading"):
            from demask.cli.continuous import run as run_continuous
        run_continuous(
            oracle, steps=steps, dimensions=dimensions, rank=rank, rules=rules, key=key or 0, as_json=json, csv_file=csv,
            plot=plot,
        )  # fmt: skip
        return
    if (dimensions, rank, rules) != (None, None, None):
        raise SpecError("--dimensions, --rank and --rules are for --continuous")
    steps = "4,8,16,32" if steps is None else steps
    if model is not None:
        plain = (None, None, None, o.Unit.characters, o.MARKOV, o.SMOOTHING)
        if (text, oracle, length, unit, markov, smoothing) != plain:
            raise SpecError(f"--model {model} has its own language; leave out what describes a text or an oracle")
        with working("loading"):
            from demask.cli import right
        right.run(
            model, steps=steps, schedules=schedules, order=order, temperature=temperature, texts=texts or right.TEXTS,
            key=key or 0, as_json=json, csv_file=csv, plot=plot,
        )  # fmt: skip
        return
    if (texts, order, temperature, key) != (None, None, None, None):
        raise SpecError(
            "--texts, --order, --temperature and --key are for --model, --key also for --continuous; a known distribution "
            "draws nothing, and its path KL is that of random positions"
        )
    with working("loading"):
        from demask.cli.compare import run
        from demask.cli.source import Source
    source = Source(text, oracle, unit.value, markov, smoothing, length)
    run(source, steps=steps, schedules=schedules, as_json=json, csv_file=csv, plot=plot)


@app.command()
def measure(
    model: Annotated[
        str, typer.Argument(help="chain (fitted to TEXT), or an oracle: latin_square, 'reed_solomon(16, 8)'.")
    ],
    text: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]", help="Text to fit and to measure on; - reads stdin.")
    ] = None,
    unit: o.UnitOption = o.Unit.characters,
    markov: o.Markov = o.MARKOV,
    smoothing: o.Smoothing = o.SMOOTHING,
    length: o.Length = None,
    passes: Annotated[
        int | None, typer.Option("--passes", callback=o.at_least(1), help="Forward passes to spend at most.")
    ] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", callback=o.at_least(0), help="Time to spend.")] = None,
    precision: Annotated[
        float | None,
        typer.Option("--precision", callback=o.at_least(0), help="Stop at this relative error of TC and DTC."),
    ] = None,
    sequences: Annotated[
        int, typer.Option("--sequences", callback=o.at_least(2), help="Samples of an oracle to measure on.")
    ] = 256,
    key: o.Key = 0,
    movement: Annotated[
        bool, typer.Option(help="Also measure how far predictions move: better plans from few passes.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Keep the curve, for plan and report.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FILE", help="Keep every batch here, and go on from it if it exists."),
    ] = None,
    json: o.Json = False,
    plot: o.Plot = None,
) -> None:
    """Measure the loss curve of a model on data, and with it its total correlations, with intervals."""
    with working("loading"):
        from demask.cli.measure import run
        from demask.cli.source import Source
    texts = text or []
    chain = model == "chain"
    source = Source(
        texts[0] if chain and texts else None, None if chain else model, unit.value, markov, smoothing, length
    )
    if passes is None and seconds is None and precision is None:
        passes = 1024
    run(
        model, source, texts, passes=passes, seconds=seconds, precision=precision, sequences=sequences, key=key,
        movement=movement, out=out, resume=resume, as_json=json, plot=plot,
    )  # fmt: skip


@app.command()
def plan(
    curve: Annotated[Path, typer.Argument(metavar="CURVE.json", help="What demask measure --out wrote.")],
    steps: o.Steps = None,
    excess: Annotated[
        float | None, typer.Option("--excess", help="Instead of --steps: the fewest that cost at most this.")
    ] = None,
    bits: Annotated[bool, typer.Option("--bits", help="--excess is in bits per token, not in nats.")] = False,
    hedge: Annotated[float, typer.Option("--hedge", help="Share of minimax, in case the curve is wrong.")] = 0.0,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Keep the certificate as JSON.")] = None,
    json: o.Json = False,
    plot: o.Plot = None,
) -> None:
    """Plan the sizes of the steps for a measured curve, and certify what they cost."""
    with working("loading"):
        from demask.cli.plan import run
    run(
        curve, steps=steps, excess=excess, unit="bits/token" if bits else "nats", hedge=hedge, out=out, as_json=json,
        plot=plot,
    )  # fmt: skip


@app.command()
def report(
    curves: Annotated[list[Path], typer.Argument(metavar="CURVE.json...", help="What demask measure --out wrote.")],
    steps: Annotated[str, typer.Option("--steps", metavar="LIST", help="Numbers of steps.")] = "4,8,16,32,64",
    hedge: Annotated[float, typer.Option("--hedge", help="Share of minimax in the certificate's sizes.")] = 0.1,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page.")] = Path("report.html"),
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="FOLDER", help="Put its pictures here too, as PNG and SVG.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Write one self-contained page: curves with bands, cost against steps, sizes, certificate."""
    with working("loading"):
        from demask.cli.report import run
    run(curves, steps=steps, hedge=hedge, out=out, pictures=plots, as_json=json)
