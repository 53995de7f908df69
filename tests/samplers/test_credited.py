"""Credit for earlier modes, against a plain transcription with one number per position and token."""

import pytest
import torch

from demask.canvas import Canvas
from demask.contracts import Law
from demask.denoisers import Tempered
from demask.errors import OrderError
from demask.loop import sample
from demask.oracles import Table
from demask.orders import Blockwise, Confidence, Random, Threshold
from demask.samplers import SMC, Credited, Ended, Parallel, Remasking, SelfReward
from demask.schedules import PerRow, Unlimited, uniform


def transcription(table, length, size, least, weight, power, decay):
    """One row at temperature 0: tokens, when, and how often credit changed what went."""
    tokens, masked = torch.zeros(1, length, dtype=torch.int64), torch.ones(1, length, dtype=torch.bool)
    when, turn, moved = [-1] * length, 0, 0
    for begin in range(0, length, size):
        block = torch.zeros_like(masked)
        block[:, begin : begin + size] = True
        credit = torch.zeros(length, 3, dtype=torch.float64)
        while bool((masked & block).any()):
            where = masked & block
            places = where[0].nonzero()[:, 0].tolist()
            logits = dict(zip(places, table(Canvas(tokens, masked), where).logits, strict=True))
            credit *= decay
            fused = {}
            for i in places:
                p = logits[i].softmax(-1)
                credit[i, p.argmax()] += p.max() ** power
                fused[i] = (logits[i] + weight * (1 + credit[i]).log()).softmax(-1)
            top = max(places, key=lambda i: float(fused[i].max()))
            goes = [i for i in places if float(fused[i].max()) >= least or i == top]
            plain = [i for i in places if float(logits[i].softmax(-1).max()) >= least]
            moved += len(goes) > max(1, len(plain))
            for i in goes:
                tokens[0, i], masked[0, i], when[i] = int(fused[i].argmax()), False, turn
            turn += 1
    return tokens.tolist(), when, turn, moved


@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize(("weight", "power", "decay"), [(0.7, 0.2, 0.8), (2.0, 1.0, 0.5), (0.0, 0.2, 0.8)])
def test_it_is_the_transcription(size, weight, power, decay):
    moved = 0
    for key in range(40):
        table = Table.random(6, 3, key=key, concentration=0.3)
        inner = Parallel(Unlimited(), Threshold(Blockwise(Confidence(), size), 0.8))
        sampler = Credited(inner, weight=weight, power=power, decay=decay)
        run = sample(Tempered(table, 0), sampler, Canvas.blank(1, 6), key=0)
        tokens, when, turns, more = transcription(table, 6, size, 0.8, weight, power, decay)
        assert (run.tokens.tolist(), run.when.tolist(), run.nfe.tolist()) == (tokens, [when], [turns]), key
        moved += more
        if weight == 0:
            plain = sample(Tempered(table, 0), inner, Canvas.blank(1, 6), key=0)
            assert torch.equal(plain.when, run.when)
    assert (moved > 0) == (weight > 0)


def test_rows_are_alone():
    """Also where some positions have had more modes than others, and where particles carry the ledger with them."""
    table = Table.random(6, 3, key=2, concentration=0.4)
    for sampler in (
        Credited(Parallel(PerRow(uniform, 4), Random())),
        Credited(Parallel(Unlimited(), Threshold(Confidence("draft"), 0.9))),
        SMC(Credited(Parallel(Unlimited(), Threshold(Confidence(), 0.8))), SelfReward(), 3, threshold=1.0),
        Ended(Credited(Parallel(PerRow(uniform, 4), Confidence())), 1),
    ):
        tokens = table.sample(9, key=1)
        masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(3)) < 0.8
        masked[2] = False
        canvas = Canvas(tokens, masked)
        run = sample(table, sampler, canvas, key=4)
        assert torch.equal(run.tokens[~masked], tokens[~masked])
        for row in (torch.tensor([0]), torch.tensor([6])):
            alone = sample(table, sampler, canvas.rows(row), key=4, names=row)
            assert torch.equal(alone.tokens[0], run.tokens[row[0]])
            assert alone.nfe[0] == run.nfe[row[0]]


def test_refusals():
    inner = Parallel(Unlimited(), Random())
    assert Credited(inner).law is Law.TILTED
    for options, message in (
        ({"weight": -1.0}, r"weight = -1.0; expected a number in \[0, 1000\], such as 0.7"),
        ({"power": float("nan")}, "power = nan"),
        ({"decay": 1.1}, r"decay = 1.1; expected a number in \[0, 1\], such as 0.8"),
    ):
        with pytest.raises(OrderError, match=message):
            Credited(inner, **options)
    with pytest.raises(OrderError, match="credit around Remasking; expected Parallel"):
        Credited(Remasking(4))
