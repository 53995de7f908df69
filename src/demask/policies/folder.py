"""A policy on disk: config.json and policy.safetensors, checked before anything is used."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from demask import files
from demask.denoisers.folder import CONFIG, read_tensors, write_tensors
from demask.denoisers.transformer import Shape
from demask.errors import CheckpointError, DemaskError, OrderError
from demask.policies.network import FEATURES, MASK, Features, Network

SCHEMA: Final = "demask.policy/1"
WEIGHTS: Final = "policy.safetensors"
LAWS: Final = ("bernoulli", "plackett_luce")
_SAME: Final = (
    ("features", list(FEATURES), "it was trained to see other things"),
    ("mask", MASK, "it was trained for another mask convention"),
)


@dataclass(frozen=True, eq=False)
class Policy:
    """A network, and the law of choice that it was trained for.

    Parameters:
        network: features to logits.
        law: "bernoulli" or "plackett_luce".
        about: what its folder says of it.

    Raises:
        OrderError: another law.

    Example:
        >>> Policy(Network()).law
        'bernoulli'
    """

    network: Network
    law: str = "bernoulli"
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise OrderError(f"a policy of law {self.law!r}; expected one of {', '.join(LAWS)}")

    @torch.no_grad()
    def __call__(self, features: Features) -> Tensor:
        """Return the logits, (B, N)."""
        return self.network(features)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Policy(law={self.law!r})"


def write(folder: str | Path, policy: Policy) -> None:
    """Write a policy folder; each file whole or not at all, the weights last.

    Raises:
        CheckpointError: the folder holds a model, which would be lost.
        DemaskError, OSError: the folder cannot be written to; what was there before is untouched.
    """
    folder = Path(folder)
    check(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "schema": SCHEMA, "features": list(FEATURES), "mask": MASK, "law": policy.law,
        "shape": asdict(policy.network.shape), "about": dict(policy.about),
    }  # fmt: skip
    files.write(folder / CONFIG, json.dumps(config, indent=1, allow_nan=False).encode() + b"\n")
    write_tensors(folder / WEIGHTS, policy.network.state_dict(), {"schema": SCHEMA})


def check(folder: str | Path) -> None:
    """Raise if no policy can be put into `folder`: it is a file, its parent is missing, or it holds something else."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DemaskError(f"{folder} is a file; name a folder")
    if not folder.resolve().parent.is_dir():
        raise DemaskError(
            f"{folder}: there is no folder {folder.resolve().parent}; make it first: mkdir -p {folder.parent}"
        )
    if (folder / CONFIG).exists() and _body(folder / CONFIG).get("schema") != SCHEMA:
        raise CheckpointError(f"{folder} holds something else than a policy; choose another folder")


def read(folder: str | Path, *, device: torch.device | str = "cpu") -> Policy:
    """Read a policy folder.

    Raises:
        CheckpointError: a file that is missing, truncated, corrupt or foreign; a policy trained for another mask convention,
            other features or another law, by name; weights of another shape or not finite.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; make a policy with demask train-policy MODEL --out {folder}")
    path = folder / CONFIG
    body = _body(path)
    if body.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path}: the schema is {body.get('schema')!r}; expected {SCHEMA!r}, as demask train-policy writes it"
        )
    for name, expected, why in _SAME:
        if body.get(name) != expected:
            raise CheckpointError(
                f"{path}: {why}: {name} {body.get(name)!r}; expected {expected!r}; train a policy by demask train-policy"
            )
    law, about = body.get("law"), body.get("about")
    if law not in LAWS or not isinstance(about, dict):
        raise CheckpointError(f"{path}: the law is {law!r}; expected one of {', '.join(LAWS)}, and about")
    try:
        with torch.device("meta"):
            network = Network(Shape(**body["shape"]))
    except (KeyError, TypeError, DemaskError) as error:
        raise CheckpointError(f"{path}: no shape of a policy ({error}); train it again") from None
    tensors, _ = read_tensors(folder / WEIGHTS, SCHEMA)
    expected_shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if differing := sorted(found.items() ^ expected_shapes.items()):
        raise CheckpointError(
            f"{folder / WEIGHTS}: {differing[0][0]} is missing, unknown or of another shape than {CONFIG} says"
        )
    if broken := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
        raise CheckpointError(f"{folder / WEIGHTS}: {broken[0]} holds numbers that are not finite; train it again")
    network.load_state_dict(tensors, assign=True)
    return Policy(network.requires_grad_(False).to(device), law, about)


def _body(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {(error.strerror or str(error)).lower()}; a policy folder has one") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not whole JSON ({error}); train the policy again") from None
    if not isinstance(body, dict):
        raise CheckpointError(f"{path}: a {type(body).__name__}; expected the config of a policy")
    return body
