"""The recompute window of adaptive parallel decoding: keys and values well behind the frontier are computed no more."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from demask.canvas import ABSENT, Canvas, Marginals
from demask.contracts import Law
from demask.denoisers.cached import _NOTHING, Around, Cached, _agreed, _Kept, _matched
from demask.errors import DenoiserError


@dataclass(frozen=True, eq=False)
class Recomputed(Around):
    """Compute the last `window` settled positions and all behind them anew, and keep what stands before.

    With c the number of leading positions that were visible at the row's last pass, a pass computes the positions

        max(0, c - window), .., n,      so all that was written since, once at least, and `window` before it,

    and sees of the rest the keys and values of the pass that last computed them: when fewer tokens stood to their right.
    A new row is computed whole, and so is one in which anything has changed but masks into tokens and what stood behind
    the end into masks. Made for tokens from the left, `Adaptive(verifier, 0.7, 100)`; in any other order all behind the
    first masked position is computed.

    Law: TILTED, and a run says so: answers are those of the network to contexts that are partly out of date. With a window
    as long as the row they are the inner denoiser's.
    Cost: one pass per call, over as many positions as the row with most to compute has; up to 4 N numbers of the keys'
    width per layer and row are held.

    Parameters:
        inner: a `Checkpoint` of LLaDA or Dream. A denoiser without keys and values computes everything at each pass, a
            window without end: leave the wrapper out.
        window: >= 0; 16 is fast and 32 careful in the paper. At 0 a token is computed once after it was written.

    Raises:
        DenoiserError: a window that is no integer >= 0, a denoiser whose keys and values cannot be kept, or one that sees no
            later block, of which `Cached(denoiser, "blocks")` keeps them exactly.

    Example:
        >>> from demask.oracles import parity
        >>> Recomputed(parity(4), 16)
        Traceback (most recent call last):
        demask.errors.DenoiserError: LinearCode has no keys and values to keep, so everything is computed at each pass, as
        with a window without end; leave Recomputed out

    Reference: Israel, Van den Broeck and Grover, Accelerating diffusion LLMs via adaptive parallel decoding, 2025,
    arXiv 2506.00413 (recompute window W; the released code begins one position later).
    """

    inner: Any
    window: int = 16
    _cache: Cached = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 0:
            raise DenoiserError(f"a window of {self.window!r} positions; expected an integer >= 0, such as 16")
        backbone = getattr(self.inner, "backbone", None)
        if not callable(getattr(backbone, "through", None)):
            raise DenoiserError(
                f"{type(self.inner).__name__} has no keys and values to keep, so everything is computed at each pass, as "
                "with a window without end; leave Recomputed out"
            )
        if getattr(backbone, "block", None) is not None:
            raise DenoiserError(
                'the network sees no later block, so no key goes out of date; write Cached(denoiser, "blocks")'
            )
        object.__setattr__(self, "_cache", Cached(self.inner, "prefix"))

    @property
    def law(self) -> Law:
        """TILTED."""
        return Law.TILTED

    @torch.no_grad()
    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer for the positions `where` (B, N) bool."""
        asked = self.inner.placed(canvas, where)
        if not len(asked.rows):
            return self.inner(canvas, where)  # type: ignore[no-any-return]
        ids = asked.ids if asked.present is None else asked.ids.masked_fill(~asked.present, ABSENT)
        kept = self._room(len(ids), ids.shape[1], ids.device)
        ids = pad(ids, (0, kept.ids.shape[1] - ids.shape[1]), value=ABSENT)  # (B, N)
        masked, present, place = ids == self.inner.facts.mask, ids != ABSENT, torch.arange(ids.shape[1]).to(ids.device)
        slots = _slots(kept, ids)
        known, loose = kept.ids[slots], kept.loose[slots]
        begin = _agreed(ids, known, loose) * _goes_on(ids, known, loose) - self.window
        fresh = present & (place >= begin[:, None])
        fresh[asked.rows, asked.reads] = True
        kept.ids[slots] = _NOTHING  # so that a pass which fails leaves nothing behind that is half written
        found = self._cache._pass(kept, slots, ids, fresh, present.sum(1, keepdim=True))
        kept.ids[slots], kept.loose[slots] = ids, masked
        index = (fresh.cumsum(1) - 1)[asked.rows, asked.reads]
        return self.inner.answer(where, found[asked.rows, index])  # type: ignore[no-any-return]

    def _room(self, rows: int, length: int, device: torch.device) -> _Kept:
        """Return what is kept, with a slot for every row and a place for every position; longer rows lose nothing."""
        kept = self._cache._room(rows, self._cache._kept[0].ids.shape[1] if self._cache._kept else length, device)
        if kept.ids.shape[1] < length:
            more = max(length, min(2 * kept.ids.shape[1], self.context)) - kept.ids.shape[1]
            beyond = torch.where(kept.ids[:, :1] == _NOTHING, _NOTHING, ABSENT).expand(-1, more)
            kept.ids, kept.loose = torch.cat((kept.ids, beyond), 1), pad(kept.loose, (0, more))
            for stores in (kept.keys, kept.values):
                stores[:] = [pad(store, (0, 0, 0, 0, 0, more)) for store in stores]
        return kept


def _goes_on(ids: Tensor, known: Tensor, loose: Tensor) -> Tensor:
    """Return whether a row is what is known with some masks written, or more masks behind its end; over the last dimension.

    A row that is asked again as it was begins anew, so that a run does not depend on those before it.
    """
    same = ids == known
    return (same | loose | (known == ABSENT)).all(-1) & ~same.all(-1)


def _slots(kept: _Kept, ids: Tensor) -> Tensor:
    """Return a slot for every row, each its own, (B,): the one that it goes on from, its own of equals."""
    same = torch.arange(len(ids), device=ids.device)
    if len(ids) == len(kept.ids) and bool(_goes_on(ids, kept.ids, kept.loose).all()):
        return same
    one = ids[:, None]
    score = 2 * (_agreed(one, kept.ids, kept.loose) + _goes_on(one, kept.ids, kept.loose) * (1 + ids.shape[1]))
    score[same, same] += 1
    best = score.argmax(1)
    return best if len(set(best.tolist())) == len(best) else _matched(score)
