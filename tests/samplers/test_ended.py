"""The law of a text that may end, by enumeration of everything that can happen."""

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.contracts import Law
from demask.information import law
from demask.loop import sample
from demask.oracles import Chain, Table
from demask.orders import Blockwise, Confidence, LeftToRight, Random
from demask.samplers import Ended, Parallel
from demask.schedules import PerBlock, PerRow, Plan, minimax, uniform
from demask.testing import check_law

END = 2
# Whatever follows an end is the end.
ENDING = Chain.markov([0.5, 0.3, 0.2], [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.0, 0.0, 1.0]], length=4)
TABLE = Table.random(3, 3, key=4, concentration=0.5)  # says anything behind an end


def texts(table):
    """The law of what stands before the first end."""
    out = {}
    for row, p in zip(table.sequences.tolist(), table.logp.exp().tolist(), strict=True):
        text = tuple(row[: row.index(END)] if END in row else row)
        out[text] = out.get(text, 0.0) + p
    return out


@pytest.mark.parametrize("order", [Random(), LeftToRight(), Confidence(), Blockwise(Random(), 2)], ids=repr)
def test_one_token_per_step_is_exact_where_the_model_knows_the_end(order):
    check_law(Ended(Parallel(Plan([1] * 4), order), END), ENDING)


def test_the_text_has_the_law_of_the_inner_sampler_from_the_left():
    """From the left nothing behind the end is seen, so the law of the text is the model's, whatever it says behind."""
    inner = Parallel(Plan([1] * 3), LeftToRight())
    ended, plain = texts(law(TABLE, Ended(inner, END))), texts(TABLE)
    assert ended.keys() == plain.keys()
    for text, p in plain.items():
        assert ended[text] == pytest.approx(p, abs=1e-9)


def test_the_law_is_that_of_the_denoiser_that_is_certain_behind_an_end():
    """In a random order the context behind the end matters: the law is that of the certain denoiser, by enumeration."""

    def certain(canvas, where):
        answer = TABLE(canvas, where)
        seen = ((canvas.tokens == END) & ~canvas.masked).cumsum(1) > 0
        sure = torch.tensor([-torch.inf, -torch.inf, 0.0], dtype=answer.logits.dtype)
        return type(answer)(where, torch.where(seen[where][:, None], sure, answer.logits))

    inner = Parallel(Plan([1] * 3), Random())
    ended = texts(law(TABLE, Ended(inner, END)))
    # The same by hand: one position after another in every order, everything behind an end written at once.
    expected = {}
    for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
        branches = [(1 / 6, [None] * 3)]
        for place in order:
            following = []
            for share, row in branches:
                if row[place] is not None:
                    following.append((share, row))
                    continue
                tokens = torch.tensor([[0 if token is None else token for token in row]])
                masked = torch.tensor([[token is None for token in row]])
                where = torch.arange(3)[None] == place
                for token, p in enumerate(certain(Canvas(tokens, masked), where).logits.exp()[0].tolist()):
                    new = list(row)
                    new[place] = token
                    if END in new:
                        new[new.index(END) :] = [END] * (3 - new.index(END))
                    following.append((share * p, new))
            branches = following
        for share, row in branches:
            text = tuple(row[: row.index(END)] if END in row else row)
            expected[text] = expected.get(text, 0.0) + share
    for text, p in expected.items():
        assert ended.get(text, 0.0) == pytest.approx(p, abs=1e-9)
    gap = max(abs(expected[text] - p) for text, p in texts(TABLE).items())
    assert gap > 1e-3, "this table shows no difference, so the test says nothing"


def test_nothing_behind_the_end_is_paid_for_or_left():
    canvas = Canvas.blank(256, 4)
    inner = Parallel(PerRow(uniform, steps=4), Random())
    run, plain = (sample(ENDING, sampler, canvas, key=0) for sampler in (Ended(inner, END), inner))
    assert run.nfe.sum() < plain.nfe.sum()
    assert (run.nfe <= 4).all()
    assert torch.equal(run.nfe, run.steps)
    ends = (run.tokens == END).cumsum(1) > 0
    assert (run.tokens[ends] == END).all()
    assert (run.when >= 0).all()
    first = run.tokens[:, 0] == END
    assert (run.when[first, 0] == run.nfe[first] - 1).all()  # a row is done in the step that draws its first token


@pytest.mark.parametrize(
    "inner",
    [
        Parallel(minimax(4, 2), Random()),
        Parallel(Plan((2, 2)), LeftToRight()),
        Parallel(PerBlock(PerRow(uniform, steps=2), 2), Blockwise(Confidence(), 2)),
    ],
    ids=repr,
)
def test_plans_cope_with_positions_that_vanish(inner):
    run = sample(ENDING, Ended(inner, END), Canvas.blank(128, 4), key=1)
    assert (run.steps <= 4).all()
    assert (run.when >= 0).all()
    assert Ended(inner, END).law is inner.law is Law.FACTORISED


def test_what_was_given_is_never_touched():
    tokens = torch.tensor([[0, 0, 0, 1], [END, 0, 0, 1]])
    masked = torch.tensor([[False, True, True, False], [False, True, True, False]])
    run = sample(
        _always_end, Ended(Parallel(PerRow(uniform, steps=2), LeftToRight()), END), Canvas(tokens, masked), key=0
    )
    assert run.tokens.tolist() == [[0, END, END, 1], [END, END, END, 1]]
    assert run.nfe.tolist() == [1, 1]


def _always_end(canvas, where):
    logits = torch.tensor([-torch.inf, -torch.inf, 0.0])
    return Marginals(where, logits.expand(int(where.sum()), 3))


def test_a_row_does_not_depend_on_its_batch():
    sampler = Ended(Parallel(PerRow(minimax, steps=2), Random()), END)
    names = torch.tensor([3, 141, 5, 92])
    together = sample(ENDING, sampler, Canvas.blank(4, 4), key=7, names=names)
    for row in range(4):
        alone = sample(ENDING, sampler, Canvas.blank(1, 4), key=7, names=names[row : row + 1])
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert alone.nfe[0] == together.nfe[row]
