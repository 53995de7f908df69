"""LLaDA2, MDLM and ModernBERT: tiny checkpoints as they are published, and what their networks compute, in plain tensors."""

import torch
from torch.nn.functional import gelu, silu, softmax

from .published import _attend, _rms, _turned

LLADA2 = {
    "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "hidden_size": 16, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 24, "moe_intermediate_size": 16,
    "num_experts": 8, "num_shared_experts": 1, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
    "first_k_dense_replace": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True, "score_function": "sigmoid",
    "moe_router_enable_expert_bias": True, "partial_rotary_factor": 0.5, "rotary_dim": 4, "rope_theta": 600000,
    "rope_scaling": None, "rms_norm_eps": 1e-6, "vocab_size": 23, "pad_token_id": 20, "eos_token_id": 20,
    "max_position_embeddings": 32, "hidden_act": "silu", "use_qk_norm": True, "use_bias": False, "use_qkv_bias": False,
    "norm_head": False, "use_sliding_window": False, "sliding_window": 4096, "tie_word_embeddings": False, "block_size": 4,
    "auto_map": {"AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM"},
}  # fmt: skip
MDLM = {
    "architectures": ["MDLM"], "model_type": "mdlm", "vocab_size": 23, "model_length": 32, "hidden_dim": 16, "cond_dim": 10,
    "n_blocks": 2, "n_heads": 4, "dropout": 0.1, "time_conditioning": False, "torch_dtype": "float32",
    "auto_map": {"AutoModelForMaskedLM": "modeling_mdlm.MDLM"},
}  # fmt: skip
MODERNBERT = {
    "architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert", "hidden_size": 16, "num_hidden_layers": 4,
    "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 23, "max_position_embeddings": 32, "norm_eps": 1e-5,
    "norm_bias": False, "attention_bias": False, "mlp_bias": False, "decoder_bias": True, "classifier_bias": False,
    "hidden_activation": "gelu", "classifier_activation": "gelu", "position_embedding_type": "absolute",
    "global_attn_every_n_layers": 3, "local_attention": 6, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
    "tie_word_embeddings": True, "bos_token_id": 22, "cls_token_id": 22, "eos_token_id": 20, "sep_token_id": 20,
    "pad_token_id": 1, "layer_norm_eps": 1e-5, "reference_compile": True, "sparse_prediction": False,
    "deterministic_flash_attn": False, "gradient_checkpointing": False, "transformers_version": "4.47.0.dev0",
}  # fmt: skip


def llada2_shapes(c):
    width, head, small, experts = c["hidden_size"], c["head_dim"], c["num_key_value_heads"], c["moe_intermediate_size"]
    out = {
        "model.word_embeddings.weight": (c["vocab_size"], width),
        "model.norm.weight": (width,),
        "lm_head.weight": (c["vocab_size"], width),
    }

    def gate(at, hidden):
        return {f"{at}.{part}_proj.weight": (hidden, width) for part in ("gate", "up")} | {
            f"{at}.down_proj.weight": (width, hidden)
        }

    for index in range(c["num_hidden_layers"]):
        at = f"model.layers.{index}"
        out |= {
            f"{at}.attention.query_key_value.weight": ((c["num_attention_heads"] + 2 * small) * head, width),
            f"{at}.attention.dense.weight": (width, c["num_attention_heads"] * head),
            f"{at}.attention.query_layernorm.weight": (head,), f"{at}.attention.key_layernorm.weight": (head,),
            f"{at}.input_layernorm.weight": (width,), f"{at}.post_attention_layernorm.weight": (width,),
        }  # fmt: skip
        if index < c["first_k_dense_replace"]:
            out |= gate(f"{at}.mlp", c["intermediate_size"])
            continue
        out |= {f"{at}.mlp.gate.weight": (c["num_experts"], width), f"{at}.mlp.gate.expert_bias": (c["num_experts"],)}
        out |= gate(f"{at}.mlp.shared_experts", experts)
        for one in range(c["num_experts"]):
            out |= gate(f"{at}.mlp.experts.{one}", experts)
    return out


def llada2_logits(c, t, ids):
    """One row of ids (N,) -> (N, V)."""
    eps, heads, small, head = c["rms_norm_eps"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    turned = int(head * c["partial_rotary_factor"])

    def gated(x, at):
        return (silu(x @ t[f"{at}.gate_proj.weight"].T) * (x @ t[f"{at}.up_proj.weight"].T)) @ t[
            f"{at}.down_proj.weight"
        ].T

    def positions(at):
        def turn(z):  # the norm of a head, then rotary positions on its first numbers alone
            z = _rms(z, t[at], eps)
            return torch.cat((_turned(z[..., :turned], c["rope_theta"]), z[..., turned:]), -1)

        return turn

    def routed(x, at):
        scores = (x @ t[f"{at}.gate.weight"].T).sigmoid()
        out = []
        for one, score in zip(x, scores, strict=True):
            raised = score + t[f"{at}.gate.expert_bias"]
            each = len(raised) // c["n_group"]
            worth = [float(raised[g * each : (g + 1) * each].sort().values[-2:].sum()) for g in range(c["n_group"])]
            best = sorted(range(c["n_group"]), key=lambda g: -worth[g])[: c["topk_group"]]
            allowed = [g * each + e for g in best for e in range(each)]
            chosen = sorted(allowed, key=lambda e: -float(raised[e]))[: c["num_experts_per_tok"]]
            total = sum(score[e] for e in chosen)
            parts = [score[e] / total * gated(one, f"{at}.experts.{e}") for e in chosen]
            out.append(c["routed_scaling_factor"] * sum(parts) + gated(one, f"{at}.shared_experts"))
        return torch.stack(out)

    x = t["model.word_embeddings.weight"][ids]
    for index in range(c["num_hidden_layers"]):
        at = f"model.layers.{index}"
        y = _rms(x, t[f"{at}.input_layernorm.weight"], eps) @ t[f"{at}.attention.query_key_value.weight"].T
        q, k, v = y.split([heads * head, small * head, small * head], -1)
        norms = [positions(f"{at}.attention.{part}_layernorm.weight") for part in ("query", "key")]
        y = _attend(q, k, v, heads, small, None, norms, c["block_size"])
        x = x + y @ t[f"{at}.attention.dense.weight"].T
        y = _rms(x, t[f"{at}.post_attention_layernorm.weight"], eps)
        x = x + (gated(y, f"{at}.mlp") if index < c["first_k_dense_replace"] else routed(y, f"{at}.mlp"))
    return _rms(x, t["model.norm.weight"], eps) @ t["lm_head.weight"].T


def mdlm_shapes(c):
    width, told = c["hidden_dim"], c["cond_dim"]

    def linear(at, outputs, inputs):
        return {f"{at}.weight": (outputs, inputs), f"{at}.bias": (outputs,)}

    out = {"backbone.vocab_embed.embedding": (c["vocab_size"], width)}
    out |= linear("backbone.sigma_map.mlp.0", told, 256) | linear("backbone.sigma_map.mlp.2", told, told)
    for index in range(c["n_blocks"]):
        at = f"backbone.blocks.{index}"
        out |= {f"{at}.norm1.weight": (width,), f"{at}.norm2.weight": (width,)}
        out |= {f"{at}.attn_qkv.weight": (3 * width, width), f"{at}.attn_out.weight": (width, width)}
        out |= linear(f"{at}.mlp.0", 4 * width, width) | linear(f"{at}.mlp.2", width, 4 * width)
        out |= linear(f"{at}.adaLN_modulation", 6 * width, told)
    out |= {
        "backbone.output_layer.norm_final.weight": (width,),
        "backbone.rotary_emb.inv_freq": (width // c["n_heads"] // 2,),
    }
    out |= linear("backbone.output_layer.adaLN_modulation", 2 * width, told)
    return out | linear("backbone.output_layer.linear", c["vocab_size"], width)


def mdlm_logits(c, t, ids):
    """One row of ids (N,) -> (N, V), at noise level 0."""
    width, heads = c["hidden_dim"], c["n_heads"]

    def linear(x, at):
        return x @ t[f"backbone.{at}.weight"].T + t[f"backbone.{at}.bias"]

    def norm(x, at, shift, scale):
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * t[f"backbone.{at}.weight"]
        return normed * (1 + scale) + shift

    waves = torch.cat((torch.ones(128), torch.zeros(128)))  # cosines and sines of 0
    told = silu(linear(silu(linear(waves, "sigma_map.mlp.0")), "sigma_map.mlp.2"))
    x = t["backbone.vocab_embed.embedding"][ids]
    for index in range(c["n_blocks"]):
        at = f"blocks.{index}"
        m = linear(told, f"{at}.adaLN_modulation").view(6, width)
        y = norm(x, f"{at}.norm1", m[0], m[1]) @ t[f"backbone.{at}.attn_qkv.weight"].T
        q, k, v = y[:, :width], y[:, width : 2 * width], y[:, 2 * width :]
        x = x + m[2] * (_attend(q, k, v, heads, heads, 10000.0) @ t[f"backbone.{at}.attn_out.weight"].T)
        y = gelu(linear(norm(x, f"{at}.norm2", m[3], m[4]), f"{at}.mlp.0"), approximate="tanh")
        x = x + m[5] * linear(y, f"{at}.mlp.2")
    m = linear(told, "output_layer.adaLN_modulation").view(2, width)
    return linear(norm(x, "output_layer.norm_final", m[0], m[1]), "output_layer.linear")


def modernbert_shapes(c):
    width, hidden = c["hidden_size"], c["intermediate_size"]
    out = {
        "model.embeddings.tok_embeddings.weight": (c["vocab_size"], width),
        "model.embeddings.norm.weight": (width,),
        "model.final_norm.weight": (width,),
        "head.dense.weight": (width, width), "head.norm.weight": (width,), "decoder.bias": (c["vocab_size"],),
    }  # fmt: skip
    for index in range(c["num_hidden_layers"]):
        at = f"model.layers.{index}"
        out |= {f"{at}.attn_norm.weight": (width,)} if index else {}  # the embedding is normed already
        out |= {f"{at}.attn.Wqkv.weight": (3 * width, width), f"{at}.attn.Wo.weight": (width, width)}
        out |= {f"{at}.mlp_norm.weight": (width,)}
        out |= {f"{at}.mlp.Wi.weight": (2 * hidden, width), f"{at}.mlp.Wo.weight": (width, hidden)}
    return out


def modernbert_logits(c, t, ids):
    """One row of ids (N,) -> (N, V): every third layer sees the whole row, the others half a window to either side."""
    width, heads = c["hidden_size"], c["num_attention_heads"]
    distance = (torch.arange(len(ids))[:, None] - torch.arange(len(ids))).abs()

    def norm(x, at):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + c["norm_eps"]).sqrt() * t[f"{at}.weight"]

    table = t["model.embeddings.tok_embeddings.weight"]
    x = norm(table[ids], "model.embeddings.norm")
    for index in range(c["num_hidden_layers"]):
        at, everywhere = f"model.layers.{index}", index % c["global_attn_every_n_layers"] == 0
        y = norm(x, f"{at}.attn_norm") if index else x
        q, k, v = (y @ t[f"{at}.attn.Wqkv.weight"].T).view(len(ids), 3, heads, -1).permute(1, 2, 0, 3)
        theta = c["global_rope_theta" if everywhere else "local_rope_theta"]
        scores = _turned(q, theta) @ _turned(k, theta).transpose(1, 2) / q.shape[-1] ** 0.5
        if not everywhere:
            scores = scores.masked_fill(distance > c["local_attention"] // 2, -torch.inf)
        y = (softmax(scores, -1) @ v).transpose(0, 1).reshape(len(ids), width)
        x = x + y @ t[f"{at}.attn.Wo.weight"].T
        inner, gate = (norm(x, f"{at}.mlp_norm") @ t[f"{at}.mlp.Wi.weight"].T).chunk(2, -1)
        x = x + (gelu(inner) * gate) @ t[f"{at}.mlp.Wo.weight"].T
    x = norm(gelu(norm(x, "model.final_norm") @ t["head.dense.weight"].T), "head.norm")
    return x @ table.T + t["decoder.bias"]


FAMILIES = {
    "llada2": (LLADA2, llada2_shapes, llada2_logits),
    "mdlm": (MDLM, mdlm_shapes, mdlm_logits),
    "modernbert": (MODERNBERT, modernbert_shapes, modernbert_logits),
}
