import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demask import files
from demask.canvas import Canvas
from demask.denoisers import folder
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.errors import CheckpointError, TrainingError
from demask.information import law
from demask.orders import LeftToRight
from demask.samplers import Parallel
from demask.schedules import Plan
from demask.training import Masks, Recipe, Status, train
from tests.training.language import Drawn, held, skewed, tokenizer

ORACLE = skewed(4, 3)
SHAPE = Shape(vocabulary=3, context=4, width=16, layers=2, heads=2, hidden=24)
RECIPE = Recipe(steps=12, batch=8, evaluate_every=1e9, save_every=1e9, windows=16)


def run(out, recipe=RECIPE, *, resume=False, watch=lambda moment: None, shape=SHAPE, oracle=ORACLE):
    network = Network(shape, key=recipe.key)
    return train(
        network, Drawn(oracle), held(oracle), tokenizer(shape.vocabulary), out=out, recipe=recipe, resume=resume, watch=watch
    )  # fmt: skip


def losses(out, recipe=RECIPE, **options):
    seen = {}
    trained = run(out, recipe, watch=lambda moment: seen.setdefault(moment.step, moment.loss), **options)
    return seen, trained


def weights(trained):
    return trained.denoiser.network.state_dict()


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def stopping_at(step):
    """Interrupt this process, as Ctrl-C does, when a step is done."""

    def watch(moment):
        if moment.step == step and not watch.done:
            watch.done = True
            os.kill(os.getpid(), signal.SIGINT)

    watch.done = False
    return watch


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path, optimiser):
    recipe = replace(RECIPE, optimiser=optimiser)
    whole, expected = losses(tmp_path / "whole", recipe)
    stopped = run(tmp_path / "cut", recipe, watch=stopping_at(5))
    assert (stopped.status, stopped.steps) == (Status.INTERRUPTED, 5)
    rest, resumed = losses(tmp_path / "cut", recipe, resume=True)
    assert resumed.status is Status.FINISHED
    assert rest == {step: loss for step, loss in whole.items() if step > 5}
    assert equal(weights(resumed), weights(expected))
    assert resumed.score == expected.score


def test_equal_keys_train_alike(tmp_path):
    one, _ = losses(tmp_path / "a")
    same, _ = losses(tmp_path / "b")
    other, _ = losses(tmp_path / "c", replace(RECIPE, key=1))
    assert one == same
    assert one != other


def test_parts_of_a_batch_add_up(tmp_path):
    whole, _ = losses(tmp_path / "a")
    parts, _ = losses(tmp_path / "b", replace(RECIPE, accumulate=3))
    assert [*parts.values()] == pytest.approx([*whole.values()], abs=1e-5)


def test_the_folder_is_a_model(tmp_path):
    trained = run(tmp_path / "model")
    found = folder.read(tmp_path / "model")
    assert equal(found.denoiser.network.state_dict(), weights(trained))
    assert found.about["steps"] == 12
    assert "12 steps" in (tmp_path / "model" / "README.md").read_text()
    assert "bits per byte" in (tmp_path / "model" / "README.md").read_text()


def test_bf16_and_fp32_agree_roughly(tmp_path):
    exact, _ = losses(tmp_path / "a")
    rough, _ = losses(tmp_path / "b", replace(RECIPE, precision="bf16"))
    assert exact != rough
    assert [*rough.values()] == pytest.approx([*exact.values()], abs=0.1)


def test_resuming_another_training_is_refused(tmp_path):
    run(tmp_path / "model")
    with pytest.raises(CheckpointError, match="--resume"):
        run(tmp_path / "model")
    with pytest.raises(CheckpointError, match="batch, key differ"):
        run(tmp_path / "model", replace(RECIPE, batch=4, key=2), resume=True)
    with pytest.raises(CheckpointError, match="shape differ"):
        run(tmp_path / "model", shape=replace(SHAPE, layers=1), resume=True)
    with pytest.raises(CheckpointError, match="data differ"):
        run(tmp_path / "model", oracle=skewed(4, 3, key=9), resume=True)
    with pytest.raises(CheckpointError, match="no such file"):
        run(tmp_path / "none", resume=True)


def test_a_damaged_state_is_refused(tmp_path):
    run(tmp_path / "model")
    state = tmp_path / "model" / "training.safetensors"
    raw = bytearray(state.read_bytes())
    raw[-5] ^= 1
    state.write_bytes(raw)
    with pytest.raises(CheckpointError, match="digest"):
        run(tmp_path / "model", resume=True)


def test_a_full_disk_leaves_the_old_state(tmp_path, monkeypatch):
    run(tmp_path / "model", watch=stopping_at(4))
    before = (tmp_path / "model" / "training.safetensors").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            run(tmp_path / "model", resume=True)
    assert (tmp_path / "model" / "training.safetensors").read_bytes() == before
    rest, _ = losses(tmp_path / "model", resume=True)
    assert min(rest) == 5


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(tmp_path):
    with pytest.raises(TrainingError, match="lower the rate"):
        run(tmp_path / "model", replace(RECIPE, optimiser="adamw", rate=1e30, clip=1e30, warmup=0.0))


def test_seconds_are_kept(tmp_path):
    trained = run(tmp_path / "model", replace(RECIPE, steps=None, seconds=0.5))
    assert trained.status is Status.FINISHED
    assert 0.5 <= trained.seconds < 5


@pytest.mark.parametrize(
    "change",
    [{"steps": None}, {"seconds": 3.0}, {"batch": 0}, {"rate": 0.0}, {"rate": float("nan")}, {"optimiser": "sgd"},
     {"precision": "fp8"}, {"warmup": 1.0}, {"average": 1.0}, {"decay": -1.0}, {"accumulate": 0}],
)  # fmt: skip
def test_bad_recipes(change):
    with pytest.raises(TrainingError, match=r"expected|exactly one"):
        replace(RECIPE, **change)


def test_data_of_another_network(tmp_path):
    with pytest.raises(TrainingError, match=r"Shape\.of"):
        train(Network(SHAPE), Drawn(skewed(5, 3)), held(ORACLE), tokenizer(3), out=tmp_path / "m", recipe=RECIPE)


@pytest.mark.slow
def test_a_small_law_is_learned(tmp_path):
    """KL(law || the network's joint law) < 0.02, by enumeration: one token at a time, from left to right."""
    oracle = skewed(4, 2)
    shape = Shape(vocabulary=2, context=4, width=48, layers=2, heads=2, hidden=128)
    recipe = replace(
        RECIPE, steps=800, batch=256, average=0.99, decay=0.0, rate=3e-3, muon_rate=0.02, masks=Masks(least=0.0)
    )
    trained = run(tmp_path / "model", recipe, shape=shape, oracle=oracle)
    exact = Transformer(trained.denoiser.network.double())  # probabilities that sum to 1 within 1e-9
    found = law(exact, Parallel(Plan((1, 1, 1, 1)), LeftToRight()), canvas=Canvas.blank(1, 4))
    assert oracle.to_table().kl(found) < 0.02


WORKER = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.training.test_train import losses, weights
from demask.training.processes import Processes
seen, trained = losses(Path(sys.argv[1]))
if Processes.join().writes:
    torch.save({"losses": seen, **weights(trained)}, sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [*command, str(tmp_path / "two"), str(tmp_path / "result.pt")],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    expected, trained = losses(tmp_path / "one")
    assert result.pop("losses") == pytest.approx(expected, abs=1e-5)
    for name, value in weights(trained).items():
        assert torch.allclose(result[name], value, atol=1e-5)
    assert folder.read(tmp_path / "two").about["steps"] == 12
