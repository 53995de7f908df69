"""One thread that decodes the rows of many requests: one forward pass per turn answers them all.

Every row is a run of its own, of the same loop that `Model.generate` turns. Its denoiser has no answer at first (`Later`),
so the run waits; the engine asks the model once for all that wait, and each run takes its step again with its answer. So
rows of different lengths, prompts, samplers and schedules join and leave between steps, and a row's tokens are those it
would have alone.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas, Marginals
from demask.contracts import Denoiser, Later
from demask.errors import DemaskError, SpecError
from demask.generate import Model
from demask.generate.job import UNSEEN, Job, Row
from demask.generate.template import Template
from demask.loop import Run, Status
from demask.serve.limits import Limits

Show = Literal["nothing", "text", "canvas"]
Event = tuple[Literal["canvas", "text", "done", "failed"], Any]
LOG: Final = logging.getLogger("demask.serve")


class Busy(RuntimeError):  # noqa: N818
    """As many rows wait as may."""


class Closed(RuntimeError):  # noqa: N818
    """The engine finishes what it has and takes nothing more."""


class Expired(RuntimeError):  # noqa: N818
    """The deadline of a request has passed."""


class Watch(Protocol):
    """What an engine tells of itself."""

    def turned(self, rows: int, seconds: float, model: float) -> None:
        """See one pass: of so many rows, and the seconds of the turn and of the model in it."""


class Deferred:
    """A denoiser whose answers come later: it keeps what is asked, and raises `Later`.

    Within a step the answers are found again by their order, since a step that is taken again asks the same.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = device
        self.asked: tuple[Canvas, Tensor] | None = None
        self._answers: list[Marginals] = []
        self._next = 0

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer again what was answered within the step.

        Raises:
            Later: this is asked for the first time.
        """
        if self._next < len(self._answers):
            self._next += 1
            return self._answers[self._next - 1]
        self.asked = (canvas, where)
        raise Later

    def answer(self, marginals: Marginals) -> None:
        """Give the answer to what was asked."""
        self._answers.append(marginals)
        self.asked, self._next = None, 0

    def entropies(self, places: Sequence[int]) -> list[float | None]:
        """Return the entropy of the model's law at places of the only row, in nats; None where it was not asked."""
        last = self._answers[-1] if self._answers else None
        if last is None or len(last.where) != 1:
            return [None] * len(places)
        entropies, asked = last.spread(last.entropy)[0].tolist(), last.where[0].tolist()
        return [round(entropies[place], 4) if asked[place] else None for place in places]

    def forget(self) -> None:
        """Begin a new step."""
        self._answers, self._next = [], 0


@dataclass(eq=False)
class Ticket:
    """One row under way.

    Parameters:
        job, row: as `Model.prepare` returns them.
        deferred: the denoiser of the job.
        show: what is told besides the result.
        tell: called with every event, in the thread of the engine.
        deadline: in seconds of `time.monotonic`.
    """

    job: Job
    row: Row
    deferred: Deferred
    show: Show = "nothing"
    tell: Callable[[Event], None] = lambda event: None
    deadline: float = float("inf")
    cancelled: bool = False
    size: int = 0
    _passes: list[Tensor] = field(default_factory=list)
    _runs: Iterator[Run] | None = None
    _run: Run | None = None

    @classmethod
    def prepare(
        cls, model: Model, prompt: str | Template, max_new_tokens: int | None = None, **options: Any
    ) -> "Ticket":
        """Check everything and compute nothing; `options` are the key, the row and the settings of `Model.generate`.

        Raises: what `Model.generate` raises, or `Model.fill` for a `Template`.
        """
        deferred = Deferred(getattr(model.denoiser, "device", "cpu"))
        job, row = replace(model, denoiser=deferred).prepare(prompt, max_new_tokens, **options)
        return cls(job, row, deferred, size=max(len(row.layout.tokens), model.window or 0))

    def advance(self) -> bool:
        """Go on until an answer is needed; return whether one is."""
        if self._runs is None:
            self._runs = self.job.turns([self.row])
        for run in self._runs:
            if run.status is Status.WAITING:
                return True
            self._run = run
            self._passes.append(run.nfe)
            if self.show == "canvas":
                frame = self.job.show(self.row, run, len(self._passes) - 2)
                self.tell(("canvas", (frame, self.deferred.entropies(frame.fresh))))
            elif self.show == "text":
                tokens, when = self.job.shown(self.row, run)
                known = [turn != UNSEEN for turn in when]
                self.tell(("text", self.row.layout.texts(tokens, known)[0]))
            self.deferred.forget()
        assert self._run is not None
        (result,) = self.job.tell([self.row], self._run, torch.stack(self._passes))
        self.tell(("done", result))
        return False


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

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._queue and not self._active and not self._stopped:
                    self._condition.wait()
                if self._stopped and not self._queue and not self._active:
                    return
                new = self._admit()
            try:
                self._turn(new)
            except Exception:  # a fault of ours must not end the thread: say it, and free every row
                LOG.exception("a turn failed")
                for ticket in (*self._active, *new):
                    ticket.tell(("failed", RuntimeError("the turn failed")))
                with self._condition:
                    self._active = []

    def _admit(self) -> list[Ticket]:
        """Take from the queue, first come first served, what fits beside the rows under way."""
        new: list[Ticket] = []
        positions = sum(ticket.size for ticket in self._active)
        while self._queue and len(self._active) + len(new) < self.limits.rows:
            if (self._active or new) and positions + self._queue[0].size > self.limits.positions:
                break
            positions += self._queue[0].size
            new.append(self._queue.popleft())
        return new

    def _turn(self, new: list[Ticket]) -> None:
        """Ask once for every row that waits for an answer, and take its step."""
        began = time.perf_counter()
        with self._condition:
            self._active = [*self._active, *new]
        fresh = set(map(id, new))
        waiting = [ticket for ticket in self._active if id(ticket) not in fresh or self._advance(ticket)]
        waiting = [ticket for ticket in waiting if not self._over(ticket)]
        model = time.perf_counter()
        if waiting:
            answered = self._ask(waiting)
            model = time.perf_counter() - model
            left = [ticket for ticket in answered if self._advance(ticket)]
            if self.watch is not None:
                self.watch.turned(len(waiting), time.perf_counter() - began, model)
        else:
            left = []
        with self._condition:
            self._active = left

    def _over(self, ticket: Ticket) -> bool:
        """Whether nobody waits for a row any more."""
        if not ticket.cancelled and time.monotonic() > ticket.deadline:
            ticket.tell(("failed", Expired("the deadline has passed")))
            return True
        return ticket.cancelled

    @staticmethod
    def _advance(ticket: Ticket) -> bool:
        """Go on with a row; its own fault ends it alone."""
        if ticket.cancelled:
            return False
        try:
            return ticket.advance()
        except Exception as error:
            if not isinstance(error, DemaskError):
                LOG.exception("a step failed")
            ticket.tell(("failed", error))
            return False

    def _ask(self, tickets: list[Ticket]) -> list[Ticket]:
        """Give every row its answer; where the pass fails, ask for each alone. Return the rows that have one.

        A row of many particles asks for as many canvases: what does not fit into one pass goes into several.
        """
        sizes = [_asked(ticket)[1].numel() for ticket in tickets]
        if sum(sizes) > self.limits.positions:
            return self._apart(tickets, sizes)
        try:
            answers = together(self.model.denoiser, [_asked(ticket) for ticket in tickets])
        except Exception as error:
            if len(tickets) == 1:
                LOG.exception("the model failed")
                tickets[0].tell(("failed", error))
                return []
            return [ticket for one in tickets for ticket in self._ask([one])]
        for ticket, answer in zip(tickets, answers, strict=True):
            ticket.deferred.answer(answer)
        return tickets

    def _apart(self, tickets: list[Ticket], sizes: Sequence[int]) -> list[Ticket]:
        """Ask in as few passes as there is room for, in the order of the rows."""
        passes: list[list[Ticket]] = []
        room = 0
        for ticket, size in zip(tickets, sizes, strict=True):
            if size > self.limits.positions:
                ticket.tell(
                    ("failed", SpecError(f"a step that asks of {size} positions; at most {self.limits.positions}"))
                )
                continue
            if size > room:
                passes.append([])
                room = self.limits.positions
            passes[-1].append(ticket)
            room -= size
        return [ticket for some in passes for ticket in self._ask(some)]


def together(denoiser: Denoiser, asks: Sequence[tuple[Canvas, Tensor]]) -> list[Marginals]:
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


def _asked(ticket: Ticket) -> tuple[Canvas, Tensor]:
    assert ticket.deferred.asked is not None
    return ticket.deferred.asked


def _wide(values: Tensor, width: int, filler: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=filler)
