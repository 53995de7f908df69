import threading
import time

import pytest

from demask.errors import GenerateError
from demask.serve import Busy, Closed, Engine, Expired, Limits


def run(engine, tickets):
    events = [[] for _ in tickets]
    for ticket, seen in zip(tickets, events, strict=True):
        ticket.tell = seen.append
    engine.submit(tickets)
    with engine:
        engine.drain()
    return events


REQUESTS = [
    {"key": 1, "steps": 4},
    {"key": 2, "steps": 9, "schedule": "uniform"},
    {"key": 3, "order": "Confidence()", "steps": 3, "temperature": 0.5},
    {"key": 4, "sampler": "Stable(Parallel(uniform(steps=12), Confidence()))"},
    {"key": 5, "row": (2, 7), "steps": 5},
    {"key": 6, "guidance": 1.5, "steps": 4},
    {"key": 7, "top_k": 5, "order": "Blockwise(Random(), 8)", "steps": 6},
]


def test_rows_of_many_kinds_are_answered_by_one_pass_as_if_alone(model):
    engine = Engine(model)
    tickets = [engine.ticket("dear anna ,", 40, **options) for options in REQUESTS]
    for ticket, seen, options in zip(tickets, run(engine, tickets), REQUESTS, strict=True):
        [(kind, result)] = seen
        alone = model.generate("dear anna ,", 40, **options)
        assert kind == "done"
        assert (result.tokens, result.when, result.nfe) == (alone.tokens, alone.when, alone.nfe), options
        assert ticket.size == 96 or ticket.size == model.window


def test_canvases_are_those_of_a_stream(model):
    engine = Engine(model)
    ticket = engine.ticket("dear anna ,", 12, key=3, steps=5)
    ticket.show = "canvas"
    [seen] = run(engine, [ticket])
    assert [value[0] for kind, value in seen if kind == "canvas"] == list(
        model.stream("dear anna ,", 12, key=3, steps=5)
    )[:-1]


class Broken:
    """Fails for canvases that hold a token."""

    def __init__(self, inner, token):
        self.inner, self.token, self.calls = inner, token, 0

    def __call__(self, canvas, where):
        self.calls += 1
        if bool(((canvas.tokens == self.token) & ~canvas.masked).any()):
            raise RuntimeError("broken")
        return self.inner(canvas, where)


def test_a_failing_pass_ends_only_the_row_it_fails_for(model):
    from dataclasses import replace

    [poison] = model.tokenizer.encode("max")
    engine = Engine(replace(model, denoiser=Broken(model.denoiser, poison)))
    tickets = [engine.ticket(prompt, 8, key=1, steps=1) for prompt in ("dear anna ,", "dear max ,", "dear anna")]
    kinds = [[kind for kind, _ in seen] for seen in run(engine, tickets)]
    assert kinds[1] == ["failed"]
    assert kinds[0] == kinds[2] == ["done"]


def test_a_row_that_is_cancelled_or_late_is_freed(model):
    engine = Engine(model)
    tickets = [engine.ticket("dear anna ,", 40, key=1, steps=40) for _ in range(3)]
    tickets[0].cancelled = True
    tickets[1].deadline = time.monotonic() - 1
    first, second, third = run(engine, tickets)
    assert first == []
    assert isinstance(second[0][1], Expired)
    assert third[0][0] == "done"


def test_a_full_queue_and_a_closed_engine_refuse(model):
    engine = Engine(model, Limits(queue=2))
    tickets = [engine.ticket("dear anna ,", 4, key=1) for _ in range(3)]
    with pytest.raises(Busy):
        engine.submit(tickets)
    engine.submit(tickets[:2])
    engine.drain()
    with pytest.raises(Closed):
        engine.submit(tickets[2:])


def test_few_rows_at_a_time_are_served_in_turn(model):
    engine = Engine(model, Limits(rows=2))
    tickets = [engine.ticket("dear anna ,", 6, key=key, steps=2) for key in range(5)]
    most = []
    done = []
    for number, ticket in enumerate(tickets):
        ticket.tell = lambda event, number=number: (done.append(number), most.append(engine.active))
    engine.submit(tickets)
    with engine:
        engine.drain()
    assert done == [0, 1, 2, 3, 4]
    assert max(most) <= 2
    assert threading.active_count() < 20


def test_what_generate_refuses_is_refused_before_it_waits(model):
    with pytest.raises(GenerateError, match="max_new_tokens"):
        Engine(model).ticket("dear anna ,", 0)
