"""Penalties, forbidden and delayed tokens, against plain transcriptions and by replay."""

import pytest
import torch

from demask.canvas import ABSENT, Canvas, Marginals
from demask.denoisers import Delayed, Forbidden, Penalised, Tempered
from demask.errors import DenoiserError
from demask.information import law
from demask.loop import sample
from demask.oracles import Chain, Table
from demask.orders import Confidence, LeftToRight, Random
from demask.samplers import Parallel
from demask.schedules import Plan, uniform
from demask.testing import check_denoiser

TABLE = Table.random(4, 5, key=1, concentration=0.7)


def noise(canvas, where):
    """Logits of both signs, different at every position."""
    generator = torch.Generator().manual_seed(0)
    return Marginals(where, torch.randn(*canvas.shape, 5, generator=generator)[where])


def test_the_penalty_is_the_transcription():
    tokens = torch.tensor([[3, 0, 3, 1], [2, 4, 0, ABSENT], [0, 0, 0, 0]])
    masked = torch.tensor([[False, True, False, True], [False, False, True, False], [True, True, True, True]])
    got = Penalised(noise, 1.7)(Canvas(tokens, masked), masked).logits.tolist()
    plain = noise(Canvas(tokens, masked), masked).logits.tolist()
    seen = [{3}, {3}, {2, 4}, set(), set(), set(), set()]
    for row, expected, ids in zip(got, plain, seen, strict=True):
        for token, logit in enumerate(expected):
            wanted = logit if token not in ids else logit / 1.7 if logit > 0 else logit * 1.7
            assert row[token] == pytest.approx(wanted, rel=1e-6)


def test_a_visible_position_does_not_count_its_own_token():
    canvas = Canvas(torch.tensor([[3, 2, 3, 0]]), torch.tensor([[False, False, False, True]]))
    where = torch.ones(1, 4, dtype=torch.bool)
    got, plain = Penalised(noise, 2.0)(canvas, where).logits, noise(canvas, where).logits
    changed = [row.nonzero()[:, 0].tolist() for row in got != plain]
    assert changed == [[2, 3], [3], [2, 3], [2, 3]]  # 3 stands twice, 2 once


def test_a_penalty_means_fewer_repetitions():
    chain = Chain.markov([0.5, 0.3, 0.2], [[0.6, 0.2, 0.2]] * 3, length=6)

    sampler, canvas = Parallel(uniform(6, 6), LeftToRight()), Canvas.blank(1, 6)
    greedy = [sample(Tempered(Penalised(chain, p), 0), sampler, canvas, key=0).tokens[0].tolist() for p in (1.0, 4.0)]
    assert greedy[0] == [0] * 6
    assert set(greedy[1]) == {0, 1, 2}


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_what_is_forbidden_is_never_drawn(temperature):
    denoiser = Tempered(Forbidden(TABLE, (0, 3)), temperature)
    run = sample(denoiser, Parallel(uniform(4, 4), Confidence()), Canvas.blank(64, 4), key=0)
    assert not bool(torch.isin(run.tokens, torch.tensor([0, 3])).any())
    if temperature == 0:
        best = TABLE(Canvas.blank(1, 4), Canvas.blank(1, 4).masked).logits.exp()
        best[:, [0, 3]] = -1
        first = int(best.amax(1).argmax())
        assert run.tokens[0, first] == best[first].argmax()


@pytest.mark.parametrize("wrap", [lambda t: Forbidden(TABLE, t), lambda t: Delayed(TABLE, t)], ids=["forbid", "delay"])
def test_an_error_if_nothing_is_left(wrap):
    canvas = Canvas.blank(1, 4)
    with pytest.raises(DenoiserError, match=r"nothing has any probability at row 0, position [01]; forbid"):
        wrap((0, 1, 2, 3, 4))(canvas, canvas.masked)
    with pytest.raises(DenoiserError, match=r"expected 0 \.\. 4"):
        wrap((5,))(canvas, canvas.masked)
    for tokens in ((), (-1,), (1.5,), (True,)):
        with pytest.raises(DenoiserError, match="token ids >= 0"):
            wrap(tokens)


@pytest.mark.parametrize("order", [LeftToRight(), Random()], ids=repr)
def test_a_delayed_token_is_drawn_only_behind_what_stands(order):
    """By replay of every path: the same law as a transcription that bars the token while something before is masked."""
    table = Table.random(3, 3, key=4, concentration=0.5)

    def by_hand(canvas, where):
        answer = table(canvas, where)
        logits = answer.logits.clone()
        for row, (b, i) in enumerate(where.nonzero().tolist()):
            if any(canvas.masked[b, :i].tolist()):
                logits[row, 2] = -torch.inf
        return Marginals(where, logits)

    sampler, canvas = Parallel(Plan((1, 1, 1)), order), Canvas.blank(1, 3)
    got, wanted = (law(model, sampler, canvas=canvas, vocabulary=3) for model in (Delayed(table, (2,)), by_hand))
    assert got.tv(wanted) < 1e-12
    gap = table.to_table().tv(got)
    assert gap < 1e-9 if isinstance(order, LeftToRight) else gap > 1e-3  # from the left nothing is ever barred


@pytest.mark.parametrize(
    "model", [Penalised(TABLE, 1.3), Forbidden(TABLE, (1,)), Delayed(TABLE, (1, 4))], ids=lambda m: type(m).__name__
)
def test_they_are_denoisers(model):
    tokens = TABLE.sample(3, key=0)
    masked = torch.tensor([[True] * 4, [False, True, True, False], [False, False, True, True]])
    check_denoiser(model, Canvas(tokens, masked))


def test_penalties_that_are_refused():
    for penalty in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(DenoiserError, match="repetition penalty"):
            Penalised(TABLE, penalty)
    canvas = Canvas.blank(1, 4)
    assert torch.equal(Penalised(TABLE, 1.0)(canvas, canvas.masked).logits, TABLE(canvas, canvas.masked).logits)
