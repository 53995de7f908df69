"""Families that are not known: the checkpoint's own code makes the network, where a caller trusts it by name.

Nothing here happens unless `trust_remote_code=True` is written. What such a network does with a mask of attention is not
known, so rows of different lengths are computed each by itself; and it cannot be cut in two, so all positions are projected
to the vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from demask.denoisers.checkpoints.facts import CONFIG, Configs, Facts
from demask.denoisers.checkpoints.family import Family, Placement, native
from demask.denoisers.checkpoints.weights import Weights
from demask.errors import CheckpointError

_CLASSES: Final = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")
_CONTEXTS: Final = ("max_position_embeddings", "max_sequence_length", "model_length", "n_positions")


@dataclass(frozen=True, eq=False)
class Whole:
    """A network that is not cut: its features are its logits."""

    network: Any

    @property
    def weight(self) -> Tensor:
        """The first of its parameters."""
        return next(self.network.parameters())  # type: ignore[no-any-return]

    def features(self, ids: Tensor, present: Tensor | None) -> Tensor:
        """Return the logits of all positions, (B, N, V)."""
        if present is None:
            return self._asked(ids)
        rows = [self._asked(row[None, here])[0] for row, here in zip(ids, present, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits as they are."""
        return features

    def _asked(self, ids: Tensor) -> Tensor:
        out = self.network(input_ids=ids)
        out = out if isinstance(out, Tensor) else out.logits if hasattr(out, "logits") else out[0]
        if not isinstance(out, Tensor) or out.shape[:2] != ids.shape or out.ndim != 3:
            raise CheckpointError(
                f"the checkpoint's own code answered {getattr(out, 'shape', type(out).__name__)} for ids of shape "
                f"{tuple(ids.shape)}; expected logits, one row of the vocabulary per position"
            )
        return out.to(ids.device)


@dataclass(frozen=True)
class Remote:
    """What takes the place of a `Family`: nothing is known of the architecture but what its configuration says."""

    name: ClassVar[str] = "own code"
    shift: ClassVar[bool | None] = None
    framed: ClassVar[bool] = False
    blocks: ClassVar[bool] = False
    tokenizer: ClassVar[tuple[str, str, str]] = Family.tokenizer

    def config(self, configs: Configs) -> Any:
        """Return the configuration, by the checkpoint's own code."""
        if not any(name in (configs.main.get("auto_map") or {}) for name in _CLASSES):
            raise CheckpointError(
                f"{configs.folder / CONFIG}: no auto_map with {', '.join(_CLASSES)}; expected the checkpoint's own code"
            )
        auto = native("transformers.models.auto.configuration_auto").AutoConfig
        return _run(
            configs, lambda: auto.from_pretrained(configs.folder, trust_remote_code=True, local_files_only=True)
        )

    def context(self, config: Any, configs: Configs) -> tuple[int, str]:
        """Return how many positions there are, and where that stands."""
        for name in _CONTEXTS:
            if name in configs.main:
                return configs.need(name), f"{CONFIG}: {name}"
        raise CheckpointError(
            f"{configs.folder / CONFIG}: none of {', '.join(_CONTEXTS)}; give the most positions as context=.."
        )

    def usual(self, configs: Configs, ids: Mapping[str, int]) -> Mapping[str, tuple[Any, str]]:
        """Return nothing: what is silent has to be given."""
        return {}

    def assemble(self, config: Any, weights: Weights, facts: Facts, placement: Placement) -> Whole:
        """Return the network, made and filled by the checkpoint's own code."""
        configs = Configs.read(weights.folder)
        name = next(name for name in _CLASSES if name in configs.main["auto_map"])
        auto = getattr(native("transformers.models.auto.modeling_auto"), name)
        network = _run(
            configs,
            lambda: auto.from_pretrained(
                weights.folder, trust_remote_code=True, local_files_only=True, use_safetensors=not weights.pickled,
                **placement.passed,
            ),
        )  # fmt: skip
        return Whole(placement.settle(network))


def _run(configs: Configs, make: Any) -> Any:
    try:
        return make()
    except Exception as error:  # whatever foreign code provokes
        raise CheckpointError(
            f"{configs.folder}: its own code fails with this transformers ({type(error).__name__}: {error})"
        ) from error
