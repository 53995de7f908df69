"""Few numbers are answered by lists of Python, many by torch: the same answers."""

import pytest
import torch

from demask import few, masks
from demask.canvas import Canvas, Marginals
from demask.errors import CanvasError, DenoiserError
from demask.loop import sample
from demask.masks import both, counts, empty, listed, marks, number, places, ranks
from demask.oracles import Chain
from demask.orders import Confidence, Random
from demask.samplers import Ended, Parallel
from demask.samplers.parallel import largest
from demask.schedules import Plan

SHAPES = [(1, 1), (1, 7), (3, 5), (4, 1), (0, 3)]


@pytest.fixture
def many(monkeypatch):
    """Take every number of them for many, where called."""

    def call(function, *masks):
        with monkeypatch.context() as patch:
            patch.setattr(few, "FEW", -1)
            return function(*(mask.clone() for mask in masks))  # a clone has nothing remembered

    return call


def random(shape, share, key):
    return torch.rand(shape, generator=torch.Generator().manual_seed(key)) < share


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_lists_and_tensors_agree(many, shape, share):
    for key in range(5):
        where, other = random(shape, share, key), random(shape, 0.6, key + 100)
        assert listed(where) == places(where.clone()).tolist() == many(listed, where)
        assert counts(where.clone()) == many(counts, where) == where.sum(1).tolist()
        assert number(where) == many(number, where) == int(where.sum())
        for function in (both, empty):
            mine = function(where.clone(), other.clone()) if function is both else function(where.clone())
            theirs = many(function, where, other) if function is both else many(function, where)
            assert mine.dtype == theirs.dtype == torch.bool
            assert torch.equal(mine, theirs)
        part = where & other
        assert torch.equal(ranks(part, other), many(ranks, part, other))
        assert torch.equal(other.flatten().nonzero()[:, 0][ranks(part, other)], places(part))
        if bool((where > other).any()):
            assert ranks(where, other) is None
            assert many(ranks, where, other) is None


def test_marks_are_what_they_list():
    where = marks((3, 4), [9, 2, 2 + 4])
    assert listed(where) == listed(where.clone()) == [2, 6, 9]
    assert where.shape == marks((3, 4), []).shape == (3, 4)
    assert not bool(marks((3, 4), []).any())
    assert marks((0, 4), []).shape == (0, 4)


def test_a_mask_is_listed_once(monkeypatch):
    where = random((2, 5), 0.5, 0)
    first = listed(where)
    monkeypatch.setattr(masks, "compress", None)
    assert listed(where) is first


def test_only_refuses_what_was_not_asked():
    answer = Marginals(torch.tensor([[True, False]]), torch.zeros(1, 2))
    with pytest.raises(CanvasError, match="was not asked; expected a subset"):
        answer.only(torch.tensor([[True, True]]))


@pytest.mark.parametrize("size", [0, 1, 3, 8, 9, 40])
def test_the_largest_are_the_first_of_a_stable_sort(many, size):
    """Equals from the left, nothing of -inf, both for few sizes and for many, row by row."""
    generator = torch.Generator().manual_seed(size)
    scores = torch.randint(0, 6, (3, 30), generator=generator).float()
    scores[torch.rand(3, 30, generator=generator) < 0.3] = -torch.inf
    sizes = torch.tensor([size, 2, 0])
    expected = torch.zeros(3, 30, dtype=torch.bool)
    for row, (line, most) in enumerate(zip(scores.tolist(), sizes.tolist(), strict=True)):
        ranked = sorted((i for i in range(30) if line[i] > -torch.inf), key=lambda i: -line[i])
        expected[row, ranked[:most]] = True
    assert torch.equal(largest(scores, sizes), expected)
    assert torch.equal(many(largest, scores, sizes), expected)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_what_is_no_number_goes_first(many, size):
    scores = torch.tensor([[0.5, torch.inf, torch.nan, 0.1, -torch.inf, torch.nan, *range(6)]])
    for found in (largest(scores, torch.tensor([size])), many(largest, scores, torch.tensor([size]))):
        assert int(found.sum()) == size
        assert int((found & scores.isnan()).sum()) >= min(size, 2) - 1  # infinity is as large
        assert not bool(found[0, 4])


@pytest.mark.parametrize("rows", [1, 200])
def test_a_network_of_nonsense_is_told_on_at_once(rows):
    def nonsense(canvas, where):
        calls.append(where)
        logits = torch.zeros(int(where.sum()), 3)
        logits[1::2] = torch.nan
        return Marginals(where, logits)

    calls = []
    with pytest.raises(DenoiserError, match="are no distribution"):
        sample(nonsense, Parallel(Plan([1] * 12), Confidence()), Canvas.blank(rows, 12), key=0)
    assert len(calls) == 1


@pytest.mark.parametrize("order", [Random(), Confidence()], ids=repr)
@pytest.mark.parametrize("rows", [1, 4])
def test_a_run_does_not_hang_on_how_many_numbers_are_few(monkeypatch, order, rows):
    """Tokens, steps and passes of runs with an end token, which cuts texts in the middle of what was drawn."""
    chain = Chain.markov([0.5, 0.3, 0.2], [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.0, 0.0, 1.0]], length=12)
    runs = []
    for least in (-1, few.FEW):
        monkeypatch.setattr(few, "FEW", least)
        sampler = Ended(Parallel(Plan([3, 1, 4, 2, 2]), order), 2)
        runs.append([sample(chain, sampler, Canvas.blank(rows, 12), key=key) for key in range(10)])
    for one, other in zip(*runs, strict=True):
        for name in ("tokens", "when", "nfe", "steps"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert any(2 in run.tokens[:, :-1].flatten().tolist() for run in runs[0])  # some texts ended early
