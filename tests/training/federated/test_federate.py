import os
import signal
from dataclasses import replace

import pytest
import torch

from demask.chance import Keyed
from demask.denoisers import folder
from demask.denoisers.transformer import Network, Shape
from demask.errors import CheckpointError, TrainingError
from demask.training import Status, Text
from demask.training.federated import (
    SGD,
    Adam,
    Bench,
    Denoising,
    DFedADMM,
    DFedAvg,
    FederatedRecipe,
    deal,
    federate,
    full,
    ring,
)
from demask.training.lesson import Lesson
from tests.training.language import Drawn, held, skewed, tokenizer

ORACLE = skewed(4, 3)
SHAPE = Shape(vocabulary=3, context=4, width=16, layers=2, heads=2, hidden=24)
RECIPE = FederatedRecipe(
    rounds=6, method=DFedADMM(2, 0.5, SGD(0.1)), batch=8, save_every=2, evaluate_every=4, windows=16
)


def run(out, recipe=RECIPE, *, peers=3, topology=None, data=None, shape=SHAPE, **options):
    rows = data or [Drawn(skewed(4, 3, key=number)) for number in range(peers)]
    return federate(
        Network(shape, key=recipe.key), rows, held(ORACLE), tokenizer(shape.vocabulary), out=out, recipe=recipe,
        topology=topology or ring(peers), **options,
    )  # fmt: skip


def weights(trained):
    return trained.denoiser.network.state_dict()


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_bench_is_the_network():
    network, plain = Network(SHAPE, key=1), Network(SHAPE, key=1)
    bench = Bench(network)
    assert equal(bench.named(bench.weights), plain.state_dict())
    objective = Denoising(bench, Drawn(ORACLE), replace(RECIPE, clip=1e9), 2)
    loss, gradient = objective(bench.weights.clone(), 1, 0)
    chance = Keyed.of(0, torch.arange(8)).fork("peer", 2, 1, 0)
    lesson = Lesson.draw(Drawn(ORACLE), chance, shares=RECIPE.masks.range(1 / 6), network="transformer")
    wanted = lesson.loss(plain, slice(0, 8), precision="fp32")
    wanted.backward()
    assert loss == pytest.approx(float(wanted.detach()))
    assert torch.allclose(gradient, torch.cat([p.grad.reshape(-1) for p in plain.parameters()]), atol=1e-6)
    first = gradient.clone()
    assert torch.equal(objective(bench.weights.clone(), 1, 0)[1], first)  # the same minibatch
    assert not torch.equal(objective(bench.weights.clone(), 1, 1)[1], first)
    assert float(Denoising(bench, Drawn(ORACLE), RECIPE, 2)(bench.weights.clone(), 1, 0)[1].norm()) <= 1 + 1e-5


def test_the_folder_is_the_mean_model(tmp_path):
    seen = []
    trained = run(tmp_path / "model", watch=seen.append)
    found = folder.read(tmp_path / "model")
    assert equal(found.denoiser.network.state_dict(), weights(trained))
    assert (found.about["rounds"], found.about["peers"], found.about["gradients"]) == (6, 3, 36)
    assert trained.sent == found.about["sent"] == 6 * 6 * SHAPE.parameters * 4
    assert "shared no data" in (tmp_path / "model" / "README.md").read_text()
    assert [moment.turn.turn for moment in seen] == [1, 2, 3, 4, 5, 6, 6]
    assert [moment.score is not None for moment in seen] == [False] * 3 + [True, False, False, True]


def test_an_interrupted_run_continues_bit_for_bit(tmp_path):
    recipe = replace(RECIPE, method=DFedADMM(2, 0.5, Adam(0.01)))
    whole = run(tmp_path / "whole", recipe)

    def stopping(moment):
        if moment.turn.turn == 3 and moment.score is None:
            os.kill(os.getpid(), signal.SIGINT)

    cut = run(tmp_path / "cut", recipe, watch=stopping)
    assert (cut.status, cut.turns) == (Status.INTERRUPTED, 3)
    rest = run(tmp_path / "cut", recipe, resume=True)
    assert (rest.status, rest.gradients, rest.sent) == (Status.FINISHED, whole.gradients, whole.sent)
    assert equal(weights(rest), weights(whole))
    assert rest.apart == whole.apart


def test_a_kill_between_two_saves_loses_only_the_last_one(tmp_path):
    recipe = replace(RECIPE, rounds=4)
    run(tmp_path / "model", recipe)
    (tmp_path / "model" / "peers" / "2-4.safetensors").unlink()  # peers 0 and 1 had saved, 2 had not
    starts = []
    run(tmp_path / "model", recipe, resume=True, watch=lambda moment: starts.append(moment.turn.turn))
    assert starts[0] == 3


def test_one_peer_is_central_training(tmp_path):
    """Its loss is that of plain SGD by hand."""
    recipe = replace(RECIPE, method=DFedAvg(2, SGD(0.1)), clip=1e9)
    trained = run(tmp_path / "model", recipe, data=[Drawn(ORACLE)], topology=full(1))
    network = Network(SHAPE, key=0)
    for turn in range(6):
        for step in range(2):
            chance = Keyed.of(0, torch.arange(8)).fork("peer", 0, turn, step)
            shares = recipe.masks.range(turn / 6)
            lesson = Lesson.draw(Drawn(ORACLE), chance, shares=shares, network="transformer")
            network.zero_grad()
            lesson.loss(network, slice(0, 8), precision="fp32").backward()
            with torch.no_grad():
                for p in network.parameters():
                    p -= 0.1 * recipe.height(turn) * p.grad
    assert all(torch.allclose(value, weights(trained)[name], atol=1e-5) for name, value in network.state_dict().items())
    assert trained.sent == 0


def test_peers_learn_what_none_of_them_has(tmp_path):
    """Each peer sees texts that begin with one token; the mean model is better on all than a peer that was alone."""

    class Begins(Drawn):
        def __init__(self, token):
            super().__init__(ORACLE)
            self.token = token

        def batch(self, chance):
            batch = super().batch(chance)
            batch.tokens[:, 0] = self.token
            return batch

    recipe = replace(RECIPE, rounds=25, method=DFedADMM(4, 5.0, Adam(0.01)), evaluate_every=100, windows=64)
    together = run(tmp_path / "together", recipe, data=[Begins(token) for token in range(3)])
    alone = run(tmp_path / "alone", recipe, data=[Begins(0)], topology=full(1))
    assert float(together.score.bits_per_byte) < float(alone.score.bits_per_byte) - 0.2


def test_resuming_another_training_is_refused(tmp_path):
    run(tmp_path / "model")
    with pytest.raises(CheckpointError, match="--resume"):
        run(tmp_path / "model")
    with pytest.raises(CheckpointError, match="batch, key differ"):
        run(tmp_path / "model", replace(RECIPE, batch=4, key=2), resume=True)
    with pytest.raises(CheckpointError, match="topology differ"):
        run(tmp_path / "model", topology=full(2), peers=2, resume=True)
    with pytest.raises(CheckpointError, match=r"peers \[3\] have no state"):
        run(tmp_path / "model", peers=4, resume=True)
    with pytest.raises(CheckpointError, match="no states of peers"):
        run(tmp_path / "none", resume=True)
    state = tmp_path / "model" / "peers" / "0-6.safetensors"
    state.write_bytes(state.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"0-6\.safetensors"):
        run(tmp_path / "model", resume=True)


def test_a_loss_that_is_not_finite_keeps_what_was_saved(tmp_path):
    recipe = replace(RECIPE, method=DFedAvg(2, SGD(1e30)), clip=1e30, save_every=1, rounds=20)
    with pytest.raises(TrainingError, match=r"peer \d .*lower the rate"):
        run(tmp_path / "model", recipe)


def test_bad_data(tmp_path):
    with pytest.raises(TrainingError, match="data of 2 peers for a topology of 3"):
        run(tmp_path / "model", data=[Drawn(ORACLE)] * 2)
    with pytest.raises(TrainingError, match=r"peer 1 has rows of 5.*Shape\.of"):
        run(tmp_path / "model", data=[Drawn(ORACLE), Drawn(skewed(5, 3)), Drawn(ORACLE)])
    assert not (tmp_path / "model").exists()


TEXTS = [Text(f"{i:02}", "x" * (i % 5 + 1)) for i in range(40)]


@pytest.mark.parametrize("peers", [1, 3, 8, 40])
@pytest.mark.parametrize("concentration", [0.05, 0.6, 1000.0])
def test_every_text_is_dealt_once_and_in_order(peers, concentration):
    dealt = deal(TEXTS, peers, concentration=concentration)
    assert [text for part in dealt for text in part] == TEXTS
    assert all(dealt)
    assert len(dealt) == peers


def test_shares_follow_the_concentration():
    def spread(concentration):
        sizes = [sum(len(text.content) for text in part) for part in deal(TEXTS, 4, concentration=concentration)]
        return max(sizes) / min(sizes)

    assert spread(1e4) < 1.5 < 3 < spread(0.2)
    assert deal(TEXTS, 4, key=1) != deal(TEXTS, 4, key=2)


def test_peers_without_data():
    with pytest.raises(TrainingError, match=r"3 texts for 4 peers.*--peers 3"):
        deal(TEXTS[:3], 4)
    with pytest.raises(TrainingError, match="concentration of 0"):
        deal(TEXTS, 4, concentration=0)


@pytest.mark.parametrize(
    "change", [{"rounds": 0}, {"batch": True}, {"clip": 0.0}, {"warmup": 1.0}, {"precision": "fp8"}, {"network": "rnn"}]
)
def test_bad_recipes(change):
    with pytest.raises(TrainingError, match="expected"):
        replace(RECIPE, **change)
