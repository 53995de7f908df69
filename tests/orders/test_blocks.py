"""Blocks counted over what is masked, and over the row with its prompt."""

import pytest
import torch

from demask.canvas import ABSENT, Canvas
from demask.contracts import Law, blocks
from demask.denoisers import Tempered
from demask.errors import OrderError
from demask.information import law
from demask.loop import sample
from demask.oracles import Table, parity
from demask.orders import Blockwise, Confidence, LeftToRight, Random
from demask.registry import build
from demask.samplers import Editing, Parallel
from demask.schedules import PerBlock, PerRow, Unlimited, uniform
from demask.testing import check_order


def ragged():
    """Four rows: left padding, right padding, a hole, none; in each a prompt of some tokens."""
    tokens = torch.zeros(4, 11).long()
    tokens[0, :3] = tokens[1, 8:] = ABSENT
    tokens[2, 5] = ABSENT
    masked = tokens != ABSENT
    for row, prompt in enumerate(([3, 4, 5], [0], [0, 1, 8], [])):
        masked[row, prompt] = False
    return Canvas(tokens, masked)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 20])
def test_numbers_by_counting(size):
    canvas = ragged()
    for over, counts in (("masked", lambda row, i: canvas.masked[row, i]), ("row", lambda row, i: not absent(row, i))):
        numbers = blocks(canvas, canvas.masked, size, over)
        for row in range(4):
            seen = 0
            for place in range(11):
                if canvas.masked[row, place]:
                    assert numbers[row, place] == seen // size
                seen += bool(counts(row, place))


def absent(row, place):
    canvas = ragged()
    return bool(~canvas.masked[row, place] & (canvas.tokens[row, place] == ABSENT))


@pytest.mark.parametrize("order", [Random(), LeftToRight(), Confidence()], ids=repr)
def test_every_block_of_the_row_has_its_own_schedule(order):
    canvas = ragged()
    oracle = parity(11)

    def denoiser(canvas, where):  # positions that do not exist are even
        return oracle(Canvas(canvas.tokens.clamp_min(0), canvas.masked), where)

    sampler = Parallel(PerBlock(PerRow(uniform, steps=2), 4, over="row"), Blockwise(order, 4, over="row"))
    run = sample(denoiser, sampler, canvas, key=3)
    numbers = blocks(canvas, canvas.masked, 4, "row")
    for row in range(4):
        step = 0
        for number in range(3):
            place = canvas.masked[row] & (numbers[row] == number)
            sizes = uniform(int(place.sum()), 2).sizes if place.any() else ()
            assert [int((run.when[row][place] == step + k).sum()) for k in range(len(sizes))] == list(sizes)
            step += len(sizes)
        assert run.nfe[row] == step


def test_a_row_does_not_depend_on_its_padding():
    """The same tokens, wherever the row stands: left, right, or alone."""
    law_of = Table.random(5, 3, key=4, concentration=0.5)
    masked = torch.tensor([[False, True, True, True, True]])

    def shifted(before, after):
        gone = torch.full((1, before), ABSENT), torch.full((1, after), ABSENT)
        tokens = torch.cat((gone[0], torch.zeros(1, 5).long(), gone[1]), 1)
        hidden = torch.cat((gone[0] > 0, masked, gone[1] > 0), 1)
        inside = slice(before, before + 5)

        def denoiser(canvas, where):
            answer = law_of(Canvas(canvas.tokens[:, inside], canvas.masked[:, inside]), where[:, inside])
            return type(answer)(where, answer.logits)

        order = Blockwise(Confidence(), 2, over="row")
        run = sample(
            Tempered(denoiser, 0),
            Parallel(PerBlock(PerRow(uniform, 2), 2, over="row"), order),
            Canvas(tokens, hidden),
            key=0,
        )
        return run.when[:, inside].tolist()

    assert shifted(0, 0) == shifted(3, 0) == shifted(0, 2) == shifted(1, 1)


def test_one_token_at_a_time_is_exact():
    table = Table.random(4, 2, key=9, concentration=0.3)
    sampler = Parallel(PerBlock(uniform(2, 2), 2, over="row"), Blockwise(Confidence(), 2, over="row"))
    assert table.kl(law(table, sampler)) < 1e-9
    check_order(Blockwise(Confidence(), 3, over="row"), Table.random(4, 2, key=1))
    assert Parallel(Unlimited(), Blockwise(Random(), 3, over="row")).law is Law.FACTORISED


def test_specifications_and_refusals():
    for text, kind in [
        ("Blockwise(Random(), 4, over='row')", "order"),
        ("PerBlock(uniform(steps=2), 4, over='row')", "schedule"),
    ]:
        assert repr(build(text, kind)) == text
    for make in (
        lambda over, size: Blockwise(Random(), size, over=over),
        lambda over, size: PerBlock(Unlimited(), size, over=over),
        lambda over, size: Editing(Parallel(Unlimited(), Random()), 0.9, size, over=over),
    ):
        with pytest.raises(OrderError, match="over 'prompt'; expected 'masked' or 'row'"):
            make("prompt", 4)
        for size in (0, -1, 2.0, True):
            with pytest.raises(OrderError, match="expected an integer >= 1"):
                make("row", size)
