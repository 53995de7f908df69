"""Baselines by brute force, measures by hand, and a world whose limits are known."""

from math import log2, sqrt

import pytest
import torch

from demask.errors import RecommendError
from demask.recommend import Cases, Interactions, ItemKNN, Known, Popularity, Ranking, evaluate
from tests.recommend.worlds import LOG, SHELF, WORLD


def test_popularity():
    first, second = Popularity(SHELF).rank([(0,), ()], 5)
    counts = LOG.counts
    assert first == second
    assert first.items == tuple(sorted(range(24), key=lambda item: (-counts[item], item))[:5])
    assert first.scores == tuple(float(counts[item]) for item in first.items)


def test_item_knn_by_brute_force():
    takers = {item: {user for user, s in enumerate(LOG.training) if item in s} for item in range(24)}

    def similar(i, j):
        size = sqrt(max(1, len(takers[i])) * max(1, len(takers[j])))
        return len(takers[i] & takers[j]) / size if i != j else 0.0

    history = (3, 8, 3)
    scores = {j: sum(similar(i, j) for i in history) for j in range(24)}
    ranking = ItemKNN(LOG, SHELF).rank([history], 24)[0]
    assert sorted(ranking.items) == list(range(24))
    assert ranking.scores == pytest.approx([scores[item] for item in ranking.items])
    assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
    few = ItemKNN(LOG, SHELF, neighbours=2).rank([(3,)], 24)[0]
    assert sum(score > 0 for score in few.scores) == 2
    assert few.items[:2] == tuple(sorted(range(24), key=lambda j: -similar(3, j))[:2])
    assert few.items[2:] == tuple(item for item in SHELF.popular if item not in few.items[:2])


class Fixed:
    name = "fixed"

    def rank(self, histories, k):
        return [Ranking((4, 2, 7)[:k], (0.0,) * min(k, 3), "fixed", nfe=2)] * len(histories)


def test_measures_by_hand():
    cases = Cases((0, 1, 2, 3), ((1,),) * 4, (4, 7, 5, 2))
    found = evaluate(Fixed(), cases, k=(1, 2, 5), batch=3)
    assert {most: float(value) for most, value in found.recall.items()} == {1: 0.25, 2: 0.5, 5: 0.75}
    assert found.ndcg[1] == 0.25
    assert found.ndcg[5] == pytest.approx((1 + 1 / 2 + 0 + 1 / log2(3)) / 4)
    assert found.recall[2].error == pytest.approx(sqrt(0.25 * 4 / 3 / 4))
    assert (found.nfe, found.short, found.cases) == (2.0, 4, 4)
    with pytest.raises(RecommendError, match="expected some of both"):
        evaluate(Fixed(), cases.first(0))


def test_the_law_itself_reaches_the_best_and_nobody_more():
    """Within five standard errors (false alarm below 1e-6 each); other rankers stay below it."""
    world = Known.random(items=60, attributes=3, values=5, concentration=0.3, key=5)
    log = world.sample(2000, least=3, most=8, key=6)
    cases = log.cases("test")
    recall, ndcg = world.best(cases.histories, 10)
    truth = evaluate(world, cases, k=(10,))
    assert abs(truth.recall[10] - recall) < 5 * truth.recall[10].error
    assert abs(truth.ndcg[10] - ndcg) < 5 * truth.ndcg[10].error
    shelf = world.catalogue(log)
    for ranker in (Popularity(shelf), ItemKNN(log, shelf)):
        assert evaluate(ranker, cases, k=(10,)).ndcg[10] < ndcg - 0.05


def test_the_law_by_hand():
    """Two attributes: the first follows the last item, the second the one before it."""
    world = Known.random(items=5, attributes=2, values=3, key=1)
    weights = []
    for j in world.attributes.tolist():
        i, h = world.attributes[4].tolist(), world.attributes[2].tolist()
        weights.append(float((world.logs[0, i[0], j[0]] + world.logs[1, h[1], j[1]]).exp()))
    expected = torch.tensor(weights, dtype=torch.float64)
    assert torch.allclose(world.logp([(0, 2, 4)])[0].exp(), expected / expected.sum())
    assert torch.allclose(world.logp([(4,)]), world.logp([(4, 4)]))
    assert len(set(world.texts)) == 5


def test_histories_follow_the_law():
    """Transitions of a fixed pair against the law: total variation small for 4,000 users (bound from Hoeffding, 1e-6)."""
    world = Known.random(items=4, attributes=2, values=2, key=3)
    log = world.sample(4000, least=3, most=3, key=1)
    after = [s[2] for s in log.sequences if s[:2] == log.sequences[0][:2]]
    law = world.logp([log.sequences[0][:2]])[0].exp()
    shares = torch.tensor([after.count(item) for item in range(4)], dtype=torch.float64) / len(after)
    assert (shares - law).abs().max() < sqrt(16.0 / (2 * len(after)))


def test_written_and_read_again(tmp_path):
    from demask.recommend import read_events, read_texts

    WORLD.write(tmp_path, LOG)
    texts = read_texts(tmp_path / "items.jsonl")
    again = Interactions.of(read_events(tmp_path / "interactions.jsonl"), texts, cold=True)
    assert (again.users, again.items, again.sequences) == (LOG.users, LOG.items, LOG.sequences)
    assert again.texts == LOG.texts


def test_bad_input():
    for ranker in (Popularity(SHELF), ItemKNN(LOG, SHELF), WORLD):
        with pytest.raises(RecommendError, match="25 items asked for of a catalogue of 24"):
            ranker.rank([(0,)], 25)
    with pytest.raises(RecommendError, match="expected 2 to"):
        Known.random(items=30, attributes=2, values=3)
    with pytest.raises(RecommendError, match="the same attributes"):
        Known(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(1, 2, 2))
