"""LLaDA2: a mixture of experts that sees its own block and those before it.

Covers LLaDA2.0 and LLaDA2.1, mini and flash: RMS norms, also on each head's queries and keys; rotary positions on a part of
each head; grouped heads. The first layers have one gate of three matrices, the others a router with a shared expert:

    s = sigmoid(W x),  E = the k largest of s + b within the best groups of experts (by their two largest),
    y = shared(x) + c sum_{e in E} s_e / (sum_{E} s) expert_e(x),

with b only choosing and c a constant: the arithmetic of the library's Glm4Moe. The weights have one matrix for queries,
keys and values, and one tensor for each expert; the library has three matrices, and the experts stacked.

config.json does not say how long a block is; the released sampler's 32 is used.

Reference: Bie et al., LLaDA2.0: scaling up diffusion language models to 100B, 2025, arXiv 2512.15745.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from demask.denoisers.checkpoints import qwen
from demask.denoisers.checkpoints.base import Decoder
from demask.denoisers.checkpoints.facts import Configs
from demask.denoisers.checkpoints.family import Family, Pieces, Shape, configured, native, same, switches
from demask.errors import CheckpointError

BLOCK: Final = 32
_SWITCHES: Final = {
    "hidden_act": "silu",
    "moe_router_enable_expert_bias": True,
    "norm_head": False,
    "num_shared_experts": 1,
    "score_function": "sigmoid",
    "use_bias": False,
    "use_qkv_bias": False,
    "use_sliding_window": False,
}
_NAMES: Final = (
    ("model.embed_tokens.", "model.word_embeddings."),
    (".self_attn.o_proj.", ".attention.dense."),
    (".self_attn.q_norm.", ".attention.query_layernorm."),
    (".self_attn.k_norm.", ".attention.key_layernorm."),
    (".mlp.gate.e_score_correction_bias", ".mlp.gate.expert_bias"),
)


def config(configs: Configs) -> Any:
    """Return the library's configuration of a LLaDA2 config.json.

    Raises:
        CheckpointError: a size that is not there, or a setting that the library's network does not have.
    """
    body, need = configs.main, configs.need
    switches(configs, _SWITCHES, "LLaDA2")
    heads, width, experts = need("num_attention_heads"), need("hidden_size"), need("num_experts")
    groups, chosen, each = need("n_group"), need("topk_group"), need("num_experts_per_tok")
    where = f"{configs.folder}/config.json"
    if body.get("head_dim") is None and width % heads:
        raise CheckpointError(f"{where}: hidden_size = {width} for num_attention_heads = {heads}; expected a multiple")
    if experts % groups or experts // groups < 2 or chosen > groups or each > chosen * (experts // groups):
        raise CheckpointError(
            f"{where}: {each} of {experts} experts from {chosen} of {groups} groups; expected groups of equal size, 2 or "
            "more, with room for those chosen"
        )
    rotary = qwen.rotary(configs)
    return configured(
        "glm4_moe",
        vocab_size=need("vocab_size"),
        hidden_size=width,
        intermediate_size=need("intermediate_size"),
        moe_intermediate_size=need("moe_intermediate_size"),
        num_hidden_layers=need("num_hidden_layers"),
        first_k_dense_replace=body.get("first_k_dense_replace") or 0,
        num_attention_heads=heads,
        num_key_value_heads=need("num_key_value_heads") if body.get("num_key_value_heads") else heads,
        head_dim=width // heads if body.get("head_dim") is None else need("head_dim"),
        n_routed_experts=experts,
        n_shared_experts=1,
        num_experts_per_tok=each,
        n_group=groups,
        topk_group=chosen,
        norm_topk_prob=each > 1,
        routed_scaling_factor=need("routed_scaling_factor", float),
        use_qk_norm=body.get("use_qk_norm", True),
        max_position_embeddings=need("max_position_embeddings"),
        rms_norm_eps=need("rms_norm_eps", float),
        rope_parameters={"partial_rotary_factor": body.get("partial_rotary_factor", 0.5), **rotary},
        tie_word_embeddings=bool(body.get("tie_word_embeddings")),
        attention_bias=False,
        pad_token_id=None,
        num_mtp_layers=0,
    )


def pieces(config: Any, name: str, shape: Shape) -> Pieces:
    """Return how a tensor of the library stands in the weights.

    Example:
        >>> from types import SimpleNamespace
        >>> sizes = SimpleNamespace(num_attention_heads=4, num_key_value_heads=2, head_dim=8)
        >>> dict(pieces(sizes, "model.layers.0.self_attn.k_proj.weight", (16, 32)).shapes)
        {'model.layers.0.attention.query_key_value.weight': (64, 32)}
        >>> list(pieces(sizes, "model.layers.1.mlp.experts.down_proj", (2, 32, 5)).shapes)
        ['model.layers.1.mlp.experts.0.down_proj.weight', 'model.layers.1.mlp.experts.1.down_proj.weight']
    """
    if found := re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.weight", name):
        sizes = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
        rows = [size * config.head_dim for size in sizes]
        part = "qkv".index(found[2])
        whole = (sum(rows), shape[1])
        return Pieces({f"{found[1]}.attention.query_key_value.weight": whole}, lambda tensor: tensor.split(rows)[part])
    if found := re.fullmatch(r"(.*\.mlp\.experts)\.gate_up_proj", name):
        half = (shape[1] // 2, shape[2])
        both = {f"{found[1]}.{one}.{part}.weight": half for one in range(shape[0]) for part in ("gate_proj", "up_proj")}
        return Pieces(both, lambda *tensors: torch.cat(tensors).view(shape))
    if found := re.fullmatch(r"(.*\.mlp\.experts)\.down_proj", name):
        return Pieces({f"{found[1]}.{one}.down_proj.weight": shape[1:] for one in range(shape[0])}, _stacked)
    for ours, theirs in _NAMES:
        name = name.replace(ours, theirs)
    return Pieces({name: shape})


def _stacked(*tensors: Tensor) -> Tensor:
    return torch.stack(tensors)


def usual(configs: Configs, ids: Mapping[str, int]) -> Mapping[str, tuple[Any, str]]:
    """Return what the released sampler takes where the files are silent."""
    mask = {"mask": (ids["<|mask|>"], "the tokenizer's <|mask|>")} if "<|mask|>" in ids else {}
    return {"block": (BLOCK, "the LLaDA2 family"), **mask}


FAMILY: Final = Family(
    name="LLaDA2",
    kinds=("llada2_moe", "llada21_moe"),
    shift=False,
    config=config,
    network=lambda config: native("transformers.models.glm4_moe").Glm4MoeForCausalLM,
    pieces=pieces,
    alias=same,
    backbone=lambda network, facts: Decoder(network, facts.block),
    context=qwen.context,
    blocks=True,
    usual=usual,
)
