"""Training: what is a target, reproducible, interruptible, kept; and that it learns."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from demask.errors import CheckpointError, RecommendError
from demask.recommend import (
    Generative,
    Known,
    Network,
    Popularity,
    Prepared,
    Recommender,
    RecommendRecipe,
    evaluate,
    read_data,
    read_model,
    released,
    train,
    train_recommender,
    write_data,
    write_model,
)  # fmt: skip
from demask.recommend.train import Targets
from tests.recommend.worlds import LOG, SHELF, SMALL

QUICK = RecommendRecipe(epochs=2, batch=64, beam=8, users=40)


def test_targets():
    """Every item but the first of each user, behind what the same user took before."""
    codes = torch.arange(8)[:, None].repeat(1, 2)
    targets = Targets.of([(3, 5, 1), (7,), (2, 4)], codes, history=2)
    history, digits = targets.part(torch.arange(len(targets)))
    assert digits[:, 0].tolist() == [5, 1, 4]
    assert history[:, :, 0].tolist() == [[-1, 3], [3, 5], [-1, 2]]
    with pytest.raises(RecommendError, match="no user has two items"):
        Targets.of([(1,), (2,)], codes, history=2)


def test_reproducible_and_kept():
    kept, seen = [], []
    one = train_recommender(
        LOG, SHELF, SMALL, QUICK, watch=seen.append, keep=lambda network, about: kept.append(dict(about))
    )
    other = train_recommender(LOG, SHELF, SMALL, QUICK)
    assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True))
    assert [epoch.number for epoch in seen] == [1, 2]
    assert seen[1].loss < seen[0].loss
    assert kept[-1]["epoch"] == one.about["epoch"]
    assert one.status.name == "FINISHED"
    assert not one.network.training
    third = train_recommender(LOG, SHELF, SMALL, replace(QUICK, key=1))
    assert not torch.equal(third.network.masks, one.network.masks)
    more = train_recommender(LOG, SHELF, SMALL, QUICK, start=one.network)
    assert more.epochs[0].loss < one.epochs[0].loss


@pytest.mark.parametrize("noise", ["random", "independent", "left"])
def test_every_noise_trains(noise):
    trained = train_recommender(LOG, SHELF, SMALL, replace(QUICK, noise=noise, epochs=1))
    beam = released(8, noise)
    assert (beam.order is not None) == (noise == "left")
    assert len(Generative(trained.network, SHELF, beam).rank([(1,)], 5)) == 1


def test_early_stop_and_time():
    waiting = train_recommender(LOG, SHELF, SMALL, replace(QUICK, epochs=50, patience=2, rate=1e-9))
    assert len(waiting.epochs) == 3  # the first is the best, two more gain nothing
    short = train_recommender(LOG, SHELF, SMALL, replace(QUICK, epochs=10**6, seconds=1e-6))
    assert len(short.epochs) == 1
    assert short.about["steps"] == 1


def test_ctrl_c_ends_the_step_and_returns_the_best():
    kept = []

    def stopping(epoch):
        os.kill(os.getpid(), signal.SIGINT)

    cut = train_recommender(
        LOG, SHELF, SMALL, replace(QUICK, epochs=50), watch=stopping, keep=lambda network, about: kept.append(about)
    )
    assert cut.status.name == "INTERRUPTED"
    assert len(cut.epochs) == 1
    assert kept == [cut.about]


def test_going_on_never_keeps_something_worse():
    """The validation of the network begun with counts: one that was trained is better than what a huge rate makes of it."""
    known = train_recommender(LOG, SHELF, SMALL, QUICK)
    kept = []
    worse = train_recommender(
        LOG, SHELF, SMALL, replace(QUICK, rate=10.0), start=known.network, keep=lambda *found: kept.append(found)
    )
    assert [epoch.ndcg < known.about["ndcg"] for epoch in worse.epochs] == [True, True]
    assert (kept, worse.about["epoch"], worse.about["ndcg"]) == ([], 0, known.about["ndcg"])
    assert all(torch.equal(a, b) for a, b in zip(worse.network.parameters(), known.network.parameters(), strict=True))


def test_a_loss_that_is_not_finite_later_loses_nothing(monkeypatch):
    """The best network was kept before the error leaves."""
    kept, plain = [], train.loss

    def breaking(*args, **options):
        return plain(*args, **options) * (float("nan") if kept else 1.0)

    monkeypatch.setattr(train, "loss", breaking)
    with pytest.raises(RecommendError, match=r"the loss is nan at step \d+; .* the best network so far is kept"):
        train_recommender(LOG, SHELF, SMALL, QUICK, keep=lambda network, about: kept.append(network))
    [network] = kept
    monkeypatch.setattr(train, "loss", lambda *args, **options: plain(*args, **options) * float("nan"))
    with pytest.raises(RecommendError, match=r"the loss is nan at step 0; .* there was no network to keep before"):
        train_recommender(LOG, SHELF, SMALL, QUICK)
    assert all(bool(values.isfinite().all()) for values in network.parameters())


def test_a_loss_that_is_not_finite():
    broken = Network(SMALL)
    broken.codes.data[0, 0, 0] = torch.inf
    with pytest.raises(RecommendError, match="answers are not finite after step 0; lower the rate"):
        train_recommender(LOG, SHELF, SMALL, QUICK, start=broken)


def test_bad_recipes():
    for bad in ({"epochs": 0}, {"seconds": -1.0}, {"smoothing": 1.0}, {"noise": "white"}, {"reduction": "sum"}):
        with pytest.raises(RecommendError, match="expected"):
            replace(QUICK, **bad)
    with pytest.raises(RecommendError, match=r"write Dimensions\(digits=3, codes=4"):
        train_recommender(LOG, SHELF, replace(SMALL, codes=8), QUICK)
    with pytest.raises(RecommendError, match="a network of"):
        train_recommender(LOG, SHELF, replace(SMALL, width=32), QUICK, start=Network(SMALL))


def test_folders(tmp_path):
    data, model = tmp_path / "data", tmp_path / "model"
    write_data(data, Prepared(LOG, SHELF, {"key": 0}))
    again = read_data(data)
    assert again.log.sequences == LOG.sequences
    assert again.catalogue.items == SHELF.items
    assert torch.equal(again.catalogue.codes, SHELF.codes)
    network = Network(SMALL, key=3)
    write_model(model, Recommender(network, SHELF, {"recipe": {"noise": "left"}}))
    known = read_model(model)
    assert known.noise == "left"
    rankers = [Generative(each, SHELF, released(16)) for each in (network, known.network)]
    assert rankers[0].rank([(1, 2)], 5) == rankers[1].rank([(1, 2)], 5)
    with pytest.raises(CheckpointError, match="holds something else"):
        write_model(data, known)
    with pytest.raises(CheckpointError, match="the schema is"):
        read_model(data)
    with pytest.raises(CheckpointError, match="demask recommend train DATA --out"):
        read_model(tmp_path / "none")
    body = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(body | {"items": body["items"][:-1]}))
    with pytest.raises(CheckpointError, match="do not fit together"):
        read_model(model)
    body["dimensions"]["width"] = 32
    (model / "config.json").write_text(json.dumps(body))
    with pytest.raises(CheckpointError, match="of another shape"):
        read_model(model)
    (model / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not whole JSON"):
        read_model(model)
    network.masks.data[0, 0] = torch.nan
    write_model(tmp_path / "broken", Recommender(network, SHELF))
    with pytest.raises(CheckpointError, match="not finite"):
        read_model(tmp_path / "broken")


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["coherent", "left"])
def test_it_learns_what_popularity_cannot_know(noise):
    """In a world of 30 items, more than half of the way from popularity to the best that can be expected."""
    world = Known.random(items=30, attributes=2, values=6, concentration=0.2, key=1)
    log = world.sample(400, key=2)
    shelf, cases = world.catalogue(log), log.cases("test")
    size = replace(SMALL, digits=2, codes=6, width=32, hidden=64, dropout=0.0)
    recipe = RecommendRecipe(epochs=15, batch=128, noise=noise, evaluate_every=5, users=100, smoothing=0.0)
    trained = train_recommender(log, shelf, size, recipe)
    found = evaluate(Generative(trained.network, shelf, released(36, noise)), cases, k=(5,)).ndcg[5]
    low, high = evaluate(Popularity(shelf), cases, k=(5,)).ndcg[5], world.best(cases.histories, 5)[1]
    assert found > (low + high) / 2
