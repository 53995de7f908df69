import threading
import time
from dataclasses import replace

import pytest

from demask.denoisers.transformer import Network, Shape, Transformer
from demask.errors import GenerateError
from demask.serve import Busy, Closed, Engine, Expired, Limits
from demask.serve.group import Group
from tests.serve.running import wait_until


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


MIXED = [
    {"steps": 6, "schedule": "uniform"},
    {"steps": 6, "schedule": "uniform", "temperature": 0.7},
    {"order": "Confidence()", "steps": 5},
    {"block": 8, "steps": 3},
    {"schedule": "Unlimited", "order": "EntropyBudget(Entropy(), 0.5)"},
    {"sampler": "Remasking(12, Cap(0.1))"},
    {"sampler": "Stable(Parallel(uniform(steps=6), Confidence()))"},
    {"sampler": "SMC(Parallel(uniform(steps=4), Random()), SelfReward(), 3)"},
    {"steps": 6, "stop": ","},
    {"pace": 3.0, "repetition_penalty": 1.2},
]


@pytest.fixture(scope="module")
def quick(model):
    """A float32 network that has learned nothing, of a tenth of the size."""
    shape = Shape(model.tokenizer.size, context=48, width=32, layers=2, heads=2, hidden=64)
    return replace(model, denoiser=Transformer(Network(shape, key=1)), context=48, window=48, curve=None)


@pytest.mark.parametrize("kinds", [1, len(MIXED)])
def test_rows_that_join_in_flight_are_as_if_alone(quick, kinds):
    """64 requests of unlike keys, lengths, prompts and samplers come in fours, while others are under way."""
    prompts = ["dear anna ,", "dear max , thank you for", "dear"]
    asks = [(prompts[n % 3], 6 + n * 5 % 31, MIXED[n % kinds] | {"key": n, "row": (n % 2, n % 5)}) for n in range(64)]
    engine = Engine(quick, Limits(rows=24))
    turns, permits = [], threading.Semaphore(0)

    class Watch:
        def turned(self, rows, *seconds):
            turns.append((rows, len(engine._groups)))
            permits.acquire(timeout=60)  # the next turn waits until more have come

    engine.watch = Watch()
    tickets = [engine.ticket(prompt, most, **options) for prompt, most, options in asks]
    seen = [[] for _ in tickets]
    for ticket, events in zip(tickets, seen, strict=True):
        ticket.tell = events.append
    with engine:
        for first in range(0, 64, 4):
            engine.submit(tickets[first : first + 4])
            if first:
                permits.release()
            wait_until(lambda first=first: len(turns) > first // 4)
        permits.release(100_000)
        engine.drain()
    for events, (prompt, most, options) in zip(seen, asks, strict=True):
        [(kind, result)] = events
        assert kind == "done"
        alone = quick.generate(prompt, most, **options)
        assert (result.text, result.tokens, result.when, result.passes, result.law, result.new) == (
            alone.text, alone.tokens, alone.when, alone.passes, alone.law, alone.new
        ), options  # fmt: skip
    assert max(rows for rows, _ in turns) > 8
    if kinds == 1:
        assert {groups for _, groups in turns} <= {0, 1}  # one recipe is one run, whoever asks


def test_a_long_row_that_has_left_costs_nothing_more(quick):
    """Of a model without a window: what is asked is as wide as the longest row under way."""
    model, widths, settings = replace(quick, window=None), [], {"schedule": "uniform", "steps": 9}

    def watched(canvas, where):
        widths.append(canvas.shape[1])
        return quick.denoiser(canvas, where)

    engine, told = Engine(model), []
    long, short = (engine.ticket("dear anna ,", most, key=most, **settings) for most in (40, 9))
    short.tell = told.append
    [group] = Group.merged([Group.of(long), Group.of(short)])
    while group.tickets:
        group.see(group.step(watched))
        group.finish()
        if len(widths) == 3:
            group.keep([False, True])
    alone = model.generate("dear anna ,", 9, key=9, **settings)
    assert told[0][1].tokens == alone.tokens
    assert widths == [43] * 3 + [12] * (len(alone.passes) - 3)


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
    [poison] = model.tokenizer.encode("max")
    engine = Engine(replace(model, denoiser=Broken(model.denoiser, poison)))
    tickets = [engine.ticket(prompt, 8, key=1, steps=1) for prompt in ("dear anna ,", "dear max ,", "dear anna")]
    kinds = [[kind for kind, _ in seen] for seen in run(engine, tickets)]
    assert kinds[1] == ["failed"]
    assert kinds[0] == kinds[2] == ["done"]


class Faulty:
    """Fails at some calls, whatever is asked."""

    def __init__(self, inner, calls):
        self.inner, self.calls, self.count = inner, calls, 0

    def __call__(self, canvas, where):
        self.count += 1
        if self.count in self.calls:
            raise RuntimeError("for once")
        return self.inner(canvas, where)


@pytest.mark.parametrize("recipes", [[{"steps": 4}], REQUESTS])
def test_a_pass_that_fails_once_harms_nobody(model, recipes):
    asks = [recipes[n % len(recipes)] | {"key": n} for n in range(8)]
    engine = Engine(replace(model, denoiser=Faulty(model.denoiser, {2, 3})))
    seen = run(engine, [engine.ticket("dear anna ,", 20, **options) for options in asks])
    failed = [number for number, [(kind, _)] in enumerate(seen) if kind == "failed"]
    for number, options in enumerate(asks):
        if number not in failed:
            alone, result = model.generate("dear anna ,", 20, **options), seen[number][0][1]
            assert (result.tokens, result.passes) == (alone.tokens, alone.passes)
    # Call 2 was of all rows. Call 3 was of the first row alone; or of the first and last, of one recipe, then asked again.
    assert failed == ([0] if len(recipes) == 1 else [])


def test_a_model_that_fails_in_the_middle_of_a_step_is_asked_again(model):
    """A step of several passes whose second fails is taken again from its start."""
    sampler = "Lookahead(Parallel(uniform(steps=4), Random()), paths=2)"
    engine = Engine(replace(model, denoiser=Faulty(model.denoiser, {3})))
    options = [{"key": 1, "sampler": sampler}, {"key": 2, "sampler": sampler}, {"key": 3, "steps": 4}]
    seen = run(engine, [engine.ticket("dear anna ,", 12, **one) for one in options])
    for [(kind, result)], one in zip(seen, options, strict=True):
        assert kind == "done"
        alone = model.generate("dear anna ,", 12, **one)
        assert (result.tokens, result.passes) == (alone.tokens, alone.passes)


def test_who_cannot_be_told_does_not_hinder_the_others(model):
    engine = Engine(model)
    tickets = [engine.ticket("dear anna ,", 8, key=key, steps=4) for key in range(2)]
    tickets[0].show = "text"

    def deaf(event):
        raise RuntimeError("gone")

    told = []
    tickets[0].tell, tickets[1].tell = deaf, told.append
    engine.submit(tickets)
    with engine:
        engine.drain()
    assert [kind for kind, _ in told] == ["done"]


def test_rows_that_wait_too_long_make_room_in_the_queue(model):
    engine = Engine(model, Limits(rows=1, queue=2))
    first = engine.ticket("dear anna ,", 40, key=1, steps=40)
    late, left = (engine.ticket("dear anna ,", 4, key=key) for key in (2, 3))
    events = {name: [] for name in ("first", "late", "left")}
    for name, ticket in (("first", first), ("late", late), ("left", left)):
        ticket.tell = events[name].append
    with engine:
        engine.submit([first])
        wait_until(lambda: engine.active)
        late.deadline, left.cancelled = time.monotonic() - 1, True
        engine.submit([late, left])
        wait_until(lambda: not engine.waiting)
        assert engine.active
        engine.drain()
    assert [kind for kind, _ in events["first"]] == ["done"]
    assert isinstance(events["late"][0][1], Expired)
    assert events["left"] == []


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


def test_a_request_of_many_rows_does_not_keep_out_the_others(model):
    engine = Engine(model, Limits(rows=2))
    many = [engine.ticket("dear anna ,", 6, key=1, row=(0, sample), steps=2) for sample in range(6)]
    one = engine.ticket("dear max ,", 6, key=2, steps=2)
    done = []
    for number, ticket in enumerate([*many, one]):
        ticket.tell = lambda event, number=number: done.append(number)
    engine.submit(many)
    engine.submit([one])
    with engine:
        engine.drain()
    assert set(done[:2]) == {0, 6}
    assert sorted(done) == list(range(7))


def test_what_generate_refuses_is_refused_before_it_waits(model):
    with pytest.raises(GenerateError, match="max_new_tokens"):
        Engine(model).ticket("dear anna ,", 0)
