"""Sampling against a loop as one would write it, with the same network: tokens per second, and what a run adds to memory.

Run: python benchmarks/sampling.py; two minutes, on one thread. A `tiny` network of random weights fills 100 tokens in 32
steps, positions at random, temperature 1. The plain loop computes the logits of every position and draws a token for each;
here it is `Model.fill`, with its keys, its checks and its results. Both are timed in turns, and the ratio is the median over
the rounds. The last column is a pass of the network alone: all rows of logits against the three that a step unmasks. Peak
memory is what a run adds to the process, read from /proc (Linux).
"""

from statistics import median
from time import perf_counter

import torch

from demask.canvas import Canvas
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.generate import Model
from demask.tokenizer import Tokenizer
from peers import forget_peak, resident

LENGTH, STEPS, ROUNDS = 100, 32, 5


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    print(
        "| V | batch | tokens/s, plain loop | here | here / plain | peak, here, MiB | plain | all rows / asked rows |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for vocabulary, batches in ((320, (1, 16)), (32_000, (1,))):
        torch.manual_seed(0)
        model = Transformer(Network(Shape.of("tiny", vocabulary, LENGTH)))
        for batch in batches:
            print(line(model, vocabulary, batch), flush=True)


def line(transformer: Transformer, vocabulary: int, batch: int) -> str:
    """Time one setting."""
    model = Model(transformer, Tokenizer.words([f"w{i}" for i in range(vocabulary - 1)]), context=LENGTH, window=LENGTH)

    def here() -> None:
        model.fill(f"[MASK:{LENGTH}]", n=batch, key=0, batch=batch, steps=STEPS, schedule="uniform", order="Random()")

    def theirs() -> None:
        plain(transformer.network, batch)

    rates: dict[str, list[float]] = {"here": [], "plain": []}
    peaks = {"here": 0.0, "plain": 0.0}
    for turn in range(ROUNDS + 1):
        for name, run in (("here", here), ("plain", theirs)):
            base, begin = forget_peak(), perf_counter()
            run()
            seconds = perf_counter() - begin
            if turn:  # the first round warms up
                rates[name].append(batch * LENGTH / seconds)
                peaks[name] = max(peaks[name], (resident("VmHWM") - base) / 2**20)
    ratio = median(ours / theirs for ours, theirs in zip(rates["here"], rates["plain"], strict=True))
    return (
        f"| {vocabulary:,} | {batch} | {median(rates['plain']):.0f} | {median(rates['here']):.0f} | {ratio:.2f} "
        f"| {peaks['here']:.0f} | {peaks['plain']:.0f} | {asked(transformer, batch):.2f} |"
    )


@torch.no_grad()
def plain(network: Network, batch: int) -> torch.Tensor:
    """Fill a canvas as ten lines would: logits of every position, a token for each, some of them kept."""
    mask = network.shape.vocabulary
    tokens = torch.full((batch, LENGTH), mask)
    for step in range(STEPS):
        logits = network.logits(network(tokens))
        drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1).view(batch, LENGTH)
        masked = tokens == mask
        count = LENGTH * (step + 1) // STEPS - LENGTH * step // STEPS
        kept = torch.rand(batch, LENGTH).masked_fill(~masked, -1.0).topk(count).indices
        tokens.scatter_(1, kept, drawn.gather(1, kept))
    return tokens


def asked(transformer: Transformer, batch: int) -> float:
    """Return how much longer a pass takes that projects every position than one that projects what a step unmasks."""
    canvas, few = Canvas.blank(batch, LENGTH), torch.arange(LENGTH).expand(batch, LENGTH) < LENGTH // STEPS
    ratios = []
    for _ in range(2 * ROUNDS):
        seconds = []
        for where in (few, canvas.masked):
            begin = perf_counter()
            transformer(canvas, where)
            seconds.append(perf_counter() - begin)
        ratios.append(seconds[1] / seconds[0])
    return median(ratios)


if __name__ == "__main__":
    main()
