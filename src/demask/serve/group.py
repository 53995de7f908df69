"""Rows that are turned together: one course of the loop, and whose rows they are."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from demask.canvas import ABSENT, Canvas, Marginals
from demask.contracts import Denoiser, Info, Later
from demask.generate import Model
from demask.generate.job import MOST, UNSEEN, Job, Row
from demask.generate.template import Template
from demask.loop import Course, Run, Status, claimed

Show = Literal["nothing", "text", "canvas"]
Kind = Literal["canvas", "text", "done", "failed"]
Event = tuple[Kind, Any]
Asks = tuple[Canvas, Tensor]
LOG: Final = logging.getLogger("demask.serve")


class Deferred:
    """A denoiser whose answers come later: it keeps what is asked, and raises `Later`.

    Within a step the answers are found again by their order, since a step that is taken again asks the same.

    Parameters:
        inner: what is asked in the end, by who keeps the answers.
    """

    def __init__(self, inner: Denoiser) -> None:
        self.inner = inner
        self.device = getattr(inner, "device", "cpu")
        self.asked: Asks | None = None
        self.answers: list[Marginals] = []
        self._ask: Denoiser | None = None
        self._next = 0

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer again what was answered within the step.

        Raises:
            Later: this is asked for the first time, and there is nobody who answers at once.
        """
        if self._next == len(self.answers):
            if self._ask is None:
                self.asked = (canvas, where)
                raise Later
            self.answers.append(self._ask(canvas, where))
        self._next += 1
        return self.answers[self._next - 1]

    def answer(self, marginals: Marginals) -> None:
        """Give the answer to what was asked."""
        self.answers.append(marginals)
        self.asked = None

    def begin(self, ask: Denoiser | None) -> None:
        """Begin a step, or begin it again; `ask` answers at once."""
        self._ask, self._next, self.asked = ask, 0, None

    def forget(self) -> None:
        """End a step."""
        self.answers = []


@dataclass(eq=False)
class Ticket:
    """One row under way.

    Parameters:
        job, row: as `Model.prepare` returns them.
        deferred: the denoiser of the job.
        show: what is told besides the result.
        tell: called with every event, in the thread of the engine.
        deadline: in seconds of `time.monotonic`.
        size: positions that count when rows are admitted.
        width: positions of its canvas, once there is one.
        owner: whose row it is: rows that are submitted together have one owner.
    """

    job: Job
    row: Row
    deferred: Deferred
    show: Show = "nothing"
    tell: Callable[[Event], None] = lambda event: None
    deadline: float = float("inf")
    cancelled: bool = False
    size: int = 0
    width: int = 0
    owner: object = None
    passes: list[int] = field(default_factory=list)

    @classmethod
    def prepare(
        cls, model: Model, prompt: str | Template, max_new_tokens: int | None = None, **options: Any
    ) -> "Ticket":
        """Check everything and compute nothing; `options` are the key, the row and the settings of `Model.generate`.

        Raises: what `Model.generate` raises, or `Model.fill` for a `Template`.
        """
        deferred = Deferred(model.denoiser)
        job, row = replace(model, denoiser=deferred).prepare(prompt, max_new_tokens, **options)
        return cls(job, row, deferred, size=max(len(row.layout.tokens), model.window or 0))

    def see(self, run: Run, entropies: Callable[[Sequence[int]], list[float | None]]) -> None:
        """Tell what is to be seen of the row as it stands; `entropies` knows those of its positions."""
        if self.show == "canvas":
            frame = self.job.show(self.row, run, len(self.passes) - 2)
            self.say("canvas", (frame, entropies(frame.fresh)))
        elif self.show == "text":
            tokens, when = self.job.shown(self.row, run)
            self.say("text", self.row.layout.texts(tokens, [turn != UNSEEN for turn in when])[0])

    def finish(self, run: Run) -> None:
        """Tell the result of the row's run."""
        (result,) = self.job.tell([self.row], run, torch.tensor(self.passes)[:, None])
        self.say("done", result)

    def fail(self, error: Exception) -> None:
        """Tell what the row fails with; it leaves before the next step."""
        self.say("failed", error)
        self.cancelled = True

    def say(self, kind: Kind, value: Any) -> None:
        """Tell an event; who cannot be told does not wait."""
        try:
            self.tell((kind, value))
        except Exception:
            LOG.exception("nobody can be told of a row")
            self.cancelled = True


@dataclass(eq=False)
class Group:
    """The rows of one course, and their tickets.

    Parameters:
        kind: what rows of another group must equal to be turned together with these.
        tickets: one per row.
        course: where they stand.
        denoiser: with all that shapes its laws, around `deferred`.
        deferred: asked in the end.
    """

    kind: Hashable
    tickets: list[Ticket]
    course: Course[Any]
    denoiser: Denoiser
    deferred: Deferred

    @classmethod
    def of(cls, ticket: Ticket) -> "Group":
        """Return a group of one row, before its first step."""
        denoiser, sampler, canvas, chance = ticket.job.prepared([ticket.row])
        ticket.width = canvas.shape[1]
        group = cls(_named(ticket), [ticket], Course.begin(sampler, canvas, chance), denoiser, ticket.deferred)
        group.see(None)
        return group

    @classmethod
    def merged(cls, groups: Sequence["Group"]) -> "list[Group]":
        """Turn those together that can be; the others, and those in the middle of a step, stay by themselves."""
        alike: dict[Hashable, list[Group]] = {}
        for group in groups:
            key = group if group.deferred.answers else (group.kind, group.course.kind)
            alike.setdefault(key, []).append(group)
        return [cls._joined(some) if len(some) > 1 else some[0] for some in alike.values()]

    @classmethod
    def _joined(cls, groups: "list[Group]") -> "Group":
        tickets = [ticket for group in groups for ticket in group.tickets]
        return replace(groups[0], tickets=tickets, course=Course.join([group.course for group in groups]))

    @property
    def apart(self) -> "list[Group]":
        """A group per row, each with a denoiser of its own."""
        groups = []
        for place, ticket in enumerate(self.tickets):
            denoiser, *_ = ticket.job.prepared([ticket.row])
            ticket.deferred.forget()
            groups.append(Group(self.kind, [ticket], self.course.rows([place]), denoiser, ticket.deferred))
        return groups

    def step(self, ask: Denoiser | None = None) -> Info:
        """Take a step, and return what the sampler tells of it.

        Raises:
            Later: the denoiser is asked, and nobody answers at once; take the step again after `deferred.answer`.
        """
        self.deferred.begin(ask)
        self.course, info = self.course.step(self.denoiser)
        return info

    def keep(self, stays: Sequence[bool]) -> None:
        """Let the other rows go."""
        if not all(stays):
            places = [place for place, stay in enumerate(stays) if stay]
            self.tickets = [self.tickets[place] for place in places]
            if places:
                self.course = self.course.rows(places)
                width = max(ticket.width for ticket in self.tickets)
                if width < self.course.canvas.shape[1]:
                    self.course = self.course.narrow(width)

    def finish(self) -> None:
        """Tell the results of the rows that have come to their end, and let these go."""
        course, done = self.course, self.course.done.tolist()
        over = [one or turn >= MOST for one, turn in zip(done, course.turns, strict=True)]
        for place, ticket in enumerate(self.tickets):
            if over[place] and not ticket.cancelled:
                status = Status.FINISHED if done[place] else Status.STOPPED
                try:
                    ticket.finish(course.run(place, status, claimed(self.denoiser, course.sampler)))
                except Exception as error:
                    ticket.fail(error)
        self.keep([not one for one in over])

    def see(self, info: Info | None) -> None:
        """Note the passes, tell those who look on what the step has brought, and end it."""
        for place, (ticket, nfe) in enumerate(zip(self.tickets, self.course.nfe.tolist(), strict=True)):
            ticket.passes.append(nfe)
            if ticket.show != "nothing" and not ticket.cancelled:
                run = self.course.run(place, Status.RUNNING, self.course.sampler.law)
                try:
                    ticket.see(run, partial(self._entropies, info, place))
                except Exception as error:
                    ticket.fail(error)
        self.deferred.forget()

    def _entropies(self, info: Info | None, place: int, fresh: Sequence[int]) -> list[float | None]:
        """Return the entropy of the model's law at positions of a row, in nats; None where it was not asked."""
        last, known = self.deferred.answers[-1:], None if info is None else info.step.known
        nothing: list[float | None] = [None] * len(fresh)
        if not last or known is None or len(known.where) != len(self.tickets):
            return nothing
        asked = known.where.any(1)  # of the other rows nothing reached the model
        if not bool(asked[place]) or len(last[0].where) != int(asked.sum()):
            return nothing
        law = last[0].rows(asked[:place].sum()[None])
        entropies, where = law.spread(law.entropy)[0].tolist(), law.where[0].tolist()
        return [round(entropies[position], 4) if where[position] else None for position in fresh]


def together(denoiser: Denoiser, asks: Sequence[Asks]) -> list[Marginals]:
    """Answer several asks by one pass.

    Parameters:
        denoiser: asked once.
        asks: canvases (B_i, N_i) and the positions (B_i, N_i) that are asked of each.

    Example:
        >>> from demask.oracles import parity
        >>> blank = Canvas.blank(1, 3)
        >>> [answer.logits.shape for answer in together(parity(3), [(blank, blank.masked)] * 2)]
        [torch.Size([3, 2]), torch.Size([3, 2])]
    """
    if len(asks) == 1:
        return [denoiser(*asks[0])]
    width = max(where.shape[1] for _, where in asks)
    canvas = Canvas(
        torch.cat([_wide(canvas.tokens, width, ABSENT) for canvas, _ in asks]),
        torch.cat([_wide(canvas.masked, width, False) for canvas, _ in asks]),
    )
    where = torch.cat([_wide(where, width, False) for _, where in asks])
    answer = denoiser(canvas, where)
    counts = torch.stack([where.sum() for _, where in asks]).tolist()
    logits = torch.split(answer.logits, counts)
    return [replace(answer, where=ask[1], logits=part) for ask, part in zip(asks, logits, strict=True)]


def _named(ticket: Ticket) -> Hashable:
    """Return the kind of a ticket's row; nothing equals it if a component of its recipe cannot be compared."""
    kind = ticket.job.kind(ticket.row)
    try:
        hash(kind)
    except TypeError:
        return object()
    return kind


def _wide(values: Tensor, width: int, filler: int) -> Tensor:
    return pad(values, (0, width - values.shape[1]), value=filler)
