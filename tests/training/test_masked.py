from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.errors import TrainingError
from demask.training import HeldOut, Masks, draw, evaluate
from tests.training.language import skewed


def nelbo(denoiser, row):
    """Sum over j of the mean loss of a token given j others, over all subsets: by enumeration."""
    n = len(row)
    total = 0.0
    for m in range(1, n + 1):
        losses = []
        for subset in combinations(range(n), m):
            where = torch.zeros(1, n, dtype=torch.bool)
            where[0, list(subset)] = True
            answer = denoiser(Canvas(row[None].masked_fill(where, 0), where), where)
            losses.append(-float(answer.logp(row[list(subset)]).mean()))
        total += sum(losses) / len(losses)
    return total


class Crooked:
    """An oracle whose conditionals are tempered, so that they have no joint law."""

    def __init__(self, oracle):
        self.oracle = oracle

    def __call__(self, canvas, where):
        answer = self.oracle(canvas, where)
        heat = (0.5 + 0.3 * canvas.masked.sum(1))[:, None].expand_as(where)[where]
        return type(answer)(where, answer.logits * heat[:, None])


def test_the_estimate_is_unbiased_for_the_nelbo():
    """Exactly: the draw's law of m is uniform, its set uniform given m, and n times the mean loss is then the NELBO."""
    row = torch.tensor([1, 0, 1])
    denoiser = Crooked(skewed(3))
    rows = 6 * 2000
    masked = draw(torch.ones(rows, 3, dtype=torch.bool), Keyed.of(0, torch.arange(rows)))
    seen = {}
    for pattern in map(tuple, masked.where.tolist()):
        seen[pattern] = seen.get(pattern, 0) + 1
    for pattern, count in seen.items():
        m = sum(pattern)
        expected = rows / 3 / comb(3, m)
        assert abs(count - expected) < 5 * expected**0.5  # 7 patterns, each beyond 5 sigma: one false alarm in 200 000
    assert len(seen) == 7
    mean = 0.0
    for pattern, count in seen.items():
        where = torch.tensor([pattern])
        answer = denoiser(Canvas(row[None].masked_fill(where, 0), where), where)
        mean += 3 * count / rows * -float(answer.logp(row[where[0]]).mean())
    assert mean == pytest.approx(nelbo(denoiser, row), abs=0.02)


def test_time_integrates_out():
    """Integral over t of Binomial(m; n, t) / t is 1 / m."""
    t = (np.arange(200_000) + 0.5) / 200_000
    for m in range(1, 6):
        assert np.mean(comb(5, m) * t ** (m - 1) * (1 - t) ** (5 - m)) == pytest.approx(1 / m, abs=1e-4)


def test_counts_are_stratified_and_weights_fit():
    present = torch.ones(64, 16, dtype=torch.bool)
    masked = draw(present, Keyed.of(1, torch.arange(64)))
    counts = masked.where.sum(1)
    assert torch.bincount(counts, minlength=17)[1:].tolist() == [4] * 16
    assert torch.allclose(masked.weights, 1 / counts)
    assert float(masked.sum(torch.ones(int(counts.sum())))) == pytest.approx(64)


def test_only_what_exists_is_masked():
    present = torch.arange(8) < torch.tensor([[1], [3], [8]])
    for key in range(20):
        masked = draw(present, Keyed.of(key, torch.arange(3)))
        assert not (masked.where & ~present).any()
        assert masked.where.sum(1).min() >= 1


def test_shares():
    present = torch.ones(512, 100, dtype=torch.bool)
    counts = draw(present, Keyed.of(0, torch.arange(512)), shares=Masks().range(0.0)).where.sum(1)
    assert (counts.min(), counts.max()) == (6, 30)


def test_a_row_has_its_own_draws():
    present = torch.ones(8, 10, dtype=torch.bool)
    whole = draw(present, Keyed.of(0, torch.arange(8)))
    part = draw(present[:1], Keyed.of(0, torch.tensor([5])))
    assert torch.equal(whole.where[5], part.where[0])


def test_the_score_covers_the_enumerated_nelbo():
    """Sixty 99.9 % intervals of independent keys: two or more misses have probability 0.2 %; keys are fixed."""
    oracle = skewed(4)
    denoiser = Crooked(oracle)
    rows = oracle.sample(40, key=5)
    held = HeldOut(rows, torch.arange(40), 40, 80)
    truth = np.mean([nelbo(denoiser, row) for row in rows])
    found = [evaluate(denoiser, held, key=key, rounds=4) for key in range(60)]
    misses = sum(not low < truth < high for low, high in (score.nats_per_text.interval(0.999) for score in found))
    assert misses <= 1
    assert np.mean([score.nats_per_text for score in found]) == pytest.approx(truth, abs=0.02)
    assert found[0].bits_per_byte == pytest.approx(found[0].nats_per_text / 2 / np.log(2))
    assert found[0].nats_per_token == pytest.approx(found[0].nats_per_text / 4)


@pytest.mark.parametrize("change", [{"least": -0.1}, {"easy": 1.1}, {"least": 0.4}, {"early": 2}])
def test_bad_masks(change):
    with pytest.raises(TrainingError, match="expected 0 <= least < easy <= 1"):
        Masks(**change)
