"""Rank by generating identifiers: the network as a denoiser, driven by any sampler."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from demask.canvas import Canvas, Marginals
from demask.contracts import Denoiser, Sampler
from demask.errors import RecommendError
from demask.loop import sample
from demask.orders import LeftToRight
from demask.recommend.catalogue import Catalogue
from demask.recommend.network import Memory, Network
from demask.recommend.ranking import History, Popularity, Ranking, check_most
from demask.samplers import Beam, Logp

SOURCE: Final = "model"
_ROWS: Final = 8192  # canvases at once
COPIES: Final = ("best", "sum")


@dataclass(frozen=True, eq=False)
class Given:
    """A denoiser of identifiers: the network and the histories that it has read.

    A canvas has 1 + n positions: first, visible, the number of the history that a row is about; then the digits. So rows
    may come in any order and number, and each history is encoded once.

    Parameters:
        network: in eval mode.
        memory: of the histories.

    Raises:
        RecommendError: canvases of another shape, or about no known history.

    Cost: one pass of the decoder over n positions per row.

    Example:
        >>> from demask.recommend.network import Dimensions
        >>> network = Network(Dimensions(digits=2, codes=4, width=8, layers=1, heads=2, hidden=8))
        >>> given = Given.of(network, torch.tensor([[[0, 1]], [[3, 2]]]))
        >>> canvas = given.canvas(2)
        >>> canvas, given(canvas, canvas.masked).logits.shape
        (Canvas([[0, _, _], [0, _, _], [1, _, _], [1, _, _]]), torch.Size([8, 4]))
    """

    network: Network
    memory: Memory

    @classmethod
    @torch.no_grad()
    def of(cls, network: Network, history: Tensor) -> "Given":
        """Return the denoiser for some histories: (B, L, n) digits, oldest first, -1 before the first item."""
        network.eval()
        return cls(network, network.encode(history))

    @property
    def vocabulary(self) -> int:
        """How many codes a digit may have."""
        return self.network.dimensions.codes

    def canvas(self, rows: int = 1) -> Canvas:
        """Return the canvas to begin with, of `rows` neighbouring rows per history."""
        count, digits = len(self.memory.seen), self.network.dimensions.digits
        device = self.memory.seen.device
        tokens = torch.zeros(count * rows, 1 + digits, dtype=torch.int64, device=device)
        tokens[:, 0] = torch.arange(count, device=device).repeat_interleave(rows)
        masked = (torch.arange(1 + digits, device=device) > 0).repeat(count * rows, 1)
        return Canvas(tokens, masked)

    @torch.no_grad()
    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer for the positions `where` (R, 1 + n) bool, of the digits."""
        size = self.network.dimensions
        about, digits, masked = canvas.tokens[:, 0], canvas.tokens[:, 1:], canvas.masked[:, 1:]
        if digits.shape[1] != size.digits or bool(canvas.masked[:, 0].any()):
            raise RecommendError(
                f"a canvas of {canvas.shape[1]} positions; expected a history and {size.digits} digits: canvas()"
            )
        different, count = about.unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
        if len(different) and not 0 <= int(different.min()) <= int(different.max()) < len(self.memory.seen):
            raise RecommendError(f"a canvas about history {int(different.max())} of {len(self.memory.seen)}")
        if bool((count == count[:1]).all()):  # equally many neighbouring rows: they look back together
            shape = (len(different), len(about) // max(1, len(different)), size.digits)
            logits = self.network.decode(self.memory.rows(different), digits.view(shape), masked.view(shape))
        else:
            logits = self.network.decode(self.memory.rows(about), digits[:, None], masked[:, None])
        return Marginals(where, logits.view(len(about), size.digits, -1)[where[:, 1:]])


@dataclass(frozen=True, eq=False)
class Catalogued:
    """Keep the codes that lead to identifiers of the catalogue, and renormalise.

    A code of a digit is kept if some identifier has it and all the visible digits. So whatever is filled one digit at a time
    exists; digits filled together may not. A beam's scores are then sums over these laws, not log p.

    Parameters:
        inner: a denoiser of canvases with one position before the digits, as `Given`.
        codes: (I, n) int64, of the catalogue.

    Raises:
        RecommendError: visible digits that no identifier has.

    Cost: none beyond the inner one's; R I n C products for R rows.

    Example:
        >>> from demask.oracles import Table
        >>> inner = Table.uniform(torch.tensor([[0, a, b] for a in (0, 1) for b in (0, 1)]), 2)
        >>> canvas = Canvas(torch.tensor([[0, 1, 0]]), torch.tensor([[False, False, True]]))
        >>> Catalogued(inner, torch.tensor([[0, 0], [1, 1], [0, 1]]))(canvas, canvas.masked).logits.softmax(1)
        tensor([[0., 1.]], dtype=torch.float64)
    """

    inner: Denoiser
    codes: Tensor

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer for the positions `where` (R, 1 + n)."""
        answer = self.inner(canvas, where)
        if not len(answer.logits):
            return answer
        codes = self.codes.to(answer.logits.device)
        shown, masked = canvas.tokens[:, 1:], canvas.masked[:, 1:]
        fits = torch.ones(len(shown), len(codes), dtype=torch.bool, device=codes.device)
        for digit in range(codes.shape[1]):
            fits &= masked[:, digit, None] | (shown[:, digit, None] == codes[:, digit])
        if not bool(fits.any(1).all()):
            raise RecommendError(
                "the visible digits of a row are those of no item; let digits go one at a time: Beam(..)"
            )
        had = functional.one_hot(codes, answer.vocabulary).flatten(1).float()  # (I, n C)
        kept = (fits.float() @ had > 0).view(len(shown), codes.shape[1], -1)[where[:, 1:]]
        return replace(answer, logits=answer.logits.masked_fill(~kept, -torch.inf))


def released(width: int, noise: str = "coherent") -> Beam:
    """Return the beam as published for a network: over all places, or from the left for an autoregressive one.

    Example:
        >>> released(256)
        Beam(width=256, copies='kept', last='mode', order=None)
    """
    return Beam(width, last="all", order=LeftToRight()) if noise == "left" else Beam(width)


@dataclass(frozen=True, eq=False)
class Generative:
    """Rank the items whose identifiers are generated behind a history.

    With a `Beam`, scores are log p(identifier | history), nats. With any other sampler `draws` identifiers are drawn per
    history, and an item scores the log of their share. Identifiers that no item has are skipped; items that share one stand
    together, the most popular first, with equal scores. Where fewer than k items are found the list is shorter. An empty
    history is answered by popularity, and says so.

    Parameters:
        network: that generates.
        catalogue: of the items.
        sampler: of the digits.
        draws: rows per history, for samplers other than a beam.
        copies: "best": an identifier found twice keeps its best score; "sum": the scores are added up as probabilities.
        key: of the draws.
        label: its name in tables.
        catalogued: keep to identifiers that exist (`Catalogued`), which the release does not; for samplers that let one
            digit go at a time.

    Raises:
        RecommendError: a network and a catalogue of other digits, draws below 1.
    """

    network: Network
    catalogue: Catalogue
    sampler: Sampler[Any]
    draws: int = 32
    copies: str = "best"
    key: int = 0
    label: str | None = None
    catalogued: bool = False

    def __post_init__(self) -> None:
        size = self.network.dimensions
        if (size.digits, size.codes) != (self.catalogue.digits, self.catalogue.size):
            raise RecommendError(
                f"a network of {size.digits} digits of {size.codes} codes for one of {self.catalogue.digits} of "
                f"{self.catalogue.size}; use the catalogue that it was trained with"
            )
        if self.draws < 1 or self.copies not in COPIES:
            raise RecommendError(f"draws {self.draws} and copies {self.copies!r}; expected 1 or more, and best or sum")

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.label or repr(self.sampler)

    @property
    def rows(self) -> int:
        """Canvases per history."""
        return self.sampler.width if isinstance(self.sampler, Beam) else self.draws

    def rank(self, histories: Sequence[History], k: int) -> list[Ranking]:
        """Return at most k items per history."""
        check_most(k, len(self.catalogue.items))
        out = Popularity(self.catalogue).rank(histories, k)
        some = [row for row, history in enumerate(histories) if len(history)]
        size = max(1, _ROWS // self.rows)
        for start in range(0, len(some), size):
            part = some[start : start + size]
            for row, ranking in zip(part, self._rank([histories[row] for row in part], start, k), strict=True):
                out[row] = ranking
        return out

    def _rank(self, histories: Sequence[History], start: int, k: int) -> Iterator[Ranking]:
        rows, device = self.rows, self.network.codes.device
        given = Given.of(self.network, self._digits[padded(histories, self.network.dimensions.history)].to(device))
        collect = [Logp()] if isinstance(self.sampler, Beam) else []
        names = torch.arange(start * rows, (start + len(histories)) * rows, device=device)
        denoiser: Denoiser = Catalogued(given, self.catalogue.codes) if self.catalogued else given
        run = sample(denoiser, self.sampler, given.canvas(rows), key=self.key, names=names, collect=collect)
        complete = (run.when != -2).all(1).view(-1, rows).tolist()
        found = run.tokens[:, 1:].view(len(histories), rows, -1).tolist()
        nfe = run.nfe.view(-1, rows).sum(1).tolist()
        scores = run.collected["logp"].view(-1, rows).tolist() if collect else [[-log(rows)] * rows] * len(histories)
        for each, digits in enumerate(found):
            worth: dict[tuple[int, ...], float] = {}
            for row, identifier in enumerate(map(tuple, digits)):
                if complete[each][row]:
                    before, score = worth.get(identifier), scores[each][row]
                    summed = not collect or self.copies == "sum"
                    worth[identifier] = score if before is None else _joined(before, score, summed=summed)
            yield self._listed(sorted(worth.items(), key=lambda pair: -pair[1]), k, nfe[each])

    def _listed(self, found: Sequence[tuple[tuple[int, ...], float]], k: int, nfe: int) -> Ranking:
        pairs = [
            (item, score)
            for (_, score), items in zip(found, self.catalogue.find([digits for digits, _ in found]), strict=True)
            for item in items
        ][:k]
        return Ranking(tuple(item for item, _ in pairs), tuple(score for _, score in pairs), SOURCE, nfe)

    @cached_property
    def _digits(self) -> Tensor:
        """The digits of every item, and a row of -1 behind them for no item."""
        return with_nothing(self.catalogue.codes)


def with_nothing(codes: Tensor) -> Tensor:
    """Return the digits of every item and a last row of -1, so that item -1 is none: (I, n) -> (I + 1, n)."""
    return torch.cat((codes, torch.full_like(codes[:1], -1)))


def padded(histories: Sequence[History], most: int) -> Tensor:
    """Return the last items of every history, -1 before the first: (B, L), L at most `most`.

    Example:
        >>> padded([(1, 2, 3), (4,)], 2)
        tensor([[ 2,  3],
                [-1,  4]])
    """
    length = min(most, max(map(len, histories), default=1))
    out = torch.full((len(histories), length), -1)
    for row, history in enumerate(histories):
        last = torch.tensor(list(history[-length:]), dtype=torch.int64)
        out[row, length - len(last) :] = last
    return out


def _joined(one: float, other: float, *, summed: bool) -> float:
    high, low = max(one, other), min(one, other)
    return high + float(torch.log1p(torch.tensor(low - high, dtype=torch.float64).exp())) if summed else high
