"""A model on disk: config.json, model.safetensors, tokenizer.json and README.md, checked before anything is used.

Weights are plain numbers in the safetensors format with a digest of themselves. Pickle, which can run code, is never read.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from demask import files
from demask.denoisers import device as devices
from demask.denoisers.permutation import Permutation
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.errors import CheckpointError, DenoiserError
from demask.tokenizer import Tokenizer

SCHEMA: Final = "demask.model/1"
CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
TOKENIZER: Final = "tokenizer.json"
CARD: Final = "README.md"
NETWORKS: Final[dict[str, type[Transformer] | type[Permutation]]] = {
    "transformer": Transformer,
    "permutation": Permutation,
}
_DIGEST: Final = "blake2b"
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Folder:
    """What a model folder holds.

    Parameters:
        denoiser: ready to be asked.
        tokenizer: of its tokens.
        about: facts that were written with it, such as how texts fill windows.
        path: where it lies.
    """

    denoiser: Transformer | Permutation
    tokenizer: Tokenizer
    about: Mapping[str, Any]
    path: Path


def write(
    folder: str | Path,
    denoiser: Transformer | Permutation,
    tokenizer: Tokenizer,
    *,
    card: str,
    about: Mapping[str, Any],
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model folder; all files whole or none, the weights last.

    Parameters:
        folder: made if it does not exist.
        denoiser: written in its own precision.
        tokenizer: with as many tokens as the denoiser.
        card: the README.md, for humans.
        about: facts for programs, plain values.
        beside: other files by name, which belong to these weights.

    Raises:
        CheckpointError: a tokenizer of another size.
        DemaskError, OSError: the folder cannot be written to; what was there before is untouched.
    """
    _same_size(tokenizer, denoiser.network.shape, "the tokenizer")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"schema": SCHEMA, "shape": asdict(denoiser.network.shape), "about": dict(about)}
    if isinstance(denoiser, Permutation):
        config["network"] = "permutation"
    contents = {
        CONFIG: json.dumps(config, indent=1, allow_nan=False).encode() + b"\n",
        TOKENIZER: tokenizer.source.encode(),
        CARD: card.encode(),
        **(beside or {}),
        WEIGHTS: packed(denoiser.network.state_dict(), {"schema": SCHEMA}),
    }
    files.write_all({folder / name: content for name, content in contents.items()})


def read(folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Folder:
    """Read a model folder.

    Parameters:
        folder: that `write` made.
        device: where the network is to lie.
        dtype: its precision; None: float32 on a CPU, bfloat16 elsewhere.

    Raises:
        CheckpointError: a file that is missing, truncated, corrupt or foreign, weights of another shape, or no such
            device.
        TokenizerError: a tokenizer.json that is none.

    Cost: reading, hashing and converting the weights; no matrix is drawn at random first.
    """
    folder, place = Path(folder), devices.find(device)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; make a model with demask train FILES --out {folder}")
    kind, shape, about = _config(folder / CONFIG)
    if not (folder / WEIGHTS).exists():
        pickles = [file.name for pattern in _PICKLES for file in folder.glob(pattern)]
        note = f" ({pickles[0]} is a pickle, which can run code and is never read)" if pickles else ""
        raise CheckpointError(f"{folder} holds no {WEIGHTS}{note}; expected what denoisers.folder.write makes")
    tensors, _ = read_tensors(folder / WEIGHTS, SCHEMA)
    network = fill(shape, tensors, str(folder / WEIGHTS))
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    _same_size(tokenizer, shape, str(folder / TOKENIZER))
    network.to(place, dtype or devices.precision(place))
    return Folder(kind(network.requires_grad_(False)), tokenizer, about, folder)


def fill(shape: Shape, tensors: Mapping[str, Tensor], name: str) -> Network:
    """Return a network of the given weights; a CheckpointError says which are missing, unknown or of another shape."""
    with torch.device("meta"):
        network = Network(shape)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    if missing := sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(f"{name} lacks {', '.join(missing[:3])} ({len(missing)} missing); write the model again")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise CheckpointError(f"{name} holds unknown {', '.join(unknown[:3])}; it is not of a demask transformer")
    for key, wanted in expected.items():
        value = tensors[key]
        if tuple(value.shape) != wanted or value.dtype not in _DTYPES:
            raise CheckpointError(
                f"{name}: {key} is {tuple(value.shape)} {value.dtype}, expected {wanted} floats by {CONFIG}; the two files "
                "are of different models"
            )
        if not bool(value.isfinite().all()):
            raise CheckpointError(
                f"{name}: {key} holds numbers that are not finite; the training diverged: train again"
            )
    network.load_state_dict(dict(tensors), assign=True)
    return network


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write tensors and facts into one safetensors file with a digest, whole or not at all."""
    files.write(path, packed(tensors, facts))


def packed(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file of tensors and facts, with a digest."""
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(plain, {**facts, _DIGEST: _digest(plain)})


def read_tensors(path: str | Path, schema: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_tensors` wrote.

    Raises:
        CheckpointError: no such file, or one that is truncated, corrupt, foreign or a pickle; names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: {(error.strerror or str(error)).lower()}; expected a safetensors file"
        ) from None
    if raw[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(f"{path} is a pickle, which can run code and is never read; convert it to safetensors")
    try:
        tensors = load(raw)
        size = int.from_bytes(raw[:8], "little")
        facts = dict(json.loads(raw[8 : 8 + size]).get("__metadata__") or {})
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: truncated, corrupt or no safetensors file ({error}); write it again") from None
    if facts.get("schema") != schema:
        raise CheckpointError(f"{path}: the schema is {facts.get('schema')!r}; expected {schema!r}")
    if facts.get(_DIGEST) != _digest(tensors):
        raise CheckpointError(f"{path}: the numbers do not match their digest, so the file was damaged; write it again")
    return tensors, facts


def _digest(tensors: Mapping[str, Tensor]) -> str:
    hashed = blake2b(digest_size=16)
    for name in sorted(tensors):
        value = tensors[name]
        hashed.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _config(path: Path) -> tuple[type[Transformer] | type[Permutation], Shape, dict[str, Any]]:
    try:
        body = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {(error.strerror or str(error)).lower()}; a model folder has one") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not whole JSON ({error}); write the model again") from None
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        found = body.get("schema") if isinstance(body, dict) else type(body).__name__
        raise CheckpointError(f"{path}: the schema is {found!r}; expected {SCHEMA!r}, as demask train writes it")
    shape, about = body.get("shape"), body.get("about")
    if not isinstance(shape, dict) or set(shape) != set(Shape.__dataclass_fields__) or not isinstance(about, dict):
        raise CheckpointError(f"{path}: expected a shape of {', '.join(Shape.__dataclass_fields__)}, and about")
    name = body.get("network", "transformer")
    if name not in NETWORKS:
        raise CheckpointError(f"{path}: the network is {name!r}; expected one of {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name], Shape(**shape), about
    except DenoiserError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _same_size(tokenizer: Tokenizer, shape: Shape, name: str) -> None:
    if tokenizer.size != shape.vocabulary:
        raise CheckpointError(
            f"{name} has {tokenizer.size} tokens and the network {shape.vocabulary}; they are of different models"
        )
