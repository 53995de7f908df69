from dataclasses import dataclass

import torch

from demask.canvas import Canvas, Marginals
from demask.chance import Keyed
from demask.rows import join, kind, narrow, select


@dataclass(frozen=True, eq=False)
class Kept:
    canvas: Canvas
    open: torch.Tensor
    score: torch.Tensor
    chance: Keyed
    turn: int
    more: tuple


def kept(rows, width, turn=0, extra=None):
    canvas = Canvas.blank(rows, width)
    return Kept(canvas, canvas.masked, torch.arange(rows), Keyed.of(rows, torch.arange(rows)), turn, (extra,))


def test_what_is_joined_is_found_again_by_its_rows():
    parts = [kept(2, 3), kept(1, 5)]
    assert kind(parts[0], (2, 3)) == kind(parts[1], (1, 5))
    both = join(parts)
    assert both.canvas.shape == (3, 5)
    assert both.canvas.masked.sum(1).tolist() == [3, 3, 5]
    assert both.canvas.tokens[0].tolist() == [0, 0, 0, -1, -1]
    assert both.score.tolist() == [0, 1, 0]
    last = select(both, torch.tensor([2]))
    assert torch.equal(last.canvas.tokens, parts[1].canvas.tokens)
    assert torch.equal(last.open, parts[1].open)
    assert last.chance.path == (parts[1].chance.path,)


def test_what_cannot_be_joined_is_like_nothing():
    plain = kept(2, 3)
    ours = kind(plain, (2, 3))
    several = Canvas.blank(4, 3)  # two canvases of each row
    law = Marginals(plain.open, torch.zeros(6, 2))
    for other in (
        kept(2, 3, turn=1),
        kept(2, 3, extra=torch.zeros(4)),
        kept(2, 3, extra=several),
        kept(2, 3, extra=law),
    ):
        theirs = kind(other, (2, 3))
        assert theirs != ours
    assert kind(several, (2, 3)) != kind(several, (2, 3))
    assert kind(torch.zeros(1, 3), (1, 3)) != kind(torch.zeros(1, 4), (1, 4))


def test_positions_that_no_row_has_are_dropped_everywhere():
    both = join([kept(2, 5), kept(1, 3)])
    law = Marginals(both.open, torch.zeros(13, 2))
    left = select(both, torch.tensor([2]))
    short, answer = narrow((left, law.rows(torch.tensor([2]))), (1, 5), 3)
    assert short.canvas.shape == answer.where.shape == (1, 3)
    assert torch.equal(short.open, torch.ones(1, 3, dtype=torch.bool))
    assert (short.score.tolist(), short.turn) == ([0], 0)
    assert answer.logits.shape == (3, 2)
    assert torch.equal(short.chance.permutation(short.open), left.chance.permutation(left.open)[:, :3])
