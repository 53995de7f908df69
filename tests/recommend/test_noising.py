"""Coherent noising: nested views, the hardest digit first, and gradients where they belong."""

import pytest
import torch
from torch.nn import functional

from demask.errors import RecommendError
from demask.recommend import Network, confidence, loss, nested, views
from tests.recommend.worlds import SMALL

HISTORY = torch.tensor([[[-1, -1, -1], [0, 1, 2]], [[3, 3, 0], [1, 0, 1]], [[2, 2, 2], [0, 3, 1]]])
TARGETS = torch.tensor([[1, 2, 3], [0, 0, 1], [3, 1, 2]])


def network():
    return Network(SMALL, key=4)


def chance():
    return torch.Generator().manual_seed(0)


def test_views_are_nested_from_the_least_confident():
    model = network()
    sure = confidence(model, HISTORY)
    shown = views("coherent", model, HISTORY, chance())
    assert shown.masked.shape == (3, 3, 3)
    assert shown.masked.sum(2).tolist() == [[1, 2, 3]] * 3  # sizes exactly 1 .. n
    assert (shown.masked[:, :-1] <= shown.masked[:, 1:]).all()  # each lies in the next
    assert torch.equal(shown.masked[:, 0].int().argmax(1), sure.argmin(1))
    hidden = sure[:, None].masked_fill(~shown.masked, -1.0).amax(2)
    visible = sure[:, None].masked_fill(shown.masked, 2.0).amin(2)
    assert (hidden <= visible).all()
    assert torch.equal(shown.masked, shown.learned)


def test_confidence_is_the_largest_probability_without_dropout_or_gradient():
    model = network().train()
    sure = confidence(model, HISTORY)
    assert model.training
    assert not sure.requires_grad
    assert torch.equal(sure, confidence(model, HISTORY))  # dropout of 0.2 is off
    model.eval()
    blank = torch.ones(3, 1, 3, dtype=torch.bool)
    logits = model.decode(model.encode(HISTORY), torch.zeros(3, 1, 3, dtype=torch.int64), blank)
    assert torch.allclose(sure, logits[:, 0].softmax(-1).amax(-1))


def test_no_gradient_through_the_confidence_pass():
    """The gradient of a step is that of its views held fixed."""

    def gradient(shown_by):
        model = network().eval()
        shown = shown_by(model)
        logits = model.decode(model.encode(HISTORY), TARGETS[:, None].expand(3, 3, 3), shown.masked)
        loss(logits, TARGETS, shown).backward()
        return [p.grad.clone() for p in model.parameters()]

    fixed = views("coherent", network(), HISTORY, chance())
    mine = gradient(lambda model: views("coherent", model, HISTORY, chance()))
    assert all(torch.equal(a, b) for a, b in zip(mine, gradient(lambda model: fixed), strict=True))
    assert any(bool(g.any()) for g in mine)


@pytest.mark.parametrize("noise", ["coherent", "random", "independent", "left"])
@pytest.mark.parametrize("reduction", ["pooled", "views"])
def test_visible_digits_have_no_gradient(noise, reduction):
    shown = views(noise, network(), HISTORY, chance())
    logits = torch.randn(3, 3, 3, 4, generator=chance(), requires_grad=True)
    loss(logits, TARGETS, shown, reduction=reduction).backward()
    assert (logits.grad[~shown.learned] == 0).all()
    assert (logits.grad[shown.learned] != 0).all()


def test_the_two_means():
    """Pooled: over all learned digits. Views: within a view, then over views. By hand."""
    logits = torch.randn(3, 3, 3, 4, generator=chance(), dtype=torch.float64)
    shown = nested(torch.rand(3, 3, generator=chance()))
    each = -logits.log_softmax(-1).gather(-1, TARGETS[:, None, :, None].expand(3, 3, 3, 1))[..., 0]
    smooth = 0.8 * each - 0.2 * logits.log_softmax(-1).mean(-1)
    pooled, within = [], []
    for row in range(3):
        for view in range(3):
            values = [float(smooth[row, view, d]) for d in range(3) if shown.masked[row, view, d]]
            pooled += values
            within.append(sum(values) / len(values))
    assert float(loss(logits, TARGETS, shown, smoothing=0.2)) == pytest.approx(sum(pooled) / 18)
    assert float(loss(logits, TARGETS, shown, smoothing=0.2, reduction="views")) == pytest.approx(sum(within) / 9)
    assert float(loss(logits, TARGETS, shown, smoothing=0.0)) == pytest.approx(
        float(functional.cross_entropy(
            logits[shown.masked], TARGETS[:, None].expand(3, 3, 3)[shown.masked]
        ))
    )  # fmt: skip


def test_other_noises():
    model = network()
    left = views("left", model, HISTORY, chance())
    assert left.masked[0].int().tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    assert left.learned[0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    path = views("random", model, HISTORY, chance())
    assert path.masked.sum(2).tolist() == [[1, 2, 3]] * 3
    many = HISTORY[1:2].expand(4000, 2, 3)
    counts = views("independent", model, many, chance()).masked.sum(2).flatten().bincount(minlength=4)
    assert counts[0] == 0
    assert (counts[1:].double() / 12000 - 1 / 3).abs().max() < 0.025  # 5.8 standard errors: false alarm below 1e-7
    with pytest.raises(RecommendError, match="expected one of coherent, random"):
        views("white", model, HISTORY, chance())
    with pytest.raises(RecommendError, match="expected one of pooled, views"):
        loss(torch.zeros(3, 3, 3, 4), TARGETS, path, reduction="sum")
