"""Dream: a Qwen2 without causal mask that predicts the next token.

Covers Dream-7B and DiffuCoder: the names and keys of Qwen2. It began as an autoregressive model and kept its shift: the law
at position i is read at i - 1, and at the first position from itself.

Reference: Ye et al., Dream 7B: diffusion large language models, 2025, arXiv 2508.15487.
"""

from typing import Final

from demask.denoisers.checkpoints import qwen
from demask.denoisers.checkpoints.base import Decoder
from demask.denoisers.checkpoints.family import Family, native, renamed, same

FAMILY: Final = Family(
    name="Dream",
    kinds=("Dream", "dream"),
    shift=True,
    config=lambda configs: qwen.config(configs, "qwen2", is_causal=False),
    network=lambda config: native("transformers.models.qwen2").Qwen2ForCausalLM,
    pieces=renamed(same),
    alias=same,
    backbone=lambda network, facts: Decoder(network),
    context=qwen.context,
)
