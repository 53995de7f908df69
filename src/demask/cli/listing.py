"""`demask list`: what there is, with law, cost and reference, as the docstrings state them."""

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from textwrap import fill
from typing import Any, Final

from demask.cli.output import console, say, say_json
from demask.denoisers.checkpoints.base import Checkpoint
from demask.denoisers.checkpoints.open import FAMILIES
from demask.errors import SpecError
from demask.registry import KINDS, plain

FAMILY: Final = "family"
_ENDS: Final = r"(?=\s+(?:Law|Cost|Reference|Raises|Parameters|Returns|Example):\s|\n\n|\Z)"
# What all of a kind have in common, where a docstring does not say more.
_LAWS: Final = {
    FAMILY: "the network's own marginals; that of a run is its sampler's",
    "schedule": "FACTORISED with random positions, EXACT with one token per step; with another order that of the order",
    "denoiser": "the sampler's, of the changed marginals",
    "grid": "the sampler's",
    "strategy": "the sampler's",
}
_COSTS: Final = {"schedule": "one pass per step", "grid": "one pass per step", "strategy": "one pass per step"}


@dataclass(frozen=True)
class About:
    """What is told of a component.

    Parameters:
        kind, name: as a specification has them; of a family of checkpoints, the model types it reads.
        says: the first sentence of its docstring.
        law, cost, reference: as stated there; None: nothing is.
        options: how it is called.
    """

    kind: str
    name: str
    says: str
    law: str | None
    cost: str | None
    reference: str | None
    options: str


def components() -> Iterator[About]:
    """Give everything that can be named, kind by kind, in alphabetical order.

    Example:
        >>> [one.name for one in components() if one.kind == "potential"]
        ['Foresight', 'SelfReward']
        >>> next(one for one in components() if one.name == "Entropy").cost
        'no extra NFE; O(M V).'
    """
    for family in sorted(FAMILIES, key=lambda family: family.name.lower()):
        words = sys.modules[family.config.__module__].__doc__ or ""
        cost = _stated(inspect.getdoc(Checkpoint) or "", "Cost")
        options = f"model_type {', '.join(family.kinds)}"
        _, _, says = _first(words).partition(": ")  # behind its name
        yield About(FAMILY, family.name, says, _LAWS[FAMILY], cost, _stated(words, "Reference"), options)
    for kind, entries in KINDS.items():
        for name in sorted(entries, key=str.lower):
            words = inspect.getdoc(entries[name]) or ""
            law, cost = _stated(words, "Law") or _LAWS.get(kind), _stated(words, "Cost") or _COSTS.get(kind)
            options = name + _signature(entries[name])
            yield About(kind, name, _first(words), law, cost, _stated(words, "Reference"), options)


def run(what: str | None, *, as_json: bool) -> None:
    """Tell of all, of one kind, or of one component.

    Raises:
        SpecError: neither a kind nor a name.
    """
    found = list(components())
    if what is not None:
        found = [one for one in found if plain(what) in (plain(one.kind), plain(one.kind) + "s", plain(one.name))] or (
            [one for one in found if plain(what) == "families" and one.kind == FAMILY]
        )
        if not found:
            raise SpecError(_unknown(what))
    if as_json:
        say_json({"components": [asdict(one) for one in found]})
        return
    width = console().width
    kind = None
    for one in found:
        if one.kind != kind:
            say(one.kind if kind is None else f"\n{one.kind}")
            kind = one.kind
        say(fill(f"{one.name}: {one.says}", width, initial_indent="  ", subsequent_indent="      "))
        if one.options != one.name:
            say(fill(one.options, width, initial_indent="      ", subsequent_indent="        "))
        for label, value in (("law", one.law), ("cost", one.cost), ("reference", one.reference)):
            if value:
                say(fill(f"{label}: {value}", width, initial_indent="      ", subsequent_indent="        "))


def _unknown(what: str) -> str:
    names = sorted({one.name for one in components()} | set(KINDS) | {FAMILY}, key=str.lower)
    by_plain = {plain(name): name for name in names}
    close = [by_plain[match] for match in get_close_matches(plain(what), by_plain, n=3, cutoff=0.6)]
    hint = f"did you mean {' or '.join(close)}?" if close else f"kinds are {', '.join((FAMILY, *KINDS))}"
    return f"no kind and no component is called {what!r}; {hint} (demask list shows all)"


def _stated(words: str, section: str) -> str | None:
    r"""Return what a docstring says under a heading, on one line.

    Example:
        >>> _stated("Claim.\n\nLaw: TILTED.   Cost: one pass,\nor two.\n\nMore.", "Cost")
        'one pass, or two.'
    """
    found = re.search(rf"(?:^|\s){section}:\s+(.*?){_ENDS}", words, re.DOTALL)
    return None if found is None else " ".join(found[1].split())


def _first(words: str) -> str:
    return " ".join(words.strip().split("\n\n")[0].split())


def _signature(entry: Any) -> str:
    """Return the options with their defaults, without types."""
    shown = []
    for option in inspect.signature(entry).parameters.values():
        if option.kind is not option.VAR_KEYWORD and not option.name.startswith("_"):
            default = "" if option.default is option.empty else f"={_default(option.default)}"
            shown.append(option.name + default)
    return f"({', '.join(shown)})"


def _default(value: object) -> str:
    text = repr(value)
    return ".." if text.startswith("<") else text
