"""What sampling costs outside the network, through the friendly surface: seconds of a run against those within the network.

Run as a script, on one thread; about a minute. A network of random weights of about 1.5 M parameters, context 100, 32 steps.
Both times are taken in the same run, on the same canvases, so that a busy machine slows both; the median of several runs.
"""

from statistics import median
from time import perf_counter

import torch

from demask.canvas import Canvas, Marginals
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.generate import Model
from demask.tokenizer import Tokenizer

WORDS = Tokenizer.words([f"w{index}" for index in range(399)])
ROUNDS = 31


class Timed:
    """The network, and the seconds spent in it."""

    def __init__(self, inner: Transformer) -> None:
        self.inner, self.seconds, self.calls = inner, 0.0, 0

    def __call__(self, canvas: Canvas, where: torch.Tensor) -> Marginals:
        """Ask, and look at the clock."""
        begin = perf_counter()
        answer = self.inner(canvas, where)
        self.seconds += perf_counter() - begin
        self.calls += 1
        return answer


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Network(Shape(WORDS.size, 100, 160, 5, 5, 432))
    with torch.no_grad():
        network.embedding.weight[WORDS.end] *= 0  # the end is no more likely than any other token
    parameters = sum(weights.numel() for weights in network.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, context 100, 32 steps, one thread\n")
    print("| batch | order | network, ms per call | all else, ms per call | overhead |")
    print("|---|---|---|---|---|")
    for batch in (1, 4, 16):
        for order in ("Random()", "Confidence()", "Entropy()"):
            print(line(Transformer(network), batch, order), flush=True)


def line(transformer: Transformer, batch: int, order: str) -> str:
    """Time one setting."""
    inside, outside = [], []
    for _ in range(max(3, ROUNDS // batch)):
        timed = Timed(transformer)
        model = Model(timed, WORDS, context=100, window=100)
        begin = perf_counter()
        model.generate(["w1 w2 w3"] * batch, key=0, steps=32, order=order, batch=batch)
        seconds = perf_counter() - begin
        inside.append(timed.seconds / timed.calls * 1e3)
        outside.append((seconds - timed.seconds) / timed.calls * 1e3)
    ratio = median(other / network for other, network in zip(outside, inside, strict=True))
    return f"| {batch} | {order} | {median(inside):.2f} | {median(outside):.2f} | {ratio:.1%} |"


if __name__ == "__main__":
    main()
