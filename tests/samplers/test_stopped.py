"""The law of a text that stops at a string, by enumeration of everything that can happen."""

import pytest
import torch

from demask.canvas import Canvas
from demask.information import law
from demask.loop import sample
from demask.oracles import Table
from demask.orders import Confidence, LeftToRight, Random
from demask.samplers import Ended, Parallel, Stopped
from demask.schedules import PerRow, Plan, uniform

TABLE = Table.random(4, 3, key=4, concentration=0.5)
END, STOP = 2, [1, 0]


def found(tokens):
    return next((i + 2 for i in range(len(tokens) - 1) if list(tokens[i : i + 2]) == STOP), None)


def texts(table):
    """The law of what stands up to the first stop."""
    out = {}
    for row, p in zip(table.sequences.tolist(), table.logp.exp().tolist(), strict=True):
        text = tuple(row[: found(row)])
        out[text] = out.get(text, 0.0) + p
    return out


SHORT = Table.random(3, 3, key=4, concentration=0.5)
CASES = [(order, plan) for order in (Random(), LeftToRight()) for plan in ((1, 1, 1, 1), (2, 2), (4,))]
DRAFT = Confidence("draft")  # draws every token in every step: 59,049 ways for four of them, one by one
CASES += [(DRAFT, (1, 1, 1)), (DRAFT, (2, 2)), (DRAFT, (4,)), pytest.param(DRAFT, (1,) * 4, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("order", "plan"), CASES, ids=str)
def test_the_text_keeps_the_law_of_the_inner_sampler(order, plan):
    """Also of one that is wrong: what is behind is never written before the text is complete."""
    inner, table = Parallel(Plan(plan), order), TABLE if sum(plan) == 4 else SHORT
    stopped, plain = texts(law(table, Stopped(inner, END, found))), texts(law(table, inner))
    assert stopped.keys() == plain.keys()
    for text, p in plain.items():
        assert stopped[text] == pytest.approx(p, abs=1e-12)
    assert Stopped(inner, END, found).law is inner.law


def test_nothing_behind_the_stop_is_paid_for_or_left():
    canvas = Canvas.blank(256, 4)
    for order in (LeftToRight(), Random()):
        inner = Parallel(PerRow(uniform, steps=4), order)
        run = sample(TABLE, Stopped(inner, END, found), canvas, key=0)
        stops = [found(row) for row in run.tokens.tolist()]
        assert any(stop == 2 for stop in stops)
        for tokens, stop, when, nfe in zip(
            run.tokens.tolist(), stops, run.when.tolist(), run.nfe.tolist(), strict=True
        ):
            if stop is not None:
                assert set(tokens[stop:]) <= {END}
                assert nfe == max(when[:stop]) + 1  # done in the step that completes the text up to the stop
                assert order != LeftToRight() or nfe == stop
            else:
                assert nfe == 4


def test_a_prompt_is_not_searched_and_never_touched():
    tokens, masked = torch.tensor([[1, 0, 0, 0, 1]]), torch.tensor([[False, True, True, True, False]])

    def always(canvas, where):
        logits = torch.full((int(where.sum()), 3), -torch.inf)
        logits[torch.arange(len(logits)), (where.nonzero()[:, 1] - 2) % 2] = 0.0  # position 1: one, 2: zero, 3: one
        return type(TABLE(Canvas.blank(1, 4), Canvas.blank(1, 4).masked))(where, logits)

    run = sample(
        always, Stopped(Parallel(PerRow(uniform, 3), LeftToRight()), END, found), Canvas(tokens, masked), key=0
    )
    assert (run.tokens.tolist(), run.nfe.tolist()) == ([[1, 1, 0, END, 1]], [2])


def test_around_an_end():
    """Both stop the text; what comes first does."""
    sampler = Stopped(Ended(Parallel(PerRow(uniform, 4), LeftToRight()), END), END, found)
    run = sample(TABLE, sampler, Canvas.blank(128, 4), key=3)
    for tokens, nfe in zip(run.tokens.tolist(), run.nfe.tolist(), strict=True):
        ends = [
            place for place in (found(tokens), tokens.index(END) + 1 if END in tokens else None) if place is not None
        ]
        assert nfe == min(ends, default=4)
