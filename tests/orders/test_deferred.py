"""Positions that would end go last, against a transcription and by replay."""

import pytest
import torch

from demask.canvas import Canvas
from demask.denoisers import Tempered
from demask.errors import OrderError
from demask.loop import sample
from demask.oracles import Table
from demask.orders import Blockwise, Confidence, Deferred, Random
from demask.samplers import Parallel
from demask.schedules import PerRow, Plan, uniform
from demask.testing import check_law, check_order


@pytest.mark.parametrize("block", [3, 6])
def test_confidence_0_for_the_end(block):
    """The published rule, as it says: within the block, positions whose arg-max is the end have confidence 0."""
    different = 0
    for key in range(40):
        table = Table.random(6, 3, key=key, concentration=0.5)
        tokens, masked, when, turn = (
            torch.zeros(1, 6, dtype=torch.int64),
            torch.ones(1, 6, dtype=torch.bool),
            [0] * 6,
            0,
        )
        while bool(masked.any()):
            laws = dict(
                zip(masked[0].nonzero()[:, 0].tolist(), table(Canvas(tokens, masked), masked).logits, strict=True)
            )
            first = min(laws) // block
            among = {i: p for i, p in laws.items() if i // block == first}
            sure = {i: 0.0 if int(p.argmax()) == 2 else float(p.amax().exp()) for i, p in among.items()}
            best = max(sure.values())
            if best == 0.0:  # all of them would end: the published tie is broken by the confidence here
                sure = {i: float(p.amax().exp()) for i, p in among.items()}
            at = max(sure, key=lambda i: sure[i])
            tokens[0, at], masked[0, at], when[at], turn = int(laws[at].argmax()), False, turn, turn + 1
        canvas = Canvas.blank(1, 6)
        plain, deferred = (
            sample(Tempered(table, 0), Parallel(PerRow(uniform, 6), Blockwise(order, block)), canvas, key=0)
            for order in (Confidence(), Deferred(Confidence(), (2,)))
        )
        assert (deferred.tokens.tolist(), deferred.when.tolist()) == (tokens.tolist(), [when])
        different += not torch.equal(plain.when, deferred.when)
    assert different > 10


@pytest.mark.parametrize("order", [Deferred(Confidence(), (1,)), Deferred(Random(), (0,))], ids=repr)
def test_one_token_per_step_stays_exact(order):
    table = Table.random(4, 2, key=5, concentration=0.4)
    check_order(order, table)
    check_law(Parallel(Plan([1] * 4), order), table)


def test_refusals():
    for tokens in ((), (-1,), (True,)):
        with pytest.raises(OrderError, match="token ids >= 0"):
            Deferred(Confidence(), tokens)
