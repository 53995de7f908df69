"""MDLM: a diffusion transformer with adaptive norms, and the tokenizer of GPT-2.

Every norm of the network is followed by a scale and a shift, and every branch by a gate, that come from the noise level:
(shift, scale, gate) = A silu(c) + b with c = MLP(waves(sigma)). The published checkpoints were trained without telling the
noise level, sigma = 0, so these are constants of each layer; they are computed all the same, to keep the published weights.

    x <- x + gate_1 * attend(norm(x) * (1 + scale_1) + shift_1)
    x <- x + gate_2 * mlp(norm(x) * (1 + scale_2) + shift_2)

Queries and keys are turned by rotary positions of base 10000; every position sees all others. The mask is the last id, one
behind the tokens of GPT-2, and no token of its tokenizer; texts are parted by <|endoftext|>.

Reference: Sahoo et al., Simple and effective masked diffusion language models, 2024, arXiv 2406.07524.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention, silu

from demask.denoisers.checkpoints.facts import CONFIG, Configs
from demask.denoisers.checkpoints.family import Family, renamed, switches
from demask.errors import CheckpointError

END: Final = "<|endoftext|>"
_WAVES: Final = 256  # numbers in which a noise level is written
_BASE: Final = 10000.0
_SWITCHES: Final = {"adaln": True, "causal": False, "cross_attn": False, "time_conditioning": False}


@dataclass(frozen=True)
class Sizes:
    """The sizes of the network: tokens, width, width of the condition, layers and heads."""

    vocab_size: int
    width: int
    condition: int
    layers: int
    heads: int


class _Norm(nn.Module):
    """A layer norm without a shift, in float32, then scaled and shifted by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        normed = layer_norm(x.float(), x.shape[-1:]).to(x.dtype) * self.weight
        return normed * (1 + scale) + shift


class _Embedding(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(tokens, width))


class _Level(nn.Module):
    """From a noise level to the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_WAVES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: float) -> Tensor:
        weight = next(self.mlp.parameters())
        half = _WAVES // 2
        angles = sigma * _BASE ** -(torch.arange(half, device=weight.device) / half)
        return silu(self.mlp(torch.cat((angles.cos(), angles.sin())).to(weight.dtype)))


class _Layer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes.width, sizes.heads
        self.norm1, self.norm2 = _Norm(width), _Norm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.adaLN_modulation = nn.Linear(sizes.condition, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor | None) -> Tensor:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(condition).chunk(6)
        rows, length, width = x.shape
        mixed = self.attn_qkv(self.norm1(x, shift, scale)).view(rows, length, 3, self.heads, -1)
        q, k, v = mixed.permute(2, 0, 3, 1, 4)  # (B, H, N, D) each
        y = scaled_dot_product_attention(_turned(q, *turn), _turned(k, *turn), v, attn_mask=seen)
        x = x + gate * self.attn_out(y.transpose(1, 2).reshape(rows, length, width))
        return x + gate_mlp * self.mlp(self.norm2(x, shift_mlp, scale_mlp))  # type: ignore[no-any-return]


class _Last(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm_final = _Norm(sizes.width)
        self.linear = nn.Linear(sizes.width, sizes.vocab_size)
        self.adaLN_modulation = nn.Linear(sizes.condition, 2 * sizes.width)


class DiffusionTransformer(nn.Module):
    """The network, in two halves; its parts have the published names."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.turned = sizes.width // sizes.heads
        self.vocab_embed = _Embedding(sizes.vocab_size, sizes.width)
        self.sigma_map = _Level(sizes.condition)
        self.blocks = nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))
        self.output_layer = _Last(sizes)

    @property
    def weight(self) -> Tensor:
        """The embedding."""
        return self.vocab_embed.embedding

    def features(self, ids: Tensor, present: Tensor | None) -> Tensor:
        """Return the last hidden states, normalised, scaled and shifted."""
        x, condition = self.weight[ids], self.sigma_map(0.0)
        places = torch.arange(ids.shape[1], device=ids.device)
        rates = _BASE ** -(torch.arange(0, self.turned, 2, device=ids.device) / self.turned)
        angles = places[:, None] * rates  # (N, D / 2)
        turn = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        seen = None if present is None else present[:, None, None, :]
        for layer in self.blocks:
            x = layer(x, condition, turn, seen)
        last = self.output_layer
        return last.norm_final(x, *last.adaLN_modulation(condition).chunk(2))  # type: ignore[no-any-return]

    def logits(self, features: Tensor) -> Tensor:
        """Return the projection."""
        return self.output_layer.linear(features)  # type: ignore[no-any-return]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pair (i, i + D/2) of every head by the angle of its position."""
    one, two = x.chunk(2, -1)
    return torch.cat((one * cos - two * sin, two * cos + one * sin), -1)


def config(configs: Configs) -> Sizes:
    """Return the sizes of a MDLM config.json.

    Raises:
        CheckpointError: a size that is not there, a network that is told the noise level, or heads that do not divide.
    """
    switches(configs, _SWITCHES, "MDLM")
    need = configs.need
    sizes = Sizes(need("vocab_size"), need("hidden_dim"), need("cond_dim"), need("n_blocks"), need("n_heads"))
    if sizes.width % (2 * sizes.heads):
        raise CheckpointError(
            f"{configs.folder}/{CONFIG}: hidden_dim = {sizes.width} for n_heads = {sizes.heads}; expected a multiple of "
            "twice the heads"
        )
    return sizes


def alias(name: str) -> str | None:
    """Return the name of a tensor, None for the rates of the rotary positions, which are no parameters."""
    return None if name == "backbone.rotary_emb.inv_freq" else name


def usual(configs: Configs, ids: Mapping[str, int]) -> Mapping[str, tuple[Any, str]]:
    """Return the mask behind the tokens of GPT-2, and the token that parts texts."""
    mask = {"mask": (configs.need("vocab_size") - 1, f"{CONFIG}: vocab_size, the last id")}
    return mask | ({"ends": ((ids[END],), f"the tokenizer's {END}")} if END in ids else {})


FAMILY: Final = Family(
    name="MDLM",
    kinds=("mdlm",),
    shift=False,
    config=config,
    network=lambda config: DiffusionTransformer,
    pieces=renamed(lambda name: f"backbone.{name}"),
    alias=alias,
    backbone=lambda network, facts: network,
    context=lambda config, configs: (configs.need("model_length"), f"{CONFIG}: model_length"),
    usual=usual,
    tokenizer=("transformers.models.gpt2", "GPT2Tokenizer", "'gpt2'"),
)
