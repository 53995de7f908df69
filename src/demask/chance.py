"""All randomness goes through one object, keyed by (key, row, labels, position).

`Keyed` is for work: a counter-based generator, so a row's draws depend neither on its batch mates nor on the device,
and a run is reproduced by its key. `Scripted` follows given choices and records the others, so that `information.law`
can walk through every outcome of a small problem.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise, permutations
from math import comb, exp, log, pi
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demask.canvas import Marginals
from demask.errors import CanvasError
from demask.few import fractions
from demask.masks import listed, number, places
from demask.once import once

_GOLDEN: Final = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1: Final = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2: Final = 0x94D049BB133111EB - (1 << 64)
_ALL: Final = (1 << 64) - 1
_ROW_BITS: Final = 32
_FEW: Final = 32  # draws that are made one by one
_FEW_ROWS: Final = 8  # whose seeds are

# 64 bits each: an array on a host, where that is several times faster for a few rows.
Words = Tensor | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Keyed:
    """Chance that is a pure function of its key, its row's name, its labels and the position.

    Draw number p of a row is SplitMix64 of (seed of the row + p golden ratios), the seed itself a hash of the key, the
    row's name and the labels. Good for sampling, not for cryptography. A fork costs next to nothing until it draws.

    What a run asks for at every step is remembered: forks under words alone, such as those that sizes and the random order
    are drawn from, and with them their levels and uniform numbers, (B, N). Forks under numbers, such as a step, are not.

    Parameters:
        path: 64 bits, a hash of the key and of the labels common to all rows; or one per row, where rows of several keys
            or at several steps stand side by side.
        names: (B,) int64 >= 0, what each row is called; a row keeps its draws in every batch in which it has this name.
        tags: per-row labels, each (B,) int64.

    Example:
        >>> seven, alone = Keyed.of(3, torch.arange(7)), Keyed.of(3, torch.tensor([5]))
        >>> bool(seven.level(torch.empty(0))[5] == alone.level(torch.empty(0))[0])
        True

    Reference: Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.
    """

    path: int | tuple[int, ...]
    names: Tensor
    tags: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, key: int, names: Tensor) -> "Keyed":
        """Return chance for the rows called `names`, from an integer key."""
        names = names.to(torch.int64)
        if names.ndim != 1 or not all(0 <= name < 1 << _ROW_BITS for name in names.tolist()):
            raise CanvasError(f"row names {names.tolist()[:8]}; expected one integer in [0, 2**{_ROW_BITS}) per row")
        return cls(_salt("key", key), names)

    @classmethod
    def join(cls, parts: Sequence["Keyed"]) -> "Keyed":
        """Return chance for the rows of all parts, which keep their draws; each part has as many tags."""
        paths = {part.path for part in parts}
        path = paths.pop() if len(paths) == 1 else tuple(word for part in parts for word in part._paths)
        tags = zip(*(part.tags for part in parts), strict=True)
        return cls(path, torch.cat([part.names for part in parts]), tuple(torch.cat(tag) for tag in tags))

    def fork(self, *labels: str | int | Tensor | tuple[int, ...]) -> "Keyed":
        """Independent chance under the given labels."""
        known = self._forks.get(labels)
        if known is not None:
            return known
        path, tags = self.path, self.tags
        for label in labels:
            if isinstance(label, Tensor):
                path, tags = _below(path, len(tags)), (*tags, label)
            else:
                path = _below(path, label)
        fork = Keyed(path, self.names, tags)
        if tags is self.tags and self._are_few:
            fork.__dict__["_called"] = self._called
        if set(map(type, labels)) == {str}:
            self._forks[labels] = fork
        return fork

    def rows(self, keep: Tensor) -> "Keyed":
        """Restrict to some rows; levels that are known stay known."""
        path = self.path
        if isinstance(path, tuple):
            places = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
            path = tuple(path[place] for place in places.tolist())
        kept = Keyed(path, self.names[keep], tuple(tag[keep] for tag in self.tags))
        if "_level" in self.__dict__:
            kept.__dict__["_level"] = self._level[keep]
        return kept

    @property
    def seed(self) -> int:
        """63 bits that all rows have in common, for a generator that is not ours.

        Raises:
            CanvasError: rows of several keys or steps.
        """
        if isinstance(self.path, tuple):
            raise CanvasError("one seed of rows that have different keys or steps; take some with rows(..)")
        return self.path & ((1 << 63) - 1)

    @property
    def _paths(self) -> tuple[int, ...]:
        """One path per row."""
        return self.path if isinstance(self.path, tuple) else (self.path,) * len(self.names)

    @once
    def _forks(self) -> dict[tuple[object, ...], "Keyed"]:
        return {}

    @property
    def _are_few(self) -> bool:
        return self.names.is_cpu and len(self.names) <= _FEW_ROWS

    @once
    def _called(self) -> list[tuple[int, ...]]:
        """The tags and the name of each row on the host."""
        return list(zip(*(column.tolist() for column in (*self.tags, self.names)), strict=True))

    @once
    def _grids(self) -> dict[int, Tensor]:
        return {}

    @once
    def _shared(self) -> Words:
        """64 bits that rows of equal tags have in common, (B,)."""
        shared: Words = _words(self.names.new_tensor(self.path).expand_as(self.names))
        for tag in self.tags:
            shared = _mix(shared ^ _mix(_words(tag) + _GOLDEN))
        return shared

    @once
    def _seeds(self) -> Words:
        """64 bits of each row, (B,)."""
        if self._are_few:
            few: Words = np.array(self._few, dtype=np.uint64).view(np.int64)
            return few
        seeds: Words = _mix(_mix(self._shared + _GOLDEN * (_words(self.names) + 1)))
        return seeds

    @once
    def _few(self) -> list[int]:
        """The seeds as integers of Python: for few draws every call of an array's costs more than the arithmetic."""
        return [_mixed(_mixed(shared + _GOLDEN * (name + 1))) for shared, name in self._few_shared]

    @once
    def _few_shared(self) -> list[tuple[int, int]]:
        """What rows of equal tags have in common, and their names, likewise."""
        out = []
        for word, (*tags, name) in zip(self._paths, self._called, strict=True):
            for tag in tags:
                word = _mixed(word ^ _mixed(tag + _GOLDEN))
            out.append((word, name))
        return out

    @once
    def _level(self) -> Tensor:
        if not self._are_few:
            return (_unit(_mix(self._shared)) + _radical_inverse(self.names)) % 1.0
        levels = [
            ((_mixed(word) >> 11) * 2.0**-53 + int(f"{name:032b}"[::-1], 2) * 2.0**-32) % 1.0
            for word, name in self._few_shared
        ]
        return fractions(levels)

    def level(self, breaks: Tensor) -> Tensor:
        """Return a uniform number per row, rows stratified by the van der Corput sequence of their names."""
        return self._level

    def categorical(self, marginals: Marginals) -> Tensor:
        """Return one token per asked position."""
        where, width = marginals.where, marginals.where.shape[1]
        if where.is_cpu and number(where) <= _FEW:
            pairs = (divmod(place, width) for place in listed(where))
            words = [_mixed(self._few[row] + _GOLDEN * (position + 1)) for row, position in pairs]
            return marginals.draw(fractions([(word >> 11) * 2.0**-53 for word in words]))
        found = _words(places(where))
        row, position = found // width, found % width
        return marginals.draw(_unit(_mix(self._seeds[row] + _GOLDEN * (position + 1))))

    def outcome(self, probabilities: Tensor) -> Tensor:
        """Return one of finitely many outcomes per row."""
        probabilities = probabilities.to(self.names.device)  # a schedule computes them on the host
        where = torch.ones(len(probabilities), 1, dtype=torch.bool, device=probabilities.device)
        return self.categorical(Marginals(where, probabilities.log()))

    def multinomial(self, total: Tensor, probabilities: Tensor) -> Tensor:
        """Return how many of each row's tokens fall in each class: a class per token, counted."""
        total = total.to(self.names.device)  # a schedule counts on the host
        rows, largest = len(total), int(total.max()) if len(total) else 0
        tokens = torch.arange(largest, device=total.device).expand(rows, largest)
        uniform = self._grid(largest)
        edges = probabilities.to(uniform).cumsum(0)[:-1]
        kind = torch.searchsorted(edges, uniform, right=True)
        counts = torch.zeros(rows, len(probabilities), dtype=torch.int64, device=total.device)
        return counts.scatter_add_(1, kind, (tokens < total[:, None]).long())

    def bernoulli(self, where: Tensor, probability: Tensor) -> Tensor:
        """Return independent coins."""
        return where & (self._grid(where.shape[1]) < probability)

    def permutation(self, where: Tensor, logits: Tensor | None = None) -> Tensor:
        """Return a random ranking: independent keys, with Gumbel noise where it is weighted."""
        keys = self._grid(where.shape[1])
        if logits is not None:
            keys = logits - (-keys.clamp(min=2.0**-60).log()).log()
        return keys.masked_fill(~where, -torch.inf)

    def subset(self, where: Tensor, size: Tensor) -> Tensor:
        """Return a uniformly random set of positions: the `size` first of a random ranking."""
        keys = self.permutation(where)
        ranks: Tensor = keys.argsort(dim=1, descending=True, stable=True).argsort(1)
        chosen: Tensor = (ranks < size[:, None]) & where
        return chosen

    def normal(self, width: int) -> Tensor:
        """Return independent standard normal numbers, (B, width) float64: a pair of uniform ones each (Box and Muller).

        They are no finite draws, so no contract asks for them and no script can give them.
        """
        both = self._grid(2 * width)
        normal: Tensor = (-2.0 * (-both[:, :width]).log1p()).sqrt() * (2.0 * pi * both[:, width:]).cos()
        return normal

    def _grid(self, width: int) -> Tensor:
        """Return a uniform number per position, (B, width) float64 in [0, 1); not to be written to."""
        if width not in self._grids:
            positions = _words(torch.arange(1, width + 1, device=self.names.device))
            self._grids[width] = _unit(_mix(self._seeds[:, None] + _GOLDEN * positions))
        return self._grids[width]


@dataclass
class Tape:
    """What one row of a scripted batch has chosen so far, out of how many, and how probable that was."""

    script: Sequence[int]
    taken: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    logp: float = 0.0
    memory: dict[tuple[object, ...], int] = field(default_factory=dict)

    def choose(self, address: tuple[object, ...], probabilities: Sequence[float]) -> int:
        """Choose an outcome of positive probability: by the script while it lasts, then the first.

        The same address is answered alike for ever.
        """
        if address not in self.memory:
            live = [index for index, p in enumerate(probabilities) if p > 0]
            turn = len(self.taken)
            pick = self.script[turn] if turn < len(self.script) else 0
            self.taken.append(pick)
            self.widths.append(len(live))
            self.logp += log(probabilities[live[pick]])
            self.memory[address] = live[pick]
        return self.memory[address]


@dataclass(frozen=True, eq=False)
class Scripted:
    """Chance that follows one script per row and records every choice on its tape.

    Parameters:
        tapes: one per row.
    """

    tapes: tuple[Tape, ...]
    labels: tuple[tuple[str | int, ...], ...]

    @classmethod
    def of(cls, tapes: Sequence[Tape]) -> "Scripted":
        """Return chance for one row per tape."""
        return cls(tuple(tapes), ((),) * len(tapes))

    def fork(self, *labels: str | int | Tensor | tuple[int, ...]) -> "Scripted":
        """Independent chance under the given labels."""
        columns = [list(label) if isinstance(label, Tensor | tuple) else [label] * len(self.tapes) for label in labels]
        added = list(zip(*columns, strict=True)) if columns else [()] * len(self.tapes)
        return replace(self, labels=tuple(old + tuple(new) for old, new in zip(self.labels, added, strict=True)))

    def rows(self, keep: Tensor) -> "Scripted":
        """Restrict to some rows."""
        index = (keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep).tolist()
        return Scripted(tuple(self.tapes[i] for i in index), tuple(self.labels[i] for i in index))

    def _choose(self, row: int, kind: str, detail: object, probabilities: Sequence[float]) -> int:
        return self.tapes[row].choose((*self.labels[row], kind, detail), probabilities)

    def level(self, breaks: Tensor) -> Tensor:
        """Return the middle of one cell between `breaks`, with the cell's length as its probability."""
        edges = [0.0, *sorted({b for b in breaks.tolist() if 0.0 < b < 1.0}), 1.0]
        widths = [high - low for low, high in pairwise(edges)]
        cells = [self._choose(row, "level", tuple(edges), widths) for row in range(len(self.tapes))]
        return torch.tensor([(edges[c] + edges[c + 1]) / 2 for c in cells], dtype=torch.float64)

    def categorical(self, marginals: Marginals) -> Tensor:
        """Return one token per asked position."""
        if marginals.temperature == 0:
            return marginals.mode
        probabilities = (marginals.logits / marginals.temperature).softmax(-1).tolist()
        places = marginals.where.nonzero().tolist()
        return torch.tensor(
            [self._choose(row, "token", position, p) for (row, position), p in zip(places, probabilities, strict=True)],
            dtype=torch.int64,
        )

    def outcome(self, probabilities: Tensor) -> Tensor:
        """Return one of finitely many outcomes per row."""
        picks = [self._choose(row, "outcome", None, p) for row, p in enumerate(probabilities.tolist())]
        return torch.tensor(picks, dtype=torch.int64)

    def multinomial(self, total: Tensor, probabilities: Tensor) -> Tensor:
        """Return how many of each row's tokens fall in each class, one choice among all counts."""
        p, out = probabilities.tolist(), []
        for row, n in enumerate(total.tolist()):
            options = list(_compositions(n, len(p)))
            pick = self._choose(row, "multinomial", n, [_multinomial(option, p) for option in options])
            out.append(options[pick])
        return torch.tensor(out, dtype=torch.int64).view(len(out), len(p))

    def bernoulli(self, where: Tensor, probability: Tensor) -> Tensor:
        """Return independent coins."""
        out = torch.zeros_like(where)
        for row, position in where.nonzero().tolist():
            p = float(probability[row, position])
            out[row, position] = bool(self._choose(row, "coin", position, (1 - p, p)))
        return out

    def permutation(self, where: Tensor, logits: Tensor | None = None) -> Tensor:
        """Return a random ranking, one choice among all of them."""
        out = torch.full(where.shape, -torch.inf, dtype=torch.float64)
        for row in range(len(self.tapes)):
            places = where[row].nonzero()[:, 0].tolist()
            heights = [0.0 if logits is None else float(logits[row, i]) for i in places]
            weights = [exp(height - max(heights)) for height in heights]
            options = list(permutations(range(len(places))))
            chances = [_plackett_luce(weights, option) for option in options]
            pick = self._choose(row, "permutation", tuple(places), chances)
            for rank, member in enumerate(options[pick]):
                out[row, places[member]] = float(len(places) - rank)
        return out

    def subset(self, where: Tensor, size: Tensor) -> Tensor:
        """Return a uniformly random set of positions, one choice among all of them."""
        out = torch.zeros_like(where)
        for row in range(len(self.tapes)):
            places, k = where[row].nonzero()[:, 0].tolist(), int(size[row])
            ways = comb(len(places), k)
            pick = self._choose(row, "subset", (tuple(places), k), [1.0 / ways] * ways)
            out[row, [places[member] for member in _combination(len(places), k, pick)]] = True
        return out


def _plackett_luce(weights: Sequence[float], option: Sequence[int]) -> float:
    left, probability = sum(weights), 1.0
    for member in option:
        probability *= weights[member] / left
        left -= weights[member]
    return probability


def _compositions(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (n,)
        return
    for first in range(n + 1):
        for rest in _compositions(n - first, parts - 1):
            yield first, *rest


def _multinomial(counts: Sequence[int], probabilities: Sequence[float]) -> float:
    ways, left, product = 1, sum(counts), 1.0
    for count, p in zip(counts, probabilities, strict=True):
        ways *= comb(left, count)
        left -= count
        product *= p**count
    return ways * product


def _combination(n: int, k: int, index: int) -> list[int]:
    """Return the `index`-th k-subset of range(n) in lexicographic order."""
    out, item = [], 0
    while k:
        ways = comb(n - item - 1, k - 1)
        if index < ways:
            out.append(item)
            k -= 1
        else:
            index -= ways
        item += 1
    return out


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


@lru_cache(maxsize=1 << 16)
def _salt(*labels: str | int) -> int:
    """Return 64 bits that name a chain of labels; equal strings and integers differ."""
    return _signed(int.from_bytes(blake2b(repr(labels).encode(), digest_size=8).digest(), "big"))


def _below(path: int | tuple[int, ...], label: str | int | tuple[int, ...]) -> int | tuple[int, ...]:
    """Return the path, or every row's, with one more label."""
    if isinstance(label, tuple):
        paths = path if isinstance(path, tuple) else (path,) * len(label)
        return tuple(map(_salt, paths, label))
    return tuple(_salt(word, label) for word in path) if isinstance(path, tuple) else _salt(path, label)


def _words(x: Tensor) -> Words:
    return x.numpy() if x.is_cpu else x


def _shift(x: Any, bits: int) -> Any:
    """Shift right, filling with zeros: the shift of signed numbers keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Any) -> Any:
    """Scramble words of 64 bits, one to one (the finaliser of SplitMix64)."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _mixed(word: int) -> int:
    """Scramble the lowest 64 bits of an integer of Python, which does not overflow by itself, to one in [0, 2**64)."""
    word &= _ALL
    word = (word ^ word >> 30) * _MIX_1 & _ALL
    word = (word ^ word >> 27) * _MIX_2 & _ALL
    return word ^ word >> 31


def _unit(x: Words) -> Tensor:
    """Turn 64 bits into a float64 in [0, 1)."""
    high = _shift(x, 11)
    return (high if isinstance(high, Tensor) else torch.from_numpy(high)).to(torch.float64) * 2.0**-53


def _radical_inverse(names: Tensor) -> Tensor:
    """Van der Corput: the bits of a row's name mirrored at the point, so any 2^k consecutive rows fill 2^k strata."""
    bits = torch.arange(_ROW_BITS, device=names.device)
    digits = ((names[:, None] >> bits) & 1).to(torch.float64)
    return (digits * 2.0 ** -(bits + 1).to(torch.float64)).sum(1)
