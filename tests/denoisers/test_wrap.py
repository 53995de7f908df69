import pytest
import torch

from demask.canvas import ABSENT, Canvas, Marginals
from demask.denoisers.wrap import Continued, Nucleus, Restricted, Tempered
from demask.errors import DenoiserError
from demask.oracles import Chain, Table
from demask.testing import check_denoiser

TABLE = Table.random(4, 5, key=1, concentration=0.7)


def fixed(*rows):
    return lambda canvas, where: Marginals(where, torch.tensor(rows).log())


@pytest.mark.parametrize(
    ("p", "kept"), [(0.01, [1]), (0.49, [1]), (0.51, [1, 2]), (0.89, [1, 2]), (0.91, [0, 1, 2]), (1.0, [0, 1, 2])]
)
def test_nucleus_keeps_the_fewest_that_reach_p(p, kept):
    answer = Nucleus(fixed([0.1, 0.5, 0.4]), p)(Canvas.blank(1, 1), torch.tensor([[True]]))
    assert answer.logits.isfinite()[0].nonzero()[:, 0].tolist() == kept
    assert answer.entropy.isfinite().all()


def test_nucleus_reads_the_law_that_is_drawn_from():
    """At temperature 1/2 the law 0.1 0.5 0.4 becomes 0.024 0.595 0.381: 0.55 needs one token instead of two."""
    canvas, where = Canvas.blank(1, 1), torch.tensor([[True]])
    cold = Nucleus(Tempered(fixed([0.1, 0.5, 0.4]), 0.5), 0.55)(canvas, where)
    assert cold.logits.isfinite().sum() == 1
    assert cold.temperature == 0.5
    assert Nucleus(fixed([0.1, 0.5, 0.4]), 0.55)(canvas, where).logits.isfinite().sum() == 2
    assert Nucleus(Tempered(fixed([0.1, 0.5, 0.4]), 0.0), 0.55)(canvas, where).mode.tolist() == [1]


def test_nucleus_of_equals_keeps_the_first():
    answer = Nucleus(fixed([0.25] * 4), 0.5)(Canvas.blank(1, 1), torch.tensor([[True]]))
    assert answer.logits.isfinite()[0].tolist() == [True, True, False, False]


def test_restricted_renormalises_where_asked():
    canvas, where = Canvas.blank(2, 4), torch.tensor([[True, False, True, True], [False, True, True, False]])
    allowed = torch.tensor([True, False, True, False, True])
    plain, there, all_over = (
        model(canvas, where) for model in (TABLE, Restricted(TABLE, allowed, (2,)), Restricted(TABLE, allowed))
    )
    here = where.nonzero()[:, 1] == 2
    assert torch.equal(there.logits[~here], plain.logits[~here])
    assert (there.logits[here][:, ~allowed] == -torch.inf).all()
    assert torch.equal(there.logits[here][:, allowed], plain.logits[here][:, allowed])
    assert (all_over.logits[:, ~allowed] == -torch.inf).all()


def test_continued_is_the_law_given_the_visible_tokens_alone():
    chain = Chain.random(7, 3, key=2)
    tokens = torch.tensor([[1, 0, 2, 0], [1, 0, ABSENT, ABSENT]])
    masked = torch.tensor([[False, True, False, True], [False, True, False, False]])
    answer = Continued(chain, 7)(Canvas(tokens, masked), masked)
    whole = Canvas(torch.tensor([[1, 0, 2, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]), torch.ones(2, 7, dtype=torch.bool))
    whole.masked[0, [0, 2]] = whole.masked[1, 0] = False
    where = torch.zeros_like(whole.masked)
    where[:, :4] = masked
    assert torch.equal(answer.logits, chain(whole, where).logits)
    assert answer.where is masked


@pytest.mark.parametrize(
    "model",
    [
        Nucleus(TABLE, 0.7),
        Nucleus(Tempered(TABLE, 0.5), 0.9),
        Restricted(TABLE, torch.tensor([True, True, False, True, True]), (1, 3)),
        Continued(TABLE, 4),
    ],
    ids=lambda model: type(model).__name__,
)
def test_they_are_denoisers(model):
    check_denoiser(model, Canvas.blank(3, 4))


def test_refusals():
    for p in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(DenoiserError, match="top-p"):
            Nucleus(TABLE, p)
    with pytest.raises(DenoiserError, match="one True or more"):
        Restricted(TABLE, torch.zeros(5, dtype=torch.bool))
    with pytest.raises(DenoiserError, match="shorten"):
        Continued(TABLE, 3)(Canvas.blank(1, 4), torch.ones(1, 4, dtype=torch.bool))
