"""Items and their identifiers, both ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from demask.errors import RecommendError


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Which item has which digits; several may share all of them.

    Parameters:
        items: names.
        codes: (I, n) int64 digits.
        size: codes per digit, C.
        counts: (I,) int64, how often each was taken in the training.

    Raises:
        RecommendError: numbers that do not fit, or a name twice.

    Example:
        >>> import torch
        >>> shelf = Catalogue(("a", "b", "c"), torch.tensor([[0, 1], [0, 1], [1, 1]]), 2, torch.tensor([3, 5, 1]))
        >>> shelf.find([(0, 1), (0, 0)]), shelf.shared
        ([(1, 0), ()], 1)
    """

    items: tuple[str, ...]
    codes: Tensor
    size: int
    counts: Tensor

    def __post_init__(self) -> None:
        count = len(self.items)
        if self.codes.ndim != 2 or len(self.codes) != count or self.counts.shape != (count,):
            raise RecommendError(
                f"{count} items, digits of shape {tuple(self.codes.shape)} and counts of shape {tuple(self.counts.shape)}; "
                "expected one row of digits and one count per item"
            )
        if count and not 0 <= int(self.codes.min()) <= int(self.codes.max()) < self.size:
            raise RecommendError(f"digits outside 0 .. {self.size - 1}; give the number of codes: size=..")
        if len(set(self.items)) != count:
            raise RecommendError("an item is listed twice; give every item one name")

    @property
    def digits(self) -> int:
        """How many digits an identifier has, n."""
        return self.codes.shape[1]

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of every item, by name."""
        return {name: index for index, name in enumerate(self.items)}

    @cached_property
    def popular(self) -> tuple[int, ...]:
        """All items, most often taken first; equals in the order of their numbers."""
        return tuple(self.counts.argsort(descending=True, stable=True).tolist())

    @cached_property
    def _sharing(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        out: dict[tuple[int, ...], tuple[int, ...]] = {}
        digits = [tuple(row) for row in self.codes.tolist()]
        for item in self.popular:
            out[digits[item]] = (*out.get(digits[item], ()), item)
        return out

    @property
    def shared(self) -> int:
        """How many items would have to be left out for identifiers to be unique."""
        return len(self.items) - len(self._sharing)

    def find(self, identifiers: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the items of every identifier, most popular first; none where it is not in the catalogue."""
        return [self._sharing.get(tuple(digits), ()) for digits in identifiers]

    def numbers(self, names: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return the numbers of the names that are known, and the names that are not."""
        known = tuple(self.number[name] for name in names if name in self.number)
        return known, tuple(name for name in names if name not in self.number)
