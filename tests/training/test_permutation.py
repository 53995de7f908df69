"""Training the permutation transformer: resumed bit for bit, and it learns a table in every order."""

from dataclasses import replace

import pytest
import torch

from demask.canvas import Canvas
from demask.denoisers import Permutation, Shape
from demask.denoisers import folder as folders
from demask.denoisers.transformer import Network
from demask.errors import TrainingError
from demask.information import law
from demask.oracles import Table
from demask.orders import Random
from demask.samplers import Speculative
from demask.training import Masks, Recipe, train

from .language import Drawn, held, skewed, tokenizer

ORACLE = skewed(3, 3)
SHAPE = Shape(vocabulary=3, context=3, width=16, layers=2, heads=2, hidden=24)
RECIPE = Recipe(steps=8, batch=8, evaluate_every=1e9, save_every=1e9, windows=16, network="permutation")


def run(out, recipe=RECIPE, shape=SHAPE, **options):
    network = Network(shape, key=recipe.key)
    return train(network, Drawn(ORACLE), held(ORACLE), tokenizer(3), out=out, recipe=recipe, **options)


def test_folder_and_parts_of_a_batch(tmp_path):
    whole = run(tmp_path / "whole").denoiser
    parts = run(tmp_path / "parts", replace(RECIPE, accumulate=4)).denoiser
    kept = folders.read(tmp_path / "whole").denoiser
    tokens, ranks = ORACLE.sample(6, key=0), torch.tensor([[2, 3, 1]]).expand(6, 3)
    assert type(whole) is type(kept) is Permutation
    assert torch.equal(whole.log_prob(tokens, ranks), kept.log_prob(tokens, ranks))
    assert torch.allclose(whole.log_prob(tokens, ranks), parts.log_prob(tokens, ranks), atol=1e-4)


def test_refusals(tmp_path):
    with pytest.raises(TrainingError, match="network 'recurrent'; expected one of transformer, permutation"):
        Recipe(steps=1, network="recurrent")
    assert (
        Recipe(steps=1).differing({name: v for name, v in Recipe(steps=1).to_json().items() if name != "network"}) == []
    )
    assert RECIPE.differing(replace(RECIPE, network="transformer").to_json()) == ["network"]


@pytest.mark.slow
def test_it_learns_a_table_and_is_sampled_exactly(tmp_path):
    recipe = replace(RECIPE, steps=800, batch=64, rate=5e-3, average=0.98, masks=Masks(0.0, 1.0, 0.0))
    trained = run(tmp_path / "model", recipe, Shape(3, 3, 32, 2, 4, 64)).denoiser
    model = Permutation(trained.network.double())
    everything = torch.cartesian_prod(*[torch.arange(3)] * 3)
    laws = {
        places: Table(everything, model.log_prob(everything, torch.tensor(places).expand(27, 3)), 3)
        for places in ((1, 2, 3), (2, 3, 1), (3, 2, 1))
    }
    for joint in laws.values():
        assert ORACLE.kl(joint) < 0.05
    for size in (2, 3):
        output = law(model, Speculative(size), canvas=Canvas.blank(1, 3), vocabulary=3)
        assert laws[1, 2, 3].kl(output) == pytest.approx(0, abs=1e-9)
    assert ORACLE.kl(law(model, Speculative(2, Random()), canvas=Canvas.blank(1, 3), vocabulary=3)) < 0.05
    print({places: round(ORACLE.kl(joint), 4) for places, joint in laws.items()})
