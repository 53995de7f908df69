"""The chain oracle: marginals of 512 masked positions, batch 64. Wanted: V=27 in 50 ms."""

import numpy as np
import pytest
import torch

from demask.canvas import Canvas
from demask.oracles import Chain


def chain(vocabulary, length, order=1):
    rng = np.random.default_rng(0)
    step = rng.dirichlet(np.full(vocabulary, 0.3), size=(vocabulary,) * order)
    start = rng.dirichlet(np.full(vocabulary**order, 0.3)).reshape((vocabulary,) * order)
    return Chain(start, step, length, order=order)


@pytest.mark.parametrize("shown", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("vocabulary", [27, 256])
def bench_marginals(benchmark, vocabulary, shown):
    oracle = chain(vocabulary, 512)
    tokens = oracle.sample(64, key=0)
    masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) >= shown
    canvas = Canvas(tokens, masked)
    benchmark.pedantic(oracle, args=(canvas, masked), rounds=5 if vocabulary > 100 else 15, warmup_rounds=1)


def bench_order_two(benchmark):
    oracle = chain(27, 256, order=2)
    tokens = oracle.sample(8, key=0)
    masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) >= 0.3
    benchmark.pedantic(oracle, args=(Canvas(tokens, masked), masked), rounds=3, warmup_rounds=1)
