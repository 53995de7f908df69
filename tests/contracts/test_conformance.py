"""Every component of the registry passes the public conformance checks, and the checks catch what they should."""

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.contracts import Law
from demask.denoisers import Tempered
from demask.oracles import Oracle, Table
from demask.orders import (
    Blockwise,
    Confidence,
    Deferred,
    Entropy,
    EntropyBudget,
    Factor,
    Hierarchical,
    Independent,
    LeftToRight,
    Margin,
    Noisy,
    Pooled,
    Threshold,
)
from demask.registry import KINDS, build
from demask.samplers import Parallel
from demask.schedules import PerBlock, PerRow, Plan, Systematic, Unlimited, minimax, uniform
from demask.testing import check_denoiser, check_law, check_order, check_schedule

SKEWED = Table.random(4, 2, key=5, concentration=0.4)
XOR = Table.dense([[[0.3, 0.02], [0.03, 0.15]], [[0.01, 0.2], [0.25, 0.04]]])
WRAPPED = {
    "Blockwise": lambda: Blockwise(Confidence(), 2),
    "Deferred": lambda: Deferred(Confidence(), (1,)),
    "EntropyBudget": lambda: EntropyBudget(Entropy(), 0.3),
    "Factor": lambda: Factor(Confidence(), 1.0),
    "Hierarchical": lambda: Hierarchical(Confidence(), 0.8, 0.3),
    "Independent": lambda: Independent(Confidence(), 0.05, "mode"),
    "Noisy": lambda: Noisy(Margin(), 0.3),
    "Pooled": lambda: Pooled(Confidence(), 2),
    "Threshold": lambda: Threshold(Blockwise(Confidence(), 3), 0.6),
}
ORDERS = {name: WRAPPED.get(name, entry) for name, entry in KINDS["order"].items()}
SCHEDULES = {
    "PerBlock": lambda n: PerBlock(PerRow(uniform, steps=2), 3),
    "Plan": lambda n: uniform(n, 3),
    "Systematic": lambda n: Systematic([0.5] * (n - 1)),
    "Unlimited": lambda n: Unlimited(),
    "two_number": lambda n: build("two_number(tc=1.0, dtc=0.5)", "schedule", length=n, steps=3),
    "hedged": lambda n: build("hedged", "schedule", curve=[float(n - j) for j in range(n)], steps=3),
    "optimal": lambda n: build("optimal", "schedule", curve=[float(n - j) for j in range(n)], steps=3),
}
ORACLES = {"table": "table(3, 3)", "copy": "copy(4)", "insert": "insert(3)", "remove": "remove(4)", "replace": "replace(4)",
           "reverse": "reverse(3)", "shuffle": "shuffle(4)", "latin_square": "latin_square", "parity": "parity(4)",
           "repetition": "repetition(3, 5)", "reed_solomon": "reed_solomon(5, 2)", "markov": "markov(6, 3)"}  # fmt: skip


@pytest.mark.parametrize("name", KINDS["order"])
@pytest.mark.parametrize("oracle", [SKEWED, XOR], ids=["skewed", "xor"])
def test_orders(name, oracle):
    check_order(ORDERS[name](), oracle)
    check_order(Blockwise(ORDERS[name](), 2), oracle)


@pytest.mark.parametrize("name", KINDS["schedule"])
@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_schedules(name, length):
    make = SCHEDULES.get(name, lambda n: build(name, "schedule", length=n, steps=3))
    check_schedule(make(length), length=length)
    if name not in SCHEDULES:
        check_schedule(build(name, "schedule", steps=4), length=length)


@pytest.mark.parametrize("name", KINDS["oracle"])
def test_oracles(name):
    oracle = build(ORACLES[name], "oracle")
    tokens = oracle.sample(5, key=1)
    masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    masked[0], masked[1] = True, False
    check_denoiser(oracle, Canvas(tokens, masked))
    assert isinstance(oracle, Oracle)
    assert oracle.log_prob(tokens).isfinite().all()
    curve = oracle.curve()
    assert len(curve) == oracle.length
    assert curve.monotone


@pytest.mark.parametrize("schedule", [Plan([1] * 3), PerRow(minimax, steps=2), uniform(3, 2), Unlimited()], ids=repr)
@pytest.mark.parametrize("name", KINDS["order"])
def test_compositions_keep_their_law(name, schedule):
    check_law(Parallel(schedule, ORDERS[name]()), XOR)


def test_wrappers():
    check_denoiser(Tempered(SKEWED, 0.5), Canvas.blank(3, 4))


def test_checks_catch_offenders():
    canvas = Canvas.blank(2, 4)

    def peeking(canvas, where):
        answer = SKEWED(canvas, where)
        return Marginals(where, answer.logits + canvas.tokens[where][:, None] * torch.tensor([0.0, 1.0]))

    with pytest.raises(AssertionError, match="under the masks"):
        check_denoiser(peeking, canvas)

    def mixing(canvas, where):
        answer = SKEWED(canvas, where)
        return Marginals(where, answer.logits + canvas.shape[0] * torch.tensor([0.0, 1.0]))

    with pytest.raises(AssertionError, match="leaving row 0 alone"):
        check_denoiser(mixing, canvas)

    def whole(canvas, where):
        return SKEWED(canvas, canvas.masked)

    with pytest.raises(AssertionError, match=r"fewer positions|logits"):
        check_denoiser(lambda c, w: Marginals(w, whole(c, w).logits[: int(w.sum())].flip(0)), canvas)

    class Liar:
        law, unit = Law.FACTORISED, "log-probability"

        def score(self, step):
            return Confidence("draft").score(step)

    with pytest.raises(AssertionError, match="claims the exact law"):
        check_order(Liar(), SKEWED)

    class Eager(Liar):
        def score(self, step):
            return torch.zeros(step.open.shape)

    with pytest.raises(AssertionError, match="visible position"):
        check_order(Eager(), SKEWED)

    class Careless(Liar):
        def score(self, step):
            scores = LeftToRight().score(step)
            step.open.logical_not_()
            return scores

    with pytest.raises(AssertionError, match="wrote to a mask"):
        check_order(Careless(), SKEWED)

    def careless(canvas, where):
        answer = SKEWED(canvas, where.clone())
        where.fill_(False)
        return answer

    with pytest.raises(AssertionError, match="wrote to the mask"):
        check_denoiser(careless, Canvas.blank(2, 4))

    class Lazy:
        def count(self, step, scores):
            return torch.zeros(len(scores), dtype=torch.int64)

    with pytest.raises(AssertionError, match="unmask nothing"):
        check_schedule(Lazy(), length=4)

    class Boastful(Systematic):
        def residual(self):
            return super().residual() * 0.5

    with pytest.raises(AssertionError, match="not that of the mixture"):
        check_schedule(Boastful([0.5, 0.25, 0.25]), length=4)
