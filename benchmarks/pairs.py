"""A published loop and its spelling here, on one network of random weights: what peers.py and gpu.py time."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from demask import (
    Blockwise,
    Cached,
    Canvas,
    Confidence,
    Entropy,
    Parallel,
    PerBlock,
    PerRow,
    Plan,
    Tempered,
    sample,
    uniform,
)
from demask.denoisers.checkpoints import Checkpoint, Facts
from demask.denoisers.checkpoints.base import Decoder
from loops import Plain, dream_generate, dream_sizes, fast_dllm_generate, llada_generate


@dataclass(frozen=True)
class Setting:
    """The network's shape, and what is generated."""

    width: int
    layers: int
    heads: int
    hidden: int
    vocabulary: int
    prompt: int
    new: int
    block: int

    @property
    def mask(self) -> int:
        """The id of a masked position."""
        return self.vocabulary - 128

    def network(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Random weights: logits of standard deviation near 3, and positions that differ."""
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=4096,
            initializer_range=1.2 / self.width**0.5,
            is_causal=False,
        )
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                network = LlamaForCausalLM(config).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(before)
        network.lm_head.weight *= 2.5
        network.lm_head.weight[self.mask] = 0  # no mask is ever the most probable token
        return network

    def start(self, rows: int, device: torch.device) -> torch.Tensor:
        """Prompts of random tokens, and masks behind them."""
        ids = torch.randint(1000 % self.mask, (rows, self.prompt), generator=torch.Generator().manual_seed(1))
        return torch.cat((ids, torch.full((rows, self.new), self.mask)), 1).to(device)


class Clock:
    """Stands for a network or a denoiser, and adds up the seconds spent inside it."""

    def __init__(self, inner: Any, device: torch.device) -> None:
        self.inner, self.device, self.spans, self.calls = inner, device, [], 0

    def __call__(self, *arguments: Any) -> Any:
        """Ask, and look at the clock."""
        self.calls += 1
        begin = self._now()
        answer = self.inner(*arguments)
        self.spans.append((begin, self._now()))
        return answer

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @property
    def seconds(self) -> float:
        """In all, when the device has finished."""
        if self.device.type != "cuda":
            return sum(end - begin for begin, end in self.spans)
        return sum(begin.elapsed_time(end) for begin, end in self.spans) / 1e3


@dataclass(frozen=True)
class Pair:
    """A published loop, and what it is here: a cache, an order, and whether laws are read one position before."""

    name: str
    loop: Callable[..., torch.Tensor]
    cache: str | None = None
    shift: bool = False

    def theirs(
        self, network: Any, setting: Setting, x: torch.Tensor, temperature: float, steps: int
    ) -> tuple[Any, Clock]:
        """Run the transcription; the tokens, and the clock of its network."""
        clock = Clock(Plain(network, self.shift), x.device)
        more: dict[str, Any] = {"cache": self.cache} if self.cache else {}
        if not self.shift:
            more["block"] = setting.block
        out = self.loop(
            clock, x.clone(), prompt=setting.prompt, steps=steps, temperature=temperature, mask=setting.mask, **more
        )
        return out, clock

    def ours(
        self, network: Any, setting: Setting, x: torch.Tensor, temperature: float, steps: int
    ) -> tuple[Any, Clock]:
        """Run its spelling here; the tokens, and the clock of the denoiser."""
        facts = Facts("LLaDA", setting.vocabulary, 4096, setting.mask, (setting.mask - 1,), shift=self.shift)
        denoiser: Any = Checkpoint(Decoder(network), facts)
        if self.cache:
            denoiser = Cached(denoiser, self.cache)
        clock = Clock(denoiser, x.device)
        if self.shift:
            sampler = Parallel(Plan([size for size in dream_sizes(setting.new, steps) if size]), Entropy())
        else:
            schedule = PerBlock(PerRow(uniform, steps=steps * setting.block // setting.new), setting.block)
            sampler = Parallel(schedule, Blockwise(Confidence("draft"), setting.block))
        canvas = Canvas(x, x == setting.mask)
        return sample(Tempered(clock, temperature), sampler, canvas, key=0).tokens, clock


PAIRS = (
    Pair("LLaDA `generate`; Fast-dLLM without cache", llada_generate),
    Pair("Fast-dLLM, prefix cache", fast_dllm_generate, cache="prefix"),
    Pair("Fast-dLLM, dual cache", fast_dllm_generate, cache="dual"),
    Pair("Dream `diffusion_generate`", dream_generate, shift=True),
)


@dataclass(frozen=True)
class Timing:
    """One run: seconds in all and inside the network, passes, and the tokens."""

    seconds: float
    inside: float
    calls: int
    tokens: torch.Tensor


def timed(side: Callable[..., tuple[Any, Clock]], device: torch.device, *arguments: Any) -> Timing:
    """Run one side to its end, on the device too."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = perf_counter()
    tokens, clock = side(*arguments)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Timing(perf_counter() - begin, clock.seconds, clock.calls, tokens)
