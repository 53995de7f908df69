"""The command line: `demask sample`, `demask schedule`, `demask compare`."""

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its code.

    0 where all went well, 2 for what the user can fix (one line on stderr says how), 130 after Ctrl-C.
    """
    import sys

    try:
        from demask.cli.app import app
    except KeyboardInterrupt:  # the first tenth of a second, before anything else could answer
        sys.stderr.write("demask: interrupted\n")
        sys.exit(130)
    app()
