"""The beam against enumeration: scores are log p, an unlimited beam is exact, copies and last tokens as stated."""

import itertools

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.errors import CanvasError, DenoiserError
from demask.loop import sample
from demask.oracles import Table
from demask.orders import Confidence, LeftToRight
from demask.samplers import Beam, Logp

TABLE = Table.random(3, 4, key=3, concentration=0.5)
EVERY = torch.tensor(list(itertools.product(range(4), repeat=3)))
TRUTH = TABLE.log_prob(EVERY)


def search(denoiser, beam, *, searches=1, length=3):
    run = sample(denoiser, beam, Canvas.blank(searches * beam.width, length), key=0, collect=[Logp()])
    return run, run.collected["logp"]


def top(count):
    order = TRUTH.argsort(descending=True)[:count]
    return EVERY[order].tolist(), TRUTH[order]


@pytest.mark.parametrize(
    "beam",
    [Beam(5), Beam(64), Beam(64, last="all"), Beam(9, copies="merged"), Beam(300, copies="merged", last="all"),
     Beam(7, order=LeftToRight()), Beam(7, order=Confidence(), last="all")],
    ids=repr,
)  # fmt: skip
def test_scores_are_log_p(beam):
    """Whatever the order in which a branch was filled; rows without a branch are masked and score -inf."""
    run, logp = search(TABLE, beam)
    live = logp > -torch.inf
    assert live.any()
    assert ((run.when == -2).any(1) == ~live).all()
    assert (logp[live] - TABLE.log_prob(run.tokens[live])).abs().max() < 1e-13
    assert (logp[:-1] >= logp[1:] - 1e-13)[live[1:]].all()
    assert run.status.name == "FINISHED"


def test_unlimited_beam_is_exact():
    """48 partial states of two tokens at most (and 64 full ones): all fillings, in order, each once."""
    run, logp = search(TABLE, Beam(64, copies="merged", last="all"))
    tokens, truth = top(64)
    assert run.tokens.tolist() == tokens
    assert (logp - truth).abs().max() < 1e-13
    # without merging there are 12 * 8 = 96 ordered partial paths, and 384 complete ones
    run, logp = search(TABLE, Beam(384, last="all"))
    assert run.tokens[::6].tolist() == tokens
    assert (logp.view(64, 6) - truth[:, None]).abs().max() < 1e-13


def test_left_to_right_unlimited_is_exact():
    run, _ = search(TABLE, Beam(64, order=LeftToRight(), last="all"))
    assert run.tokens.tolist() == top(64)[0]
    assert run.nfe.sum() == 1 + 4 + 16


def test_a_small_beam_may_miss():
    """Why the claim needs an unlimited beam: over random laws a beam of 5 loses one of the top 5 somewhere."""
    missed = 0
    for key in range(20):
        table = Table.random(3, 4, key=key)
        truth = EVERY[table.log_prob(EVERY).argsort(descending=True)[:5]].tolist()
        run, _ = search(table, Beam(5, copies="merged", last="all"))
        missed += run.tokens.tolist() != truth
    assert 0 < missed < 20


def test_last_by_mode_cannot_reach_some():
    """The published last step finds no filling that is never the mode of its last token."""
    run, logp = search(TABLE, Beam(384, copies="merged"))
    found = {tuple(row) for row in run.tokens[logp > -torch.inf].tolist()}
    modes = set()
    for place in range(3):
        cube = TRUTH.view(4, 4, 4).movedim(place, -1).argmax(-1)
        for rest in itertools.product(range(4), repeat=2):
            filled = list(rest)
            filled.insert(place, int(cube[rest]))
            modes.add(tuple(filled))
    assert found == modes
    assert len(modes) < 64


def test_copies_take_places():
    """Two independent places: the best pair is reached in two orders, so both rows of a beam of two hold it."""
    shares = torch.tensor([6, 3, 2, 1], dtype=torch.float64) / 12
    bits = Table(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]), shares.log(), 2)
    run, _ = search(bits, Beam(2, last="all"), length=2)
    assert run.tokens.tolist() == [[0, 0], [0, 0]]
    run, logp = search(bits, Beam(2, copies="merged", last="all"), length=2)
    assert run.tokens.tolist() == [[0, 0], [0, 1]]
    assert logp.exp().tolist() == pytest.approx([0.5, 0.25])


def test_merging_keeps_the_best_copy():
    """A denoiser that is no joint law gives one filling two scores; the merged branch has the larger."""

    def denoiser(canvas, where):
        other = canvas.masked.flip(1)  # is the other place masked too?
        law = torch.where(other[..., None], torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1]))
        law[:, 1] = torch.where(other[:, 1, None], torch.tensor([0.8, 0.2]), torch.tensor([0.7, 0.3]))
        return Marginals(where, law[where].log())

    run, logp = search(denoiser, Beam(32, copies="merged", last="all"), length=2)
    found = {tuple(t): float(s.exp()) for t, s in zip(run.tokens.tolist(), logp, strict=True) if s > -torch.inf}
    assert found == pytest.approx({(0, 0): 0.72, (1, 0): 0.35, (0, 1): 0.18, (1, 1): 0.15})


def test_labels_may_be_permuted():
    """New names for the tokens of each place permute what is found, and nothing else."""
    swap = torch.tensor([2, 0, 3, 1])
    order = swap.argsort()

    def renamed(canvas, where):
        inner = TABLE(Canvas(order[canvas.tokens.clamp(0, 3)], canvas.masked), where)
        return Marginals(where, inner.logits[:, order])

    mine, mine_logp = search(TABLE, Beam(6))
    theirs, theirs_logp = search(renamed, Beam(6))
    assert swap[mine.tokens].tolist() == theirs.tokens.tolist()
    assert (mine_logp - theirs_logp).abs().max() < 1e-13


def test_searches_do_not_meet_and_prompts_stay():
    """Two searches with other prompts, one of them shorter, are what each is alone."""
    beam = Beam(4, copies="merged", last="all")
    tokens = torch.tensor([[1, 0, 0], [0, 2, 3]]).repeat_interleave(4, 0)
    masked = torch.tensor([[False, True, True], [True, False, False]]).repeat_interleave(4, 0)
    both = sample(TABLE, beam, Canvas(tokens, masked), key=0, collect=[Logp()])
    for part in (slice(0, 4), slice(4, 8)):
        alone = sample(TABLE, beam, Canvas(tokens[part], masked[part]), key=0, collect=[Logp()])
        assert torch.equal(alone.tokens, both.tokens[part])
        assert torch.equal(alone.collected["logp"], both.collected["logp"][part])
    assert both.tokens[:4, 0].tolist() == [1] * 4
    assert both.tokens[4:, 1:].tolist() == [[2, 3]] * 4
    assert both.steps.tolist() == [2] * 4 + [1] * 4


def test_bad_input():
    with pytest.raises(CanvasError, match="expected an integer >= 1"):
        Beam(0)
    with pytest.raises(DenoiserError, match="expected one of kept, merged"):
        Beam(2, copies="some")
    with pytest.raises(CanvasError, match="3 rows for a beam of 2"):
        sample(TABLE, Beam(2), Canvas.blank(3, 3), key=0)
    differing = Canvas(torch.tensor([[0, 0, 0], [1, 0, 0]]), torch.tensor([[False, True, True]] * 2))
    with pytest.raises(CanvasError, match="rows of one search differ"):
        sample(TABLE, Beam(2), differing, key=0)
    with pytest.raises(DenoiserError, match="no distribution"):
        search(lambda canvas, where: Marginals(where, torch.full((int(where.sum()), 4), torch.nan)), Beam(2))
