"""The one loop."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals, without
from demask.chance import Keyed
from demask.contracts import Chance, Collector, Denoiser, Later, Law, Sampler, noised, ranked, vocabulary
from demask.errors import CanvasError

S = TypeVar("S")


class Status(Enum):
    """How a run ended."""

    RUNNING = "some rows are not done yet"
    WAITING = "the denoiser's answer is not there yet"
    FINISHED = "every row is done"
    STOPPED = "max_steps was reached before every row was done"


@dataclass(frozen=True)
class Run:
    """What came out, or what there is so far.

    Parameters:
        tokens: (B, N) int64; where `when` is -2, still masked and meaningless.
        when: (B, N) int64, the step at which the token that stands was written, from 0: the last one, where a sampler
            remasks or edits; -1 for those given, -2 for those still masked.
        nfe: (B,) int64, forward passes of the denoiser per row, as its answers state them.
        steps: (B,) int64, steps of the loop in which the row was not yet done.
        status: whether every row was finished.
        law: what the sampler claims about the distribution.
        key: reproduces the run; None where the chance was given as an object.
        collected: what each collector saw, by name; empty while the run goes on.
        certificate: what the steps are certified to cost, where they were planned: `Planned.sample` puts it here.
    """

    tokens: Tensor
    when: Tensor
    nfe: Tensor
    steps: Tensor
    status: Status
    law: Law
    key: int | None
    collected: Mapping[str, Any] = field(default_factory=dict)
    certificate: Any = None


def sample(
    denoiser: Denoiser,
    sampler: Sampler[S],
    canvas: Canvas,
    *,
    key: int | Chance,
    names: Tensor | None = None,
    collect: Sequence[Collector] = (),
    max_steps: int = 4096,
) -> Run:
    """Turn a sampler until every row is done.

    A row's draws depend on the key and on the row's name alone: not on its batch mates, their number or their order.

    Parameters:
        denoiser: asked only for rows that have something to unmask.
        sampler: `Parallel(schedule, order)`, say.
        canvas: (B, N); what is not masked is a prompt.
        key: any integer; or a chance, which then decides everything.
        names: (B,) integers in [0, 2**32), what each row is called; 0 .. B-1 by default. Consecutive names have
            stratified sizes.
        collect: called after every step.
        max_steps: after which the run is given up with `Status.STOPPED`.

    Raises:
        CanvasError: as many names as rows are needed, each once; max_steps < 1.

    Cost: the sampler's; one small copy to the host per step.

    Example:
        >>> from demask.oracles import parity
        >>> from demask.orders import Random
        >>> from demask.samplers import Parallel
        >>> from demask.schedules import uniform
        >>> run = sample(parity(4), Parallel(uniform(4, 4), Random()), Canvas.blank(3, 4), key=0)
        >>> (run.tokens.sum(1) % 2).tolist(), run.nfe.tolist()
        ([0, 0, 0], [4, 4, 4])
    """
    for run in steps(denoiser, sampler, canvas, key=key, names=names, collect=collect, max_steps=max_steps):
        last = run
    return last


def steps(
    denoiser: Denoiser,
    sampler: Sampler[S],
    canvas: Canvas,
    *,
    key: int | Chance,
    names: Tensor | None = None,
    collect: Sequence[Collector] = (),
    max_steps: int = 4096,
) -> Iterator[Run]:
    """Turn a sampler until every row is done, and show the run as it stands: at the beginning and after every step.

    The last one is what `sample` returns. Nothing is computed ahead: a reader that stops costs no further pass. Where the
    denoiser raises `Later`, the run is shown once more with `Status.WAITING`, and going on takes the step again.

    Parameters, Raises: those of `sample`.

    Cost: that of `sample`.

    Example:
        >>> from demask.oracles import parity
        >>> from demask.orders import LeftToRight
        >>> from demask.samplers import Parallel
        >>> from demask.schedules import uniform
        >>> for run in steps(parity(4), Parallel(uniform(4, 2), LeftToRight()), Canvas.blank(1, 4), key=0):
        ...     print(run.when.tolist(), run.nfe.tolist(), run.status.name)
        [[-2, -2, -2, -2]] [0] RUNNING
        [[0, 0, -2, -2]] [1] RUNNING
        [[0, 0, 1, 1]] [2] FINISHED
    """
    rows = canvas.shape[0]
    if max_steps < 1:
        raise CanvasError(f"max_steps = {max_steps}; expected an integer >= 1")
    chance = _chance(key, rows, names, canvas.device)
    state = sampler.init(canvas, chance.fork("run"))
    when = torch.full(canvas.shape, -1, device=canvas.device).masked_fill(canvas.masked, -2)
    count = torch.zeros(rows, dtype=torch.int64, device=canvas.device)
    nfe = torch.zeros_like(count)
    law, name = sampler.law, key if isinstance(key, int) else None

    def so_far(status: Status, collected: Mapping[str, Any]) -> Run:
        return Run(canvas.tokens, when, nfe, count, status, law, name, collected)

    turn = 0
    done = sampler.done(state)
    finished = bool(done.all())
    while turn < max_steps and not finished:
        yield so_far(Status.RUNNING, {})
        before = canvas
        while True:
            meter = _Metered(denoiser, torch.zeros_like(count))
            try:
                state, info = sampler.step(state, meter, chance.fork("step", turn))
                break
            except Later:
                yield so_far(Status.WAITING, {})
        canvas, nfe = info.canvas, nfe + meter.nfe
        fresh = without(before.masked | (before.tokens != canvas.tokens), canvas.masked)  # unmasked, or written over
        when = when.masked_fill(fresh, turn).masked_fill(canvas.masked, -2)
        count = count + ~done
        for collector in collect:
            collector.see(info)
        turn += 1
        done = sampler.done(state)
        finished = bool(done.all())
    status = Status.FINISHED if finished else Status.STOPPED
    yield so_far(status, {collector.name: collector.result() for collector in collect})


@dataclass(frozen=True, eq=False)
class _Metered:
    """A denoiser that counts passes per row and leaves out the rows of which nothing is asked.

    A sampler may ask about k canvases for every row, one after the other: their passes are the row's.
    """

    inner: Denoiser
    nfe: Tensor

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        asked = where.any(1)
        whole = bool(asked.all())
        answer = self.inner(canvas, where) if whole else self.inner(canvas.rows(asked), where[asked])
        self._count(asked, answer.passes)
        return answer if whole else replace(answer, where=where)

    def along(self, canvas: Canvas, where: Tensor, ranks: Tensor) -> Marginals:
        inner, asked = ranked(self.inner), where.any(1)
        self._count(asked, 1)
        if bool(asked.all()):
            return inner.along(canvas, where, ranks)
        answer = inner.along(canvas.rows(asked), where[asked], ranks[asked])
        return Marginals(where, answer.logits, answer.temperature)

    def noised(self, canvas: Canvas, where: Tensor, level: Tensor) -> Marginals:
        asked = where.any(1)
        answer = noised(self.inner).noised(canvas.rows(asked), where[asked], level[asked])
        self._count(asked, answer.passes)
        return replace(answer, where=where)

    @property
    def vocabulary(self) -> int:
        return vocabulary(self.inner)

    def _count(self, asked: Tensor, passes: int) -> None:
        self.nfe.add_(asked.view(len(self.nfe), -1).sum(1) if len(asked) > len(self.nfe) else asked, alpha=passes)


def _chance(key: int | Chance, rows: int, names: Tensor | None, device: torch.device) -> Chance:
    if not isinstance(key, int):
        return key
    names = torch.arange(rows, device=device) if names is None else names
    if names.shape != (rows,) or len(set(names.tolist())) != rows:
        raise CanvasError(f"{names.numel()} row names for {rows} rows; expected one each, no two alike")
    return Keyed.of(key, names)
