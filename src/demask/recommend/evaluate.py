"""Leave one out: how often, and how high, the item that was taken stands in a ranking."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import numpy as np

from demask.curve import Estimate
from demask.errors import RecommendError
from demask.recommend.interactions import Cases
from demask.recommend.ranking import Ranker


@dataclass(frozen=True)
class Quality:
    """What a ranker is worth.

    Parameters:
        name: of the ranker.
        recall: by K, the share of cases whose item is among the first K.
        ndcg: by K, the mean of 1 / log2(1 + rank) where it is, 0 elsewhere.
        cases: how many.
        nfe: forward passes per case.
        seconds: per case.
        short: cases with fewer items than were asked for.
    """

    name: str
    recall: dict[int, Estimate]
    ndcg: dict[int, Estimate]
    cases: int
    nfe: float
    seconds: float
    short: int


def evaluate(ranker: Ranker, cases: Cases, *, k: Sequence[int] = (5, 10), batch: int = 256) -> Quality:
    """Return Recall@K and NDCG@K with their standard errors over cases.

    Every item of the catalogue competes; nothing is sampled and none of the history is left out.

    Parameters:
        ranker: asked for max(k) items.
        cases: histories and what came next.
        k: list lengths.
        batch: histories at once.

    Raises:
        RecommendError: no cases, no k, or one larger than the catalogue.

    Example:
        >>> from demask.recommend.ranking import Ranking
        >>> class First:
        ...     name = "first"
        ...     def rank(self, histories, k):
        ...         return [Ranking((0, 1, 2)[:k], (0.0,) * k, "first")] * len(histories)
        >>> found = evaluate(First(), Cases((0, 1), ((1,), (0,)), (1, 2)), k=[2, 3])
        >>> float(found.recall[2]), float(found.recall[3]), round(float(found.ndcg[3]), 4)
        (0.5, 1.0, 0.5655)
    """
    if not len(cases) or not k:
        raise RecommendError(f"{len(cases)} cases and list lengths {tuple(k)}; expected some of both")
    most = max(k)
    ranks, short, nfe = np.full(len(cases), np.inf), 0, 0
    begun = time.perf_counter()
    for start in range(0, len(cases), batch):
        part = slice(start, start + batch)
        for row, ranking in enumerate(ranker.rank(cases.histories[part], most), start):
            target = cases.targets[row]
            if target in ranking.items:
                ranks[row] = ranking.items.index(target) + 1
            short += len(ranking.items) < most
            nfe += ranking.nfe
    seconds = (time.perf_counter() - begun) / len(cases)
    hits = {most: ranks <= most for most in k}
    gains = 1.0 / np.log2(1.0 + ranks)
    return Quality(
        ranker.name,
        {most: _mean(hit.astype(float)) for most, hit in hits.items()},
        {most: _mean(np.where(hit, gains, 0.0)) for most, hit in hits.items()},
        len(cases), nfe / len(cases), seconds, short,
    )  # fmt: skip


def gain(rank: int) -> float:
    """Return what an item at this rank, from 1, is worth: 1 / log2(1 + rank).

    Example:
        >>> gain(1), gain(3)
        (1.0, 0.5)
    """
    return 1.0 / log2(1 + rank)


def _mean(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0)
