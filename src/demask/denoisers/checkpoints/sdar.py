"""SDAR: a Qwen3 that sees its own block and those before it.

Its names and keys are those of Qwen3: no biases, and norms on each head's queries and keys. Blocks of `block_size`
positions are counted from the start of the row, the prompt included; what stands in a later block is not seen, so blocks
are finished from the left: Blockwise(order, block, over="row"), which is the default of a loaded model.

Reference: Cheng et al., SDAR, 2025, arXiv 2510.06303.
"""

from typing import Final

from demask.denoisers.checkpoints import qwen
from demask.denoisers.checkpoints.base import Decoder
from demask.denoisers.checkpoints.family import Family, native, renamed, same

FAMILY: Final = Family(
    name="SDAR",
    kinds=("sdar",),
    shift=False,
    config=lambda configs: qwen.config(configs, "qwen3", head_dim=configs.need("head_dim"), attention_bias=False),
    network=lambda config: native("transformers.models.qwen3").Qwen3ForCausalLM,
    pieces=renamed(same),
    alias=same,
    backbone=lambda network, facts: Decoder(network, facts.block),
    context=qwen.context,
    blocks=True,
)
