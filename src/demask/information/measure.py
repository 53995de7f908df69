"""Measure the loss curve of a denoiser on held-out data, by forward passes at random visible sets.

One *path* is one sequence and one random order of its masked positions. Its passes see nested sets: the prefixes of the
order at the counts of the grid, one more prefix at a random count between them, and a few leave-one-out sets. All of a
path's losses are about the same tokens, so their differences are paired, and paths of different sequences are
independent, so the standard error of every total comes from whole paths.
"""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from demask import files
from demask.canvas import Canvas
from demask.chance import Keyed
from demask.contracts import Denoiser
from demask.curve import Estimate
from demask.errors import CurveError
from demask.information.measurement import Floats, Measurement, check_grid, read_json
from demask.information.paths import Paths, Problem, ask, default_grid, short_grid

Progress = Callable[[int, int | None, Measurement], None]
SCHEMA: Final = "demask.passes/1"
ENDS: Final = 4  # leave-one-out passes of a path beyond its own last one; 1 on the short grid
_PATIENCE: Final = 8  # sequences below which no precision is believed
_ROOM: Final = 16  # paths that the budget must pay for on the full grid; otherwise the short one is taken
_FLOOR: Final = -30.0  # log-probabilities below it are alike to a fingerprint


def measure(
    denoiser: Denoiser,
    data: Tensor,
    *,
    passes: int | None = 1024,
    seconds: float | None = None,
    precision: float | None = None,
    grid: Any = None,
    prompt: Tensor | None = None,
    key: int = 0,
    batch: int = 16,
    ends: int | None = None,
    name: str = "data",
    save: str | Path | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure the loss curve, NELBO, TC and DTC of a denoiser on held-out sequences.

    L_j = mean over uniformly random S with |S| = j and i not in S of E[-log p(x_i | x_S)],
    NELBO = sum_j L_j, TC = n L_0 - NELBO, DTC = NELBO - n L_{n-1}.

    What is unbiased, for any denoiser, consistent or not: `loss` at every count of the grid, and `nelbo`, `tc`, `dtc`.
    With c_j the interpolation of a path's own losses between the grid counts, a path's NELBO is
    sum_j c_j + (n - G) (l_J - c_J), with J uniform over the n - G counts off the grid (stratified over paths): the
    second term has exactly the mean that makes up for the error of the first. `Measurement.curve` interpolates, so it is
    unbiased at the grid only, and before its projection. L_{n-1} is scored one token per pass; `ends` more tokens of
    every path are spent on it, since they limit DTC.

    Sequences are taken in random order; when all were used and the budget allows, they are used again with fresh orders,
    and the standard errors stay those of independent *sequences* (sums per sequence), with Student's factor for few of
    them. Windows that overlap or adjoin in one text are less than independent. Losses of single tokens are skewed, so
    intervals from few sequences are a little too narrow: on a chain of five, 95 % intervals of six quantities covered 88
    to 96 % from 24 sequences, 93 to 96 % from 50 and 95 to 96 % from 80 (benchmarks/coverage.py).

    Parameters:
        denoiser: anything that answers as a `Denoiser`; its law is used as it is, at temperature 1.
        data: (S, N) int64, held-out sequences, none of which the model was trained on.
        passes: forward passes to spend at most, counted per row; None for as many as `seconds` or `precision` want.
        seconds: stop after the batch in which this much time has passed.
        precision: stop once the relative standard errors of TC and of DTC are at most this (and 8 sequences were seen).
        grid: visible counts from 0 to n - 1; by default 0, 1, 2, 4, .. and n-1, n-2, n-4, .., and three about the middle,
            or nine Chebyshev points where `passes` would pay for fewer than 16 paths of those.
        prompt: (N,) or (S, N) bool, positions that are always visible; n is then the number of the others.
        key: of the random orders; equal keys give equal results.
        batch: rows of one call of the denoiser.
        ends: further leave-one-out passes per path, at most n - 1 of them are made; by default 4, with nine points 1.
        name: of the data, kept in the result.
        save: a file in which every finished batch is kept. If it exists, the measurement continues from it, and its
            result is the same, to the last bit, as that of a run that was never interrupted.
        progress: called after every batch with passes spent, passes wanted (None if unknown), and the result so far.

    Raises:
        CurveError: data, prompt, grid or budget that cannot give an interval; a loss that is infinite; a `save` file of
            another model, data, key or grid.
        DenoiserError: an answer that is not a set of distributions.

    Cost: one pass for the blank canvas if there is no prompt; G + ends passes per path, G about 2 log2 n + 2.

    Example:
        >>> from demask.oracles import Chain
        >>> chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=12)
        >>> m = measure(chain, chain.sample(200, key=1), passes=2000)
        >>> low, high = m.tc.interval()
        >>> low < chain.tc() < high, m.grid.tolist()
        (True, [0, 1, 2, 4, 6, 8, 10, 11])

    Reference: Uria, Murray and Larochelle, 2014, arXiv 1310.1757 (the order-agnostic NELBO); docs/guide/theory.md.
    """
    problem = Problem.of(data, prompt)
    study = _Study.of(denoiser, problem, grid, ends, passes, key, batch, name, moves=False)
    return study.run(passes, seconds, precision, save, progress)


def increments(
    denoiser: Denoiser,
    data: Tensor,
    *,
    passes: int | None = 1024,
    seconds: float | None = None,
    precision: float | None = None,
    grid: Any = None,
    prompt: Tensor | None = None,
    key: int = 0,
    batch: int = 16,
    ends: int | None = None,
    name: str = "data",
    save: str | Path | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure as `measure` does, and also how far the predictions move between the counts of the grid.

    movement_k = mean over nested S in S' of sizes g_k, g_{k+1}, and i not in S', of KL(p(. | x_S') || p(. | x_S)) >= 0.

    For exact conditionals it equals Z_{g_k} - Z_{g_{k+1}}, with a variance that is many times lower than that of a
    difference of log losses. For an imperfect model it measures how far the *model's own* posterior moves, not how far
    its loss falls: use it for the shape of the curve, and `loss` for anything that is promised.

    Parameters, Raises: those of `measure`; also CurveError where a prediction gives probability zero to a token that a
        later one allows, so that the movement is infinite.

    Cost: the passes of `measure`; the logits of one batch are kept from one count to the next.

    Example:
        >>> from demask.oracles import parity
        >>> increments(parity(4), parity(4).sample(16, key=0), grid=[0, 1, 3], passes=64).movement.round(4).tolist()
        [0.0, 0.6931]

    Reference: Wainwright, 2026, arXiv 2608.13520, Lemma 1.
    """
    problem = Problem.of(data, prompt)
    study = _Study.of(denoiser, problem, grid, ends, passes, key, batch, name, moves=True)
    return study.run(passes, seconds, precision, save, progress)


def per_block(
    denoiser: Denoiser,
    data: Tensor,
    *,
    size: int = 32,
    passes: int | None = 1024,
    seconds: float | None = None,
    precision: float | None = None,
    key: int = 0,
    batch: int = 16,
    ends: int | None = None,
    name: str = "data",
    save: str | Path | None = None,
    progress: Callable[[int, int, Measurement], None] | None = None,
) -> list[Measurement]:
    """Measure every block of a block-wise decoder: earlier blocks visible, later ones masked and never shown.

    Each block is a problem of its own, of `size` positions (the last one may be shorter), given what precedes it: plan
    one schedule per block.

    Parameters:
        size: positions of a block.
        passes, seconds, precision: for every block, as in `measure`.
        save: a file name such as "blocks.json"; block 32 is kept in "blocks.32.json" and so on, as by `measure`.
        progress: called after every batch with the block's number, the number of blocks, and the result so far.

    Raises: CurveError, DenoiserError: as `measure`; a size < 1.

    Cost: that of one `measure` per block.

    Example:
        >>> from demask.oracles import Chain
        >>> chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=12)
        >>> [m.length for m in per_block(chain, chain.sample(50, key=1), size=8, passes=200)]
        [8, 4]
    """
    if size < 1:
        raise CurveError(f"blocks of {size} positions; expected 1 or more, such as size=32")
    whole = Problem.of(data, None)
    positions = torch.arange(whole.tokens.shape[1])
    out = []
    for start in range(0, len(positions), size):
        free = ((positions >= start) & (positions < start + size)).expand_as(whole.tokens)
        part = replace(whole, shown=(positions < start).expand_as(whole.tokens), free=free)
        title = f"{name}[{start}:{min(start + size, len(positions))}]"
        study = _Study.of(denoiser, part, None, ends, passes, key, batch, title, moves=False)
        kept = None if save is None else Path(save).with_suffix(f".{start}{Path(save).suffix}")
        told = None if progress is None else partial(_of_block, progress, start // size, -(-len(positions) // size))
        out.append(study.run(passes, seconds, precision, kept, told))
    return out


def fingerprint(denoiser: Denoiser, length: int | None = None) -> str:
    """Return 16 hex digits that tell denoisers apart by what they answer.

    A hash of log-probabilities, rounded to 1e-4 nats (and at -30), of up to 16 positions on a blank canvas and on three
    partly masked ones, whose tokens are drawn from the denoiser's own answer. Names of classes and files do not enter:
    a table and a chain of the same law are the same. A model run on another device or in another precision may round to
    another fingerprint.

    Parameters:
        length: positions of a canvas; by default `denoiser.length`.

    Raises:
        CurveError: no length. DenoiserError: an answer that is not a set of distributions.

    Cost: 4 passes.

    Example:
        >>> from demask.oracles import Chain
        >>> chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=5)
        >>> fingerprint(chain) == fingerprint(chain.to_table()) != fingerprint(Chain.random(5))
        True
    """
    found = getattr(denoiser, "length", None) if length is None else length
    if not isinstance(found, int) or found < 1:
        raise CurveError(f"a denoiser of length {found!r}; pass fingerprint(denoiser, length=n) with n >= 1")
    chance = Keyed.of(0, torch.arange(3)).fork("fingerprint")
    blank = Canvas.blank(1, found)
    first = ask(denoiser, blank, blank.masked)
    tokens = first.draw(chance.rows(torch.tensor([0])).permutation(blank.masked)[0].to(first.logits.device)).cpu()
    ranks = chance.fork("masks").permutation(blank.masked.expand(3, -1)).argsort(1).argsort(1)
    masked = ranks < torch.tensor([max(1, found * share // 4) for share in (1, 2, 3)])[:, None]
    canvas = Canvas(tokens.expand(3, -1).masked_fill(masked, 0), masked)
    some = masked & (masked.cumsum(1) <= 16)
    hashed = blake2b(f"{found} {first.vocabulary}".encode(), digest_size=8)
    for logits in (first.logits[:16], ask(denoiser, canvas, some).logits):
        logp = logits.double().log_softmax(-1).clamp(min=_FLOOR)
        hashed.update((logp * 1e4).round().to(torch.int64).cpu().numpy().astype("<i8").tobytes())
    return hashed.hexdigest()


def _of_block(
    progress: Callable[[int, int, Measurement], None],
    block: int,
    blocks: int,
    _: int,
    __: int | None,
    sofar: Measurement,
) -> None:
    progress(block, blocks, sofar)


@dataclass(frozen=True, eq=False)
class _Study:
    """Paths, who walks them, and what is made of them."""

    paths: Paths
    key: int
    batch: int
    name: str
    fingerprint: str

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        problem: Problem,
        grid: Any,
        ends: int | None,
        passes: int | None,
        key: int,
        batch: int,
        name: str,
        *,
        moves: bool,
    ) -> "_Study":
        if batch < 1 or (ends is not None and ends < 0):
            raise CurveError(f"batch={batch}, ends={ends}; expected batch >= 1 rows and ends >= 0 passes")
        n = problem.length
        counts = check_grid(default_grid(n) if grid is None else grid, n)
        tails = ENDS if ends is None else ends
        if grid is None and passes is not None and passes < _ROOM * (len(counts) + tails):
            counts = min(counts, check_grid(short_grid(n), n), key=len)
            tails = 1 if ends is None else ends
        width = problem.tokens.shape[1]
        known = getattr(denoiser, "length", width)
        if known != width:
            raise CurveError(
                f"sequences of {width} positions for a denoiser of length {known}; cut the data into windows of {known}"
            )
        canvas = Canvas.blank(1, width, device=problem.tokens.device)
        vocabulary = ask(denoiser, canvas, torch.arange(width, device=canvas.device)[None] == 0).vocabulary
        if int(problem.tokens.max()) >= vocabulary:
            row, place = (problem.tokens >= vocabulary).nonzero()[0].tolist()
            raise CurveError(
                f"sequence {row} has token {int(problem.tokens[row, place])} at position {place}, but the denoiser "
                f"knows tokens 0 to {vocabulary - 1}; encode the data with the denoiser's own vocabulary"
            )
        return cls(Paths(denoiser, problem, counts, tails, moves), key, batch, name, fingerprint(denoiser, width))

    def run(
        self,
        passes: int | None,
        seconds: float | None,
        precision: float | None,
        save: str | Path | None,
        progress: Progress | None,
    ) -> Measurement:
        """Walk paths in batches until the budget, the time or the precision is reached."""
        wanted = self._wanted(passes, seconds, precision)
        done, spent = self._load(save, wanted)
        begun = time.monotonic()
        while True:
            elapsed = time.monotonic() - begun
            enough = self._sequences(len(done)) >= 2
            if enough and (
                (wanted is not None and len(done) >= wanted) or (seconds is not None and elapsed >= seconds)
            ):
                break
            if precision is not None and self._precise(done, precision):
                break
            stop = len(done) + self.batch if wanted is None else min(len(done) + self.batch, wanted)
            done = np.concatenate([done, self._walk(len(done), stop)])
            elapsed = time.monotonic() - begun
            if save is not None:
                self._save(save, done, spent + elapsed)
            if progress is not None and self._sequences(len(done)) >= 2:
                total = None if wanted is None else self._passes(wanted)
                progress(self._passes(len(done)), total, self.summary(done, spent + elapsed))
        return self.summary(done, spent + time.monotonic() - begun)

    def summary(self, done: Floats, seconds: float) -> Measurement:
        """Return the measurement of the paths `done`, (U, columns)."""
        points, length = len(self.paths.grid), self.paths.problem.length
        nelbo = done[:, points]
        tc, dtc = length * done[:, 0] - nelbo, nelbo - length * done[:, points - 1]
        mean, error = self._means(np.column_stack([done, tc, dtc]))
        passes = np.full(points, len(done))
        passes[-1] += len(done) * self.paths.tails
        return Measurement(
            length=length,
            grid=self.paths.grid,
            loss=mean[:points],
            error=error[:points],
            passes=passes,
            nelbo=Estimate(mean[points], error[points]),
            tc=Estimate(mean[-2], error[-2]),
            dtc=Estimate(mean[-1], error[-1]),
            movement=mean[points + 1 : -2] if self.paths.moves else None,
            movement_error=error[points + 1 : -2] if self.paths.moves else None,
            fingerprint=self.fingerprint,
            data=self.name,
            key=self.key,
            seconds=seconds,
        )

    @cached_property
    def _row_order(self) -> Tensor:
        """A random order of the sequences, (S,)."""
        everything = torch.ones(1, len(self.paths.problem.tokens), dtype=torch.bool)
        chance = Keyed.of(self.key, torch.tensor([0])).fork("measure", "sequences")
        return chance.permutation(everything)[0].argsort()

    def _walk(self, start: int, stop: int) -> Floats:
        units = torch.arange(start, stop)
        sequence = self._row_order[units % len(self._row_order)]
        chance = Keyed.of(self.key, units).fork("measure")
        free = self.paths.problem.free[sequence]
        ranks = chance.permutation(free).argsort(dim=1, descending=True, stable=True).argsort(1)
        off = self.paths.between
        if len(off):
            level = chance.fork("between").level(torch.empty(0)).numpy()
            off = off[np.minimum((level * len(off)).astype(np.int64), len(off) - 1)]
        return self.paths.rows(sequence, ranks, off)

    def _means(self, values: Floats) -> tuple[Floats, Floats]:
        """Means over paths, and standard errors over sequences, with Student's factor for their number."""
        from scipy.special import ndtri, stdtrit

        units, size = len(values), self._sequences(len(values))
        mean = values.mean(0)
        sums = np.zeros((size, values.shape[1]))
        np.add.at(sums, np.arange(units) % size, values - mean)
        student = stdtrit(size - 1, 0.975) / ndtri(0.975)
        return mean, student * np.sqrt((sums**2).sum(0) * size / (size - 1)) / units

    def _precise(self, done: Floats, precision: float) -> bool:
        if self._sequences(len(done)) < _PATIENCE:
            return False
        found = self.summary(done, 0.0)
        return all(total.error <= precision * abs(total) for total in (found.tc, found.dtc))

    def _sequences(self, units: int) -> int:
        return min(units, len(self.paths.problem.tokens))

    def _passes(self, units: int) -> int:
        return self.paths.problem.blank + units * self.paths.cost

    def _wanted(self, passes: int | None, seconds: float | None, precision: float | None) -> int | None:
        """How many paths the budget pays for."""
        if seconds is not None and not seconds > 0:
            raise CurveError(f"seconds = {seconds}; expected a time > 0")
        if precision is not None and not 0 < precision < 1:
            raise CurveError(f"precision = {precision}; expected a relative standard error in (0, 1), such as 0.05")
        if passes is None:
            if seconds is None and precision is None:
                raise CurveError("no budget; pass passes=1024, seconds=60 or precision=0.05")
            return None
        if passes < (least := self._passes(2)):
            raise CurveError(
                f"{passes} passes are too few for an interval; expected {least} or more: two sequences of "
                f"{self.paths.cost} passes; pass passes={max(least, 1024)}, or a shorter grid"
            )
        if not self.paths.cost:
            return len(self.paths.problem.tokens)
        return (passes - self.paths.problem.blank) // self.paths.cost

    def _header(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "denoiser": self.fingerprint,
            "data": self.paths.problem.digest,
            "key": self.key,
            "grid": self.paths.grid.tolist(),
            "ends": self.paths.ends,
            "batch": self.batch,
            "movement": self.paths.moves,
        }

    def _save(self, path: str | Path, done: Floats, seconds: float) -> None:
        rows = base64.b64encode(done.astype("<f8").tobytes()).decode()
        body = {**self._header(), "seconds": seconds, "paths": len(done), "rows": rows}
        files.write(path, json.dumps(body).encode() + b"\n")

    def _load(self, path: str | Path | None, wanted: int | None) -> tuple[Floats, float]:
        """Return the paths that an earlier run kept, whole batches only, and the seconds it took."""
        empty = np.zeros((0, self.paths.columns))
        if path is None:
            return empty, 0.0
        if not Path(path).exists():
            files.check_folder(path)
            return empty, 0.0
        body = read_json(path, SCHEMA)
        for field, mine in self._header().items():
            if body.get(field) != mine:
                raise CurveError(
                    f"{path} keeps passes of another {field}: {str(body.get(field))[:60]}, expected {str(mine)[:60]}; "
                    "pass the same one to continue, or another save="
                )
        try:
            rows = np.frombuffer(base64.b64decode(body["rows"], validate=True), dtype="<f8")
            done = rows.astype(np.float64).reshape(body["paths"], self.paths.columns)
            spent = float(body["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise CurveError(f"{path} is damaged ({error}); delete it and measure again") from None
        if not (np.isfinite(done).all() and np.isfinite(spent) and spent >= 0):
            raise CurveError(f"{path} is damaged: a number is not finite; delete it and measure again")
        if len(done) == wanted:
            return done, spent
        whole = min(len(done), len(done) if wanted is None else wanted) // self.batch * self.batch
        return done[:whole], spent
