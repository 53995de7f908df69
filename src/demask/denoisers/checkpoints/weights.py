"""The numbers of a published checkpoint: safetensors in one file or in shards, each name and shape checked before use."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from demask.errors import CheckpointError

SINGLE: Final = "model.safetensors"
PICKLED: Final = "pytorch_model.bin"
_INDEX: Final = ".index.json"


@dataclass(frozen=True)
class Weights:
    """Where each tensor of a checkpoint lies, and its shape; no number is read yet.

    Parameters:
        folder: of the checkpoint.
        files: that hold tensors, and the index if there is one.
        places: the file of every tensor.
        shapes: of every tensor.
        pickled: whether the files are pickles.
    """

    folder: Path
    files: tuple[str, ...]
    places: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    pickled: bool = False

    @classmethod
    def find(cls, folder: Path, *, pickles: bool = False) -> "Weights":
        """Look at the headers of the files, and at the index of shards.

        Raises:
            CheckpointError: no weights, pickles that were not asked for, an absent shard, or one that lacks a tensor.
        """
        present = [name for name in (SINGLE, SINGLE + _INDEX) if (folder / name).exists()]
        pickled = not present and any((folder / name).exists() for name in (PICKLED, PICKLED + _INDEX))
        if pickled and pickles:
            present = [name for name in (PICKLED, PICKLED + _INDEX) if (folder / name).exists()]
        elif not present:
            others = sorted(file.name for file in folder.glob("*") if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
            note = f"; {others[0]} is a pickle, read only with pickles=True" if others else ""
            raise CheckpointError(f"{folder} holds no {SINGLE} and no {SINGLE}{_INDEX}{note}: convert to safetensors")
        if len(present) == 2:
            raise CheckpointError(
                f"{folder} holds both {present[0]} and {present[1]}; remove the one that is not meant"
            )
        if present[0].endswith(_INDEX):
            places = _places(folder / present[0])
            files = (present[0], *sorted(set(places.values())))
        else:
            places, files = {}, (present[0],)
        shapes: dict[str, tuple[int, ...]] = {}
        found: dict[str, str] = {}
        for name in files:
            if name.endswith(_INDEX):
                continue
            for key, shape in _header(folder / name, pickled=pickled).items():
                if key in found:
                    raise CheckpointError(f"{folder}: {key} is in {found[key]} and again in {name}; expected it once")
                found[key], shapes[key] = name, shape
        if places and (wrong := sorted(key for key in places | found if places.get(key) != found.get(key))):
            key = wrong[0]
            raise CheckpointError(
                f"{folder / files[0]}: {key} is to be in {places.get(key, 'no shard')}, but is in "
                f"{found.get(key, 'none of them')} ({len(wrong)} such); download the checkpoint again"
            )
        return cls(folder, files, found, shapes, pickled)

    def read(self) -> dict[str, Tensor]:
        """Read every tensor; the safetensors files are mapped, so nothing is copied yet."""
        out: dict[str, Tensor] = {}
        for name in sorted(set(self.places.values())):
            out.update(_content(self.folder / name, pickled=self.pickled))
        return out


def check(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raise a CheckpointError that names a tensor which is missing, unknown or of another shape."""
    if missing := sorted(expected.keys() - found.keys()):
        first = missing[0]
        raise CheckpointError(
            f"{what}: no tensor {first}, expected of shape {expected[first]} ({len(missing)} missing); the weights are "
            "incomplete or not of this config.json"
        )
    if unknown := sorted(found.keys() - expected.keys()):
        first = unknown[0]
        raise CheckpointError(
            f"{what}: unknown tensor {first} of shape {found[first]} ({len(unknown)} unknown); the architecture has none of "
            "this name: check config.json"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{what}: {name} has shape {found[name]}, expected {shape} by config.json; the two are of different models"
            )


def _places(path: Path) -> dict[str, str]:
    try:
        places = json.loads(path.read_bytes())["weight_map"]
        if not isinstance(places, dict) or not places:
            raise ValueError("an empty weight_map")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: no index of shards ({type(error).__name__}: {error}); download it again"
        ) from None
    for key, name in places.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{path}: {key} is to be in {name!r}; expected the name of a file in the same folder")
    if absent := sorted(name for name in set(places.values()) if not (path.parent / name).is_file()):
        raise CheckpointError(f"{path}: the shards {', '.join(absent[:3])} are not there; download them")
    return places


def _header(path: Path, *, pickled: bool) -> dict[str, tuple[int, ...]]:
    if pickled:
        return {key: tuple(value.shape) for key, value in _content(path, pickled=True).items()}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: truncated, corrupt or no safetensors file ({error}); download it again"
        ) from None


def _content(path: Path, *, pickled: bool) -> dict[str, Tensor]:
    if not pickled:
        from safetensors.torch import load_file

        return load_file(path)
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign pickle provokes
        raise CheckpointError(f"{path}: no pickle of plain tensors ({type(error).__name__}); convert it") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path}: holds {type(found).__name__}; expected names and tensors")
    return found
