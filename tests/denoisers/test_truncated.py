"""What is kept of a law, against plain transcriptions."""

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.denoisers import MinP, Nucleus, Tempered, TopK
from demask.errors import DenoiserError
from demask.information import law
from demask.oracles import Table
from demask.orders import LeftToRight
from demask.samplers import Parallel
from demask.schedules import uniform
from demask.testing import check_denoiser

TABLE = Table.random(4, 5, key=1, concentration=0.7)
ONE = Canvas.blank(1, 1)


def fixed(*rows):
    return lambda canvas, where: Marginals(where, torch.tensor(rows).log())


def kept(denoiser):
    return denoiser(ONE, ONE.masked).logits.isfinite()[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("k", "tokens"), [(1, [1]), (2, [1, 2]), (3, [0, 1, 2]), (9, [0, 1, 2])])
def test_top_k(k, tokens):
    assert kept(TopK(fixed([0.1, 0.5, 0.4]), k)) == tokens


def test_top_k_of_equals_keeps_the_first():
    assert kept(TopK(fixed([0.1, 0.3, 0.3, 0.3]), 2)) == [1, 2]


@pytest.mark.parametrize(
    ("p", "tokens"), [(0.0, [0, 1, 2]), (0.19, [0, 1, 2]), (0.21, [1, 2]), (0.79, [1, 2]), (0.81, [1]), (1.0, [1])]
)
def test_min_p(p, tokens):
    """0.1 is 0.2 of the mode, 0.4 is 0.8 of it."""
    assert kept(MinP(fixed([0.1, 0.5, 0.4]), p)) == tokens


def test_min_p_reads_the_law_that_is_drawn_from():
    """At temperature 1/2 the ratio 0.8 becomes 0.64, at temperature 2 it is 0.894."""
    assert kept(MinP(Tempered(fixed([0.1, 0.5, 0.4]), 0.5), 0.7)) == [1]
    assert kept(MinP(Tempered(fixed([0.1, 0.5, 0.4]), 2.0), 0.85)) == [1, 2]


@pytest.mark.parametrize("wrap", [lambda model: TopK(model, 1), lambda model: MinP(model, 0.9)], ids=["top-k", "min-p"])
def test_at_temperature_0_only_the_mode_is_drawn_and_nothing_is_cut(wrap):
    plain = Tempered(TABLE, 0.0)
    canvas = Canvas.blank(2, 4)
    assert torch.equal(wrap(plain)(canvas, canvas.masked).logits, plain(canvas, canvas.masked).logits)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_law_is_the_cut_one_renormalised(temperature):
    """The first of five tokens, drawn through the loop, by replay."""
    table = Table.random(1, 5, key=3, concentration=0.7)
    p = table.logp.exp() ** (1 / temperature)
    p /= p.sum()
    for wrap, keep in (
        (lambda model: TopK(model, 2), p >= p.sort().values[-2]),
        (lambda model: MinP(model, 0.3), p >= 0.3 * p.max()),
    ):
        assert 1 < int(keep.sum()) < 5
        out = law(wrap(Tempered(table, temperature)), Parallel(uniform(1, 1), LeftToRight()), canvas=ONE, vocabulary=5)
        found = torch.zeros(5, dtype=torch.float64)
        found[out.sequences[:, 0]] = out.logp.exp()
        assert torch.allclose(found, torch.where(keep, p, 0.0) / p[keep].sum(), atol=1e-12)


def test_top_k_then_top_p_sees_what_is_left():
    """Of 0.4 0.3 0.2 0.1 two are left by top-k, 4/7 and 3/7: 0.55 of them needs one, 0.55 of all needs two."""
    model = fixed([0.4, 0.3, 0.2, 0.1])
    assert kept(Nucleus(TopK(model, 2), 0.55)) == [0]
    assert kept(Nucleus(model, 0.55)) == [0, 1]


@pytest.mark.parametrize("model", [TopK(TABLE, 2), MinP(Tempered(TABLE, 0.7), 0.4)], ids=lambda m: type(m).__name__)
def test_they_are_denoisers(model):
    check_denoiser(model, Canvas.blank(3, 4))


def test_refusals():
    for k in (0, -1, 1.5, True):
        with pytest.raises(DenoiserError, match="top-k"):
            TopK(TABLE, k)
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(DenoiserError, match="min-p"):
            MinP(TABLE, p)
