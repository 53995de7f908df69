"""The one loop, and a run under way as a value: rows join it and leave it between its steps."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from demask.canvas import Canvas, Marginals
from demask.chance import Keyed
from demask.contracts import Chance, Collector, Denoiser, Info, Later, Law, Sampler, noised, ranked, vocabulary
from demask.errors import CanvasError
from demask.few import few
from demask.masks import counts
from demask.once import once
from demask.rows import join, kind, narrow, select

S = TypeVar("S")
_ROWS: Final = ("state", "canvas", "chance", "when", "nfe", "count", "done")  # of a course


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
        law: what the sampler claims about the distribution; TILTED where the denoiser only approximates its model.
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
    if max_steps < 1:
        raise CanvasError(f"max_steps = {max_steps}; expected an integer >= 1")
    course = Course.begin(sampler, canvas, _chance(key, canvas.shape[0], names, canvas.device))
    law = claimed(denoiser, sampler)
    name = key if isinstance(key, int) else None

    def so_far(status: Status, collected: Mapping[str, Any]) -> Run:
        shown = course.canvas.tokens, course.when, course.nfe, course.count
        return Run(*shown, status, law, name, collected)

    turn = 0
    finished = False not in course.over
    while turn < max_steps and not finished:
        yield so_far(Status.RUNNING, {})
        while True:
            try:
                course, info = course.step(denoiser)
                break
            except Later:
                yield so_far(Status.WAITING, {})
        for collector in collect:
            collector.see(info)
        del info  # its logits, before the next step has its own
        turn += 1
        finished = False not in course.over
    status = Status.FINISHED if finished else Status.STOPPED
    yield so_far(status, {collector.name: collector.result() for collector in collect})


@dataclass(frozen=True, eq=False)
class Course(Generic[S]):
    """A run under way, between two steps: what `steps` turns.

    Rows leave it, and rows of other runs of an equal sampler join it, each at a step of its own: a step then costs as many
    calls of torch as that of one run. A row's draws depend on its own chance and its own number of steps, so its tokens
    stay what they would be alone.

    Parameters:
        sampler: of all rows.
        state: of the sampler.
        canvas: (B, N), as it stands.
        chance: of the run; of every row its own.
        turns: (B,) integers on the host, the step that each row takes next.
        when, nfe, count: those of `Run`, as they stand; `count` are its `steps`.
        done: (B,) bool, rows that are finished.

    Example:
        >>> from demask.oracles import parity
        >>> from demask.orders import LeftToRight
        >>> from demask.samplers import Parallel
        >>> from demask.schedules import uniform
        >>> def begun(key):
        ...     chance = Keyed.of(key, torch.tensor([0]))
        ...     return Course.begin(Parallel(uniform(4, 2), LeftToRight()), Canvas.blank(1, 4), chance)
        >>> first, _ = begun(1).step(parity(4))
        >>> both, _ = Course.join([first, begun(2)]).step(parity(4))
        >>> both.turns, both.done.tolist(), both.when.tolist()
        ((2, 1), [True, False], [[0, 0, 1, 1], [0, 0, -2, -2]])
    """

    sampler: Sampler[S]
    state: S
    canvas: Canvas
    chance: Chance
    turns: tuple[int, ...]
    when: Tensor
    nfe: Tensor
    count: Tensor
    done: Tensor

    @classmethod
    def begin(cls, sampler: Sampler[S], canvas: Canvas, chance: Chance) -> "Course[S]":
        """Return a run before its first step."""
        state = sampler.init(canvas, chance.fork("run"))
        when = torch.full(canvas.shape, -1, device=canvas.device).masked_fill(canvas.masked, -2)
        count = torch.zeros(len(when), dtype=torch.int64, device=canvas.device)
        turns = (0,) * len(when)
        return cls(sampler, state, canvas, chance, turns, when, torch.zeros_like(count), count, sampler.done(state))

    def step(self, denoiser: Denoiser) -> tuple["Course[S]", Info]:
        """Return the run after one step of every row, and what the sampler tells of it.

        Raises: what the denoiser raises; nothing has changed then, and the same step can be taken again.
        """
        meter = _Metered(denoiser, self.nfe)
        turns = self.turns
        turn = turns[0] if len(set(turns)) == 1 else turns
        state, info = self.sampler.step(self.state, meter, self.chance.fork("step", turn))
        before, canvas, fresh = self.canvas, info.canvas, info.kept
        if not info.alone:
            fresh = before.masked | (before.tokens != canvas.tokens)  # unmasked, or written over; or masked now
        if isinstance(turn, int):
            when = self.when.masked_fill(fresh, turn)
        else:
            when = torch.where(fresh, self.when.new_tensor(turn)[:, None], self.when)
        when = when if info.alone else when.masked_fill(canvas.masked, -2)
        count = self.count + (~self.done if True in self.over else 1)
        after, done = tuple(turn + 1 for turn in turns), self.sampler.done(state)
        return Course(self.sampler, state, canvas, self.chance, after, when, meter.nfe, count, done), info

    @once
    def over(self) -> list[bool]:
        """What `done` says, on the host."""
        over: list[bool] = self.done.tolist()
        return over

    def rows(self, places: Sequence[int]) -> "Course[S]":
        """Keep some rows, by their numbers; the state has its rows first, as `demask.rows.select` says."""
        keep = torch.tensor(places, device=self.count.device)
        kept = {name: select(getattr(self, name), keep) for name in _ROWS}
        return replace(self, turns=tuple(self.turns[place] for place in places), **kept)

    def narrow(self, width: int) -> "Course[S]":
        """Drop the positions from `width` on; no row has any there."""
        shape = self.canvas.shape
        parts = {name: narrow(getattr(self, name), shape, width) for name in ("state", "canvas", "when")}
        return replace(self, **parts)

    @property
    def kind(self) -> Hashable:
        """What courses of one sampler must have in common to be joined; some states equal nothing but themselves."""
        return kind((self.state, self.chance), self.canvas.shape)

    @classmethod
    def join(cls, courses: Sequence["Course[S]"]) -> "Course[S]":
        """Return the rows of all courses as one; they have equal samplers and are of one `kind`."""
        first, width = courses[0], max(course.canvas.shape[1] for course in courses)
        when = [pad(course.when, (0, width - course.canvas.shape[1]), value=-1) for course in courses]
        parts = {name: join([getattr(course, name) for course in courses]) for name in _ROWS if name != "when"}
        turns = tuple(turn for course in courses for turn in course.turns)
        return replace(first, turns=turns, when=torch.cat(when), **parts)

    def run(self, row: int, status: Status, law: Law) -> Run:
        """Return one row as it stands."""
        one = slice(row, row + 1)
        return Run(self.canvas.tokens[one], self.when[one], self.nfe[one], self.count[one], status, law, None)


def claimed(denoiser: Denoiser, sampler: Sampler[Any]) -> Law:
    """Return the sampler's law; TILTED where the denoiser says that it only approximates its model."""
    return Law.TILTED if _approximate(denoiser) else sampler.law


@dataclass(eq=False)
class _Metered:
    """A denoiser that counts passes per row and leaves out the rows of which nothing is asked.

    A sampler may ask about k canvases for every row, one after the other: their passes are the row's.
    """

    inner: Denoiser
    nfe: Tensor

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        asked = self._part(where)
        if asked is None:
            answer = self.inner(canvas, where)
            self._count(where, answer.passes)
            return answer
        answer = self.inner(canvas.rows(asked), where[asked])
        self._count(asked, answer.passes)
        return replace(answer, where=where)

    def along(self, canvas: Canvas, where: Tensor, ranks: Tensor) -> Marginals:
        inner, asked = ranked(self.inner), self._part(where)
        self._count(where if asked is None else asked, 1)
        if asked is None:
            return inner.along(canvas, where, ranks)
        answer = inner.along(canvas.rows(asked), where[asked], ranks[asked])
        return Marginals(where, answer.logits, answer.temperature)

    def noised(self, canvas: Canvas, where: Tensor, level: Tensor) -> Marginals:
        inner, asked = noised(self.inner), self._part(where)
        rows = (canvas, where, level) if asked is None else (canvas.rows(asked), where[asked], level[asked])
        answer = inner.noised(*rows)
        self._count(where if asked is None else asked, answer.passes)
        return answer if asked is None else replace(answer, where=where)

    @property
    def vocabulary(self) -> int:
        return vocabulary(self.inner)

    @staticmethod
    def _part(where: Tensor) -> Tensor | None:
        """Return the rows of which something is asked, (B,) bool, or None: all."""
        if few(where) and 0 not in counts(where):
            return None
        asked = where.any(1)
        return asked if False in asked.tolist() else None

    def _count(self, asked: Tensor, passes: int) -> None:
        """Count so many passes of all rows of a mask (B, N), or of those asked, (B,) bool."""
        rows, several = self.nfe.shape[0], asked.shape[0] // max(1, self.nfe.shape[0])
        made = several if asked.ndim > 1 else asked.view(rows, -1).sum(1) if several > 1 else asked
        self.nfe = self.nfe + (made if passes == 1 else made * passes)


def _approximate(denoiser: object) -> bool:
    """Return whether a denoiser, or one that it is around, says that it does not answer with its model's laws."""
    while denoiser is not None:
        if getattr(denoiser, "law", None) is Law.TILTED:
            return True
        denoiser = getattr(denoiser, "inner", None)
    return False


def _chance(key: int | Chance, rows: int, names: Tensor | None, device: torch.device) -> Chance:
    if not isinstance(key, int):
        return key
    names = torch.arange(rows, device=device) if names is None else names
    if names.shape != (rows,) or len(set(names.tolist())) != rows:
        raise CanvasError(f"{names.numel()} row names for {rows} rows; expected one each, no two alike")
    return Keyed.of(key, names)
