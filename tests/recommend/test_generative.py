"""The network as a denoiser under the one loop, and rankings made of what was generated."""

import itertools
from math import exp, log

import pytest
import torch

from demask.canvas import Canvas
from demask.errors import RecommendError
from demask.loop import sample
from demask.orders import Confidence, LeftToRight, Random
from demask.recommend import Catalogue, Catalogued, Dimensions, Generative, Given, Network, released
from demask.recommend.generative import padded
from demask.samplers import Beam, Logp, Parallel
from demask.schedules import PerRow, uniform
from demask.testing import check_denoiser
from tests.recommend.worlds import SHELF, SMALL

NETWORK = Network(SMALL, key=4).double().requires_grad_(False)
HISTORY = torch.tensor([[[-1, -1, -1], [0, 1, 2]], [[3, 3, 0], [1, 0, 1]]])
EVERY = torch.tensor(list(itertools.product(range(4), repeat=3)))
EXACT = Beam(64, copies="merged", last="all")


def chain(history, digits, order):
    """log p of digits unmasked one at a time in an order, straight from the network."""
    memory, masked, total = NETWORK.encode(history[None]), torch.ones(1, 1, 3, dtype=torch.bool), 0.0
    for place in order:
        logits = NETWORK.decode(memory, digits[None, None], masked)[0, 0, place]
        total += float(logits.log_softmax(-1)[digits[place]])
        masked = masked.clone()
        masked[0, 0, place] = False
    return total


def test_conformance():
    """Packed rows, no dependence on batch mates, on hidden tokens or on how many neighbours ask about one history."""
    given = Given.of(NETWORK, HISTORY)
    canvas = given.canvas(2)
    check_denoiser(given, canvas, atol=1e-12)
    some = Canvas(torch.tensor([[1, 2, 0, 0], [0, 0, 3, 0], [1, 0, 0, 1]]), torch.zeros(3, 4, dtype=torch.bool))
    some.masked[:, 1:] = torch.tensor([[False, True, True], [True, False, True], [True, True, False]])
    check_denoiser(given, some, atol=1e-12)


def test_padding_and_length_do_not_matter():
    short = Given.of(NETWORK, HISTORY[:1, 1:])
    both = Given.of(NETWORK, HISTORY)
    canvas = short.canvas()
    expected = short(canvas, canvas.masked).logits
    assert torch.allclose(both(canvas, canvas.masked).logits, expected, atol=1e-12)
    long = torch.cat((torch.randint(4, (1, 9, 3)), HISTORY[1:2]), 1)  # only the last six are seen
    again = Given.of(NETWORK, long[:, -6:])
    assert torch.equal(Given.of(NETWORK, long)(canvas, canvas.masked).logits, again(canvas, canvas.masked).logits)


def test_order_of_the_history_matters():
    canvas = Given.of(NETWORK, HISTORY).canvas()
    flipped = Given.of(NETWORK, HISTORY[1:].flip(1))
    alone = Given.of(NETWORK, HISTORY[1:])
    one = canvas.rows(torch.tensor([0]))
    assert (flipped(one, one.masked).logits - alone(one, one.masked).logits).abs().max() > 1e-3


def test_beam_from_the_left_is_the_chain_rule():
    """An unlimited beam lists every identifier by its log p; forward passes: 1 + 4 + 16 per history."""
    given = Given.of(NETWORK, HISTORY)
    run = sample(given, Beam(64, order=LeftToRight(), last="all"), given.canvas(64), key=0, collect=[Logp()])
    assert run.nfe.view(2, 64).sum(1).tolist() == [21, 21]
    for row in range(2):
        truth = torch.tensor([chain(HISTORY[row], digits, range(3)) for digits in EVERY], dtype=torch.float64)
        assert float(truth.exp().sum()) == pytest.approx(1.0)
        mine = slice(64 * row, 64 * row + 64)
        assert run.tokens[mine, 1:].tolist() == EVERY[truth.argsort(descending=True)].tolist()
        assert (run.collected["logp"][mine] - truth.sort(descending=True).values).abs().max() < 1e-12


def test_merged_beam_scores_the_best_order():
    """A network is no joint law, so orders differ: the unlimited merged beam has the best of all six."""
    given = Given.of(NETWORK, HISTORY[1:])
    run = sample(given, EXACT, given.canvas(64), key=0, collect=[Logp()])
    found = dict(zip(map(tuple, run.tokens[:, 1:].tolist()), run.collected["logp"].tolist(), strict=True))
    assert len(found) == 64
    for digits in EVERY[::7]:
        best = max(chain(HISTORY[1], digits, order) for order in itertools.permutations(range(3)))
        assert found[tuple(digits.tolist())] == pytest.approx(best, abs=1e-12)


def test_any_sampler_drives_it():
    given = Given.of(NETWORK, HISTORY)
    for steps, order in itertools.product((1, 2, 3), (Random(), Confidence(), Confidence("draft"))):
        run = sample(given, Parallel(PerRow(uniform, steps=steps), order), given.canvas(3), key=0)
        assert run.nfe.tolist() == [steps] * 6
        assert run.tokens[:, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_ranking_of_a_beam():
    """Legal, unique, in falling order, by the scores of the beam; items that share an identifier stand together."""
    codes = SHELF.codes.clone()
    codes[5] = codes[9]
    shelf = Catalogue(SHELF.items, codes, 4, SHELF.counts)
    ranker = Generative(NETWORK, shelf, EXACT)
    ranking, again = ranker.rank([(3, 7, 2), (11,)], 24)
    assert sorted(ranking.items) == list(range(24))
    assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
    assert ranking.source == "model"
    where = {item: place for place, item in enumerate(ranking.items)}
    assert abs(where[5] - where[9]) == 1
    assert ranking.scores[where[5]] == ranking.scores[where[9]]
    popular = 5 if int(shelf.counts[5]) >= int(shelf.counts[9]) else 9
    assert where[popular] == min(where[5], where[9])
    best = max(chain(codes[[3, 7, 2]], codes[4], order) for order in itertools.permutations(range(3)))
    assert ranking.scores[where[4]] == pytest.approx(best)
    assert ranker.rank([(11,)], 24)[0].items == again.items
    assert ranker.rank([(11,)], 5)[0].items == again.items[:5]


def test_small_beams_give_short_lists_and_catalogued_ones_do_not():
    plain, kept = Generative(NETWORK, SHELF, released(16)), Generative(NETWORK, SHELF, released(16), catalogued=True)
    assert len(plain.rank([(1, 2)], 10)[0].items) < 10
    unlimited = Generative(NETWORK, SHELF, EXACT, catalogued=True).rank([(1, 2)], 24)[0]
    assert sorted(unlimited.items) == list(range(24))
    assert len(kept.rank([(1, 2)], 10)[0].items) >= len(plain.rank([(1, 2)], 10)[0].items)
    given = Given.of(NETWORK, HISTORY)
    run = sample(Catalogued(given, SHELF.codes), Parallel(PerRow(uniform, steps=3), Random()), given.canvas(40), key=0)
    legal = {tuple(row) for row in SHELF.codes.tolist()}
    assert {tuple(row) for row in run.tokens[:, 1:].tolist()} <= legal
    gone = Canvas(torch.tensor([[0, *bad, 0] for bad in [missing(legal)]]), torch.tensor([[False, False, False, True]]))
    with pytest.raises(RecommendError, match="those of no item"):
        Catalogued(given, SHELF.codes)(gone, gone.masked)


def missing(legal):
    begun = {digits[:2] for digits in legal}
    return next(pair for pair in itertools.product(range(4), repeat=2) if pair not in begun)


def test_ranking_of_draws():
    """Scores are logs of shares of draws, which follow the law: within five standard errors of log p from the left."""
    draws = 4000
    shelf = Catalogue(tuple(map(str, range(64))), EVERY, 4, torch.zeros(64, dtype=torch.int64))
    sampler = Parallel(PerRow(uniform, steps=3), LeftToRight())
    ranking = Generative(NETWORK, shelf, sampler, draws).rank([(27, 4)], 64)[0]
    assert sum(exp(score) for score in ranking.scores) == pytest.approx(1.0)
    assert ranking.nfe == 3 * draws
    history = EVERY[[27, 4]]
    for item, score in list(zip(ranking.items, ranking.scores, strict=True))[:8]:
        p = exp(chain(history, EVERY[item], range(3)))
        assert abs(exp(score) - p) < 5 * (p * (1 - p) / draws) ** 0.5  # false alarm 8 * 6e-7
    assert min(ranking.scores) >= -log(draws) - 1e-12


def test_copies_added_up():
    """Two places, each first: the released beam finds an identifier twice, and both copies count with copies='sum'."""
    one = Generative(NETWORK, SHELF, Beam(64, last="all")).rank([(1,)], 5)[0]
    both = Generative(NETWORK, SHELF, Beam(64, last="all"), copies="sum").rank([(1,)], 5)[0]
    assert both.scores[0] > one.scores[0] + log(2)


def test_empty_history_is_answered_by_popularity():
    ranker = Generative(NETWORK, SHELF, released(8))
    first, second = ranker.rank([(), (3,)], 4)
    assert first.source == "popularity"
    assert first.items == SHELF.popular[:4]
    assert second.source == "model"
    with pytest.raises(RecommendError, match="a history is empty"):
        Given.of(NETWORK, torch.full((1, 2, 3), -1))


def test_bad_input():
    with pytest.raises(RecommendError, match="25 items asked for of a catalogue of 24"):
        Generative(NETWORK, SHELF, released(8)).rank([(3,)], 25)
    with pytest.raises(RecommendError, match="use the catalogue that it was trained with"):
        Generative(Network(Dimensions(width=8, layers=1, hidden=8)), SHELF, released(8))
    with pytest.raises(RecommendError, match="best or sum"):
        Generative(NETWORK, SHELF, released(8), copies="first")
    given = Given.of(NETWORK, HISTORY)
    with pytest.raises(RecommendError, match="expected a history and 3 digits"):
        given(Canvas.blank(1, 4), torch.ones(1, 4, dtype=torch.bool))
    canvas = given.canvas()
    canvas.tokens[:, 0] += 7
    with pytest.raises(RecommendError, match="about history 8 of 2"):
        given(canvas, canvas.masked)
    with pytest.raises(RecommendError, match="a multiple of the heads"):
        Dimensions(width=10, heads=4)
    with pytest.raises(RecommendError, match="dropout"):
        Dimensions(dropout=1.0)
    assert padded([], 3).shape == (0, 1)
