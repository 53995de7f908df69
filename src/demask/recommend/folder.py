"""Prepared interactions and trained networks on disk: JSON for names and choices, safetensors for numbers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from demask import files
from demask.denoisers.folder import CONFIG, read_tensors, write_tensors
from demask.errors import CheckpointError, DemaskError
from demask.recommend.catalogue import Catalogue
from demask.recommend.identify import Quantiser
from demask.recommend.interactions import Interactions
from demask.recommend.network import Dimensions, Network

DATA: Final = "demask.interactions/1"
MODEL: Final = "demask.recommender/1"
NUMBERS: Final = "numbers.safetensors"
WEIGHTS: Final = "model.safetensors"
_MAKE: Final = {
    DATA: "demask recommend prepare INTERACTIONS ITEMS --out",
    MODEL: "demask recommend train DATA --out",
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """Interactions and the identifiers of their items.

    Parameters:
        log: the interactions; texts are not kept on disk.
        catalogue: the digits.
        about: how it was made.
    """

    log: Interactions
    catalogue: Catalogue
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Recommender:
    """A trained network with the catalogue that it generates.

    Parameters:
        network: in eval mode.
        catalogue: the digits of the items, and how popular they were.
        about: how it was trained; `recipe` holds its noise.
    """

    network: Network
    catalogue: Catalogue
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def noise(self) -> str:
        """How it was trained, "coherent" say."""
        return str(self.about.get("recipe", {}).get("noise", "coherent"))


def check(folder: str | Path, schema: str) -> None:
    """Raise if `folder` cannot be written to: it is a file, its parent is missing, or it holds something else."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DemaskError(f"{folder} is a file; name a folder")
    if not folder.resolve().parent.is_dir():
        raise DemaskError(
            f"{folder}: there is no folder {folder.resolve().parent}; make it first: mkdir -p {folder.parent}"
        )
    if (folder / CONFIG).exists() and _body(folder / CONFIG).get("schema") != schema:
        raise CheckpointError(f"{folder} holds something else; choose another folder")


def write_data(folder: str | Path, prepared: Prepared, quantiser: Quantiser | None = None) -> None:
    """Write prepared interactions; each file whole or not at all, the names last."""
    folder, log = Path(folder), prepared.log
    check(folder, DATA)
    folder.mkdir(exist_ok=True)
    numbers = {
        **_numbers(prepared.catalogue),
        "taken": torch.tensor([item for sequence in log.sequences for item in sequence], dtype=torch.int64),
        "lengths": torch.tensor([len(sequence) for sequence in log.sequences], dtype=torch.int64),
    }
    if quantiser is not None:
        numbers |= {f"quantiser.{name}": value for name, value in vars(quantiser).items()}
    write_tensors(folder / NUMBERS, numbers, {"schema": DATA})
    body = {
        "schema": DATA, "users": log.users, "items": log.items, "codes": prepared.catalogue.size,
        "dropped": dict(log.dropped), "about": dict(prepared.about),
    }  # fmt: skip
    files.write(folder / CONFIG, json.dumps(body, allow_nan=False).encode() + b"\n")


def read_data(folder: str | Path) -> Prepared:
    """Read prepared interactions.

    Raises:
        CheckpointError: a file that is missing, corrupt, foreign, or does not fit the others.
    """
    folder = Path(folder)
    body = _config(folder, DATA)
    numbers, _ = read_tensors(folder / NUMBERS, DATA)
    try:
        catalogue = _catalogue(body, numbers)
        pieces = torch.split(numbers["taken"], numbers["lengths"].tolist())
        users = tuple(body["users"])
        if len(pieces) != len(users):
            raise CheckpointError(f"{len(pieces)} sequences of {len(users)} users")
        log = Interactions(
            users, catalogue.items, ("",) * len(catalogue.items),
            tuple(tuple(piece.tolist()) for piece in pieces), body["dropped"],
        )  # fmt: skip
        return Prepared(log, catalogue, body["about"])
    except (KeyError, TypeError, RuntimeError, DemaskError) as error:
        raise CheckpointError(f"{folder}: the files do not fit together ({error}); prepare the data again") from None


def write_model(folder: str | Path, recommender: Recommender) -> None:
    """Write a model folder; each file whole or not at all, the weights last."""
    folder = Path(folder)
    check(folder, MODEL)
    folder.mkdir(exist_ok=True)
    body = {
        "schema": MODEL, "dimensions": asdict(recommender.network.dimensions), "items": recommender.catalogue.items,
        "codes": recommender.catalogue.size, "about": dict(recommender.about),
    }  # fmt: skip
    write_tensors(folder / NUMBERS, _numbers(recommender.catalogue), {"schema": MODEL})
    files.write(folder / CONFIG, json.dumps(body, allow_nan=False).encode() + b"\n")
    write_tensors(folder / WEIGHTS, recommender.network.state_dict(), {"schema": MODEL})


def read_model(folder: str | Path, *, device: torch.device | str = "cpu") -> Recommender:
    """Read a model folder.

    Raises:
        CheckpointError: a file that is missing, corrupt or foreign; weights of another shape or not finite.
    """
    folder = Path(folder)
    body = _config(folder, MODEL)
    numbers, _ = read_tensors(folder / NUMBERS, MODEL)
    try:
        network, catalogue = Network(Dimensions(**body["dimensions"])), _catalogue(body, numbers)
    except (KeyError, TypeError, DemaskError) as error:
        raise CheckpointError(f"{folder}: the files do not fit together ({error}); train the model again") from None
    weights, _ = read_tensors(folder / WEIGHTS, MODEL)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if differing := sorted(found.items() ^ expected.items()):
        raise CheckpointError(
            f"{folder / WEIGHTS}: {differing[0][0]} is missing, unknown or of another shape than {CONFIG} says"
        )
    if broken := [name for name, value in weights.items() if not bool(value.isfinite().all())]:
        raise CheckpointError(f"{folder / WEIGHTS}: {broken[0]} holds numbers that are not finite; train it again")
    network.load_state_dict(weights)
    return Recommender(network.eval().requires_grad_(False).to(device), catalogue, body.get("about", {}))


def _numbers(catalogue: Catalogue) -> dict[str, Tensor]:
    return {"digits": catalogue.codes, "counts": catalogue.counts}


def _catalogue(body: Mapping[str, Any], numbers: Mapping[str, Tensor]) -> Catalogue:
    return Catalogue(tuple(body["items"]), numbers["digits"], body["codes"], numbers["counts"])


def _config(folder: Path, schema: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; make it: {_MAKE[schema]} {folder}")
    body = _body(folder / CONFIG)
    if body.get("schema") != schema:
        raise CheckpointError(
            f"{folder / CONFIG}: the schema is {body.get('schema')!r}; expected {schema!r}: {_MAKE[schema]} {folder}"
        )
    return body


def _body(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {(error.strerror or str(error)).lower()}; such a folder has one") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not whole JSON ({error}); write it again") from None
    if not isinstance(body, dict):
        raise CheckpointError(f"{path}: a {type(body).__name__}; expected the config of a folder")
    return body
