"""`demask fill`: fill the gaps of a template."""

from collections.abc import Sequence
from pathlib import Path

from demask.cli import facts
from demask.cli.generate import check_save, read, show, tell
from demask.cli.output import working
from demask.generate import load
from demask.generate.recipe import Settings


def run(
    template: str,
    model: str,
    said: Sequence[str] | None,
    settings: Settings,
    *,
    n: int,
    key: int,
    save: Path | None,
    as_json: bool,
) -> None:
    """Fill and tell."""
    check_save(save, n)
    text, given = read(template), facts.read(said)
    with working("loading"):
        loaded = load(model, **given)
    parsed = loaded.template(text)
    if n == 1:
        show(loaded, parsed, key=key, settings=settings, save=save, as_json=as_json)
        return
    with working("filling"):
        results = loaded.fill(parsed, n=n, key=key, **settings)
    tell(results, as_json=as_json)
