"""Write docs/cli.md and docs/reference.md from the code itself; with --check only say whether they are up to date."""

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

import demask
from demask.cli.app import app
from demask.files import write

HERE = Path(__file__).parent
WIDTH = 100
NOTE = "<!-- written by docs/generate.py (make docs); do not edit -->"


def cli() -> str:
    """Return the page of the command line: the help of every command."""
    command = typer.main.get_command(app)
    parts = [NOTE, "# Command line", _help(command, "demask")]
    for name, child in command.commands.items():
        parts += [f"## demask {name}", _help(child, f"demask {name}")]
        for inner, grandchild in getattr(child, "commands", {}).items():
            parts += [f"### demask {name} {inner}", _help(grandchild, f"demask {name} {inner}")]
    return "\n\n".join(parts) + "\n"


def reference() -> str:
    """Return the page of public names: signature and first line of the docstring, by module."""
    parts = [NOTE, "# Reference", "`help(demask.minimax)` shows the whole docstring of a name, here `minimax`."]
    modules = [demask, import_module("demask.oracles"), import_module("demask.recommend")]
    if find_spec("demask.testing") is not None:
        modules.append(import_module("demask.testing"))
    for module in modules:
        homes: dict[str, list[str]] = {}
        for name, value in _public(module):
            home = getattr(value, "__module__", None) or type(value).__module__
            homes.setdefault(home if module is demask else module.__name__, []).append(_entry(name, value))
        for home in sorted(homes):
            parts += [f"## {home}", "\n".join(homes[home])]
    return "\n\n".join(parts) + "\n"


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name in sorted(getattr(module, "__all__", ()), key=str.lower):
        value = getattr(module, name)
        if not inspect.ismodule(value):
            yield name, value


def _entry(name: str, value: Any) -> str:
    summary = (inspect.getdoc(value) or "").partition("\n")[0]
    return f"- `{name}{_signature(value)}`<br>{summary}"


def _signature(value: Any) -> str:
    """Return the parameters with their defaults; types are for the docstring to tell."""
    if inspect.isclass(value) and (issubclass(value, Exception) or hasattr(value, "__members__")):
        return ""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    plain = [
        parameter.replace(annotation=parameter.empty, default=_shown(parameter.default))
        for parameter in signature.parameters.values()
        if not parameter.name.startswith("_")
    ]
    return str(inspect.Signature(plain))


class _Words:
    """A default that prints as the given words."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __repr__(self) -> str:
        return self.words


def _shown(default: Any) -> Any:
    """Return defaults whose repr would show an address or an internal name as dots."""
    plain = default is inspect.Parameter.empty or not repr(default).startswith("<")
    return default if plain else _Words("..")


def _help(command: Any, path: str) -> str:
    context = command.context_class(command, info_name=path, terminal_width=WIDTH, max_content_width=WIDTH)
    lines = [line.rstrip() for line in command.get_help(context).strip().splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```"


def main() -> int:
    """Write the pages that differ, or with --check name them and return 1."""
    pages = {HERE / "cli.md": cli(), HERE / "reference.md": reference()}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        if stale:
            print(f"{', '.join(path.name for path in stale)} differ from the code; run: make docs", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        write(path, pages[path].encode())
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
