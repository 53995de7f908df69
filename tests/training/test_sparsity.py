import os
import signal
from itertools import product
from math import exp

import pytest
import torch
from torch import nn

from demask.canvas import ABSENT, Canvas, Marginals
from demask.denoisers.sparse import Pattern, linear_layers, masked
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.errors import DenoiserError, TrainingError
from demask.oracles import Table
from demask.training import Status
from demask.training.sparsity import Calibration, MaskLearner, SparsityRecipe, Turn, learn_masks, magnitude, wanda
from demask.training.subsets import log_prob, top
from tests.training.test_subsets import sets

SHAPE = Shape(vocabulary=3, context=4, width=16, layers=1, heads=2, hidden=24)


class Quadratic:
    """sum (w - kept w)^2 + noise that depends on the minibatch alone, of a network of linear layers."""

    def __init__(self, layers, minibatches=4, noise=3.0):
        self.layers = layers
        self.whole = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        self.noise = [noise * index for index in range(minibatches)]

    def __len__(self):
        return len(self.noise)

    def __call__(self, index):
        lost = sum(float((self.whole[name] - layer.weight).square().sum()) for name, layer in self.layers.items())
        return lost + self.noise[index]


def line(inputs=8, outputs=2, key=0):
    layer = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(key))
    return layer.requires_grad_(False)


def worst(layer, pattern):
    return top(-pattern.blocks(layer.weight.abs()), pattern.kept).view_as(layer.weight)


@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(1, 4), Pattern(3, 8)], ids=str)
def test_a_separable_quadratic_ends_at_magnitude_pruning(pattern):
    """From the worst mask; the weights are untouched, and every mask on the way keeps exactly N of M."""
    layer = line(8, 1, key=1)
    before, layers = layer.weight.clone(), {"only": layer}
    seen = []

    def keep(masks):
        seen.append(pattern.blocks(masks["only"]).sum(1).unique().tolist())

    recipe = SparsityRecipe(steps=1500, pattern=pattern, rate=0.1, scale=0.5, save_every=0.05)
    found = learn_masks(layers, {"only": worst(layer, pattern)}, Quadratic(layers), recipe, keep=keep)
    assert torch.equal(found.masks["only"], magnitude(layers, pattern)["only"])
    assert (found.status, found.steps) == (Status.FINISHED, 1500)
    assert torch.equal(layer.weight, before)
    assert seen[0] == seen[-1] == [pattern.kept]


def test_the_mean_step_is_the_gradient():
    """Over all masks of two blocks, from any tracker, which has not seen the residual it is subtracted from."""
    pattern, layer = Pattern(2, 4), line(8, 1)
    layers, start = {"only": layer}, {"only": worst(layer, pattern)}
    losses = Quadratic(layers)
    mean = torch.zeros(2, 4, dtype=torch.float64)
    logits = torch.tensor([[0.3, -1.0, 0.5, 0.0], [1.0, 0.2, -0.4, 0.1]])
    chances, values = [], []
    for pair in product(sets(2, 4), repeat=2):
        learner = MaskLearner(start, losses, SparsityRecipe(steps=1, rate=0.5))
        learner.logits["only"] = logits.clone().view(1, 8)
        learner.tracker = 0.7
        with masked(layers, learner.kept):
            learner.begin()
            learner.kept["only"].copy_(torch.stack(pair).view(1, 8))
            loss, _ = learner.step(99)
        chances.append(float(log_prob(logits.double(), torch.stack(pair)).sum().exp()))
        values.append(loss)
        mean += chances[-1] * (learner.logits["only"].view(2, 4) - logits).double()
    assert sum(chances) == pytest.approx(1)

    def expected(z):
        pairs = product(sets(2, 4), repeat=2)
        return sum(
            float(log_prob(z, torch.stack(pair)).sum().exp()) * value for pair, value in zip(pairs, values, strict=True)
        )

    slope = torch.zeros(2, 4, dtype=torch.float64)
    for place in product(range(2), range(4)):
        step = torch.zeros(2, 4, dtype=torch.float64)
        step[place] = 1e-5
        slope[place] = (expected(logits.double() + step) - expected(logits.double() - step)) / 2e-5
    assert torch.allclose(mean, -0.5 * slope, atol=1e-5)


def test_the_residual_has_less_variance_than_the_plain_loss():
    """What a minibatch adds to every mask cancels: here all of it."""
    layer = line()
    layers, start = {"only": layer}, magnitude({"only": layer}, Pattern())
    losses = Quadratic(layers, minibatches=8, noise=100.0)
    learner = MaskLearner(start, losses, SparsityRecipe(steps=1, rate=50.0, scale=0.0))
    with masked(layers, learner.kept):
        learner.begin()
        turns = [learner.step(99) for _ in range(64)]
    plain, residual = torch.tensor(turns).unbind(1)
    assert float(residual.var()) < float(plain.var()) / 100


def test_the_tracker_is_a_running_mean_from_its_first_residual_on():
    """delta_t = sum_s a^(t-s) r_s / sum_s a^(t-s) over drawn masks: weights that sum to 1, however few steps are done."""
    layer = line()
    layers, memory, residuals = {"only": layer}, 0.9, []
    recipe = SparsityRecipe(steps=1, rate=1e-3, scale=0.0, memory=memory)
    learner = MaskLearner(magnitude(layers, Pattern()), Quadratic(layers), recipe)
    with masked(layers, learner.kept):
        learner.begin()
        assert learner.step(9)[1] == learner.tracker == 0  # the masks begun with, which say nothing
        for count in range(1, 9):
            residuals.append(learner.step(9)[1])
            weights = [memory ** (count - 1 - at) for at in range(count)]
            mean = sum(w * r for w, r in zip(weights, residuals, strict=True)) / sum(weights)
            assert learner.tracker == pytest.approx(mean)
    assert residuals[-1] != 0


def test_a_fitted_rate_is_that_of_the_noise():
    """0.25 s / (sqrt(T exp(-s)) std r), from the ninth residual on; twice the loss, half the rate, equal masks."""
    layer = line(64, 8, key=2)
    layers = {"only": layer}
    start = magnitude(layers, Pattern())
    turns: list[Turn] = []
    learn_masks(layers, start, Quadratic(layers), SparsityRecipe(steps=40, memory=0.99999), watch=turns.append)
    drawn = torch.tensor([turn.residual for turn in turns[1:]], dtype=torch.float64)
    assert [turn.rate for turn in turns[:9]] == [0] * 9
    for at in (9, 20, 39):
        deviation = float(drawn[: at - 1].std(correction=0))
        assert turns[at].rate == pytest.approx(0.25 * 3 / ((40 * exp(-3)) ** 0.5 * deviation), rel=1e-3)

    class Twice(Quadratic):
        def __call__(self, index):
            return 2 * super().__call__(index)

    louder: list[Turn] = []
    learn_masks(layers, start, Twice(layers), SparsityRecipe(steps=40, memory=0.99999), watch=louder.append)
    assert [turn.rate for turn in louder] == pytest.approx([turn.rate / 2 for turn in turns])
    assert [turn.loss for turn in louder] == pytest.approx([2 * turn.loss for turn in turns])


def test_losses_that_never_differ_move_nothing():
    """Where noise is 0, no rate is fitted to it."""
    layer = line()
    layers = {"only": layer}
    losses = Quadratic({}, minibatches=2)
    found = learn_masks(layers, worst_start := {"only": worst(layer, Pattern())}, losses, SparsityRecipe(steps=30))
    assert torch.equal(found.masks["only"], worst_start["only"])


def test_one_float_and_one_bit_of_bool_per_weight():
    layer = line(64, 32)
    learner = MaskLearner(magnitude({"only": layer}, Pattern()), Quadratic({"only": layer}), SparsityRecipe(steps=1))
    held = [*learner.logits.values(), *learner.kept.values()]
    assert [tensor.nbytes for tensor in held] == [4 * 64 * 32, 64 * 32]


@pytest.fixture
def denoiser():
    return Transformer(Network(SHAPE, key=1).requires_grad_(False))


@pytest.fixture
def rows():
    return Table.random(4, 3, key=3).sample(24, key=1)


def test_equal_keys_learn_alike_and_a_denoiser_comes_back_dense(denoiser, rows):
    layers = linear_layers(denoiser.network, Pattern())
    losses = Calibration.of(denoiser, rows, batch=10)
    dense = [losses(index) for index in range(len(losses))]
    start = wanda(layers, Pattern(), losses)
    turns: list[Turn] = []
    one = learn_masks(layers, start, losses, SparsityRecipe(steps=7, rate=50.0, scale=2.0), watch=turns.append)
    same = learn_masks(layers, start, losses, SparsityRecipe(steps=7, rate=50.0, scale=2.0))
    other = learn_masks(layers, start, losses, SparsityRecipe(steps=7, rate=50.0, scale=2.0, key=1))
    assert all(torch.equal(one.masks[name], same.masks[name]) for name in start)
    assert not all(torch.equal(one.masks[name], other.masks[name]) for name in start)
    assert [turn.step for turn in turns] == [*range(1, 8)]
    assert turns[0].residual == 0  # the first masks are those begun with
    assert turns[1].residual != 0
    assert [losses(index) for index in range(len(losses))] == dense
    assert [*denoiser.network.state_dict()] == [*Network(SHAPE).state_dict()]


def test_any_denoiser_learns(rows):
    """A network that is none of ours, with biases: forward passes are all that is asked of it; better than it began."""

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.middle, self.head = nn.Embedding(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, canvas, ask):
            bag = self.words(canvas.tokens.masked_fill(canvas.masked, 3)).sum(1)
            logits = self.head(self.middle(bag).tanh())[:, None].expand(-1, canvas.tokens.shape[1], -1)
            return Marginals(ask, logits[ask])

    torch.manual_seed(0)
    network = Bag().requires_grad_(False)
    network.head.weight.mul_(5)
    layers = linear_layers(network, Pattern(2, 4))
    assert [*layers] == ["middle", "head"]
    losses = Calibration.of(network, rows, batch=24)
    begun = {name: worst(layer, Pattern(2, 4)) for name, layer in layers.items()}
    recipe = SparsityRecipe(steps=400, rate=0.3, scale=0.5)
    found = learn_masks(layers, begun, losses, recipe).masks

    def loss(masks):
        with masked(layers, masks):
            return losses(0)

    assert loss(found) < loss(begun)


def test_the_calibration_is_the_nelbo_per_token(rows):
    """Under the exact law every order of a row gives -log p: n times the mean loss over many draws is the entropy."""
    oracle = Table.random(4, 3, key=3)
    rows = oracle.sample(4000, key=9)
    losses = Calibration.of(oracle, rows, batch=500)
    mean = 4 * sum(losses(index) for index in range(len(losses))) / len(losses)
    assert mean == pytest.approx(-float(oracle.log_prob(rows).mean()), abs=0.1)  # 5 sigma


def test_rows_that_end(denoiser, rows):
    rows = rows.clone()
    rows[:, 3] = ABSENT
    losses = Calibration.of(denoiser, rows, batch=24)
    where = losses.hidden.where
    assert not bool(where[:, 3].any())
    answer = denoiser(Canvas(rows.masked_fill(where, 0), where), where)
    assert losses(0) == pytest.approx(float(losses.hidden.sum(-answer.logp(rows[where])) / 24))


def test_wanda_weighs_by_the_inputs():
    """An input that is ever 0 loses its weight, however large."""
    layer = line(4, 3)
    with torch.no_grad():
        layer.weight[:, 1] = 100.0
    layers = {"only": layer}

    class Passes:
        def __len__(self):
            return 2

        def __call__(self, index):
            return float(layer(torch.tensor([[[1.0, 0.0, 1.0, 1.0], [2.0, 0.0, 2.0, 2.0]]])).sum())

    kept = wanda(layers, Pattern(2, 4), Passes())["only"]
    assert not kept[:, 1].any()
    assert magnitude(layers, Pattern(2, 4))["only"][:, 1].all()
    assert not layer._forward_pre_hooks


class Breaking(Quadratic):
    """A loss that is nan from the given call on."""

    def __init__(self, layers, after):
        super().__init__(layers)
        self.left = after

    def __call__(self, index):
        self.left -= 1
        return super().__call__(index) if self.left >= 0 else float("nan")


def test_a_loss_that_is_not_finite_stops_and_loses_nothing():
    layer = line()
    before, layers, kept = layer.weight.clone(), {"only": layer}, []
    start = {"only": worst(layer, Pattern())}
    with pytest.raises(TrainingError, match=r"minibatch 1 is nan at step 5; the masks of the steps before are kept"):
        learn_masks(layers, start, Breaking(layers, 4 + 5), SparsityRecipe(steps=99, scale=1.0), keep=kept.append)
    assert len(kept) == 1
    assert (Pattern().blocks(kept[0]["only"]).sum(1) == 2).all()
    assert torch.equal(layer.weight, before)
    with pytest.raises(TrainingError, match="minibatch 2 is nan at step 0"):
        learn_masks(layers, start, Breaking(layers, 2), SparsityRecipe(steps=9))
    assert torch.equal(layer.weight, before)


def test_an_interrupt_returns_what_stands():
    layer = line()
    layers = {"only": layer}

    def watch(turn):
        if turn.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    found = learn_masks(
        layers, magnitude(layers, Pattern()), Quadratic(layers), SparsityRecipe(seconds=99), watch=watch
    )
    assert (found.status, found.steps) == (Status.INTERRUPTED, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [({}, "exactly one"), ({"steps": 2, "seconds": 2.0}, "exactly one"), ({"steps": 0}, "integer >= 1"),
     ({"steps": 2, "rate": 0.0}, "rate"), ({"steps": 2, "scale": -1.0}, "scale"), ({"steps": 2, "memory": 1.0}, "memory"),
     ({"seconds": float("inf")}, "seconds"), ({"steps": 2, "scale": 0.0}, "a rate is fitted to the scale")],
)  # fmt: skip
def test_bad_recipes(change, words):
    with pytest.raises(TrainingError, match=words):
        SparsityRecipe(**change)


def test_what_does_not_fit_is_refused():
    layer = line()
    layers = {"only": layer}
    start = magnitude(layers, Pattern())
    broken = {"only": start["only"].clone()}
    broken["only"][0, 0] ^= True
    with pytest.raises(DenoiserError, match="only: a block does not keep exactly 2:4"):
        learn_masks(layers, broken, Quadratic(layers), SparsityRecipe(steps=1))
    with pytest.raises(TrainingError, match="no minibatch"):
        learn_masks(layers, start, Quadratic(layers, minibatches=0), SparsityRecipe(steps=1))
    with pytest.raises(TrainingError, match="0 rows"):
        Calibration.of(Table.random(4, 3, key=3), torch.zeros(0, 4, dtype=torch.int64))
