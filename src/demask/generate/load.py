"""Models by name or folder."""

from pathlib import Path
from typing import Any, Final

import torch

from demask.errors import CheckpointError, GenerateError
from demask.generate.model import Model
from demask.generate.recipe import Recipe
from demask.information.measurement import Measurement

DEFAULT: Final = "demask/notes"
_EMBEDDED: Final = Path(__file__).parents[1] / "models"


def load(
    name_or_folder: str | Path = DEFAULT,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Load a model that comes with the package, by name, or one from a folder.

    Parameters:
        name_or_folder: such as "demask/notes", or what `demask train` wrote.
        device: where it shall compute; the CPU by default.
        dtype: in what precision; by default that of the file.

    Raises:
        GenerateError: no such name and no such folder.
        CheckpointError, DenoiserError, TokenizerError, CurveError: a folder that is not a model, or damaged.
    """
    from demask.denoisers.folder import read

    path = find(name_or_folder)
    found = read(path, device=device or "cpu", dtype=dtype)
    curve = path / "curve.json"
    context = found.denoiser.context
    return Model(
        denoiser=found.denoiser,
        tokenizer=found.tokenizer,
        context=context,
        name=str(name_or_folder),
        window=context,
        filled=found.about.get("documents", "packed") != "packed",
        about=found.about,
        recipe=_recipe(found.about.get("recipe", {}), path),
        curve=Measurement.load(curve) if curve.exists() else None,
    )


def _recipe(settings: Any, path: Path) -> Recipe:
    """Return how the folder wants its model to be sampled where a caller asks for nothing."""
    try:
        return Recipe().changed(settings)
    except (GenerateError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: its recipe {settings!r} cannot be used: {error}") from None


def find(name_or_folder: str | Path) -> Path:
    """Return the folder of a model that comes with the package, or the folder itself.

    Raises:
        GenerateError: no such name and no such folder.
    """
    name, path = str(name_or_folder), Path(name_or_folder)
    if name.startswith("demask/") and not path.exists():
        path = _EMBEDDED / name.removeprefix("demask/")
    if not path.is_dir():
        known = sorted(f"demask/{found.parent.name}" for found in _EMBEDDED.glob("*/config.json"))
        raise GenerateError(
            f"no model {name!r}: neither a folder nor one of those inside the package ({', '.join(known) or 'none here'}); "
            "train one with demask train FILES --out DIR"
        )
    return path
