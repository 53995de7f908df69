"""Tiny checkpoints in each family's published file format, and what their networks compute, written out in plain tensors.

Nothing here imports transformers or the code under test: shapes, names and formulas are those of the architectures.
"""

import json

import torch
from safetensors.torch import save_file
from torch.nn.functional import gelu, layer_norm, silu, softmax

WORDS = [f"w{index}" for index in range(20)]
LLADA = {
    "architectures": ["LLaDAModelLM"], "model_type": "llada", "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
    "mlp_hidden_size": 24, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "vocab_size": 23, "embedding_size": 24,
    "weight_tying": False, "mask_token_id": 21, "eos_token_id": 20, "pad_token_id": 20, "max_sequence_length": 32,
    "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "include_bias": False, "rope": True,
    "alibi": False, "multi_query_attention": None, "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
}  # fmt: skip
DREAM = {
    "architectures": ["DreamModel"], "model_type": "Dream", "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24, "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6, "vocab_size": 23, "tie_word_embeddings": False, "mask_token_id": 21, "eos_token_id": 20,
    "pad_token_id": 20, "bos_token_id": 20, "max_position_embeddings": 32, "hidden_act": "silu", "use_sliding_window": False,
    "rope_scaling": None, "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
}  # fmt: skip
SDAR = DREAM | {
    "architectures": ["SDARForCausalLM"], "model_type": "sdar", "head_dim": 6, "block_size": 4, "attention_bias": False,
    "auto_map": {"AutoModel": "modeling_sdar.SDARForCausalLM"},
}  # fmt: skip
BERT = {
    "architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 24, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "vocab_size": 23,
    "max_position_embeddings": 32, "type_vocab_size": 2, "pad_token_id": 0, "gradient_checkpointing": False,
    "position_embedding_type": "absolute", "transformers_version": "4.6.0",
}  # fmt: skip
ROBERTA = BERT | {
    "architectures": ["RobertaForMaskedLM"], "model_type": "roberta", "layer_norm_eps": 1e-5, "type_vocab_size": 1,
    "max_position_embeddings": 34, "pad_token_id": 1, "bos_token_id": 22, "eos_token_id": 20,
}  # fmt: skip
MASK = {"sdar": "<|MASK|>", "llada": "<|mdm_mask|>", "Dream": "<|mask|>", "llada2_moe": "<|mask|>", "mdlm": "<|mask|>"}


def write(folder, config, tensors, *, mask=None, **files):
    """Write a checkpoint: config.json, model.safetensors, tokenizer.json, tokenizer_config.json, and `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    framed = config["model_type"] not in MASK
    mask = mask or MASK.get(config["model_type"], "[MASK]")
    names = [*WORDS, "[SEP]" if framed else "<|endoftext|>", mask, "[CLS]" if framed else "<|extra|>"]
    added = [
        {"id": index, "content": names[index], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for index in (20, 21, 22)
    ]  # fmt: skip
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
        "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {name: index for index, name in enumerate(names)}, "unk_token": names[0]},
    }  # fmt: skip
    special = {"mask_token": mask} | ({"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}} if framed else {})
    if not framed:
        special["eos_token"] = "<|endoftext|>"
    for name, body in {"config": config, "tokenizer": tokenizer, "tokenizer_config": special, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(body))
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors")
    return folder


def drawn(shapes, key=0):
    chance = torch.Generator().manual_seed(key)

    def one(name, shape):
        if len(shape) == 1 and name.endswith("weight"):  # scales of norms
            return 1 + 0.2 * torch.randn(shape, generator=chance)
        return torch.randn(shape, generator=chance) * (0.4 if len(shape) > 1 else 0.2)

    return {name: one(name, shape) for name, shape in shapes.items()}


def llada_shapes(c):
    width, head = c["d_model"], c["d_model"] // c["n_heads"]
    out = {
        "model.transformer.wte.weight": (c["embedding_size"], width),
        "model.transformer.ln_f.weight": (width,),
        "model.transformer.ff_out.weight": (c["embedding_size"], width),
    }
    for index in range(c["n_layers"]):
        parts = {
            "q_proj": (width, width), "k_proj": (c["n_kv_heads"] * head, width), "v_proj": (c["n_kv_heads"] * head, width),
            "attn_out": (width, width), "ff_proj": (c["mlp_hidden_size"], width), "up_proj": (c["mlp_hidden_size"], width),
            "ff_out": (width, c["mlp_hidden_size"]), "attn_norm": (width,), "ff_norm": (width,),
        }  # fmt: skip
        out |= {f"model.transformer.blocks.{index}.{name}.weight": shape for name, shape in parts.items()}
    return out


def dream_shapes(c):
    width, hidden = c["hidden_size"], c["intermediate_size"]
    small = c["num_key_value_heads"] * width // c["num_attention_heads"]
    out = {
        "model.embed_tokens.weight": (c["vocab_size"], width),
        "model.norm.weight": (width,),
        "lm_head.weight": (c["vocab_size"], width),
    }
    for index in range(c["num_hidden_layers"]):
        parts = {
            "self_attn.q_proj.weight": (width, width), "self_attn.q_proj.bias": (width,),
            "self_attn.k_proj.weight": (small, width), "self_attn.k_proj.bias": (small,),
            "self_attn.v_proj.weight": (small, width), "self_attn.v_proj.bias": (small,),
            "self_attn.o_proj.weight": (width, width), "mlp.gate_proj.weight": (hidden, width),
            "mlp.up_proj.weight": (hidden, width), "mlp.down_proj.weight": (width, hidden),
            "input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,),
        }  # fmt: skip
        out |= {f"model.layers.{index}.{name}": shape for name, shape in parts.items()}
    return out


def sdar_shapes(c):
    out, wide, narrow = {}, c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    changed = {"q_proj": (wide, 16), "k_proj": (narrow, 16), "v_proj": (narrow, 16), "o_proj": (16, wide)}
    for name, shape in dream_shapes(c).items():
        if not name.endswith(".bias"):
            out[name] = changed.get(name.split(".")[-2], shape)
    for index in range(c["num_hidden_layers"]):
        out |= {f"model.layers.{index}.self_attn.{part}_norm.weight": (c["head_dim"],) for part in "qk"}
    return out


def bert_shapes(c):
    name, width, hidden, vocabulary = c["model_type"], c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    out = {
        f"{name}.embeddings.word_embeddings.weight": (vocabulary, width),
        f"{name}.embeddings.position_embeddings.weight": (c["max_position_embeddings"], width),
        f"{name}.embeddings.token_type_embeddings.weight": (c["type_vocab_size"], width),
    }

    def linear(at, outputs, inputs):
        return {f"{at}.weight": (outputs, inputs), f"{at}.bias": (outputs,)}

    def norm(at):
        return {f"{at}.weight": (width,), f"{at}.bias": (width,)}

    out |= norm(f"{name}.embeddings.LayerNorm")
    for index in range(c["num_hidden_layers"]):
        at = f"{name}.encoder.layer.{index}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            out |= linear(f"{at}.{part}", width, width)
        out |= norm(f"{at}.attention.output.LayerNorm") | norm(f"{at}.output.LayerNorm")
        out |= linear(f"{at}.intermediate.dense", hidden, width) | linear(f"{at}.output.dense", width, hidden)
    if name == "bert":
        head = "cls.predictions.transform"
        return (
            out
            | linear(f"{head}.dense", width, width)
            | norm(f"{head}.LayerNorm")
            | {"cls.predictions.bias": (vocabulary,)}
        )
    return out | linear("lm_head.dense", width, width) | norm("lm_head.layer_norm") | {"lm_head.bias": (vocabulary,)}


def _rms(x, scale, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * scale


def _turned(x, theta):
    """Rotary positions: the pair (i, i + D/2) of a head is a complex number, turned by its position."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), -1)


def _attend(q, k, v, heads, small, theta=None, norms=None, block=None):
    """(N, D) each -> (N, D); every query sees every key, or those of its own block and the blocks before."""
    q, k, v = (x.view(len(x), n, -1).transpose(0, 1) for x, n in ((q, heads), (k, small), (v, small)))
    if norms:
        q, k = norms[0](q), norms[1](k)
    if theta:
        q, k = _turned(q, theta), _turned(k, theta)
    out = []
    for head in range(heads):
        mine = head * small // heads
        scores = q[head] @ k[mine].T / q.shape[-1] ** 0.5
        for row in range(len(scores) if block else 0):
            scores[row, (row // block + 1) * block :] = -torch.inf
        weights = softmax(scores, -1)
        out.append(weights @ v[mine])
    return torch.cat(out, -1)


def _as_computed(index, k, v):
    return k, v


def llada_logits(c, t, ids, keep=_as_computed):
    """One row of ids (N,) -> (N, rows of the embedding); `keep` may put other keys and values in place of a layer's."""
    eps = c["rms_norm_eps"]
    x = t["model.transformer.wte.weight"][ids]
    for index in range(c["n_layers"]):
        w = {
            name: t[f"model.transformer.blocks.{index}.{name}.weight"]
            for name in [
                "q_proj",
                "k_proj",
                "v_proj",
                "attn_out",
                "ff_proj",
                "up_proj",
                "ff_out",
                "attn_norm",
                "ff_norm",
            ]
        }
        y = _rms(x, w["attn_norm"], eps)
        q, k, v = (y @ w[name].T for name in ("q_proj", "k_proj", "v_proj"))
        k, v = keep(index, k, v)
        x = x + _attend(q, k, v, c["n_heads"], c["n_kv_heads"], c["rope_theta"]) @ w["attn_out"].T
        y = _rms(x, w["ff_norm"], eps)
        x = x + (silu(y @ w["ff_proj"].T) * (y @ w["up_proj"].T)) @ w["ff_out"].T
    head = "model.transformer.wte.weight" if c["weight_tying"] else "model.transformer.ff_out.weight"
    return _rms(x, t["model.transformer.ln_f.weight"], eps) @ t[head].T


def dream_logits(c, t, ids, keep=_as_computed):
    """One row of ids (N,) -> (N, V), moved by one as the released code does it."""
    eps = c["rms_norm_eps"]
    x = t["model.embed_tokens.weight"][ids]
    for index in range(c["num_hidden_layers"]):
        w = {name.removeprefix(f"model.layers.{index}."): value for name, value in t.items()}
        y = _rms(x, w["input_layernorm.weight"], eps)
        q, k, v = (y @ w[f"self_attn.{n}_proj.weight"].T + w[f"self_attn.{n}_proj.bias"] for n in "qkv")
        k, v = keep(index, k, v)
        out = _attend(q, k, v, c["num_attention_heads"], c["num_key_value_heads"], c["rope_theta"])
        x = x + out @ w["self_attn.o_proj.weight"].T
        y = _rms(x, w["post_attention_layernorm.weight"], eps)
        x = x + (silu(y @ w["mlp.gate_proj.weight"].T) * (y @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
    logits = _rms(x, t["model.norm.weight"], eps) @ t["lm_head.weight"].T
    return torch.cat((logits[:1], logits[:-1]))


def sdar_logits(c, t, ids):
    """One row of ids (N,) -> (N, V)."""
    eps, sizes = c["rms_norm_eps"], (c["num_attention_heads"], c["num_key_value_heads"], c["rope_theta"])
    x = t["model.embed_tokens.weight"][ids]
    for index in range(c["num_hidden_layers"]):
        w = {name.removeprefix(f"model.layers.{index}."): value for name, value in t.items()}
        y = _rms(x, w["input_layernorm.weight"], eps)
        norms = [lambda z, s=w[f"self_attn.{part}_norm.weight"]: _rms(z, s, eps) for part in "qk"]
        q, k, v = (y @ w[f"self_attn.{part}_proj.weight"].T for part in "qkv")
        x = x + _attend(q, k, v, *sizes, norms, c["block_size"]) @ w["self_attn.o_proj.weight"].T
        y = _rms(x, w["post_attention_layernorm.weight"], eps)
        x = x + (silu(y @ w["mlp.gate_proj.weight"].T) * (y @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
    return _rms(x, t["model.norm.weight"], eps) @ t["lm_head.weight"].T


def bert_logits(c, t, ids):
    """One row of ids (N,) -> (N, V); BERT, and RoBERTa, whose positions begin at 2 and whose head has other names."""
    name, width, eps = c["model_type"], c["hidden_size"], c["layer_norm_eps"]

    def normed(x, at):
        return layer_norm(x, (width,), t[f"{at}.weight"], t[f"{at}.bias"], eps)

    def linear(x, at):
        return x @ t[f"{at}.weight"].T + t[f"{at}.bias"]

    table = t[f"{name}.embeddings.word_embeddings.weight"]
    first = 2 if name == "roberta" else 0
    x = table[ids] + t[f"{name}.embeddings.position_embeddings.weight"][first : first + len(ids)]
    x = normed(x + t[f"{name}.embeddings.token_type_embeddings.weight"][0], f"{name}.embeddings.LayerNorm")
    for index in range(c["num_hidden_layers"]):
        at = f"{name}.encoder.layer.{index}"
        q, k, v = (linear(x, f"{at}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = c["num_attention_heads"]
        x = normed(
            x + linear(_attend(q, k, v, heads, heads), f"{at}.attention.output.dense"),
            f"{at}.attention.output.LayerNorm",
        )
        y = linear(gelu(linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
        x = normed(x + y, f"{at}.output.LayerNorm")
    if name == "bert":
        x = normed(gelu(linear(x, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
        return x @ table.T + t["cls.predictions.bias"]
    return normed(gelu(linear(x, "lm_head.dense")), "lm_head.layer_norm") @ table.T + t["lm_head.bias"]


FAMILIES = {
    "llada": (LLADA, llada_shapes, llada_logits),
    "dream": (DREAM, dream_shapes, dream_logits),
    "sdar": (SDAR, sdar_shapes, sdar_logits),
    "bert": (BERT, bert_shapes, bert_logits),
    "roberta": (ROBERTA, bert_shapes, bert_logits),
}
