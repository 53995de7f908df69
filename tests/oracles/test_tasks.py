from math import factorial, log

import numpy as np
import pytest
import torch

from demask.canvas import Canvas
from demask.errors import OracleError
from demask.oracles import copy, insert, latin_square, remove, replace, reverse, shuffle


def accuracy(task):
    """The chance that one draw from the product of the marginals is a valid answer."""
    blank = Canvas.blank(1, task.length)
    laws = task(blank, blank.masked).logits
    return float(laws[torch.arange(task.length), task.sequences].sum(1).exp().sum())


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_closed_forms(n):
    for task in (copy(n), reverse(n)):
        assert (task.tc(), task.dtc(), accuracy(task)) == (0, 0, 1)
    assert shuffle(n).tc() == pytest.approx(n * log(n) - log(factorial(n)))
    assert shuffle(n).dtc() == pytest.approx(log(factorial(n)))
    assert accuracy(shuffle(n)) == pytest.approx(factorial(n) / n**n)
    assert replace(n).tc() == pytest.approx(-(n - 1) * log(1 - 1 / n))
    assert replace(n).dtc() == pytest.approx(log(n))
    assert accuracy(replace(n)) == pytest.approx((1 - 1 / n) ** (n - 1))
    assert insert(n).dtc() == pytest.approx(log(n + 1))


@pytest.mark.parametrize(
    ("task", "tc", "dtc", "rate"),
    [
        (shuffle(4), 2.367, 3.178, 0.0938),
        (replace(4), 0.863, 1.386, 0.422),
        (insert(4), 2.347, 1.609, 0.1229),
        (remove(4), 0.431, 0.347, 0.75),
    ],
)
def test_golden_numbers(task, tc, dtc, rate):
    assert task.tc() == pytest.approx(tc, abs=6e-4)
    assert task.dtc() == pytest.approx(dtc, abs=6e-4)
    assert accuracy(task) == pytest.approx(rate, abs=6e-5 if rate < 0.2 else 6e-4)


def test_latin_square():
    task = latin_square()
    squares = task.sequences.view(-1, 4, 4)
    assert len(squares) == 576
    assert (squares.sort(1).values == torch.arange(4)[:, None]).all()
    assert (squares.sort(2).values == torch.arange(4)).all()
    assert task.tc() == pytest.approx(15.825, abs=6e-4)
    assert task.dtc() == pytest.approx(log(576))
    assert accuracy(task) == pytest.approx(1.3e-7, rel=0.04)
    curve = task.curve()
    assert curve.exact
    assert curve.entropy == pytest.approx(log(576), abs=1e-9)
    assert curve.values[0] == pytest.approx(log(4))
    assert curve.values[15] == pytest.approx(0, abs=1e-12)
    # A cell given one other is the same with some probability, and otherwise one of three, by symmetry of the symbols.
    same = (task.sequences[:, :1] == task.sequences[:, 1:]).double().mean(0)
    law = torch.stack([same, *[(1 - same) / 3] * 3])
    assert curve.values[1] == pytest.approx(float(torch.special.entr(law).sum(0).mean()))
    row = Canvas(torch.tensor([[0, 1, 2, 0] + [0] * 12]), torch.arange(16)[None] >= 3)
    assert task(row, torch.arange(16)[None] == 3).mode.tolist() == [3]


def test_the_answers_of_the_lists():
    assert copy(3).sequences.tolist() == [[0, 1, 2]]
    assert reverse(3).sequences.tolist() == [[2, 1, 0]]
    assert sorted(map(tuple, shuffle(3).sequences.tolist())) == [
        (0, 1, 2),
        (0, 2, 1),
        (1, 0, 2),
        (1, 2, 0),
        (2, 0, 1),
        (2, 1, 0),
    ]
    for row in insert(5).sequences.tolist():
        assert [x for x in row if x != 5] == list(range(5))
        assert row.count(5) == 1
    for row in replace(5).sequences.numpy():
        assert np.sum(row != np.arange(5)) == 1
        assert 5 in row
    for row in remove(5).sequences.tolist():
        assert len(row) == 4
        assert row == sorted(set(row))


def test_errors():
    for task in (copy, reverse, shuffle, replace, insert):
        with pytest.raises(OracleError, match="a list of 0 items; expected 1 or more"):
            task(0)
    with pytest.raises(OracleError, match="a list of 1 items; expected 2 or more"):
        remove(1)
    with pytest.raises(OracleError, match=r"shuffle\(10\) has 3628800 answers"):
        shuffle(10)
