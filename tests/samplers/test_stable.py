"""Unmasking what has settled, against a plain transcription and by exact replay."""

import pytest
import torch

from demask.canvas import Canvas
from demask.denoisers import Tempered
from demask.errors import OrderError
from demask.loop import sample
from demask.oracles import Chain, Table
from demask.orders import Confidence, Random, Threshold
from demask.samplers import Ended, Parallel
from demask.samplers.stable import Stable
from demask.schedules import Plan, Unlimited
from demask.testing import check_law


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("kl", [0.01, 0.1])
def test_it_is_the_transcription(kl, steps):
    """One row at temperature 0: which position goes when, from the laws of every step."""
    several = 0
    for key in range(40):
        table = Table.random(6, 2, key=key, concentration=0.5)
        tokens, masked = torch.zeros(1, 6, dtype=torch.int64), torch.ones(1, 6, dtype=torch.bool)
        when, laws, calm, turn = [-1] * 6, {}, [0] * 6, 0
        while bool(masked.any()):
            now = dict(
                zip(masked[0].nonzero()[:, 0].tolist(), table(Canvas(tokens, masked), masked).logits.exp(), strict=True)
            )
            for i, p in now.items():
                still = i in laws and float((p * (p / laws[i]).log()).nan_to_num().sum()) < kl
                calm[i] = calm[i] + 1 if still else 0
            goes = [i for i, p in now.items() if calm[i] >= steps and float(p.max()) >= 0.7]
            goes = goes or [max(now, key=lambda i: float(now[i].max()))]
            several += len(goes) > 1
            for i in goes:
                when[i], tokens[0, i], masked[0, i] = turn, int(now[i].argmax()), False
            laws, turn = now, turn + 1
        sampler = Stable(Parallel(Unlimited(), Threshold(Confidence(), 0.7)), kl, steps)
        run = sample(Tempered(table, 0), sampler, Canvas.blank(1, 6), key=0)
        assert (run.when.tolist(), run.tokens.tolist()) == ([when], tokens.tolist()), key
        assert run.nfe.tolist() == [turn]
    assert several or kl < 0.05


@pytest.mark.parametrize("order", [Random(), Confidence()], ids=repr)
def test_one_token_per_step_stays_exact(order):
    check_law(Stable(Parallel(Plan([1] * 3), order), 0.1, 1), Table.random(3, 2, key=5, concentration=0.4))


def test_errors():
    with pytest.raises(OrderError, match="expected a number > 0"):
        Stable(Parallel(Unlimited(), Random()), 0.0)
    with pytest.raises(OrderError, match="an integer >= 1"):
        Stable(Parallel(Unlimited(), Random()), 0.1, 0)


@pytest.mark.parametrize("kl", [0.01, 0.1, 1.0])
def test_an_end_around_it(kl):
    """The same as the transcription of both: what is behind the end vanishes, and is not asked for again."""
    ended = 0
    for key in range(40):
        table = Table.random(6, 3, key=key, concentration=0.5)
        tokens, masked = torch.zeros(1, 6, dtype=torch.int64), torch.ones(1, 6, dtype=torch.bool)
        laws, calm, turn, end = {}, [0] * 6, 0, 2
        while bool(masked.any()):
            now = dict(
                zip(masked[0].nonzero()[:, 0].tolist(), table(Canvas(tokens, masked), masked).logits.exp(), strict=True)
            )
            for i, p in now.items():
                calm[i] = calm[i] + 1 if i in laws and float((p * (p / laws[i]).log()).nan_to_num().sum()) < kl else 0
            goes = [i for i, p in now.items() if calm[i] >= 1 and float(p.max()) >= 0.5]
            goes = goes or [max(now, key=lambda i: float(now[i].max()))]
            for i in goes:
                tokens[0, i], masked[0, i] = int(now[i].argmax()), False
            drawn = [i for i in range(6) if not masked[0, i] and tokens[0, i] == end]
            if drawn:
                ended += bool(masked[0, drawn[0] :].any())
                tokens[0, drawn[0] :], masked[0, drawn[0] :] = end, False
            laws, turn = now, turn + 1
        sampler = Ended(Stable(Parallel(Unlimited(), Threshold(Confidence(), 0.5)), kl, 1), end)
        # A table may find a row of ends impossible; then it must not be asked about it, and is not.
        run = sample(Tempered(table, 0), sampler, Canvas.blank(1, 6), key=0)
        assert (run.tokens.tolist(), run.nfe.tolist()) == (tokens.tolist(), [turn]), key
    assert ended > 5


@pytest.mark.parametrize("order", [Random(), Confidence()], ids=repr)
def test_an_end_around_it_keeps_the_law(order):
    chain = Chain.markov([0.5, 0.3, 0.2], [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.0, 0.0, 1.0]], length=3)
    check_law(Ended(Stable(Parallel(Plan([1] * 3), order), 0.1, 1), 2), chain)


def test_rows_of_a_batch_end_on_their_own():
    chain = Chain.markov([0.5, 0.3, 0.2], [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.0, 0.0, 1.0]], length=6)
    sampler = Ended(Stable(Parallel(Unlimited(), Threshold(Confidence(), 0.6)), 0.05, 1), 2)
    together = sample(chain, sampler, Canvas.blank(16, 6), key=2)
    assert len(set(together.nfe.tolist())) > 1
    for row in range(16):
        alone = sample(chain, sampler, Canvas.blank(1, 6), key=2, names=torch.tensor([row]))
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert alone.nfe[0] == together.nfe[row]


def test_a_vocabulary_beyond_the_cache_is_watched_by_groups(monkeypatch):
    table = Table.random(6, 3, key=8, concentration=0.5)
    sampler = Stable(Parallel(Unlimited(), Threshold(Confidence(), 0.7)), 0.1, 1)
    whole = sample(table, sampler, Canvas.blank(20, 6), key=2)
    monkeypatch.setattr("demask.reductions._CHUNK", 7)
    parts = sample(table, sampler, Canvas.blank(20, 6), key=2)
    assert torch.equal(whole.tokens, parts.tokens)
    assert torch.equal(whole.when, parts.when)
