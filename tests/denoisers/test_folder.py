import json
import os
import pickle

import pytest
import torch

from demask import files
from demask.canvas import Canvas
from demask.denoisers import folder
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.errors import CheckpointError, TokenizerError
from demask.tokenizer import Tokenizer

SHAPE = Shape(vocabulary=4, context=8, width=16, layers=1, heads=2, hidden=24)
WORDS = Tokenizer.words(["a", "b", "c"])


@pytest.fixture
def model():
    return Transformer(Network(SHAPE, key=3))


@pytest.fixture
def path(tmp_path, model):
    folder.write(tmp_path / "model", model, WORDS, card="# A model\n", about={"documents": "windows"})
    return tmp_path / "model"


def test_what_is_written_is_read(path, model):
    found = folder.read(path)
    canvas = Canvas.blank(2, 8)
    assert torch.equal(found.denoiser(canvas, canvas.masked).logits, model(canvas, canvas.masked).logits)
    assert (found.tokenizer, found.about, found.path) == (WORDS, {"documents": "windows"}, path)
    assert sorted(file.name for file in path.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert found.denoiser.network.shape == SHAPE


def test_precisions(tmp_path, model):
    half = Transformer(Network(SHAPE, key=3).to(torch.bfloat16))
    folder.write(tmp_path / "half", half, WORDS, card="", about={})
    assert folder.read(tmp_path / "half").denoiser.dtype == torch.float32
    assert folder.read(tmp_path / "half", dtype=torch.float16).denoiser.dtype == torch.float16
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert 2 * SHAPE.parameters < size < 2 * SHAPE.parameters + 4096


def test_missing_files_are_named(path):
    with pytest.raises(CheckpointError, match="no such folder; make a model with demask train"):
        folder.read(path / "none")
    (path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="no such file"):
        folder.read(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        folder.read(path)
    (path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        folder.read(path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(path, keep):
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated, corrupt"):
        folder.read(path)


def test_one_flipped_bit_is_noticed(path):
    weights = path / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-40] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(CheckpointError, match="digest"):
        folder.read(path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_pickles_are_never_loaded(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (path / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="is a pickle"):
        folder.read(path)
    torch.save({"x": torch.zeros(1)}, path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a pickle"):
        folder.read(path)
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle"):
        folder.read(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("norm.weight"), "lacks norm.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda t: t.update({"norm.weight": torch.zeros(3)}), r"norm.weight is \(3,\)"),
        (lambda t: t.update({"norm.weight": torch.zeros(16, dtype=torch.int64)}), "int64"),
        (lambda t: t.update({"norm.weight": torch.full((16,), torch.nan)}), "not finite"),
    ],
)
def test_foreign_weights(path, model, change, words):
    tensors = dict(model.network.state_dict())
    change(tensors)
    folder.write_tensors(path / "model.safetensors", tensors, {"schema": folder.SCHEMA})
    with pytest.raises(CheckpointError, match=words):
        folder.read(path)


def test_weights_of_another_program(path, model):
    from safetensors.torch import save_file

    save_file(dict(model.network.state_dict()), path / "model.safetensors")
    with pytest.raises(CheckpointError, match="schema is None"):
        folder.read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not whole JSON"),
        ("[]", "schema is 'list'"),
        ('{"model_type": "llama"}', "schema is None"),
        ('{"schema": "demask.model/9"}', "demask.model/9"),
        ('{"schema": "demask.model/1", "shape": {"width": 3}, "about": {}}', "expected a shape"),
    ],
)
def test_foreign_configs(path, content, words):
    (path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=words):
        folder.read(path)


def test_config_and_weights_of_different_models(path):
    body = json.loads((path / "config.json").read_text())
    body["shape"]["hidden"] = 32
    (path / "config.json").write_text(json.dumps(body))
    with pytest.raises(CheckpointError, match="different models"):
        folder.read(path)
    body["shape"]["width"] = 15
    (path / "config.json").write_text(json.dumps(body))
    with pytest.raises(CheckpointError, match="multiple"):
        folder.read(path)


def test_a_tokenizer_of_another_size(path, model):
    Tokenizer.words(["a", "b"]).save(path / "tokenizer.json")
    with pytest.raises(CheckpointError, match="3 tokens and the network 4"):
        folder.read(path)
    with pytest.raises(CheckpointError, match="3 tokens"):
        folder.write(path, model, Tokenizer.words(["a", "b"]), card="", about={})


def test_a_full_disk_leaves_the_old_model(path, monkeypatch):
    before = folder.read(path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.write(path, Transformer(Network(SHAPE, key=9)), WORDS, card="new", about={})
    after = folder.read(path)
    assert torch.equal(after.denoiser.network.norm.weight, before.denoiser.network.norm.weight)
    assert not [file for file in path.iterdir() if file.name.endswith(".part")]
