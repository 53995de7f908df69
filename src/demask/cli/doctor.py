"""`demask doctor`: what a model folder is, what would be used of it, and what is missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import typer

from demask.cli import facts
from demask.cli.output import counted, say, say_json, say_pairs, short
from demask.denoisers import device as devices
from demask.errors import DemaskError, SpecError
from demask.generate.load import find, published

T = TypeVar("T")


@dataclass
class Findings:
    """What is known so far of a folder.

    Parameters:
        kind: "demask model", "published checkpoint" or "unknown".
        family: of a published checkpoint.
        facts: by name: the value, and where it comes from.
        weights: files, tensors and parameters.
        notes: on what is there and not used.
        problems: that keep it from being loaded.
    """

    folder: str
    kind: str = "unknown"
    family: str | None = None
    files: list[str] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def tried(self, look: Callable[[], T]) -> T | None:
        """Return what `look` finds; write down why it finds nothing."""
        try:
            return look()
        except DemaskError as error:
            self.problems.append(str(error))
            return None


def run(folder: Path, said: Sequence[str] | None = None, *, as_json: bool) -> None:
    """Look at a folder and tell; exit with 1 if it cannot be loaded.

    Of a published checkpoint no number is read: names and shapes are compared with what its config.json asks for.

    Parameters:
        folder: or the name of a model inside the package.
        said: of it, in place of its files, as `--load` takes it.
        as_json: whether one JSON object is printed.

    Raises:
        GenerateError: no such name and no such folder.
        SpecError: what nobody can say of a model, or that its own code is to run.
    """
    given, path = facts.read(said), find(folder)
    if given.get("trust_remote_code"):
        raise SpecError("--load trust_remote_code=yes: doctor runs no code of a checkpoint; leave it out")
    found = Findings(str(folder), files=sorted(file.name for file in path.iterdir() if file.is_file()))
    found.tried(lambda: devices.find(given.get("device") or "cpu"))
    if published(path):
        found.kind = "published checkpoint"
        _published(path, found, given)
    else:
        _own(path, found)
    if as_json:
        say_json({**asdict(found), "loads": not found.problems})
    else:
        _tell(found, said or ())
    if found.problems:
        raise typer.Exit(1)


def _own(path: Path, found: Findings) -> None:
    from demask.denoisers.folder import read

    model = found.tried(lambda: read(path))
    if model is None:
        return
    found.kind = "demask model"
    for name, value in asdict(model.denoiser.network.shape).items():
        found.facts[name] = {"value": value, "source": "config.json: shape"}
    found.weights = {
        "files": ["model.safetensors"],
        "tensors": len(model.denoiser.network.state_dict()),
        "parameters": model.denoiser.network.shape.parameters,
    }


def _published(path: Path, found: Findings, given: Mapping[str, Any]) -> None:
    from demask.denoisers.checkpoints.family import Family
    from demask.denoisers.checkpoints.open import learn, recognise
    from demask.denoisers.checkpoints.weights import Weights

    recognised = found.tried(lambda: recognise(path, family=given.get("family")))
    weights = found.tried(lambda: Weights.find(path, pickles=given.get("pickles", False)))
    if weights is not None:
        found.weights = {
            "files": list(weights.files),
            "tensors": len(weights.shapes),
            "parameters": sum(map(prod, weights.shapes.values())),
        }
    if recognised is None:
        return
    configs, family = recognised
    found.family = family.name
    if not isinstance(family, Family):
        return  # only where its own code is trusted, which is not done here
    if "auto_map" in configs.main:
        found.notes.append("its own code is not run")
    config = found.tried(lambda: family.config(configs))
    if config is None:
        return
    learned = found.tried(lambda: learn(family, config, configs, given))
    if learned is not None:
        facts = asdict(learned[0])
        sources = facts.pop("sources")
        facts["unused"] = len(facts["unused"])
        facts["chat"] = learned[1].chat is not None
        found.facts = {name: {"value": value, "source": sources[name]} for name, value in facts.items()}
    if weights is not None:
        names = found.tried(lambda: family.plan(config, weights))
        if names is not None and (left := sorted(weights.shapes.keys() - names)):
            found.weights["left_out"] = left


def _tell(found: Findings, said: Sequence[str]) -> None:
    say(f"{found.folder}: {found.kind}" + (f" of the {found.family} family" if found.family else ""))
    if found.facts:
        say("")
        say_pairs({name: f"{_shown(fact['value']):<12}  {fact['source']}" for name, fact in found.facts.items()})
    if found.weights:
        say("")
        size = counted(found.weights["tensors"], "tensor")
        say(f"{', '.join(found.weights['files'][:4])}: {size}, {short(found.weights['parameters'])} parameters")
        if left := found.weights.get("left_out"):
            say(f"not needed: {', '.join(left[:4])}" + (f" and {len(left) - 4} more" if len(left) > 4 else ""))
    for note in found.notes:
        say(note)
    say("")
    for problem in found.problems:
        say(f"cannot be loaded: {problem}")
    if not found.problems:
        say(f"loads: demask.load({found.folder!r})" + (f" with {' '.join(said)}" if said else ""))


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "none"
    if value is None:
        return "none"
    return str(value) if not isinstance(value, bool) else "yes" if value else "no"
