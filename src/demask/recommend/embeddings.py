"""Items as vectors: from the words of their texts, from a sentence model, or as given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from demask.errors import RecommendError
from demask.recommend.interactions import ITEM
from demask.recommend.tables import extra, pick, rows

Floats = NDArray[np.float32]
EMBEDDING: Final = ("embedding", "vector")


@dataclass(frozen=True)
class Words:
    """Embed a text by its words: TF-IDF (logarithmic counts), then a truncated singular value decomposition.

    Parameters:
        dimensions: at most this many; fewer where there are fewer words or items.
        key: of the randomised decomposition.

    Raises:
        RecommendError: a text without a word of two letters or more, scikit-learn missing.

    Cost: O(words of all texts * dimensions).
    """

    dimensions: int = 256
    key: int = 0

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Return one vector per text, (I, D) float32."""
        features = extra("sklearn.feature_extraction.text", "embedding texts by their words")
        decomposition = extra("sklearn.decomposition", "embedding texts by their words")
        try:
            counts = features.TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
        except ValueError as error:
            raise RecommendError(f"the texts hold no words ({error}); expected words of two letters or more") from None
        empty = np.flatnonzero(np.asarray(counts.getnnz(axis=1)) == 0)
        if len(empty):
            raise RecommendError(f"{len(empty)} texts hold no word, such as {texts[empty[0]]!r}; give them one")
        width = min(self.dimensions, min(counts.shape) - 1)
        if width < 1:
            raise RecommendError(f"{counts.shape[0]} texts of {counts.shape[1]} words; expected at least two of both")
        reduced = decomposition.TruncatedSVD(width, random_state=self.key).fit_transform(counts)
        return np.asarray(reduced, dtype=np.float32)


@dataclass(frozen=True)
class Sentences:
    """Embed a text by a model of the sentence-transformers library, as published: sentence-t5-base.

    Parameters:
        model: its name or folder.

    Raises:
        RecommendError: sentence-transformers missing, or the model cannot be loaded.
    """

    model: str = "sentence-transformers/sentence-t5-base"

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Return one normalised vector per text, (I, D) float32."""
        library = extra("sentence_transformers", "embedding by a sentence model", "sentence-transformers")
        try:
            model = library.SentenceTransformer(self.model)
        except (OSError, ValueError) as error:
            raise RecommendError(
                f"{self.model} cannot be loaded ({str(error).partition(chr(10))[0]}); give a folder or a known name"
            ) from None
        return np.asarray(model.encode(list(texts), normalize_embeddings=True), dtype=np.float32)


def read_embeddings(path: str | Path, items: Sequence[str], *, item: str | None = None) -> Floats:
    """Read vectors from a file with a column item and a column embedding (lists of numbers).

    Raises:
        RecommendError: an item without one, vectors of several lengths or not finite.
    """
    found: dict[str, Any] = {}
    for place, row in rows(path):
        name, vector = pick(row, ITEM if item is None else (item,)), row.get("embedding", row.get("vector"))
        if name is None or not isinstance(vector, list | tuple) or not vector:
            raise RecommendError(
                f"{place}: expected an item and its embedding, a list of numbers; found {', '.join(row)}"
            )
        found[str(name)] = vector
    if missing := [name for name in items if name not in found]:
        raise RecommendError(f"{path}: {len(missing)} items have no embedding, such as {', '.join(missing[:3])}")
    sizes = {len(found[name]) for name in items}
    if len(sizes) > 1:
        raise RecommendError(f"{path}: embeddings of {min(sizes)} and of {max(sizes)} numbers; expected one length")
    try:
        vectors = np.asarray([found[name] for name in items], dtype=np.float32)
    except (TypeError, ValueError):
        raise RecommendError(f"{path}: an embedding holds something else than numbers") from None
    return vectors
