"""Caches: keys and values that a network has computed of a canvas are kept for the next step.

A cache is a wrapper of a denoiser, so every sampler, order and schedule works with it as it is. What it must know, it sees
in the canvas: which row continues which, whether a block has been left, and what therefore still holds.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from demask.canvas import Canvas, Marginals
from demask.contracts import Law
from demask.errors import DenoiserError
from demask.masks import without

Kind = Literal["prefix", "dual", "blocks"]
_ABSENT: Final = -1  # the id of a position that the row does not have
_NOTHING: Final = -2  # ids of a slot that holds nothing


@dataclass(eq=False)
class _Kept:
    """What is remembered: R slots, one per row, of N positions.

    Parameters:
        ids: (R, N), as last seen.
        loose: (R, N) bool, positions whose keys and values are never relied on.
        keys, values: of every layer, (R, N, H, D) each.
        slots, places, span: of the pass at hand: (B,), None for all in their order; (B, F); how many positions are seen.
    """

    ids: Tensor
    loose: Tensor
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    slots: Tensor | None = None
    places: Tensor = field(default_factory=lambda: torch.empty(0))
    span: int = 0

    @classmethod
    def empty(cls, rows: int, length: int, device: torch.device) -> "_Kept":
        """Return slots that hold nothing."""
        loose = torch.zeros(rows, length, dtype=torch.bool, device=device)
        return cls(torch.full(loose.shape, _NOTHING, device=device), loose)

    def grow(self, rows: int) -> None:
        """Add so many empty slots."""
        self.ids, self.loose = pad(self.ids, (0, 0, 0, rows), value=_NOTHING), pad(self.loose, (0, 0, 0, rows))
        for stores in (self.keys, self.values):
            stores[:] = [pad(store, (0, 0, 0, 0, 0, 0, 0, rows)) for store in stores]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Keep those of the pass, (B, H, F, D) each, and return those of all positions, (B, H, span, D).

        The library's attention calls it.
        """
        seen = []
        for stores, new in ((self.keys, keys), (self.values, values)):
            if layer == len(stores):
                stores.append(new.new_zeros(*self.ids.shape, new.shape[1], new.shape[3]))
            store = stores[layer]
            slots = self.slots if self.slots is not None else torch.arange(len(store), device=store.device)
            store[slots[:, None], self.places] = new.transpose(1, 2)
            mine = store[:, : self.span] if self.slots is None else store[self.slots, : self.span]
            seen.append(mine.transpose(1, 2))
        return seen[0], seen[1]


class Around:
    """What a wrapper of a checkpoint has of it."""

    inner: Any

    @property
    def context(self) -> int:
        """The most positions that a canvas may have."""
        return int(self.inner.context)

    @property
    def vocabulary(self) -> int:
        """How many tokens can be written, V."""
        return int(self.inner.vocabulary)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.inner.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """In what precision it computes, and answers."""
        return self.inner.dtype  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Cached(Around):
    """Keep keys and values of the positions that change little, or not at all, and compute the others anew.

    A block begins, for a row, with the positions asked for when something outside them has changed: then everything is
    computed. Later steps of the block, which ask for some of these positions, compute

        "prefix": the block and all behind it, so what stands before the block is kept,
        "dual":   the block alone, so what stands on either side is kept,

    and see the rest as it was when the block began, all of the block masked. The denoiser is asked through orders that look
    at every open position of a block, such as Blockwise(Confidence(), 32). One that asks for other positions at each step
    gains nothing, and pays nothing.

        "blocks": a network that sees its own block and those before it (SDAR, LLaDA2): all blocks before the first one that
                  has changed are kept, and what stands behind the asked ones is left out. This is exact.

    Rows may be in different blocks and of different lengths; they are told apart by what stands in them.

    Law: TILTED for "prefix" and "dual", and a run says so: answers are those of the network to other contexts, and how far
    off is not known. The inner denoiser's for "blocks".
    Cost: one pass per call and row, over the positions named above; 2 N numbers of the keys' width per layer and row are
    held until a longer canvas comes. Rows that begin a block while others do not are computed in a pass of their own.

    Parameters:
        inner: a `Checkpoint` of LLaDA, Dream, SDAR or LLaDA2.
        kind: what is kept.

    Raises:
        DenoiserError: another kind, or a denoiser whose keys and values cannot be kept, or not in this way.

    Example:
        >>> from demask.oracles import parity
        >>> Cached(parity(4), "dual")
        Traceback (most recent call last):
        demask.errors.DenoiserError: LinearCode has no keys and values to keep; those of LLaDA, Dream, SDAR and LLaDA2 have

    Reference: Wu et al., Fast-dLLM, 2025, arXiv 2505.22618 (prefix, dual); Arriola et al., Block diffusion, 2025, arXiv
    2503.09573 (blocks).
    """

    inner: Any
    kind: Kind
    _kept: list[_Kept] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DenoiserError(f"a cache of kind {self.kind!r}; expected one of {', '.join(get_args(Kind))}")
        backbone = getattr(self.inner, "backbone", None)
        if not callable(getattr(backbone, "through", None)):
            raise DenoiserError(
                f"{type(self.inner).__name__} has no keys and values to keep; those of LLaDA, Dream, SDAR and LLaDA2 have"
            )
        if (self._block is None) == (self.kind == "blocks"):
            raise DenoiserError(
                'the network sees all positions, so no block is ever settled; write Cached(denoiser, "prefix") or "dual"'
                if self._block is None
                else 'the network sees no later block, so its cache is exact; write Cached(denoiser, "blocks")'
            )

    @property
    def law(self) -> Law:
        """What is claimed of the answers, given those of the inner denoiser."""
        return Law.EXACT if self.kind == "blocks" else Law.TILTED

    @torch.no_grad()
    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer for the positions `where` (B, N) bool."""
        asked = self.inner.placed(canvas, where)
        if not len(asked.rows):
            return self.inner(canvas, where)  # type: ignore[no-any-return]
        ids, present = asked.ids, asked.present
        ids = ids if present is None else ids.masked_fill(~present, _ABSENT)
        kept = self._room(len(ids), max(ids.shape[1], canvas.shape[1]), ids.device)
        ids = pad(ids, (0, kept.ids.shape[1] - ids.shape[1]), value=_ABSENT)  # (B, N)
        target, reads = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
        target[asked.rows, asked.places] = True
        reads[asked.rows, asked.reads] = True
        slots = self._slots(kept, ids, target)
        settled = kept.ids[slots], kept.loose[slots]
        kept.ids[slots] = _NOTHING  # so that a pass which fails leaves nothing behind that is half written
        plan = self._settled if self.kind == "blocks" else self._since
        fresh, loose, limit, groups = plan(ids, target, reads, asked.shift, *settled)
        states = None
        for group in groups:
            found = self._pass(kept, slots[group], ids[group], fresh[group], limit[group])
            index = (fresh.cumsum(1) - 1)[asked.rows, asked.reads]
            if len(groups) == 1:
                states = found[asked.rows, index]
                continue
            states = found.new_empty(len(index), found.shape[-1]) if states is None else states
            mine = group[asked.rows]
            states[mine] = found[(group.cumsum(0) - 1)[asked.rows[mine]], index[mine]]
        kept.ids[slots], kept.loose[slots] = ids, loose
        return self.inner.answer(where, states)  # type: ignore[no-any-return]

    @property
    def _block(self) -> int | None:
        return getattr(self.inner.backbone, "block", None)

    def _room(self, rows: int, length: int, device: torch.device) -> _Kept:
        """Return what is kept, with a slot for every row and a place for every position."""
        if not self._kept or self._kept[0].ids.shape[1] < length:
            self._kept[:] = [_Kept.empty(rows, length, device)]
        kept = self._kept[0]
        if len(kept.ids) < rows:
            kept.grow(rows - len(kept.ids))
        return kept

    def _slots(self, kept: _Kept, ids: Tensor, target: Tensor) -> Tensor:
        """Return a slot for every row, each its own, (B,): the one whose row it continues, as far as that can be seen."""
        same = torch.arange(len(ids), device=ids.device)
        if len(ids) == len(kept.ids) and (
            self.kind == "blocks" or bool(_holds(ids, target, kept.ids, kept.loose).all())
        ):
            return same
        one, other = (ids[:, None], target[:, None]), (kept.ids, kept.loose)
        if self.kind == "blocks":
            score = _agreed(one[0], *other)
        else:
            score = (one[0] == kept.ids).sum(-1) + _holds(*one, *other) * (1 + ids.shape[1])
        score = 2 * score
        score[same, same] += 1
        best = score.argmax(1)
        return best if len(set(best.tolist())) == len(best) else _matched(score)

    def _since(
        self, ids: Tensor, target: Tensor, reads: Tensor, shift: bool, known: Tensor, loose: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return what is computed, what is not relied on, how far is seen, and which rows go together."""
        holds = _holds(ids, target, known, loose)
        region = torch.where(holds[:, None], loose, target)
        before = pad(region[:, 1:], (0, 1)) if shift else region  # where the laws of the block are read
        some, present = region | before | reads, ids != _ABSENT
        if self.kind == "prefix":
            some = (some.cumsum(1) > 0) & present
        fresh = torch.where(holds[:, None], some, present)
        limit = present.sum(1, keepdim=True)
        count = int(holds.sum())
        return fresh, region, limit, [holds, ~holds] if 0 < count < len(holds) else [torch.ones_like(holds)]

    def _settled(
        self, ids: Tensor, target: Tensor, reads: Tensor, shift: bool, known: Tensor, loose: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return the same for a network that sees no later block."""
        size, number = self._block or 1, torch.arange(ids.shape[1], device=ids.device)
        first = torch.minimum(_agreed(ids, known, loose), (reads | target).long().argmax(1))
        last = number.masked_fill(~target, 0).amax(1)
        length = (ids != _ABSENT).sum(1)
        begin, end = first // size * size, torch.minimum((last // size + 1) * size, length)
        fresh = (number >= begin[:, None]) & (number < end[:, None])
        limit = torch.minimum((number // size + 1) * size, length[:, None])
        return fresh, number >= end[:, None], limit, [torch.ones_like(end, dtype=torch.bool)]

    def _pass(self, kept: _Kept, slots: Tensor, ids: Tensor, fresh: Tensor, limit: Tensor) -> Tensor:
        """Return the hidden states of the positions `fresh` (B, N), from the left, (B, F, D)."""
        count = fresh.sum(1, keepdim=True)
        most = int(count.amax())
        index = torch.minimum(torch.arange(most, device=ids.device), count - 1)  # shorter rows repeat their last one
        places = fresh.byte().argsort(dim=1, descending=True, stable=True).gather(1, index)  # (B, F)
        limit = limit.expand(fresh.shape).gather(1, places)
        straight = len(slots) == len(kept.ids) and bool((slots[1:] > slots[:-1]).all())
        kept.slots, kept.places, kept.span = None if straight else slots, places, int(limit.amax())
        return self.inner.backbone.through(ids.gather(1, places), places, kept, limit)  # type: ignore[no-any-return]


def _holds(ids: Tensor, target: Tensor, known: Tensor, loose: Tensor) -> Tensor:
    """Return whether only loose positions have changed, at least one, and only such are asked for; over the last dimension.

    A row that is asked again as it was begins anew, so that a run does not depend on those before it.
    """
    same = ids == known
    return (loose | without(same, target)).all(-1) & ~same.all(-1)


def _agreed(ids: Tensor, known: Tensor, loose: Tensor) -> Tensor:
    """Return how many leading positions are as they were; over the last dimension."""
    return without(ids == known, loose).byte().cumprod(-1, dtype=torch.uint8).sum(-1)


def _matched(score: Tensor) -> Tensor:
    """Return a column for every row, no two alike, the best pairs first.

    Example:
        >>> _matched(torch.tensor([[5, 1, 0], [7, 6, 0]]))
        tensor([1, 0])
    """
    columns = score.shape[1]
    taken: dict[int, int] = {}
    for pair in score.flatten().argsort(descending=True, stable=True).tolist():
        row, column = divmod(pair, columns)
        if row not in taken and column not in taken.values():
            taken[row] = column
    return torch.tensor([taken[row] for row in range(len(score))], device=score.device)
