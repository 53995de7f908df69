"""What one step costs outside the denoiser: V = 126,464, 128 masked positions, block 32, batch 1, float32, CPU.

Ours against a naive transcription of LLaDA's published selection (softmax over all rows in the logits' dtype, float64
Gumbel noise over all rows at temperature 1), and against one max-reduction over the asked rows. Fresh logits every round,
so that nothing is in the cache that a model would not have left there.
"""

from itertools import cycle
from time import perf_counter

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.chance import Keyed
from demask.denoisers import Tempered
from demask.orders import Blockwise, Confidence
from demask.samplers import Parallel
from demask.schedules import PerBlock, PerRow, uniform

V, MASKED, BLOCK = 126_464, 128, 32
BANK = 6


@pytest.fixture(scope="module")
def bank():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, MASKED, V, generator=generator) * 3 for _ in range(BANK)]


def naive(logits, temperature, size):
    """Every row is softmaxed and, at temperature > 0, perturbed in float64; then the best of the block are taken."""
    noisy = logits
    if temperature:
        wide = logits.to(torch.float64)
        noise = (-torch.log(torch.rand_like(wide))) ** temperature
        noisy = wide.exp() / noise
    token = noisy.argmax(-1)
    p = torch.softmax(logits, -1).gather(-1, token[..., None])[..., 0]
    p[:, BLOCK:] = -torch.inf
    return token, p.topk(size, dim=-1).indices


def ours(bank, temperature, of, steps=16):
    """One step of the loop on a denoiser that only hands out rows that are already there."""
    turn = cycle(bank)

    def denoiser(canvas, where):
        logits = next(turn)
        return Marginals(where, logits[:, :BLOCK].reshape(-1, V) if bool(where[:, :BLOCK].all()) else logits[where])

    sampler = Parallel(PerBlock(PerRow(uniform, steps=steps), BLOCK), Blockwise(Confidence(of), BLOCK))
    model, chance = Tempered(denoiser, temperature), Keyed.of(0, torch.arange(1))
    state = sampler.init(Canvas.blank(1, MASKED), chance)
    return lambda: sampler.step(state, model, chance.fork("step", 0))


def median(function, rounds):
    function()
    seconds = []
    for _ in range(rounds):
        begin = perf_counter()
        function()
        seconds.append(perf_counter() - begin)
    return sorted(seconds)[rounds // 2]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("of", ["mode", "draft"])
def bench_step(benchmark, bank, temperature, of, threads):
    torch.set_num_threads(threads)
    step = ours(bank, temperature, of)
    benchmark.pedantic(step, rounds=30, warmup_rounds=3)
    mine = median(step, 30)
    turn = cycle(bank)
    block = lambda: next(turn)[0, :BLOCK]  # noqa: E731
    reductions = {"max (values and indices)": lambda: block().max(-1), "amax (values)": lambda: block().amax(-1)}
    slow = median(lambda: naive(next(turn), temperature, 2), 3 if temperature else 9)
    benchmark.extra_info["naive / ours"] = round(slow / mine, 1)
    for name, function in reductions.items():
        benchmark.extra_info[f"ours / {name}"] = round(mine / median(function, 30), 2)


@pytest.mark.parametrize("threads", [1, 2])
def bench_fused_pass(benchmark, bank, threads):
    """What a fused pass would gain: the same reduction compiled to one loop by torch.compile, where a C++ compiler is."""
    torch.set_num_threads(threads)
    turn = cycle(bank)

    def reduce(x):
        top = x.amax(-1, keepdim=True)
        return top, (x - top).exp().sum(-1)

    fused = torch.compile(reduce)
    step = lambda: fused(next(turn)[0, :BLOCK])  # noqa: E731
    benchmark.pedantic(step, rounds=30, warmup_rounds=3)
    mine = median(step, 30)
    where = torch.ones(1, BLOCK, dtype=torch.bool)
    eager = median(lambda: Marginals(where, next(turn)[0, :BLOCK]).peak, 30)
    benchmark.extra_info["eager / fused"] = round(eager / mine, 2)
    benchmark.extra_info["fused / amax"] = round(mine / median(lambda: next(turn)[0, :BLOCK].amax(-1), 30), 2)
