"""Training and the network: ratios of one run. `pytest benchmarks/bench_training.py --benchmark-only -s`."""

import resource
import statistics
import time

import pytest
import torch
from torch.nn import functional

from demask.canvas import Canvas
from demask.denoisers import folder
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.tokenizer import Tokenizer
from demask.training import HeldOut, Recipe, Windows, train

SHAPE = Shape.of("tiny", 320, 100)
ROWS, STEPS = 16, 8
TOKENS = torch.randint(0, SHAPE.vocabulary, (64, SHAPE.context), generator=torch.Generator().manual_seed(0))


def ours(path, optimiser):
    tokenizer = Tokenizer.words([f"w{i}" for i in range(SHAPE.vocabulary - 1)])
    held = HeldOut(TOKENS[:2], torch.arange(2), 2, 1000)
    recipe = Recipe(steps=STEPS, batch=ROWS, optimiser=optimiser, evaluate_every=1e9, save_every=1e9)
    rates = []
    train(
        Network(SHAPE), Windows(TOKENS), held, tokenizer, out=path, recipe=recipe, watch=lambda m: rates.append(m.rate)
    )
    return rates[-1]


def plain(_path, _optimiser):
    """A loop as one would write it in ten lines: no draws by key, no average, logits of every position."""
    network = Network(SHAPE)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    begun = time.monotonic()
    for step in range(STEPS):
        tokens = TOKENS[(torch.arange(ROWS) + step) % 64]
        share = torch.rand(ROWS, 1).clamp(min=0.01)
        masked = torch.rand(tokens.shape) < share
        logits = network.logits(network(tokens.masked_fill(masked, SHAPE.vocabulary)))
        losses = functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(masked)
        (losses * masked / share).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return STEPS * tokens.numel() / (time.monotonic() - begun)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def bench_training(benchmark, tmp_path, optimiser):
    both = []

    def once():
        turn = len(both)
        both.append((ours(tmp_path / str(turn), optimiser), plain(None, None)))

    benchmark.pedantic(once, rounds=5, warmup_rounds=1)
    benchmark.extra_info["tokens/s"] = round(statistics.median(a for a, _ in both))
    benchmark.extra_info["of a plain AdamW loop"] = f"{statistics.median(a / b for a, b in both):.2f}"
    benchmark.extra_info["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@pytest.mark.parametrize("vocabulary", [320, 32_000])
@pytest.mark.parametrize("asked", [1, 8])
def bench_asked_rows(benchmark, vocabulary, asked):
    model = Transformer(Network(Shape.of("tiny", vocabulary, 100)))
    canvas = Canvas.blank(4, 100)
    some = torch.arange(100).expand(4, 100) < asked
    ratios = []

    def once():
        times = []
        for where in (some, canvas.masked):
            begun = time.perf_counter()
            model(canvas, where)
            times.append(time.perf_counter() - begun)
        ratios.append(times[1] / times[0])

    benchmark.pedantic(once, rounds=15, warmup_rounds=2)
    benchmark.extra_info[f"all 100 over {asked} asked"] = f"{statistics.median(ratios):.2f} x the time"


def bench_read(benchmark, tmp_path):
    """Wanted: 0.5 s for a model of 1.5 M parameters."""
    tokenizer = Tokenizer.words([f"w{i}" for i in range(SHAPE.vocabulary - 1)])
    folder.write(tmp_path / "m", Transformer(Network(SHAPE)), tokenizer, card="", about={})
    benchmark(lambda: folder.read(tmp_path / "m"))
