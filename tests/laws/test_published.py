"""At temperature 0 the compositions are the published decoders, token for token and with equal forward counts.

Each rule is transcribed here in the plainest way from its description, on 200 random small networks.
"""

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.denoisers import Tempered
from demask.loop import sample
from demask.orders import Blockwise, Confidence, Threshold
from demask.samplers import Parallel
from demask.schedules import PerBlock, PerRow, Unlimited, uniform

VOCABULARY, MASK = 11, 11


class Network(torch.nn.Module):
    """Embedding, one attention layer, a projection: bidirectional, random, and sure of itself now and then."""

    def __init__(self, seed, length):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        self.token, self.place = draw(VOCABULARY + 1, 16), draw(length, 16)
        self.q, self.k, self.out = draw(16, 16), draw(16, 16), draw(16, VOCABULARY) * 0.6
        self.calls = 0

    def forward(self, ids):
        self.calls += 1
        h = self.token[ids] + self.place
        mix = torch.softmax((h @ self.q) @ (h @ self.k).transpose(1, 2) / 16, -1)
        return torch.tanh(h + mix @ h) @ self.out


def denoiser(network):
    def answer(canvas, where):
        ids = canvas.tokens.masked_fill(canvas.masked, MASK)
        return Marginals(where, network(ids)[where])

    return answer


def low_confidence(network, ids, block, steps_per_block):
    """LLaDA: even sizes per block, arg-max tokens, the most confident of the block stay. One row."""
    start = int((ids == MASK).nonzero()[0, 1])
    while (ids == MASK).any():
        inside = torch.zeros_like(ids, dtype=torch.bool)
        inside[:, start : start + block] = True
        masked = int(((ids == MASK) & inside).sum())
        steps = min(steps_per_block, masked)
        for turn in range(steps):
            size = masked // steps + (turn < masked % steps)
            logits = network(ids)
            guess = logits.argmax(-1)
            confidence = torch.softmax(logits, -1).gather(-1, guess[..., None])[..., 0]
            confidence[~inside | (ids != MASK)] = -torch.inf
            for position in torch.topk(confidence[0], size).indices:
                ids[0, position] = guess[0, position]
        start += block
    return ids


def confident_enough(network, ids, block, threshold):
    """Fast-dLLM: all masked positions of the block at or above the threshold, and always the best. One row."""
    start = int((ids == MASK).nonzero()[0, 1])
    while (ids == MASK).any():
        inside = torch.zeros_like(ids, dtype=torch.bool)
        inside[:, start : start + block] = True
        while ((ids == MASK) & inside).any():
            logits = network(ids)
            guess = logits.argmax(-1)
            confidence = torch.softmax(logits, -1).gather(-1, guess[..., None])[..., 0]
            confidence[~inside | (ids != MASK)] = -torch.inf
            best = confidence.argmax()
            for position in range(ids.shape[1]):
                if confidence[0, position] >= threshold or position == best:
                    ids[0, position] = guess[0, position]
        start += block
    return ids


CASES = [(prompt, length, block) for prompt, length, block in ((3, 16, 4), (0, 12, 5), (5, 20, 16))]


@pytest.mark.parametrize(
    ("prompt", "length", "block", "of"),
    [(*case, of) for case, of in zip(CASES, ("mode", "draft", "draft"), strict=True)],
)
def test_low_confidence_of_llada(prompt, length, block, of):
    for seed in range(200):
        ids = start(seed, prompt, length)
        steps = 1 + seed % block
        naive = Network(seed, length)
        expected = low_confidence(naive, ids.clone(), block, steps)
        ours = Network(seed, length)
        sampler = Parallel(PerBlock(PerRow(uniform, steps=steps), block), Blockwise(Confidence(of), block))
        run = sample(Tempered(denoiser(ours), 0), sampler, Canvas(ids, ids == MASK), key=seed)
        assert run.tokens.tolist() == expected.tolist(), seed
        assert run.nfe.tolist() == [naive.calls] == [ours.calls], seed


@pytest.mark.parametrize(("prompt", "length", "block"), CASES)
def test_threshold_of_fast_dllm(prompt, length, block):
    parallel = 0
    for seed in range(200):
        ids = start(seed, prompt, length)
        threshold = 0.3 + 0.6 * (seed % 7) / 7
        naive = Network(seed, length)
        expected = confident_enough(naive, ids.clone(), block, threshold)
        ours = Network(seed, length)
        sampler = Parallel(Unlimited(), Threshold(Blockwise(Confidence(), block), threshold))
        run = sample(Tempered(denoiser(ours), 0), sampler, Canvas(ids, ids == MASK), key=seed)
        assert run.tokens.tolist() == expected.tolist(), seed
        assert run.nfe.tolist() == [naive.calls] == [ours.calls], seed
        parallel += naive.calls < length - prompt
    assert parallel > 100  # the threshold really lets several through


def start(seed, prompt, length):
    ids = torch.full((1, length), MASK)
    ids[:, :prompt] = torch.randint(VOCABULARY, (1, prompt), generator=torch.Generator().manual_seed(seed))
    return ids


def test_a_batch_is_its_rows():
    """The published loops are for one row; a batch of ragged prompts gives every row what it gets alone."""
    network, length = Network(7, 16), 16
    ids = torch.cat([start(seed, seed, length) for seed in range(6)])
    sampler = Parallel(Unlimited(), Threshold(Blockwise(Confidence(), 4), 0.5))
    together = sample(Tempered(denoiser(network), 0), sampler, Canvas(ids, ids == MASK), key=0)
    for row in range(6):
        alone = sample(
            Tempered(denoiser(network), 0), sampler, Canvas(ids[row : row + 1], ids[row : row + 1] == MASK), key=0
        )
        assert alone.tokens[0].tolist() == together.tokens[row].tolist()
        assert alone.nfe[0] == together.nfe[row]
