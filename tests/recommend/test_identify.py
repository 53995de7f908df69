"""Embeddings and identifiers."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from demask.errors import RecommendError
from demask.recommend import Catalogue, Quantiser, Sentences, Words, read_embeddings
from tests.recommend.worlds import EXTRA, WORLD

POINTS = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def quantiser():
    pytest.importorskip("faiss", reason=EXTRA)
    return Quantiser.fit(POINTS, digits=3, codes=8, dimensions=10)


def test_whitening_and_rotation(quantiser):
    """The directions kept are a multiple of the digits; whitened points have unit covariance; R is orthogonal."""
    assert quantiser.whitening.shape == (9, 12)
    normal = torch.from_numpy(POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True))
    white = (normal - quantiser.mean) @ quantiser.whitening.T
    assert torch.allclose(white.T @ white / len(white), torch.eye(9), atol=1e-4)
    assert torch.allclose(quantiser.rotation @ quantiser.rotation.T, torch.eye(9), atol=1e-5)


def test_round_trip(quantiser):
    """decode(encode(x)) is the nearest centroid of every subspace, and centroids are their own code."""
    codes = quantiser.encode(POINTS)
    parts, nearest = quantiser.rotate(POINTS), quantiser.decode(codes)
    assert codes.shape == (200, 3)
    for digit in range(3):
        every = ((parts[:, digit, None] - quantiser.centroids[digit]) ** 2).sum(-1)
        chosen = ((parts[:, digit] - nearest[:, digit]) ** 2).sum(-1)
        assert torch.allclose(chosen, every.amin(1), atol=1e-6)
    assert (codes.amin(), codes.amax()) == (0, 7)
    means = torch.stack([parts[codes[:, 1] == code, 1].mean(0) for code in range(8)])
    assert (means - quantiser.centroids[1]).abs().max() < 0.05  # Lloyd's fixed point, nearly


def test_rotation_loses_less_than_none(quantiser):
    """What OPQ is for: the error is below that of the same clustering of the coordinates as they are."""
    import faiss

    reduced = (quantiser.rotate(POINTS).flatten(1) @ quantiser.rotation).numpy()
    mixed = np.ascontiguousarray(reduced)
    plain = faiss.ProductQuantizer(9, 3, 3)
    plain.cp.min_points_per_centroid = 1
    plain.train(mixed)
    lost = ((mixed - plain.decode(plain.compute_codes(mixed))) ** 2).sum(1).mean()
    mine = ((quantiser.rotate(POINTS) - quantiser.decode(quantiser.encode(POINTS))) ** 2).sum((1, 2)).mean()
    assert float(mine) < lost * 1.02


def test_fitted_to_the_training_items_alone():
    pytest.importorskip("faiss", reason=EXTRA)
    fitted = [index < 100 for index in range(200)]
    moved = POINTS.copy()
    moved[100:] *= -3.0
    one = Quantiser.fit(POINTS, digits=3, codes=8, fitted=fitted)
    other = Quantiser.fit(moved, digits=3, codes=8, fitted=fitted)
    assert torch.equal(one.centroids, other.centroids)
    assert one.encode(POINTS).shape == (200, 3)


def test_words_tell_attributes_apart():
    """Items that share all words but one are nearer than items that share none."""
    pytest.importorskip("sklearn", reason=EXTRA)
    vectors = Words(64)(WORLD.texts)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = (WORLD.attributes[:, None] == WORLD.attributes[None]).sum(2).numpy()
    likeness = unit @ unit.T
    assert likeness[alike == 2].mean() > likeness[alike == 1].mean() > likeness[alike == 0].mean()
    assert np.array_equal(vectors, Words(64)(WORLD.texts))
    with pytest.raises(RecommendError, match="1 texts hold no word"):
        Words()(["some words", "other words", "a b"])
    with pytest.raises(RecommendError, match="hold no words"):
        Words()(["a", "b"])


def test_sentences_are_given_to_the_library_in_order(monkeypatch):
    """A stand-in for sentence-transformers: its model is asked once, for vectors of length 1."""
    asked = []

    class Model:
        def __init__(self, name):
            if name == "none":
                raise OSError("no such model\nand a long explanation")
            self.name = name

        def encode(self, texts, *, normalize_embeddings):
            asked.append((self.name, texts, normalize_embeddings))
            return [[float(len(text)), 0.0] for text in texts]

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Model))
    vectors = Sentences("mine")(("tea", "a cup"))
    assert asked == [("mine", ["tea", "a cup"], True)]
    assert (vectors.dtype, vectors.tolist()) == (np.float32, [[3.0, 0.0], [5.0, 0.0]])
    with pytest.raises(RecommendError, match=r"none cannot be loaded \(no such model\); give a folder"):
        Sentences("none")(("tea",))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(RecommendError, match="needs sentence_transformers; install it: pip install"):
        Sentences()(("tea",))


def test_bad_vectors():
    with pytest.raises(RecommendError, match="power of two"):
        Quantiser.fit(POINTS, digits=3, codes=10)
    with pytest.raises(RecommendError, match=r"200 items for 256 codes .* codes=128"):
        Quantiser.fit(POINTS, digits=3, codes=256)
    with pytest.raises(RecommendError, match="vector 3 is zero or not finite"):
        Quantiser.fit(np.where(np.arange(200)[:, None] == 3, 0, POINTS), digits=3, codes=8)
    with pytest.raises(RecommendError, match="the items vary in 2 directions"):
        Quantiser.fit(POINTS[:, :2], digits=3, codes=8)


def test_given_embeddings(tmp_path):
    path = tmp_path / "e.jsonl"
    rows = [{"item": "a", "embedding": [1, 2]}, {"item": "b", "embedding": [3, 4]}, {"item": "c", "embedding": [3]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_embeddings(path, ["b", "a"]).tolist() == [[3, 4], [1, 2]]
    with pytest.raises(RecommendError, match="1 items have no embedding, such as d"):
        read_embeddings(path, ["a", "d"])
    with pytest.raises(RecommendError, match="embeddings of 1 and of 2 numbers"):
        read_embeddings(path, ["a", "c"])
    path.write_text('{"item": "a"}\n')
    with pytest.raises(RecommendError, match="expected an item and its embedding"):
        read_embeddings(path, ["a"])


def test_catalogue():
    codes = torch.tensor([[0, 1], [2, 2], [0, 1]])
    shelf = Catalogue(("a", "b", "c"), codes, 3, torch.tensor([1, 5, 2]))
    assert shelf.popular == (1, 2, 0)
    assert shelf.find([(0, 1), (2, 2), (1, 1)]) == [(2, 0), (1,), ()]
    assert shelf.numbers(["c", "x", "a"]) == ((2, 0), ("x",))
    with pytest.raises(RecommendError, match=r"digits outside 0 \.\. 1"):
        Catalogue(("a", "b", "c"), codes, 2, torch.tensor([1, 5, 2]))
    with pytest.raises(RecommendError, match="listed twice"):
        Catalogue(("a", "b", "a"), codes, 3, torch.tensor([1, 5, 2]))
    with pytest.raises(RecommendError, match="one row of digits and one count per item"):
        Catalogue(("a",), codes, 3, torch.tensor([1]))
