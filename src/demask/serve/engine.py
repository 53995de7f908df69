"""One thread that decodes the rows of many requests: one forward pass per turn answers them all.

Rows of one recipe are one run of the loop that `Model.generate` turns, which they join and leave between steps (`Group`);
so a step costs as much as that of a batch. Of several groups the denoisers have no answer at first (`Later`): the engine
asks the model once for all that wait, and each group takes its step again with its answer. So rows of different lengths,
prompts, samplers and schedules share every pass, and a row's tokens are those it would have alone.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress
from typing import Any, Final, Protocol, TypeVar

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.contracts import Later
from demask.errors import SpecError
from demask.generate import Model
from demask.generate.template import Template
from demask.serve.group import Group, Ticket, together
from demask.serve.limits import Limits

T = TypeVar("T")
LOG: Final = logging.getLogger("demask.serve")


class Busy(RuntimeError):  # noqa: N818
    """As many rows wait as may."""


class Closed(RuntimeError):  # noqa: N818
    """The engine finishes what it has and takes nothing more."""


class Expired(TimeoutError):  # noqa: N818
    """The deadline of a request has passed."""


class Watch(Protocol):
    """What an engine tells of itself."""

    def turned(self, rows: int, seconds: float, model: float, step: float) -> None:
        """See one turn of so many rows: its seconds, those of the model in it, and those of the samplers' own work."""


class Engine:
    """Decode the rows of many requests side by side, in a thread of its own.

    Parameters:
        model: whose denoiser is asked.
        limits: how many rows at a time, and how many may wait.
        watch: told of every pass.

    Example:
        >>> from demask.oracles import Chain
        >>> from demask.tokenizer import Tokenizer
        >>> chain = Chain.markov([0.5, 0.5, 0.0], [[0.0, 0.9, 0.1], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], length=9)
        >>> model = Model(chain, Tokenizer.words(["tick", "tock"]), context=9, window=9)
        >>> engine, events = Engine(model), []
        >>> ticket = engine.ticket("tick", 4, key=3)
        >>> ticket.tell = events.append
        >>> engine.submit([ticket])
        >>> with engine:
        ...     engine.drain()
        >>> [(kind, result.text) for kind, result in events]
        [('done', 'tick tock tick tock tick')]
    """

    def __init__(self, model: Model, limits: Limits | None = None, watch: Watch | None = None) -> None:
        self.model, self.limits, self.watch = model, limits or Limits(), watch
        self._condition = threading.Condition()
        self._queue: deque[Ticket] = deque()
        self._active: list[Ticket] = []
        self._groups: list[Group] = []
        self._model_seconds = self._step_seconds = 0.0  # of this turn
        self._open, self._stopped = True, False
        self._thread = threading.Thread(target=self._work, name="demask-engine", daemon=True)

    def __enter__(self) -> "Engine":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; what is under way after `drain` is finished first, and otherwise fails with `Closed`."""
        with self._condition:
            self._stopped, self._open = True, False
            self._condition.notify_all()
        self._thread.join()

    def ticket(self, prompt: str | Template, max_new_tokens: int | None = None, **options: Any) -> Ticket:
        """Return a row that can be submitted; see `Ticket.prepare`."""
        return Ticket.prepare(self.model, prompt, max_new_tokens, **options)

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Take all of these rows, or none.

        Raises:
            Closed: the engine is draining.
            Busy: the queue has no room for them.
        """
        with self._condition:
            if not self._open:
                raise Closed("the server is shutting down")
            if len(self._queue) + len(tickets) > self.limits.queue:
                raise Busy(f"{len(self._queue)} rows wait, and {self.limits.queue} may")
            owner = object()
            for ticket in tickets:
                ticket.owner = owner
            self._queue.extend(tickets)
            self._condition.notify_all()

    def drain(self) -> None:
        """Take nothing more, and finish what is there."""
        with self._condition:
            self._open = False
            self._condition.notify_all()

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return len(self._queue)

    @property
    def active(self) -> int:
        """Rows being decoded."""
        return len(self._active)

    @property
    def open(self) -> bool:
        """Whether rows are taken."""
        return self._open and self._thread.is_alive()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is decoded."""
        with self._condition:
            return not self._queue and not self._active

    @torch.inference_mode()
    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._queue and not self._active and not self._stopped:
                    self._condition.wait()
                if self._stopped and not self._queue and not self._active:
                    return
                began, self._model_seconds, self._step_seconds = time.perf_counter(), 0.0, 0.0
                new = self._admit()
            try:
                rows = self._turn(new)
            except Exception:  # a fault of ours must not end the thread: say it, and free every row
                LOG.exception("a turn failed")
                rows, self._groups = 0, []
                for ticket in self._active:
                    ticket.fail(RuntimeError("the turn failed"))
            with self._condition:
                self._active = [ticket for group in self._groups for ticket in group.tickets]
            if rows and self.watch is not None:
                seconds = time.perf_counter() - began
                self.watch.turned(rows, seconds, self._model_seconds, self._step_seconds)

    def _admit(self) -> list[Ticket]:
        """Take from the queue what fits beside the rows under way.

        The next one is of the request that has the fewest rows under way, of equals the first that came: so every request
        has a row before one has two.
        """
        stays = [not _over(ticket) for ticket in self._queue]
        if not all(stays):
            self._queue = deque(compress(self._queue, stays))
        new: list[Ticket] = []
        positions = sum(ticket.size for ticket in self._active)
        rows = Counter(ticket.owner for ticket in self._active)
        while self._queue and len(self._active) < self.limits.rows:
            ticket = min(self._queue, key=lambda one: rows[one.owner])
            positions += ticket.size
            if self._active and positions > self.limits.positions:
                break
            self._queue.remove(ticket)
            rows[ticket.owner] += 1
            new.append(ticket)
            self._active.append(ticket)
        return new

    def _turn(self, new: list[Ticket]) -> int:
        """Ask once for every row, and take its step; return how many rows there were."""
        for ticket in new:
            try:
                self._groups.append(Group.of(ticket))
                self._groups[-1].finish()
            except Exception as error:
                ticket.fail(error)
        for group in self._groups:
            if not group.deferred.answers:  # rows come and go between steps
                group.keep([not _over(ticket) for ticket in group.tickets])
        self._groups = [group for group in self._groups if group.tickets]
        if len(self._groups) > 1:
            self._groups = Group.merged(self._groups)
        rows = sum(len(group.tickets) for group in self._groups)
        if len(self._groups) == 1:
            self._step(self._groups[0], at_once=True)
        else:
            waiting = [group for group in list(self._groups) if not self._step(group)]
            if waiting:
                self._ask(waiting)
        self._groups = [group for group in self._groups if group.tickets]
        return rows

    def _step(self, group: Group, *, at_once: bool = False) -> bool:
        """Take a step of a group; return False if it waits for an answer.

        Where it fails, it is taken for each row alone, and ends only those for which it fails again.
        """
        began, model = time.perf_counter(), self._model_seconds
        try:
            info = group.step(partial(self._pass, rows=len(group.tickets)) if at_once else None)
            self._step_seconds += time.perf_counter() - began - (self._model_seconds - model)
            group.see(info)
            group.finish()
        except Later:
            return False
        except Exception as error:
            if len(group.tickets) == 1:
                group.tickets.pop().fail(error)
                return True
            LOG.warning("a step of %d rows failed (%r); each is asked alone", len(group.tickets), error)
            alone = group.apart
            group.tickets = []
            self._groups += alone
            for one in alone:
                self._step(one, at_once=True)
        return True

    def _ask(self, groups: list[Group]) -> None:
        """Answer groups that wait, by one pass if it is possible, and take their steps."""
        asks = [group.deferred.asked for group in groups if group.deferred.asked is not None]
        if sum(where.numel() for _, where in asks) <= self.limits.positions:
            try:
                answers = self._timed(partial(together, self.model.denoiser, asks))
            except Exception as error:
                LOG.warning("a pass for %d groups failed (%r); each is asked alone", len(groups), error)
            else:
                for group, answer in zip(groups, answers, strict=True):
                    group.deferred.answer(answer)
                    self._step(group)
                return
        for group in groups:
            self._step(group, at_once=True)

    def _pass(self, canvas: Canvas, where: Tensor, *, rows: int) -> Marginals:
        """Answer what a group of so many rows asks, in as few passes as there is room for.

        Raises:
            SpecError: a row asks of more than one pass has room for, a row of many particles say.
        """
        most, width = self.limits.positions, where.shape[1]
        if where.numel() <= most:
            return self._timed(partial(self.model.denoiser, canvas, where))
        if width > most or where.numel() > most * rows:
            raise SpecError(f"a step that asks of {where.numel() // rows} positions; at most {most}")
        answers = []
        for some in torch.split(torch.arange(len(where), device=where.device), most // width):
            answers.append(self._timed(partial(self.model.denoiser, canvas.rows(some), where[some])))
        return replace(answers[0], where=where, logits=torch.cat([answer.logits for answer in answers]))

    def _timed(self, ask: Callable[[], T]) -> T:
        """Ask the model, and count its seconds."""
        began = time.perf_counter()
        try:
            return ask()
        finally:
            self._model_seconds += time.perf_counter() - began


def _over(ticket: Ticket) -> bool:
    """Whether nobody waits for a row any more; one that is late is told so."""
    if not ticket.cancelled and time.monotonic() > ticket.deadline:
        ticket.fail(Expired("the deadline has passed"))
    return ticket.cancelled
