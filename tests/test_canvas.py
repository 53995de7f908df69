import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from demask.canvas import Canvas, Marginals


def marginals(logits, temperature=1.0):
    return Marginals(torch.ones(1, len(logits), dtype=torch.bool), logits, temperature)


def reference(logits):
    logp = logits.double().log_softmax(-1)
    p = logp.exp()
    two = p.topk(2, -1).values
    return {
        "peak": logp.amax(-1),
        "logsumexp": logits.double().logsumexp(-1),
        "mode": logp.argmax(-1),
        "entropy": torch.special.entr(p).sum(-1),
        "margin": two[:, 0] - two[:, 1],
    }


@pytest.mark.parametrize(("rows", "width"), [(1, 2), (7, 27), (40, 5000), (9, 140_000)])
@pytest.mark.parametrize("scale", [0.3, 4.0, 60.0])
def test_reductions(rows, width, scale):
    logits = torch.randn(rows, width, generator=torch.Generator().manual_seed(width)) * scale + 5
    logits[:, 1] = -torch.inf
    m, expected = marginals(logits), reference(logits)
    for name, value in expected.items():
        tolerance = 0 if name == "mode" else 3e-6 * max(1.0, float(value.abs().max()), scale)
        assert (getattr(m, name).double() - value).abs().max() <= tolerance, name


def test_half_precision_is_reduced_in_float32():
    logits = (torch.randn(6, 3000, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    m, expected = marginals(logits), reference(logits)
    for name in ("peak", "entropy", "logsumexp", "margin"):
        assert getattr(m, name).dtype == torch.float32
        assert (getattr(m, name).double() - expected[name]).abs().max() < 2e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_proper_is_a_finite_normaliser_in_every_row(dtype):
    most = 3e4  # near the largest of float16
    for row, proper in (
        ([0.0, 1.0], True),
        ([-torch.inf, 3.0], True),
        ([most, -most], True),
        ([-torch.inf, -torch.inf], False),
        ([torch.inf, 0.0], False),
        ([torch.nan, 0.0], False),
    ):
        m = marginals(torch.tensor([[0.0, 0.0], row, [-torch.inf, 0.0]], dtype=dtype))
        assert m.proper is proper is bool(m.logsumexp.isfinite().all()), row
    assert marginals(torch.zeros(0, 3, dtype=dtype)).proper


def test_double_stays_double():
    logits = torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (marginals(logits).entropy - reference(logits)["entropy"]).abs().max() < 1e-13
    assert (marginals(logits).peak - reference(logits)["peak"]).abs().max() < 1e-13


def test_each_reduction_is_made_once(monkeypatch):
    m = marginals(torch.randn(5, 9, generator=torch.Generator().manual_seed(0)))
    first = (m.peak, m.logsumexp, m.entropy, m.mode)
    object.__setattr__(m, "logits", None)
    assert all(torch.equal(a, b) for a, b in zip(first, (m.peak, m.logsumexp, m.entropy, m.mode), strict=True))


def test_only_keeps_what_is_known():
    where = torch.tensor([[True, False, True], [True, True, False]])
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    m = Marginals(where, logits, 0.5)
    assert m.entropy.shape == m.peak.shape == (4,)
    part = m.only(torch.tensor([[False, False, True], [True, False, False]]))
    assert torch.equal(part.logits, logits[[1, 2]])
    assert part.temperature == 0.5
    object.__setattr__(part, "logits", None)  # nothing is read again
    assert torch.equal(part.entropy, m.entropy[[1, 2]])
    assert torch.equal(part.peak, m.peak[[1, 2]])
    assert m.spread(m.mode, fill=-1).tolist()[0][1] == -1


def test_logp():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([0, 5, 2, 2])
    expected = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert torch.allclose(marginals(logits).logp(tokens), expected, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.floats(0.2, 3), st.integers(0, 10**6))
def test_draw_inverts_the_cumulative_sum(width, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, width, dtype=torch.float64, generator=generator) * 3
    p = (logits / temperature).softmax(-1)[0]
    edges = p.cumsum(0)
    for level in (0.0, 0.25, 0.5, float(torch.rand((), generator=generator)), 1 - 2**-53):
        token = int(marginals(logits, temperature).draw(torch.tensor([level], dtype=torch.float64)))
        assert token == 0 or edges[token - 1] <= level + 1e-9
        assert edges[token] >= level - 1e-9


@pytest.mark.parametrize("width", [2049, 4096, 100_003])
def test_draw_of_a_large_vocabulary(width):
    """Two levels of search give the shares of one: 512 even levels against the exact cumulative sum."""
    logits = torch.randn(width, generator=torch.Generator().manual_seed(1)) * 3
    logits[::7] = -torch.inf
    levels = (torch.arange(512, dtype=torch.float64) + 0.5) / 512
    tokens = marginals(logits.expand(512, width)).draw(levels)
    edges = logits.double().softmax(-1).cumsum(0)
    assert torch.isfinite(logits[tokens]).all()
    assert (edges[tokens] >= levels - 2e-6).all()
    before = torch.where(tokens > 0, edges[(tokens - 1).clamp(min=0)], 0.0)
    assert (before <= levels + 2e-6).all()


def test_draw_never_takes_an_impossible_token():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf], [0.0, -torch.inf, -torch.inf], [-torch.inf, -torch.inf, 3.0]])
    for level in (0.0, 1e-300, 0.5, 1 - 2**-53):
        assert marginals(logits).draw(torch.full((3,), level, dtype=torch.float64)).tolist() == [1, 0, 2]
    wide = torch.full((2, 5000), -torch.inf)
    wide[0, 4999] = wide[1, 0] = 0.0
    for level in (0.0, 0.7, 1 - 2**-53):
        assert marginals(wide).draw(torch.full((2,), level, dtype=torch.float64)).tolist() == [4999, 0]


def test_temperature():
    logits = torch.tensor([[0.0, 1.0, 0.5]])
    assert marginals(logits).tempered(0).draw(torch.tensor([0.999])).tolist() == [1]
    assert marginals(logits).tempered(0.5).tempered(0.5).temperature == 0.25
    level = torch.tensor([0.3], dtype=torch.float64)
    for temperature in (0.25, 2.0):
        p = (logits[0].double() / temperature).softmax(-1).cumsum(0)
        assert marginals(logits).tempered(temperature).draw(level).item() == int((p <= 0.3).sum())


def test_empty():
    m = Marginals(torch.zeros(2, 3, dtype=torch.bool), torch.zeros(0, 5))
    assert m.entropy.shape == m.peak.shape == m.draw(torch.zeros(0)).shape == (0,)


def test_one_token():
    m = marginals(torch.zeros(3, 1))
    assert m.margin.tolist() == [1.0] * 3
    assert m.entropy.tolist() == [0.0] * 3
    assert math.isclose(float(m.peak[0]), 0.0)


def test_canvas_rows_and_repr():
    canvas = Canvas.blank(3, 2).unmask(torch.tensor([[True, False]] * 3), torch.tensor([[4, 0], [5, 0], [6, 0]]))
    assert repr(canvas) == "Canvas([[4, _], [5, _], [6, _]])"
    assert canvas.rows(torch.tensor([2, 0])).tokens[:, 0].tolist() == [6, 4]
    assert canvas.shape == (3, 2)


def test_all_that_were_asked_are_kept_without_a_copy():
    answer = marginals(torch.randn(4, 9, generator=torch.Generator().manual_seed(0)))
    known = answer.entropy
    same = answer.only(answer.where.clone())
    assert same.logits.data_ptr() == answer.logits.data_ptr()
    assert torch.equal(same.entropy, known)
    where = torch.tensor([[True, False, True, True]])
    assert torch.equal(answer.only(where).logits, answer.logits[[0, 2, 3]])
    assert torch.equal(answer.only(where).entropy, known[[0, 2, 3]])


@pytest.mark.parametrize("width", [2048, 2049, 4096, 5000, 126_464])
def test_the_mode_of_a_large_vocabulary_is_the_first_of_equals(width):
    chance = torch.Generator().manual_seed(width)
    rows = torch.randn(8, width, generator=chance)
    last = torch.zeros(8, width)
    last[:, -1] = 1
    half = torch.where(torch.arange(width) < width // 2, -torch.inf, rows)
    empty = torch.full((8, width), -torch.inf)
    for logits in (rows, rows.round(), rows.bfloat16(), last, half, empty):
        where = torch.ones(1, 8, dtype=torch.bool)
        assert torch.equal(Marginals(where, logits).mode, logits.argmax(-1))


def test_what_a_draw_finds_on_the_way_is_what_would_have_been_computed():
    """The largest logit and the normaliser of a draw at temperature 1, and the largest logit of a mode."""
    logits = 3 * torch.randn(4, 5_000, generator=torch.Generator().manual_seed(1))
    fresh, drawn, moded = marginals(logits), marginals(logits), marginals(logits)
    drawn.draw(torch.full((4,), 0.3, dtype=torch.float64))
    assert torch.equal(moded.mode, logits.argmax(1))
    for other in (drawn, moded):
        assert torch.allclose(other.peak, fresh.peak, rtol=1e-6, atol=1e-6)
        assert torch.allclose(other.logsumexp, fresh.logsumexp, rtol=1e-6)
    tempered = marginals(logits).tempered(0.5)
    tempered.draw(torch.full((4,), 0.3, dtype=torch.float64))
    assert torch.equal(tempered.peak, fresh.peak)


def test_all_that_was_asked_is_the_same_answer():
    """Keeping all positions copies nothing and computes nothing twice."""
    m = marginals(torch.randn(2, 5))
    assert m.only(m.where.clone()) is m
    assert m.only(m.where) is m


@pytest.mark.parametrize("width", [9, 3_000, 70_000])
@pytest.mark.parametrize("index", [[3], [0, 1, 3, 5], [1, 5]])
def test_kept_rows_answer_as_rows_of_their_own_and_large_ones_are_not_copied(width, index):
    logits = 2 * torch.randn(6, width, generator=torch.Generator().manual_seed(width))
    logits[:, 2] = -torch.inf
    whole = marginals(logits)
    where = torch.isin(torch.arange(6), torch.tensor(index))[None]
    within = torch.tensor([i in index or i == 2 for i in range(6)])[None]
    level = torch.rand(len(index), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for keep in (lambda: whole.only(where), lambda: whole.only(within).only(where)):
        for name in ("mode", "peak", "entropy", "logsumexp"):
            kept = keep()
            assert torch.equal(getattr(kept, name), getattr(marginals(logits[index]), name)), name
            assert width <= 2048 or "logits" not in vars(kept)
        kept = keep()
        drawn = kept.draw(level)
        assert torch.equal(drawn, marginals(logits[index]).draw(level))
        assert torch.allclose(
            kept.logp(drawn), logits[index].log_softmax(-1).gather(1, drawn[:, None])[:, 0], atol=1e-5
        )
        assert width <= 2048 or "logits" not in vars(kept)
        assert kept.vocabulary == width
        assert torch.equal(kept.logits, logits[index])
        assert torch.equal(keep().tempered(0.0).draw(level), logits[index].argmax(-1))
        assert torch.equal(replace(keep(), logits=logits[index] / 2).entropy, marginals(logits[index] / 2).entropy)
