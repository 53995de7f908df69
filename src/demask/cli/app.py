"""What can be typed: the commands, their options, and how failures are told.

Nothing heavy is imported until a command runs, so that help comes at once.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from demask import __version__
from demask.cli import options as o
from demask.cli.output import working
from demask.errors import DemaskError, SpecError


class Group(TyperGroup):
    """Tell every failure that a user can mend in one line on stderr."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, flush, and exit with 0, 2 (what the user can fix), 130 (interrupted) or 1 (nobody reads)."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(args, "demask", complete_var, False, windows_expand_args, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read has gone. Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except KeyboardInterrupt:
            code = 130
        except Exception as error:
            message = explain(error, sys.argv[1:] if args is None else args)
            if message is None:
                raise
            sys.stderr.write(f"demask: {' '.join(message.splitlines())}\n")
            code = 2
        if code == 130:
            sys.stderr.write("demask: interrupted\n")
        sys.exit(code if isinstance(code, int) else 0)


def explain(error: Exception, args: Sequence[str] = ()) -> str | None:
    """Return what to tell the user of an error that the user can mend, None for a defect of the program."""
    if isinstance(error, DemaskError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        fix = {
            FileNotFoundError: "check the path",
            IsADirectoryError: "name a file inside it",
            PermissionError: "check who may read or write it",
        }.get(type(error), "check the device and the path")
        return f"{place}{error.strerror.lower()}; {fix}"
    if isinstance(error, MemoryError):
        return "not enough memory; a smaller --length, --markov or --rows needs less"
    if hasattr(error, "format_message"):  # an option or argument that typer refuses
        message = error.format_message().rstrip(".").replace("Value error, ", "")
        option, value = _refused(error, args)
        if value is not None and value not in message:
            message = f"{option} {value!r}: {message.partition(': ')[2] or message}"
        context = getattr(error, "ctx", None)
        return f"{message}; see {context.command_path if context else 'demask'} --help"
    return None


def _refused(error: Exception, args: Sequence[str]) -> tuple[str, str | None]:
    """Return the option that an error is about, and the value that was typed after it."""
    for option in getattr(getattr(error, "param", None), "opts", ()):
        for place, word in enumerate(args):
            if word.startswith(f"{option}="):
                return option, word.partition("=")[2]
            if word == option and place + 1 < len(args):
                return option, args[place + 1]
    return "", None


app = typer.Typer(
    cls=Group,
    help="Exact parallel decoding for masked diffusion language models: how many tokens per step, and what it costs.",
    add_completion=False,
    rich_markup_mode=None,  # plain help takes half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def entry(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
) -> None:
    """Print the version, or the help where no command is given."""
    if version:
        typer.echo(f"demask {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


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
    steps: Annotated[str, typer.Option("--steps", metavar="LIST", help="Numbers of steps.")] = "4,8,16,32",
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
    key: Annotated[int | None, typer.Option("--key", help="With --model: the seed.  [default: 0]")] = None,
    json: o.Json = False,
    csv: o.Csv = None,
    plot: o.Plot = None,
) -> None:
    """Compare schedules on a distribution that is known exactly: path KL, guarantee, KL of the output.

    The path KL is exact on the distribution's information curve, with positions in random order; the guarantee needs only
    its total correlations TC and DTC; the KL of the output's own law is found by enumeration where that is small.

    With --model: how many of the model's texts satisfy every constraint of its language, against the passes they cost.
    """
    if model is not None:
        plain = (None, None, None, o.Unit.characters, o.MARKOV, o.SMOOTHING)
        if (text, oracle, length, unit, markov, smoothing) != plain:
            raise SpecError(f"--model {model} has its own language; leave out what describes a text or an oracle")
        with working("loading"):
            from demask.cli import right
        right.run(
            model, steps=steps, schedules=schedules, texts=texts or right.TEXTS, key=key or 0, as_json=json,
            csv_file=csv, plot=plot,
        )  # fmt: skip
        return
    if texts is not None or key is not None:
        raise SpecError("--texts and --key are for --model; the comparison of a known distribution draws nothing")
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


@app.command()
def train(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILES]", help="Texts, or folders that hold them.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model folder.")] = Path("model"),
    oracle: Annotated[str | None, typer.Option("--oracle", help="A known language instead of files: notes.")] = None,
    size: Annotated[str, typer.Option("--size", help="tiny, small or base.")] = "tiny",
    network: Annotated[
        str, typer.Option("--network", help="transformer; or permutation, for speculative decoding.")
    ] = "transformer",
    seconds: Annotated[float | None, typer.Option("--seconds", help="Time to spend.  [default: 600]")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", callback=o.at_least(1), help="Instead: steps, which resume bit for bit.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", callback=o.at_least(1), help="Windows per step.")] = 16,
    accumulate: Annotated[
        int, typer.Option("--accumulate", callback=o.at_least(1), help="Parts that a batch is cut into.")
    ] = 1,
    context: Annotated[
        int | None, typer.Option("--context", callback=o.at_least(2), help="Tokens of a window.")
    ] = None,
    documents: Annotated[
        str | None, typer.Option("--documents", help="packed, or windows: one text each, filled up with end tokens.")
    ] = None,
    vocabulary: Annotated[int, typer.Option("--vocabulary", help="Tokens to learn.")] = 2048,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="FILE", help="A tokenizer.json instead.")
    ] = None,
    glob: Annotated[str, typer.Option("--glob", help="Which files of a folder.")] = "*",
    held_out: Annotated[float, typer.Option("--held-out", help="Share of the texts to evaluate on.")] = 0.05,
    optimiser: Annotated[str, typer.Option("--optimiser", help="muon or adamw.")] = "muon",
    rate: Annotated[float, typer.Option("--rate", help="Peak learning rate of AdamW.")] = 1e-3,
    early: Annotated[
        float, typer.Option("--early", help="Part of the training in which at most 30 % of a row is masked.")
    ] = 0.1,
    precision: Annotated[str, typer.Option("--precision", help="fp32 or bf16.")] = "fp32",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network first.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", callback=o.at_least(1), help="CPU threads.")] = None,
    key: o.Key = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
    json: o.Json = False,
) -> None:
    """Train a masked diffusion model on texts; Ctrl-C stops it, --resume goes on."""
    with working("loading"):
        from demask.cli.train import Material, run
        from demask.training import Masks, Recipe
    material = Material(tuple(files or ()), oracle, glob, held_out, documents, context, tokenizer, vocabulary)
    recipe = Recipe(
        steps, 600.0 if seconds is None and steps is None else seconds, batch, optimiser, rate, accumulate=accumulate,
        precision=precision, compiled=compiled, masks=Masks(early=early), network=network, key=key,
    )  # fmt: skip
    run(material, out=out, recipe=recipe, size=size, resume=resume, threads=threads, as_json=json)


@app.command(name="eval")
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder, as demask train writes it.")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILES]", help="Texts not trained on.")] = None,
    oracle: Annotated[str | None, typer.Option("--oracle", help="A known language instead of files: notes.")] = None,
    texts: Annotated[int, typer.Option("--texts", callback=o.at_least(2), help="New texts of the language.")] = 256,
    glob: Annotated[str, typer.Option("--glob", help="Which files of a folder.")] = "*",
    rounds: Annotated[int, typer.Option("--rounds", callback=o.at_least(1), help="Masks per window.")] = 4,
    steps: Annotated[str, typer.Option("--steps", metavar="LIST", help="Numbers of steps.")] = "4,8,16,32",
    passes: Annotated[
        int, typer.Option("--passes", callback=o.at_least(1), help="Forward passes for the path NLLs.")
    ] = 1024,
    key: o.Key = 0,
    json: o.Json = False,
) -> None:
    """Score a model on texts: bits per byte by the NELBO, and the path NLL of each schedule."""
    with working("loading"):
        from demask.cli.eval import run
    run(
        model, files or [], oracle=oracle, texts=texts, glob=glob, rounds=rounds, steps=steps, passes=passes, key=key,
        as_json=json,
    )  # fmt: skip


@app.command()
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; - reads stdin. Nothing: from the start.")
    ] = None,
    model: o.ModelOption = o.MODEL,
    n: Annotated[int, typer.Option("--n", callback=o.at_least(1), help="Samples.")] = 1,
    key: o.Seed = 0,
    schedule: o.Sizes = None,
    order: o.Ranking = None,
    steps: o.StepsAsked = None,
    excess: o.Excess = None,
    temperature: o.Temperature = None,
    top_p: o.TopP = None,
    most: Annotated[
        int | None,
        typer.Option("--max-new-tokens", callback=o.at_least(1), help="At most so many.  [default: all that fit]"),
    ] = None,
    save: o.Save = None,
    json: o.Json = False,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Prompts from stdin, a JSON string per line; a result per line.")
    ] = False,
    replay: Annotated[Path | None, typer.Option("--replay", metavar="RUN.json", help="Play a saved run.")] = None,
    step: Annotated[int | None, typer.Option("--step", help="With --replay: print the canvas after this step.")] = None,
) -> None:
    """Continue a prompt with a model; on a terminal, see the canvas being unmasked. In a pipe: the text alone."""
    with working("loading"):
        from demask.cli.generate import run
    settings = o.settings(schedule, order, steps, excess, temperature, top_p)
    run(
        prompt, model, settings, n=n, key=key, max_new_tokens=most, save=save, as_json=json, jsonl=jsonl, replayed=replay,
        step=step,
    )  # fmt: skip


@app.command()
def fill(
    template: Annotated[str, typer.Argument(help="Text with gaps, 'return [MASK:6]'; - reads stdin.")],
    model: o.ModelOption = o.MODEL,
    n: Annotated[int, typer.Option("--n", callback=o.at_least(1), help="Samples.")] = 1,
    key: o.Seed = 0,
    schedule: o.Sizes = None,
    order: o.Ranking = None,
    steps: o.StepsAsked = None,
    excess: o.Excess = None,
    temperature: o.Temperature = None,
    top_p: o.TopP = None,
    save: o.Save = None,
    json: o.Json = False,
) -> None:
    """Fill the gaps of a text: [MASK] is one token, [MASK:6] six; what stands around them never changes."""
    with working("loading"):
        from demask.cli.fill import run
    settings = o.settings(schedule, order, steps, excess, temperature, top_p)
    run(template, model, settings, n=n, key=key, save=save, as_json=json)
