"""Networks that keep exactly N of every M consecutive weights: which ones, on disk, and by kernels that skip the zeros.

A weight mask is a bool tensor of the shape of a linear layer's weight (outputs, inputs): True where the weight is kept.
Blocks are M consecutive inputs of one output. It has nothing to do with the masked tokens of a canvas.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from demask.denoisers import folder as folders
from demask.denoisers.permutation import Permutation
from demask.denoisers.transformer import Transformer
from demask.errors import CheckpointError, DenoiserError
from demask.tokenizer import Tokenizer

SCHEMA: Final = "demask.masks/1"
MASKS: Final = "masks.safetensors"
_MOST: Final = 12  # kept weights of a block: the law of a block sums over 2**N subsets
_HALVES: Final = (torch.bfloat16, torch.float16)

Layers = Mapping[str, nn.Linear]
WeightMasks = Mapping[str, Tensor]


@dataclass(frozen=True)
class Pattern:
    """Exactly `kept` of every `of` consecutive weights.

    Parameters:
        kept: N, 1 to 12.
        of: M > N.

    Raises:
        DenoiserError: not 1 <= N < M, or more than 12 kept.

    Example:
        >>> Pattern.parse("2:4"), str(Pattern(4, 8)), Pattern(2, 4).density
        (Pattern(kept=2, of=4), '4:8', 0.5)
    """

    kept: int = 2
    of: int = 4

    def __post_init__(self) -> None:
        plain = all(isinstance(value, int) and not isinstance(value, bool) for value in (self.kept, self.of))
        if not (plain and 1 <= self.kept < self.of and self.kept <= _MOST):
            raise DenoiserError(
                f"the pattern {self.kept!r}:{self.of!r}; expected N:M with 1 <= N < M and N <= {_MOST}, such as 2:4"
            )

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Return the pattern that is written N:M."""
        kept, colon, of = text.partition(":")
        if not (colon and kept.strip().isdecimal() and of.strip().isdecimal()):
            raise DenoiserError(f"the pattern {text!r}; expected N:M, such as 2:4")
        return cls(int(kept), int(of))

    @property
    def density(self) -> float:
        """The share of weights that are kept."""
        return self.kept / self.of

    def blocks(self, tensor: Tensor) -> Tensor:
        """Return a contiguous weight, or its mask, as blocks: (outputs, inputs) -> (K, M), the same numbers."""
        return tensor.view(-1, self.of)

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"


def linear_layers(
    network: nn.Module,
    pattern: Pattern,
    *,
    only: Sequence[str] = ("*",),
    leave: Sequence[str] = (),
    skip_uneven: bool = False,
) -> dict[str, nn.Linear]:
    """Return the linear layers that a pattern is put on, by name.

    Parameters:
        network: of any kind; its layers may have biases, which stay.
        pattern: N:M along the inputs.
        only: name patterns such as "blocks.0.*" of layers to take.
        leave: name patterns of layers to leave dense, such as an output head.
        skip_uneven: leave layers dense whose inputs are no multiple of M, instead of refusing.

    Raises:
        DenoiserError: no layer; a name pattern that matches none; a layer whose inputs are no multiple of M, or whose weight
            another part of the network uses too, by name.

    Example:
        >>> network = nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 8))
        >>> [*linear_layers(network, Pattern(2, 4), skip_uneven=True)]
        ['0']
    """
    every = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    for glob in (*only, *leave):
        if not any(fnmatchcase(name, glob) for name in every):
            raise DenoiserError(f"no linear layer is called {glob!r}; there are: {', '.join(every) or 'none'}")
    chosen = {
        name: layer
        for name, layer in every.items()
        if any(fnmatchcase(name, glob) for glob in only) and not any(fnmatchcase(name, glob) for glob in leave)
    }
    uneven = [name for name, layer in chosen.items() if layer.in_features % pattern.of]
    if uneven and not skip_uneven:
        told = ", ".join(f"{name} ({every[name].in_features} inputs)" for name in uneven)
        raise DenoiserError(
            f"{told}: no multiple of {pattern.of}, which {pattern} needs; leave them dense by skip_uneven "
            "(--skip-uneven), or choose another pattern"
        )
    chosen = {name: layer for name, layer in chosen.items() if name not in uneven}
    owners: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name, layer in chosen.items():
        others = [owner for owner in owners.get(id(layer.weight), ()) if owner != f"{name}.weight"]
        if others:
            raise DenoiserError(f"{name}: its weight is {others[0]} too; leave it dense: leave=({name!r},)")
    if not chosen:
        raise DenoiserError("no linear layer is left; expected one or more: choose another only, leave or pattern")
    return chosen


def check(masks: WeightMasks, pattern: Pattern, layers: Layers) -> None:
    """Raise DenoiserError unless every layer has a mask of its shape with exactly N of every M kept."""
    if missing := sorted(masks.keys() ^ layers.keys()):
        raise DenoiserError(f"{missing[0]}: a mask without a layer, or a layer without a mask; expected one each")
    for name, mask in masks.items():
        if mask.shape != layers[name].weight.shape or mask.dtype != torch.bool:
            raise DenoiserError(
                f"{name}: a mask of {tuple(mask.shape)} {mask.dtype}; expected {tuple(layers[name].weight.shape)} bool"
            )
        if mask.shape[1] % pattern.of or bool((pattern.blocks(mask).sum(1) != pattern.kept).any()):
            raise DenoiserError(f"{name}: a block does not keep exactly {pattern} weights")


@torch.no_grad()
def prune(layers: Layers, masks: WeightMasks) -> None:
    """Put zeros where weights are not kept, in place."""
    for name, layer in layers.items():
        layer.weight.mul_(masks[name])


@contextmanager
def masked(layers: Layers, masks: WeightMasks) -> Iterator[None]:
    """Let layers compute with their kept weights alone; afterwards, come what may, the dense ones are back.

    The products are made anew in every pass, so that a change of a mask in place counts at once and no second copy of
    the weights is held.
    """
    try:
        for name, layer in layers.items():
            parametrize.register_parametrization(layer, "weight", _Kept(masks[name]), unsafe=True)
        yield
    finally:
        for layer in layers.values():
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


class _Kept(nn.Module):
    """A weight times its mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, weight: Tensor) -> Tensor:
        """Return (outputs, inputs)."""
        return weight * self.mask


def write(
    folder: str | Path,
    denoiser: Transformer | Permutation,
    tokenizer: Tokenizer,
    masks: WeightMasks,
    pattern: Pattern,
    *,
    card: str,
    about: Mapping[str, Any],
) -> None:
    """Write an ordinary model folder whose weights are zero where they are not kept, and the masks beside it; all or none.

    Parameters:
        folder: made if it does not exist.
        denoiser: dense; it stays so.
        tokenizer: of its tokens.
        masks: by the names of linear layers.
        pattern: that they obey.
        card, about: as `denoisers.folder.write` takes them.

    Raises:
        DenoiserError: masks that do not fit the pattern or the layers.
        DemaskError, OSError: the folder cannot be written to.

    Cost: a copy of the network while it is written.
    """
    network = copy.deepcopy(denoiser.network)
    layers = _named(network, masks)
    check(masks, pattern, layers)
    prune(layers, masks)
    beside = {MASKS: folders.packed(masks, {"schema": SCHEMA, "pattern": str(pattern)})}
    folders.write(folder, type(denoiser)(network), tokenizer, card=card, about=about, beside=beside)


def read_masks(folder: str | Path, network: nn.Module) -> tuple[Pattern, dict[str, Tensor]]:
    """Read the weight masks of a model folder, and check that the network obeys them.

    Raises:
        CheckpointError: no masks, damaged ones, or masks of other weights.
    """
    path = Path(folder) / MASKS
    if not path.exists():
        raise CheckpointError(f"{folder} holds no {MASKS}; make a sparse model by demask sparsify {folder} --out DIR")
    masks, facts = folders.read_tensors(path, SCHEMA)
    try:
        pattern = Pattern.parse(facts.get("pattern", ""))
        layers = _named(network, masks)
        check(masks, pattern, layers)
    except DenoiserError as error:
        raise CheckpointError(f"{path}: {error}; write the model again") from None
    for name, layer in layers.items():
        masks[name] = masks[name].to(layer.weight.device)
        if bool(layer.weight[~masks[name]].any()):
            raise CheckpointError(f"{path}: {name} has weights where the mask keeps none; they are of different models")
    return pattern, masks


def compressed(denoiser: Transformer | Permutation, masks: WeightMasks, pattern: Pattern) -> Transformer | Permutation:
    """Return a copy whose masked layers multiply by PyTorch's semi-structured sparse kernels, on a CUDA GPU.

    The kept weights are the same numbers, at half the memory and two bits each for their places; sums are made in another
    order.

    Parameters:
        denoiser: on a GPU of compute capability 8.0 or more, in bfloat16 or float16, zero where not kept.
        masks: by the names of layers; the others stay dense.
        pattern: 2:4, the only one that the hardware knows.

    Raises:
        DenoiserError: another pattern, place or precision, or a layer that the kernels do not take, by name.
    """
    if pattern != Pattern(2, 4):
        raise DenoiserError(f"the pattern is {pattern}; the sparse kernels know 2:4 alone: use the model as it is")
    if denoiser.device.type != "cuda":
        raise DenoiserError(
            f"the network lies on {denoiser.device.type}; the sparse kernels need a CUDA GPU: load(DIR, device='cuda', "
            "sparse=True), or use the model as it is"
        )
    if denoiser.dtype not in _HALVES:
        raise DenoiserError(
            f"the network is {denoiser.dtype}; expected bfloat16 or float16: load(DIR, dtype=torch.bfloat16, ..)"
        )
    from torch.sparse import to_sparse_semi_structured

    network = copy.deepcopy(denoiser.network)
    for name, layer in _named(network, masks).items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch calls them a prototype, once per process
                weight = to_sparse_semi_structured(layer.weight.detach())
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise DenoiserError(
                f"{name}: the sparse kernels do not take it ({error}); use the model as it is"
            ) from None
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return type(denoiser)(network)


def _named(network: nn.Module, masks: WeightMasks) -> dict[str, nn.Linear]:
    """Return the linear layers that the masks name."""
    layers = {}
    for name in masks:
        try:
            layer = network.get_submodule(name)
        except AttributeError:
            layer = network
        if not isinstance(layer, nn.Linear):
            raise DenoiserError(f"a mask for {name!r}, which is no linear layer of the network")
        layers[name] = layer
    return layers
