"""The command that all commands belong to, and how failures are told."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from demask import __version__
from demask.errors import DemaskError

_LEFT_OUT: Final = {"--ray": "local"}


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
        args = filled(sys.argv[1:] if args is None else args)
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
            message = explain(error, args)
            if message is None:
                raise
            sys.stderr.write(f"demask: {' '.join(message.splitlines())}\n")
            code = 2
        if code == 130:
            sys.stderr.write("demask: interrupted\n")
        sys.exit(code if isinstance(code, int) else 0)


def filled(args: Sequence[str]) -> list[str]:
    """Give options whose value may be left out the value that is meant: where an option follows, or nothing.

    Example:
        >>> filled(["batch", "in.jsonl", "out", "--ray"]), filled(["serve", "--ray", "auto"])
        (['batch', 'in.jsonl', 'out', '--ray', 'local'], ['serve', '--ray', 'auto'])
    """
    words = list(args)
    end = words.index("--") if "--" in words else len(words)
    out: list[str] = []
    for place, word in enumerate(words):
        out.append(word)
        if place < end and word in _LEFT_OUT and (place + 1 >= end or words[place + 1].startswith("-")):
            out.append(_LEFT_OUT[word])
    return out


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
