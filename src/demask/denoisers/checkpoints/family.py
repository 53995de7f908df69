"""What a family of checkpoints has to say of itself, and how its weights become a network."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor

from demask.denoisers import device as devices
from demask.denoisers.checkpoints.base import Backbone
from demask.denoisers.checkpoints.facts import Configs, Facts
from demask.denoisers.checkpoints.weights import Weights, check
from demask.errors import CheckpointError

Shape = tuple[int, ...]
_FLOATS: Final = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Placement:
    """Where a network is to lie, and in what precision.

    Parameters:
        device: of the whole network, unless there is a map.
        dtype: its precision.
        device_map: as transformers has it, "auto" or parts and devices; None: one device.
        quantization_config: as transformers has it; None: none.
    """

    device: torch.device
    dtype: torch.dtype
    device_map: Any = None
    quantization_config: Any = None

    @classmethod
    def of(
        cls,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        device_map: Any = None,
        quantization_config: Any = None,
    ) -> "Placement":
        """Return the placement; a CheckpointError for a device that is not there, or said twice."""
        if device is not None and device_map is not None:
            raise CheckpointError(f"device = {str(device)!r} and device_map = {device_map!r}: give one of them")
        mapped = "cuda" if device_map is not None and torch.cuda.is_available() else "cpu"
        place = devices.find(mapped if device is None else device)
        return cls(place, dtype or devices.precision(place), device_map, quantization_config)

    @property
    def passed(self) -> dict[str, Any]:
        """What transformers is told."""
        asked = {"device_map": self.device_map, "quantization_config": self.quantization_config}
        return {"dtype": self.dtype} | {name: value for name, value in asked.items() if value is not None}

    def settle(self, network: Any) -> Any:
        """Return the network where it is to lie: the library has moved what has a map or is quantised."""
        moved = self.device_map is not None or self.quantization_config is not None
        return (network if moved else network.to(self.device)).eval().requires_grad_(False)


@dataclass(frozen=True)
class Pieces:
    """How one tensor of a network stands in the weights.

    Parameters:
        shapes: of the published tensors that it is made of, by name, in order.
        make: from these tensors to it.
    """

    shapes: Mapping[str, Shape]
    make: Callable[..., Tensor] = lambda tensor: tensor


def renamed(published: Callable[[str], str]) -> Callable[[Any, str, Shape], Pieces]:
    """Return the pieces of a family whose tensors have other names, and nothing else."""
    return lambda config, name, shape: Pieces({published(name): shape})


@dataclass(frozen=True)
class Family:
    """What checkpoints of one architecture have in common.

    Parameters:
        name: as it is told to the user.
        kinds: values of model_type in config.json.
        shift: whether the logits at position i predict the token at i + 1.
        config: from config.json to the network's own configuration; raises CheckpointError for what it cannot express.
        network: the class that takes it, of the library, or a module of ours.
        pieces: from configuration, name and shape of a tensor of that class to those in the weights.
        alias: the present name of a tensor in the weights, None for one that is not needed.
        backbone: from the network and the facts to its two halves.
        context: how many positions there are, and where that stands.
        framed: whether texts stand between a class and a separator token.
        blocks: whether a position sees its own block and those before it alone.
        usual: facts with their sources where the files are silent, from the configuration and the ids of the tokenizer.
        tokenizer: module, class and public name of the tokenizer, for vocab.json and merges.txt.
    """

    name: str
    kinds: tuple[str, ...]
    shift: bool
    config: Callable[[Configs], Any]
    network: Callable[[Any], Any]
    pieces: Callable[[Any, str, Shape], Pieces]
    alias: Callable[[str], str | None]
    backbone: Callable[[Any, Facts], Backbone]
    context: Callable[[Any, Configs], tuple[int, str]]
    framed: bool = False
    blocks: bool = False
    usual: Callable[[Configs, Mapping[str, int]], Mapping[str, tuple[Any, str]]] = lambda configs, ids: {}
    tokenizer: tuple[str, str, str] = ("transformers.models.qwen2", "Qwen2Tokenizer", "name")

    def plan(self, config: Any, weights: Weights) -> set[str]:
        """Return the names in the weights of every tensor that will be read, after checking names and shapes.

        Raises:
            CheckpointError: a tensor that is missing, unknown or of another shape.
        """
        needed = {published for pieces in self._pieces(config, weights).values() for published in pieces.shapes}
        return {name for name in weights.shapes if self.alias(name) in needed}

    def assemble(self, config: Any, weights: Weights, facts: Facts, placement: Placement) -> Backbone:
        """Return the network with the numbers of the weights.

        Raises:
            CheckpointError: names, shapes or types that do not fit, a tied tensor written with other numbers, or a placement
                that the network cannot have.
        """
        pieces = self._pieces(config, weights)
        tensors = {alias: value for name, value in weights.read().items() if (alias := self.alias(name)) is not None}
        for name, value in tensors.items():
            if value.dtype not in _FLOATS:
                raise CheckpointError(
                    f"{weights.folder}: {name} is {value.dtype}; expected float32, bfloat16 or float16: quantised "
                    "checkpoints are not read"
                )
        made = {name: piece.make(*(tensors[part] for part in piece.shapes)) for name, piece in pieces.items()}
        _, tied = self._expected(config)
        for copied, original in tied.items():
            if copied in made and original in made and not torch.equal(made.pop(copied), made[original]):
                copy, source = (next(iter(pieces[name].shapes)) for name in (copied, original))
                raise CheckpointError(
                    f"{weights.folder}: {copy} differs from {source}, but config.json ties them; the files are of different "
                    "models"
                )
        kind = self.network(config)
        load = _loaded if hasattr(kind, "from_pretrained") else _filled
        network = load(kind, config, made, placement, f"{weights.folder} ({self.name})")
        return self.backbone(placement.settle(network), facts)

    def _pieces(self, config: Any, weights: Weights) -> dict[str, Pieces]:
        """Return the pieces of every tensor of the network that is not a copy, or is written out all the same."""
        wanted, tied = self._expected(config)
        found = {alias: shape for name, shape in weights.shapes.items() if (alias := self.alias(name)) is not None}
        pieces = {name: self.pieces(config, name, shape) for name, shape in wanted.items()}
        pieces = {
            name: piece for name, piece in pieces.items() if name not in tied or piece.shapes.keys() <= found.keys()
        }
        check(
            {name: shape for piece in pieces.values() for name, shape in piece.shapes.items()},
            found,
            str(weights.folder),
        )
        return pieces

    def _expected(self, config: Any) -> tuple[dict[str, Shape], dict[str, str]]:
        """Return the shape of every tensor of the network, and which ones are copies of others."""
        with torch.device("meta"):
            network = self.network(config)(config)
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        return shapes, dict(getattr(network, "all_tied_weights_keys", {}))


def _loaded(kind: Any, config: Any, tensors: dict[str, Tensor], placement: Placement, what: str) -> Any:
    """Return a network of the library."""
    try:
        with _quiet():
            network, told = kind.from_pretrained(
                None, config=config, state_dict=tensors, output_loading_info=True, **placement.passed
            )
    except (ImportError, ValueError, RuntimeError) as error:  # a map or a quantisation that it cannot have
        raise CheckpointError(f"{what}: transformers refuses it ({type(error).__name__}: {error})") from None
    if left := sorted(told["missing_keys"] | told["unexpected_keys"] | told["mismatched_keys"]):
        raise CheckpointError(f"{what}: transformers did not take {left[0]} ({len(left)} such)")
    return network


def _filled(kind: Any, config: Any, tensors: dict[str, Tensor], placement: Placement, what: str) -> Any:
    """Return a network of ours."""
    for name in placement.passed.keys() - {"dtype"}:
        raise CheckpointError(f"{what}: {name} is for networks of transformers, and this one is not; leave it out")
    with torch.device("meta"):
        network = kind(config)
    network.load_state_dict({name: value.to(placement.dtype) for name, value in tensors.items()}, assign=True)
    return network


def native(module: str = "transformers") -> Any:
    """Return a module of transformers.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] != "transformers":
            raise
        raise CheckpointError(
            "published checkpoints need transformers; install it with pip install 'demask[checkpoints]'"
        ) from None


def configured(kind: str, **values: Any) -> Any:
    """Return the library's configuration of that model_type.

    Raises:
        CheckpointError: values that it refuses.
    """
    cls = native("transformers.models.auto.configuration_auto").CONFIG_MAPPING[kind]
    try:
        return cls(**values)
    except Exception as error:  # whatever a foreign config provokes
        raise CheckpointError(
            f"config.json: transformers refuses it as {kind} ({type(error).__name__}: {error})"
        ) from None


def accepts(function: Callable[..., Any], *names: str) -> bool:
    """Return whether a function has parameters of these names."""
    return set(names) <= set(inspect.signature(function).parameters)


def same(name: str) -> str:
    """Return the name: it is published as the library has it."""
    return name


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from drawing a bar and a table: what it has to say becomes an error here."""
    logging = native("transformers.utils.logging")
    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def switches(configs: Configs, expected: Mapping[str, Any], family: str) -> None:
    """Raise a CheckpointError for a setting of config.json that the family's network cannot express."""
    for key, wanted in expected.items():
        found = configs.main.get(key)
        if found is not None and found != wanted:
            raise CheckpointError(
                f"{configs.folder}/config.json: {key} = {found!r}; the {family} family is read with {wanted!r} only"
            )
