"""What a ranker answers, and the two baselines that need no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from demask.errors import RecommendError
from demask.recommend.catalogue import Catalogue
from demask.recommend.interactions import Interactions

History = Sequence[int]


@dataclass(frozen=True)
class Ranking:
    """Items in falling order.

    Parameters:
        items: numbers, no two alike; at most as many as were asked for, fewer where no more were found.
        scores: of each; what they are, the ranker says.
        source: who ranked: "model", "popularity", ..
        nfe: forward passes of the decoder, one identifier each.
    """

    items: tuple[int, ...]
    scores: tuple[float, ...]
    source: str
    nfe: int = 0


class Ranker(Protocol):
    """Ranks what may come next."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    def rank(self, histories: Sequence[History], k: int) -> list[Ranking]:
        """Return at most k items per history (item numbers, oldest first)."""
        ...


def check_most(k: int, items: int) -> None:
    """Raise RecommendError unless 1 <= k <= items.

    Example:
        >>> check_most(3, 5)
    """
    if not 1 <= k <= items:
        raise RecommendError(f"{k} items asked for of a catalogue of {items}; expected 1 <= k <= {items}")


@dataclass(frozen=True, eq=False)
class Popularity:
    """Rank by how often an item was taken in the training, whatever the history.

    Scores are these counts.
    """

    catalogue: Catalogue
    name: ClassVar[str] = "popularity"

    def rank(self, histories: Sequence[History], k: int) -> list[Ranking]:
        """Return the k most popular items, for every history alike."""
        check_most(k, len(self.catalogue.items))
        best = self.catalogue.popular[:k]
        counts = tuple(float(count) for count in self.catalogue.counts[list(best)].tolist())
        return [Ranking(best, counts, self.name)] * len(histories)


@dataclass(frozen=True, eq=False)
class ItemKNN:
    """Rank by how often an item was taken by the users who took those of the history.

    score(j) = sum over i of the history of n_ij / sqrt(n_i n_j), where n_ij users took both, i != j, and j is among the
    `neighbours` most similar items of i. Equal scores are ordered by popularity, as are items without any.

    Parameters:
        log: whose training part is used.
        catalogue: of the same items.
        neighbours: per item.

    Cost: O(sum over users of the square of their items) to prepare; O(|history| neighbours + I log I) per answer.
    """

    log: Interactions
    catalogue: Catalogue
    neighbours: int = 100
    name: ClassVar[str] = "item-kNN"

    @cached_property
    def _similar(self) -> Any:
        from scipy import sparse

        pairs = sorted({(user, item) for user, taken in enumerate(self.log.training) for item in taken})
        users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        shape = (len(self.log.users), len(self.catalogue.items))
        taken = sparse.csr_array((np.ones(len(users)), (users, items)), shape=shape)
        count = np.maximum(np.asarray(taken.sum(0)).ravel(), 1.0)
        scale = sparse.diags_array(count**-0.5)
        similar = sparse.csr_array(scale @ (taken.T @ taken) @ scale)
        for item in range(shape[1]):
            row = slice(similar.indptr[item], similar.indptr[item + 1])
            values = np.where(similar.indices[row] == item, 0.0, similar.data[row])
            if len(values) > self.neighbours:
                values[values < np.partition(values, -self.neighbours)[-self.neighbours]] = 0.0
            similar.data[row] = values
        similar.eliminate_zeros()
        return similar

    def rank(self, histories: Sequence[History], k: int) -> list[Ranking]:
        """Return the k items of largest score, per history."""
        check_most(k, len(self.catalogue.items))
        popular = np.array(self.catalogue.popular)
        out = []
        for history in histories:
            scores = np.zeros(len(popular))
            for item in history:
                row = slice(self._similar.indptr[item], self._similar.indptr[item + 1])
                scores[self._similar.indices[row]] += self._similar.data[row]
            best = popular[np.argsort(-scores[popular], kind="stable")[:k]]
            out.append(Ranking(tuple(best.tolist()), tuple(scores[best].tolist()), self.name))
        return out
