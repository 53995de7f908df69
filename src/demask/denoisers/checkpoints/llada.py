"""LLaDA: a Llama without causal mask under names of its own.

Covers LLaDA-8B, LLaDA-1.5 and iLLaDA: RMS norms, rotary positions, grouped heads, a gate of three matrices, no biases. In
a block `ff_proj` is the gate, `up_proj` its other half, and `ff_out` leads back.

Reference: Nie et al., Large language diffusion models, 2025, arXiv 2502.09992.
"""

import re
from typing import Any, Final

from demask.denoisers.checkpoints.base import Decoder
from demask.denoisers.checkpoints.facts import Configs
from demask.denoisers.checkpoints.family import Family, configured, native, renamed, same, switches
from demask.errors import CheckpointError

_NAMES: Final = {
    "model.embed_tokens.weight": "model.transformer.wte.weight",
    "model.norm.weight": "model.transformer.ln_f.weight",
    "lm_head.weight": "model.transformer.ff_out.weight",
}
_PARTS: Final = {
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
}
_SWITCHES: Final = {
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "multi_query_attention": False,
    "rope": True,
    "scale_logits": False,
}


def config(configs: Configs) -> Any:
    """Return the Llama configuration of a LLaDA config.json.

    Raises:
        CheckpointError: a size that is not there, or a switch that a Llama does not have.
    """
    switches(configs, _SWITCHES, "LLaDA")
    main, need = configs.main, configs.need
    heads, width, rows = need("n_heads"), need("d_model"), main.get("embedding_size") or need("vocab_size")
    if width % heads:
        raise CheckpointError(
            f"{configs.folder}/config.json: d_model = {width} for n_heads = {heads}; expected a multiple"
        )
    if rows < need("vocab_size"):
        raise CheckpointError(
            f"{configs.folder}/config.json: embedding_size = {rows} below vocab_size = {need('vocab_size')}"
        )
    return configured(
        "llama",
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=need("mlp_hidden_size"),
        num_hidden_layers=need("n_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads if main.get("n_kv_heads") is None else need("n_kv_heads"),
        max_position_embeddings=need("max_sequence_length"),
        rms_norm_eps=need("rms_norm_eps", float),
        rope_parameters={"rope_type": "default", "rope_theta": need("rope_theta", float)},
        tie_word_embeddings=bool(main.get("weight_tying")),
        pad_token_id=None,
        is_causal=False,
    )


def published(name: str) -> str:
    """Return the published name of a Llama parameter.

    Example:
        >>> published("model.layers.3.mlp.down_proj.weight")
        'model.transformer.blocks.3.ff_out.weight'
    """
    if name in _NAMES:
        return _NAMES[name]
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    return f"model.transformer.blocks.{found[1]}.{_PARTS[found[2]]}.weight" if found else name


FAMILY: Final = Family(
    name="LLaDA",
    kinds=("llada",),
    shift=False,
    config=config,
    network=lambda config: native("transformers.models.llama").LlamaForCausalLM,
    pieces=renamed(published),
    alias=same,
    backbone=lambda network, facts: Decoder(network),
    context=lambda config, configs: (configs.need("max_sequence_length"), "config.json: max_sequence_length"),
)
