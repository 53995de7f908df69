import json

import pytest
import torch
from torch import nn

import demask
from demask import files
from demask.canvas import Canvas
from demask.denoisers import folder, sparse
from demask.denoisers.permutation import Permutation
from demask.denoisers.sparse import Pattern, compressed, linear_layers, masked, read_masks
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.errors import CheckpointError, DenoiserError
from demask.tokenizer import Tokenizer
from demask.training.sparsity import magnitude

SHAPE = Shape(vocabulary=4, context=8, width=16, layers=2, heads=2, hidden=24)
WORDS = Tokenizer.words(["a", "b", "c"])
PATTERN = Pattern(2, 4)


@pytest.fixture
def model():
    return Transformer(Network(SHAPE, key=3).requires_grad_(False))


@pytest.fixture
def masks(model):
    return magnitude(linear_layers(model.network, PATTERN), PATTERN)


@pytest.fixture
def path(tmp_path, model, masks):
    sparse.write(tmp_path / "sparse", model, WORDS, masks, PATTERN, card="# Sparse\n", about={"documents": "windows"})
    return tmp_path / "sparse"


def logits(denoiser):
    canvas = Canvas.blank(2, 8)
    return denoiser(canvas, canvas.masked).logits


@pytest.mark.parametrize("text", ["2", "2:", "a:4", "4:4", "0:4", "5:4", "13:32", "2:4:8", "-1:4"])
def test_bad_patterns(text):
    with pytest.raises(DenoiserError, match="expected N:M"):
        Pattern.parse(text)


def test_every_linear_layer_is_found_by_name(model):
    found = linear_layers(model.network, PATTERN)
    assert len(found) == 14
    assert [*linear_layers(model.network, PATTERN, only=("blocks.0.gate.*",), leave=("*.up",))] == [
        "blocks.0.gate.gate", "blocks.0.gate.down",
    ]  # fmt: skip
    with pytest.raises(DenoiserError, match=r"no linear layer is called 'head'; there are: blocks\.0"):
        linear_layers(model.network, PATTERN, leave=("head",))
    with pytest.raises(DenoiserError, match="no linear layer is left"):
        linear_layers(model.network, PATTERN, leave=("*",))


def test_uneven_layers_are_named_and_skipped_only_when_asked(model):
    with pytest.raises(
        DenoiserError, match=r"blocks\.0\.gate\.down \(24 inputs\), blocks\.1\.gate\.down .*skip-uneven"
    ):
        linear_layers(model.network, Pattern(8, 16))
    found = linear_layers(model.network, Pattern(8, 16), skip_uneven=True)
    assert len(found) == 12
    assert not any("down" in name for name in found)


def test_a_weight_that_is_tied_is_refused():
    network = nn.Module()
    network.words, network.head = nn.Embedding(5, 8), nn.Linear(8, 5)
    network.head.weight = network.words.weight
    with pytest.raises(DenoiserError, match=r"head: its weight is words\.weight too"):
        linear_layers(network, PATTERN)


def test_masked_computes_with_what_is_kept_and_gives_back_the_rest(model, masks):
    dense, layers = logits(model), linear_layers(model.network, PATTERN)
    held = {name: mask.clone() for name, mask in masks.items()}
    with masked(layers, held):
        inside = logits(model)
        held["blocks.0.gate.up"].logical_not_()
        assert not torch.equal(logits(model), inside)
    assert torch.equal(logits(model), dense)
    assert not torch.equal(inside, dense)
    with pytest.raises(RuntimeError), masked(layers, held):
        raise RuntimeError
    assert torch.equal(logits(model), dense)
    sparse.prune(layers, masks)
    assert torch.equal(logits(model), inside)


@pytest.mark.parametrize("kind", [Transformer, Permutation])
def test_a_sparse_folder_is_an_ordinary_one(tmp_path, kind, masks):
    dense = kind(Network(SHAPE, key=3).requires_grad_(False))
    before = logits(dense)
    sparse.write(tmp_path / "m", dense, WORDS, masks, PATTERN, card="", about={})
    assert torch.equal(logits(dense), before)
    found = demask.load(tmp_path / "m").denoiser
    layers = linear_layers(dense.network, PATTERN)
    with masked(layers, masks):
        assert torch.equal(logits(found), logits(dense))
    pattern, kept = read_masks(tmp_path / "m", found.network)
    assert pattern == PATTERN
    assert all(torch.equal(kept[name], masks[name]) for name in masks)


def test_it_generates(path):
    model = demask.load(path)
    assert model.generate("a", 3, key=1).new <= 3
    assert sorted(file.name for file in path.iterdir()) == [
        "README.md", "config.json", "masks.safetensors", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip


def test_weights_and_masks_are_replaced_together(path, model, masks, monkeypatch):
    """On a disk that is full at any of the files, the folder is still the model of before, with its own masks."""
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    other = magnitude(linear_layers(model.network, Pattern(1, 4)), Pattern(1, 4))
    write = files.os.fsync
    for room in range(5):
        left = [None] * room

        def full(handle, left=left):
            if not left:
                raise OSError(28, "No space left on device")
            left.pop()
            write(handle)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                sparse.write(path, model, WORDS, other, Pattern(1, 4), card="new", about={})
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    sparse.write(path, model, WORDS, other, Pattern(1, 4), card="new", about={})
    assert read_masks(path, folder.read(path).denoiser.network)[0] == Pattern(1, 4)


def test_masks_that_do_not_fit(path, model, masks):
    network = folder.read(path).denoiser.network
    with pytest.raises(CheckpointError, match=r"blocks\.\d\.\w+\.\w+ has weights where the mask keeps none"):
        read_masks(path, model.network)
    wrong = {**masks, "blocks.0.gate.up": torch.ones_like(masks["blocks.0.gate.up"])}
    with pytest.raises(DenoiserError, match=r"blocks\.0\.gate\.up: a block does not keep exactly 2:4"):
        sparse.write(path, model, WORDS, wrong, PATTERN, card="", about={})
    with pytest.raises(DenoiserError, match=r"'blocks\.9', which is no linear layer"):
        sparse.write(path, model, WORDS, {"blocks.9": masks["blocks.0.gate.up"]}, PATTERN, card="", about={})
    facts = {"schema": sparse.SCHEMA, "pattern": "1:4"}
    folder.write_tensors(path / sparse.MASKS, masks, facts)
    with pytest.raises(CheckpointError, match="exactly 1:4"):
        read_masks(path, network)
    raw = bytearray((path / sparse.MASKS).read_bytes())
    raw[-3] ^= 1
    (path / sparse.MASKS).write_bytes(raw)
    with pytest.raises(CheckpointError, match="digest"):
        read_masks(path, network)
    (path / sparse.MASKS).unlink()
    with pytest.raises(CheckpointError, match="holds no masks"):
        read_masks(path, network)


def test_the_sparse_kernels_are_refused_politely_without_a_gpu(path, model, masks):
    with pytest.raises(DenoiserError, match=r"lies on cpu; the sparse kernels need a CUDA GPU"):
        demask.load(path, sparse=True)
    with pytest.raises(DenoiserError, match=r"the pattern is 4:8; the sparse kernels know 2:4 alone"):
        compressed(model, masks, Pattern(4, 8))
    (path / sparse.MASKS).unlink()
    with pytest.raises(CheckpointError, match="holds no masks"):
        demask.load(path, sparse=True)
    body = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({"model_type": "llada"} | {"about": body["about"]}))
    with pytest.raises(CheckpointError, match="published checkpoint"):
        demask.load(path, sparse=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the semi-structured sparse kernels need a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_sparse_kernels_compute_the_same(tmp_path, dtype):
    """On 128-wide layers; half precision, sums in another order."""
    shape = Shape(vocabulary=40, context=64, width=128, layers=2, heads=4, hidden=256)
    dense = Transformer(Network(shape, key=1).requires_grad_(False))
    layers = linear_layers(dense.network, PATTERN)
    words = Tokenizer.words([f"w{number}" for number in range(39)])
    sparse.write(tmp_path / "m", dense, words, magnitude(layers, PATTERN), PATTERN, card="", about={})
    plain = demask.load(tmp_path / "m", device="cuda", dtype=dtype).denoiser
    fast = demask.load(tmp_path / "m", device="cuda", dtype=dtype, sparse=True).denoiser
    canvas = Canvas(torch.randint(0, 39, (5, 64), device="cuda"), torch.rand(5, 64, device="cuda") < 0.5)
    one, other = (each(canvas, canvas.masked).logits.float() for each in (plain, fast))
    assert torch.allclose(one, other, atol=0.1, rtol=0.05)
    assert "SemiStructured" in type(fast.network.blocks[0].gate.up.weight.data).__name__
    with pytest.raises(DenoiserError, match="expected bfloat16 or float16"):
        demask.load(tmp_path / "m", device="cuda", dtype=torch.float32, sparse=True)
