"""Masked language models: BERT and its kin, any of those that transformers has natively and that are listed in KINDS.

The class for masked language modelling is cut at its inner encoder, `base_model`: the hidden states are the encoder's, and
the rest of the class is its prediction head. To apply that head to asked rows alone, a shallow copy of the model is made
whose encoder is an echo: it returns the embeddings that it is given. So the head is the library's own code, run on (1, M, D)
rows, and needs no table of the names that each architecture gives its layers; it must only treat positions one by one,
which the tests check for every kind.

Texts stand between the class and the separator token, as these models were trained.

Reference: Devlin et al., BERT, 2019, arXiv 1810.04805; Wang and Cho, BERT has a mouth, 2019, arXiv 1902.04094.
"""

import copy
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from demask.denoisers.checkpoints.facts import Configs
from demask.denoisers.checkpoints.family import Family, accepts, configured, native, renamed, same
from demask.errors import CheckpointError

KINDS: Final = (
    "albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "ernie", "esm", "eurobert", "modernbert", "mpnet",
    "roberta", "xlm-roberta",
)  # fmt: skip
# What a published file may hold beside the masked language model: heads of other tasks, and positions that are counted.
_OTHERS: Final = re.compile(
    r"(.*\.)?(pooler\..*|position_ids|token_type_ids)|cls\.seq_relationship\..*|discriminator_.*"
)
# Keys of config.json that choose code, not an architecture: none of them reaches the library.
_LEFT: Final = (
    "architectures", "attn_implementation", "auto_map", "dtype", "experts_implementation", "model_type", "torch_dtype",
    "transformers_version",
)  # fmt: skip
_RENAMED: Final = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
)


class _Echo(nn.Module):
    """An encoder that returns the embeddings that it is given, and otherwise seems to be the one it stands for."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._behind = (encoder,)  # in a tuple, so that it is no part of this module

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Any:
        """Return the embeddings as hidden states."""
        return native("transformers.modeling_outputs").BaseModelOutput(last_hidden_state=inputs_embeds)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_behind"][0], name)


@dataclass(frozen=True, eq=False)
class MaskedLanguageModel:
    """A masked language model of the library, cut at its inner encoder."""

    network: Any

    @property
    def weight(self) -> Tensor:
        """The embedding."""
        return self.network.get_input_embeddings().weight  # type: ignore[no-any-return]

    def features(self, ids: Tensor, present: Tensor | None) -> Tensor:
        """Return the encoder's hidden states."""
        encoder = self.network.base_model
        seen = torch.ones_like(ids) if present is None else present.long()
        extra = {}
        if accepts(
            encoder.forward, "position_ids"
        ):  # some count positions by looking for the padding id, so they are told
            extra["position_ids"] = (torch.arange(ids.shape[1], device=ids.device) + first(self.network)).expand(
                ids.shape
            )
        return encoder(input_ids=ids, attention_mask=seen, return_dict=True, **extra)[0]  # type: ignore[no-any-return]

    def logits(self, features: Tensor) -> Tensor:
        """Return the head's answer for each row."""
        return self._head(inputs_embeds=features[None]).logits[0]  # type: ignore[no-any-return]

    @cached_property
    def _head(self) -> Any:
        head = copy.copy(self.network)
        head._modules = dict(head._modules)
        setattr(head, self.network.base_model_prefix, _Echo(self.network.base_model))
        return head


def first(network: Any) -> int:
    """Return the number of the first position: RoBERTa and its kin count on from the id of padding."""
    embeddings = getattr(network.base_model, "embeddings", None)
    counted = any(hasattr(embeddings, f"create_position_ids_from_{what}") for what in ("input_ids", "inputs_embeds"))
    return int(embeddings.padding_idx) + 1 if counted and embeddings is not None else 0


def config(configs: Configs) -> Any:
    """Return the library's configuration.

    Raises:
        CheckpointError: one that makes a decoder of it, or that the library refuses.
    """
    if configs.main.get("is_decoder"):
        raise CheckpointError(
            f"{configs.folder}/config.json: is_decoder = True; expected an encoder, which sees both sides"
        )
    if "quantization_config" in configs.main:
        raise CheckpointError(
            f"{configs.folder}/config.json: quantised weights are not read; use the unquantised checkpoint"
        )
    body = {key: value for key, value in configs.main.items() if key not in _LEFT and not key.startswith("_")}
    return configured(configs.kind, **body)


def network(config: Any) -> Any:
    """Return the library's class for masked language modelling."""
    return native("transformers.models.auto.modeling_auto").MODEL_FOR_MASKED_LM_MAPPING[type(config)]


def alias(name: str) -> str | None:
    """Return the present name of a tensor, None for one of another task's head.

    Example:
        >>> alias("bert.embeddings.LayerNorm.gamma"), alias("bert.pooler.dense.weight")
        ('bert.embeddings.LayerNorm.weight', None)
    """
    if _OTHERS.fullmatch(name):
        return None
    for pattern, new in _RENAMED:
        name = pattern.sub(new, name)
    return name


def context(config: Any, configs: Configs) -> tuple[int, str]:
    """Return how many positions there are, less those that RoBERTa and its kin leave free."""
    with torch.device("meta"):
        skipped = first(network(config)(config))
    return configs.need("max_position_embeddings") - skipped, "config.json: max_position_embeddings" + (
        f" less {skipped}" if skipped else ""
    )


FAMILY: Final = Family(
    name="masked language model",
    kinds=KINDS,
    shift=False,
    config=config,
    network=network,
    pieces=renamed(same),
    alias=alias,
    backbone=lambda network, facts: MaskedLanguageModel(network),
    context=context,
    framed=True,
)
