"""Models by name or folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from demask.contracts import Denoiser
from demask.errors import CheckpointError, GenerateError
from demask.generate.model import Model
from demask.generate.recipe import Recipe
from demask.information.measurement import Measurement

if TYPE_CHECKING:
    from typing import Unpack

    from demask.denoisers.checkpoints import Given
    from demask.denoisers.folder import Folder

DEFAULT: Final = "demask/notes"
_EMBEDDED: Final = Path(__file__).parents[1] / "models"


def load(
    name_or_folder: str | Path = DEFAULT,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    sparse: bool = False,
    **given: "Unpack[Given]",
) -> Model:
    """Load a model that comes with the package, by name, or one from a folder.

    Parameters:
        name_or_folder: such as "demask/notes", what `demask train` wrote, or a published checkpoint (LLaDA, Dream, SDAR,
            MDLM, BERT and their kin; see demask.denoisers.checkpoints).
        device: where it shall compute; the CPU by default.
        dtype: in what precision; float32 on a CPU by default, bfloat16 elsewhere.
        sparse: whether what `demask sparsify` wrote is to be multiplied by the sparse kernels of a CUDA GPU; without it the
            zeros are multiplied like any number, on any device.
        given: for published checkpoints: mask, ends, block, chat, device_map, trust_remote_code and the like, in place of
            what their files say; see demask.denoisers.checkpoints.Given.

    Raises:
        GenerateError: no such name and no such folder, or facts given of a model of ours, which has them in its folder.
        CheckpointError, DenoiserError, TokenizerError, CurveError: a folder that is not a model, or damaged.
    """
    path = find(name_or_folder)
    curve = path / "curve.json"
    measured = Measurement.load(curve) if curve.exists() else None
    if published(path):
        if sparse:
            raise CheckpointError(f"{path} is a published checkpoint, without weight masks; load it without sparse")
        from demask.denoisers import checkpoints

        opened = checkpoints.read(path, device=device, dtype=dtype, **given)
        return Model(
            denoiser=opened.denoiser,
            tokenizer=opened.tokenizer,
            context=opened.denoiser.context,
            name=str(name_or_folder),
            about={"family": opened.facts.family},
            recipe=Recipe(block=opened.facts.block, over="row" if opened.facts.causal else "masked"),
            curve=measured,
        )
    if given:
        raise GenerateError(
            f"{next(iter(given))} is for published checkpoints, but {name_or_folder} is a model of demask; leave it out"
        )
    from demask.denoisers.folder import read

    found = read(path, device=device or "cpu", dtype=dtype)
    context = found.denoiser.context
    return Model(
        denoiser=_compressed(found) if sparse else found.denoiser,
        tokenizer=found.tokenizer,
        context=context,
        name=str(name_or_folder),
        window=context,
        filled=found.about.get("documents", "packed") != "packed",
        about=found.about,
        recipe=_recipe(found.about.get("recipe", {}), path),
        curve=measured,
    )


def _compressed(found: "Folder") -> Denoiser:
    """Return a folder's denoiser by kernels that skip what its weight masks leave out."""
    from demask.denoisers.sparse import compressed, read_masks

    pattern, masks = read_masks(found.path, found.denoiser.network)
    return compressed(found.denoiser, masks, pattern)


def published(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint of others: a config.json with a model_type and without a schema of ours."""
    try:
        body = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads it says what is wrong
    return isinstance(body, dict) and "schema" not in body and ("model_type" in body or "architectures" in body)


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
