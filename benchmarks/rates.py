"""At which learning rates a network learns to look a word up, among uniform noise.

Run: python benchmarks/rates.py [LENGTH ...]; some ten minutes for 24 and 100. One of five words stands at position 0; behind
a marker at a random place of the second half its copy follows; all else is noise of 40 words. A fifth of the positions is
masked. The table holds the mean probability of the copy, given all the rest, after so many steps of 16 rows; chance is 0.2.
"""

import sys

import torch
from torch.nn import functional

from demask.denoisers.transformer import Network, Shape
from demask.training.recipe import Optimisers, Recipe

WORDS, NOISE, MARKER, ROWS = 5, 40, 10, 16
CASES = (("muon", 0.02, 3e-3), ("muon", 0.005, 1e-3), ("adamw", 0.005, 1e-3))
MARKS = (250, 500, 750, 1000)


def rows(count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens (count, length), and the place of the copy in each row."""
    tokens = torch.randint(MARKER + 1, MARKER + 1 + NOISE, (count, length))
    tokens[:, 0] = torch.randint(WORDS, (count,))
    place, index = torch.randint(length // 2, length - 2, (count,)), torch.arange(count)
    tokens[index, place] = MARKER
    tokens[index, place + 1] = tokens[:, 0] + WORDS
    return tokens, place + 1


def main(*lengths: str) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    print(f"| positions | optimiser | muon | adamw | {' | '.join(map(str, MARKS))} |\n{'|---' * (4 + len(MARKS))}|")
    for length in map(int, lengths or ("24", "100")):
        for optimiser, muon_rate, rate in CASES:
            found = train(length, Recipe(steps=1, optimiser=optimiser, muon_rate=muon_rate, rate=rate))
            print(
                f"| {length} | {optimiser} | {muon_rate} | {rate} | {' | '.join(f'{p:.2f}' for p in found)} |",
                flush=True,
            )


def train(length: int, recipe: Recipe) -> list[float]:
    """Return the probability of the copy at every mark."""
    torch.manual_seed(0)
    vocabulary = MARKER + 1 + NOISE
    network = Network(Shape(vocabulary, length, 64, 3, 4, 128))
    optimisers, found = Optimisers(network, recipe), []
    for step in range(1, MARKS[-1] + 1):
        tokens, copy = rows(ROWS, length)
        where = torch.rand(tokens.shape) < 0.2
        where[torch.arange(ROWS), copy - 1] = False
        logits = network.logits(network(tokens.masked_fill(where, vocabulary))[where])
        functional.cross_entropy(logits, tokens[where]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimisers.step(min(1.0, step / 50))
        if step in MARKS:
            found.append(probability(network, length))
    return found


@torch.no_grad()
def probability(network: Network, length: int) -> float:
    """Return the mean probability of the copy, given all the rest."""
    tokens, copy = rows(200, length)
    index = torch.arange(len(tokens))
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[index, copy] = True
    features = network(tokens.masked_fill(where, network.shape.vocabulary))
    return float(network.logits(features[where]).softmax(-1)[index, tokens[where]].mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
