"""Interactions whose law is known, so that the best that any ranker can reach is known too."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from demask import files
from demask.errors import RecommendError
from demask.recommend.catalogue import Catalogue
from demask.recommend.evaluate import gain
from demask.recommend.interactions import Event, Interactions
from demask.recommend.ranking import History, Ranking, check_most

_KINDS: Final = ("brand", "colour", "style", "use")
_SYLLABLES: Final = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
_DAY: Final = 86_400


@dataclass(frozen=True, eq=False)
class Known:
    """Users whose next item depends on the last two, through its attributes.

    p(next = j | i, h) proportional to prod_a T_a[attribute_a(i or h), attribute_a(j)] over the items j that exist: even
    attributes follow the last item i, odd ones the item h before it (i, where there is none). The first item is uniform.

    Parameters:
        attributes: (I, A) int64, one row per item, no two alike.
        logs: (A, V, V), log T_a, rows sum to one.

    Raises:
        RecommendError: numbers that do not fit.

    Example:
        >>> world = Known.random(items=30, attributes=2, values=8, key=0)
        >>> recall, ndcg = world.best([(3, 7), (0, 1)], 10)
        >>> 10 / 30 < recall < 1 and 0 < ndcg < recall
        True
    """

    attributes: Tensor
    logs: Tensor

    def __post_init__(self) -> None:
        count, values = self.attributes.shape[1], self.logs.shape[-1]
        if self.logs.shape != (count, values, values) or not 0 <= int(self.attributes.max()) < values:
            raise RecommendError(
                f"attributes of shape {tuple(self.attributes.shape)} for laws of shape {tuple(self.logs.shape)}; expected "
                "(items, A) below V, and (A, V, V)"
            )
        if len({tuple(row) for row in self.attributes.tolist()}) < len(self.attributes):
            raise RecommendError("two items have the same attributes; give every item its own")

    @classmethod
    def random(
        cls, *, items: int = 400, attributes: int = 4, values: int = 8, concentration: float = 0.15, key: int = 0
    ) -> "Known":
        """Draw a world: which of the values^attributes items exist, and Dirichlet(concentration) rows of every law."""
        if not 2 <= items <= values**attributes:
            raise RecommendError(
                f"{items} items of {attributes} attributes of {values} values; expected 2 to {values}^.."
            )
        chance = torch.Generator().manual_seed(key)
        chosen = torch.randperm(values**attributes, generator=chance)[:items]
        digits = torch.stack([chosen // values**place % values for place in range(attributes)], 1)
        gamma = torch._standard_gamma(
            torch.full((attributes, values, values), concentration, dtype=torch.float64), chance
        )
        return cls(digits, (gamma + 1e-6).log().log_softmax(-1))

    @property
    def items(self) -> tuple[str, ...]:
        """Names."""
        width = len(str(len(self.attributes) - 1))
        return tuple(f"item{number:0{width}d}" for number in range(len(self.attributes)))

    @property
    def texts(self) -> tuple[str, ...]:
        """One word per attribute behind its kind, such as `brand baba colour gedu`."""
        values = self.logs.shape[-1]

        def word(kind: int, value: int) -> str:
            number = kind * values + value
            return (
                _SYLLABLES[number % len(_SYLLABLES)] + _SYLLABLES[(number * 31 + 17) // 7 % len(_SYLLABLES)] + str(kind)
            )

        kinds = [_KINDS[a] if a < len(_KINDS) else f"trait{a}" for a in range(self.attributes.shape[1])]
        return tuple(
            " ".join(f"{kinds[a]} {word(a, value)}" for a, value in enumerate(row)) for row in self.attributes.tolist()
        )

    def logp(self, histories: Sequence[History]) -> Tensor:
        """Return the log-probability of every next item, (B, I) float64; histories are not empty."""
        last = torch.tensor([history[-1] for history in histories])
        before = torch.tensor([history[-2] if len(history) > 1 else history[-1] for history in histories])
        total = torch.zeros(len(histories), len(self.attributes), dtype=torch.float64)
        for a in range(self.attributes.shape[1]):
            seen = self.attributes[last if a % 2 == 0 else before, a]
            total += self.logs[a][seen][:, self.attributes[:, a]]
        return total.log_softmax(1)

    def sample(self, users: int, *, least: int = 5, most: int = 15, key: int = 0) -> Interactions:
        """Return the interactions of new users, of `least` to `most` items each."""
        chance = torch.Generator().manual_seed(key)
        lengths = torch.randint(least, most + 1, (users,), generator=chance).tolist()
        taken = torch.randint(len(self.attributes), (users, 1), generator=chance)
        for _ in range(most - 1):
            law = self.logp([tuple(row) for row in taken[:, -2:].tolist()]).exp()
            taken = torch.cat((taken, torch.multinomial(law, 1, generator=chance)), 1)
        width = len(str(users - 1))
        names = tuple(f"user{number:0{width}d}" for number in range(users))
        sequences = tuple(tuple(row[:length]) for row, length in zip(taken.tolist(), lengths, strict=True))
        return Interactions(names, self.items, self.texts, sequences)

    def best(self, histories: Sequence[History], k: int) -> tuple[float, float]:
        """Return the largest Recall@K and NDCG@K that any ranker can expect on these histories.

        Both are reached by ranking by p: sum of the K largest p, and of the K largest p times 1 / log2(1 + rank).
        """
        check_most(k, len(self.attributes))
        top = self.logp(histories).exp().topk(k, dim=1).values.mean(0)
        weights = torch.tensor([gain(rank) for rank in range(1, k + 1)], dtype=torch.float64)
        return float(top.sum()), float(top @ weights)

    @property
    def name(self) -> str:
        """What it is called in tables, as a ranker."""
        return "the law itself"

    def rank(self, histories: Sequence[History], k: int) -> list[Ranking]:
        """Rank by the law itself: no ranker can be better."""
        check_most(k, len(self.attributes))
        found = self.logp(histories).topk(k, dim=1)
        return [
            Ranking(tuple(items), tuple(scores), self.name)
            for items, scores in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]

    def catalogue(self, log: Interactions) -> Catalogue:
        """Return the catalogue whose digits are the true attributes."""
        return Catalogue(self.items, self.attributes, self.logs.shape[-1], torch.tensor(log.counts))

    def write(self, folder: str | Path, log: Interactions) -> None:
        """Write interactions.jsonl and items.jsonl, as `demask recommend prepare` reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        taken = (
            json.dumps(Event(user, log.items[item], 1_700_000_000.0 + _DAY * day)._asdict())
            for user, sequence in zip(log.users, log.sequences, strict=True)
            for day, item in enumerate(sequence)
        )
        described = (json.dumps({"item": item, "text": text}) for item, text in zip(log.items, log.texts, strict=True))
        for name, lines in (("interactions.jsonl", taken), ("items.jsonl", described)):
            files.write(folder / name, "".join(f"{line}\n" for line in lines).encode())
