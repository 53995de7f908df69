import weakref

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.chance import Keyed
from demask.collect import Entropies, Seconds, Sizes, Trace
from demask.contracts import Later, Law
from demask.denoisers import Tempered
from demask.errors import CanvasError, DenoiserError, OrderError, PlanError
from demask.loop import Course, Status, sample, steps
from demask.oracles import Chain, Table, latin_square
from demask.orders import (
    Blockwise,
    Confidence,
    Entropy,
    EntropyBudget,
    Factor,
    LeftToRight,
    Margin,
    Noisy,
    Random,
    Threshold,
)
from demask.samplers import (
    Absorbing,
    Adaptive,
    Cap,
    Constant,
    Editing,
    Ended,
    ExponentialThenConstant,
    Parallel,
    Remasking,
    Renoising,
    Speculative,
    Stable,
    Stopped,
    UniformState,
    largest,
)
from demask.schedules import PerBlock, PerRow, Plan, Unlimited, binomial, cosine, minimax, sequential, uniform

ORACLE = Table.random(6, 3, key=0, concentration=0.3)
SAMPLERS = {
    "minimax": Parallel(minimax(6, 3), Random()),
    "per row": Parallel(PerRow(minimax, steps=3, target="tc"), Random()),
    "binomial": Parallel(PerRow(binomial, steps=4), Random()),
    "sequential": Parallel(PerRow(sequential, steps=3), Random()),
    "blocks": Parallel(PerBlock(PerRow(minimax, steps=2), 4), Blockwise(Random(), 4)),
    "confidence": Parallel(PerRow(uniform, steps=3), Confidence()),
    "draft": Parallel(PerRow(uniform, steps=3), Confidence("draft")),
    "threshold": Parallel(Unlimited(), Threshold(Blockwise(Confidence(), 3), 0.6)),
    "factor": Parallel(Unlimited(), Factor(Confidence(), 1.0)),
    "budget": Parallel(Unlimited(), EntropyBudget(Entropy(), 0.3)),
    "noisy": Parallel(PerRow(cosine, steps=3), Noisy(Margin(), 0.2)),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_a_row_does_not_depend_on_its_batch(sampler, temperature):
    """The same row alone, in a batch of 7, and in another order: identical tokens, steps and passes."""
    tokens = ORACLE.sample(7, key=4)
    masked = torch.rand(7, 6, generator=torch.Generator().manual_seed(1)) < 0.7
    masked[2], masked[5] = True, False
    if sampler is SAMPLERS["minimax"]:
        masked[:] = True
    canvas, names = Canvas(tokens, masked), torch.tensor([3, 141, 5, 92, 65, 35, 8])
    denoiser = Tempered(ORACLE, temperature)
    together = sample(denoiser, sampler, canvas, key=17, names=names)
    shuffle = torch.tensor([6, 2, 0, 5, 1, 3, 4])
    shuffled = sample(denoiser, sampler, canvas.rows(shuffle), key=17, names=names[shuffle])
    for field in ("tokens", "when", "nfe", "steps"):
        assert torch.equal(getattr(shuffled, field), getattr(together, field)[shuffle]), field
    for row in range(7):
        alone = sample(denoiser, sampler, canvas.rows(torch.tensor([row])), key=17, names=names[row : row + 1])
        for field in ("tokens", "when", "nfe", "steps"):
            assert torch.equal(getattr(alone, field)[0], getattr(together, field)[row]), field


@pytest.mark.parametrize(
    "sampler",
    [*SAMPLERS.values(), Stable(SAMPLERS["confidence"]), Remasking(5, Cap(0.3))],
    ids=[*SAMPLERS, "stable", "remasking"],
)
def test_rows_that_join_and_leave_a_run_are_those_of_their_own_runs(sampler):
    """Rows of four keys, two of which join after two steps: each has the tokens, steps and passes it would have alone."""
    keys = (17, 17, 5, 23)
    blank = Canvas.blank(1, 6)

    def begun(row):
        return Course.begin(sampler, blank, Keyed.of(keys[row], torch.tensor([row])))

    groups = [([0, 1], Course.join([begun(0), begun(1)]))]
    late, found = [2, 3], {}
    for turn in range(20):
        if turn == 2:
            groups += [([row], begun(row)) for row in late]
        alike = {}
        for rows, course in groups:
            alike.setdefault(course.kind, []).append((rows, course))
        groups = [
            ([row for rows, _ in some for row in rows], Course.join([one for _, one in some]))
            for some in alike.values()
        ]
        if turn == 2 and isinstance(sampler, Parallel):
            assert len(groups) == 1
        going = []
        for rows, course in groups:
            after, _ = course.step(ORACLE)
            over = after.done.tolist()
            found |= {
                row: after.run(place, Status.FINISHED, Law.TILTED) for place, row in enumerate(rows) if over[place]
            }
            left = [place for place, one in enumerate(over) if not one]
            going += [([rows[place] for place in left], after.rows(left))] if left else []
        groups = going
    assert sorted(found) == [0, 1, 2, 3]
    for row, run in found.items():
        alone = sample(ORACLE, sampler, blank, key=keys[row], names=torch.tensor([row]))
        for field in ("tokens", "when", "nfe", "steps"):
            assert torch.equal(getattr(run, field), getattr(alone, field)), (row, field)


def test_keys_reproduce_and_differ():
    sampler = SAMPLERS["minimax"]
    runs = [sample(ORACLE, sampler, Canvas.blank(64, 6), key=key) for key in (1, 1, 2)]
    assert torch.equal(runs[0].tokens, runs[1].tokens)
    assert not torch.equal(runs[0].tokens, runs[2].tokens)
    assert runs[0].key == 1


class Counting:
    """Counts the rows and positions that a denoiser is asked for."""

    def __init__(self, inner):
        self.inner, self.rows, self.asked = inner, [], []

    def __call__(self, canvas, where):
        assert bool(where.any(1).all()), "a row of which nothing is asked"
        assert not bool((where & ~canvas.masked).any()), "a visible position is asked for"
        self.rows.append(canvas.shape[0])
        self.asked.append(int(where.sum()))
        return self.inner(canvas, where)


def test_finished_rows_cost_nothing():
    tokens = ORACLE.sample(5, key=0)
    masked = torch.arange(6)[None] < torch.tensor([6, 3, 0, 1, 3])[:, None]
    denoiser = Counting(ORACLE)
    run = sample(denoiser, Parallel(PerRow(uniform, steps=6), Random()), Canvas(tokens, masked), key=0)
    assert run.nfe.tolist() == [6, 3, 0, 1, 3]
    assert run.steps.tolist() == [6, 3, 0, 1, 3]
    assert denoiser.rows == [4, 3, 3, 1, 1, 1]
    assert sum(denoiser.asked) == 13  # a random order asks for the chosen positions only
    assert torch.equal(run.tokens[~masked], tokens[~masked])
    assert torch.equal(run.when == -1, ~masked)


def test_confidence_asks_for_the_block_only():
    denoiser = Counting(ORACLE)
    sample(
        denoiser, Parallel(PerBlock(PerRow(uniform, steps=2), 3), Blockwise(Confidence(), 3)), Canvas.blank(2, 6), key=0
    )
    assert denoiser.asked == [6, 2, 6, 2]


def test_nothing_to_do():
    tokens = ORACLE.sample(3, key=0)
    run = sample(ORACLE, SAMPLERS["per row"], Canvas(tokens, torch.zeros(3, 6, dtype=torch.bool)), key=0)
    assert run.status is Status.FINISHED
    assert torch.equal(run.tokens, tokens)
    assert run.nfe.sum() == 0
    empty = sample(ORACLE, SAMPLERS["per row"], Canvas.blank(0, 6), key=0)
    assert empty.tokens.shape == (0, 6)


def test_length_one():
    oracle = Table.random(1, 4, key=0)
    for sampler in (Parallel(minimax(1, 1), Random()), Parallel(PerRow(minimax, steps=9), Confidence())):
        run = sample(oracle, sampler, Canvas.blank(5, 1), key=0)
        assert run.nfe.tolist() == [1] * 5


def test_max_steps_stops():
    run = sample(ORACLE, Parallel(uniform(6, 6), Random()), Canvas.blank(2, 6), key=0, max_steps=2)
    assert run.status is Status.STOPPED
    assert (run.when == -2).sum(1).tolist() == [4, 4]
    with pytest.raises(CanvasError, match="max_steps = 0"):
        sample(ORACLE, Parallel(uniform(6, 6), Random()), Canvas.blank(2, 6), key=0, max_steps=0)


def test_a_plan_that_does_not_fit():
    canvas = Canvas.blank(2, 6)
    canvas.masked[1, 0] = False
    with pytest.raises(PlanError, match=r"the plan unmasks 6 positions, row 1 has 5 masked.*PerRow"):
        sample(ORACLE, Parallel(uniform(6, 2), Random()), canvas, key=0)


def test_laws_follow_from_parts():
    assert Parallel(uniform(6, 6), Random()).law is Law.EXACT
    assert Parallel(uniform(6, 3), Random()).law is Law.FACTORISED
    assert Parallel(uniform(6, 6), Confidence("draft")).law is Law.TILTED
    assert Parallel(uniform(6, 6), Noisy(Blockwise(Confidence("draft"), 2), 1.0)).law is Law.TILTED
    assert Parallel(PerRow(minimax, steps=6), EntropyBudget(LeftToRight(), 0.1)).law is Law.FACTORISED


def test_stratified_sizes_of_a_batch():
    """The sizes of 64 rows are the ones `draw` announces, and follow the mixture to within a stratum."""
    schedule = minimax(6, 3, target="tc")
    run = sample(ORACLE, Parallel(schedule, Random()), Canvas.blank(64, 6), key=9, collect=[Sizes()])
    sizes = [tuple(row) for row in run.collected["sizes"].T.tolist()]
    assert sizes == [plan.sizes for plan in schedule.draw(64, key=9)]
    for share, plan in schedule.mixture():
        assert abs(sizes.count(plan.sizes) / 64 - share) <= 2 / 64


@pytest.mark.parametrize("family", [minimax, binomial, sequential, uniform])
def test_draw_announces_what_sample_does(family):
    schedule = family(6, 3)
    run = sample(ORACLE, Parallel(schedule, Random()), Canvas.blank(16, 6), key=4, collect=[Sizes()])
    seen = [tuple(size for size in row if size) for row in run.collected["sizes"].T.tolist()]
    assert seen == [plan.sizes for plan in schedule.draw(16, key=4)]


def test_collectors():
    trace, entropies, seconds = Trace(), Entropies(), Seconds()
    denoiser = Counting(ORACLE)
    run = sample(denoiser, SAMPLERS["per row"], Canvas.blank(3, 6), key=0, collect=[trace, entropies, seconds])
    frames = run.collected["trace"]
    assert frames.shape == (3, 3, 6)
    for step in range(3):
        assert torch.equal(frames[step] >= 0, run.when <= step)
    assert run.collected["entropies"].isfinite().all()
    assert len(run.collected["seconds"]) == 3
    assert len(denoiser.rows) == 3, "collectors cost no pass"
    first = run.collected["entropies"][run.when == 0]
    prior = ORACLE(Canvas.blank(1, 6), torch.ones(1, 6, dtype=torch.bool)).entropy
    assert first.tolist() == pytest.approx(prior.repeat(3)[(run.when == 0).flatten()].tolist(), abs=1e-6)


def test_names_are_checked():
    for names in (torch.tensor([1, 1]), torch.tensor([1]), torch.tensor([1, -2]), torch.tensor([1, 2**40])):
        with pytest.raises(CanvasError, match="name"):
            sample(ORACLE, SAMPLERS["minimax"], Canvas.blank(2, 6), key=0, names=names)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_denoiser_is_named(bad):
    def broken(canvas, where):
        answer = ORACLE(canvas, where)
        answer.logits[1, 2] = bad
        return answer

    with pytest.raises(DenoiserError, match="row 0, position 1 are no distribution"):
        sample(broken, Parallel(uniform(6, 1), LeftToRight()), Canvas.blank(1, 6), key=0)
    with pytest.raises(DenoiserError, match="one packed row per asked position"):
        sample(
            lambda canvas, where: Marginals(where, torch.zeros(1, 6, 3)),
            Parallel(uniform(6, 1), Random()),
            Canvas.blank(1, 6),
            key=0,
        )


def test_a_square_needs_its_dependence():
    """One by one every Latin square is valid; four at a time most are not."""
    squares = latin_square()
    one, four = (
        sample(squares, Parallel(uniform(16, k), Random()), Canvas.blank(64, 16), key=1).tokens for k in (16, 4)
    )
    assert squares.log_prob(one).isfinite().all()
    assert squares.log_prob(four).isfinite().float().mean() < 0.5


def test_long_chain_samples_its_bigrams():
    """4000 x 8 tokens one by one: bigram frequencies within five standard errors (9 cells, alarm 5e-6)."""
    step = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]]
    chain = Chain.markov([0.5, 0.2, 0.3], step, 8)
    tokens = sample(chain, Parallel(uniform(8, 8), Random()), Canvas.blank(4000, 8), key=2).tokens
    for a in range(3):
        follows = tokens[:, 1:][tokens[:, :-1] == a]
        for b in range(3):
            p = step[a][b]
            assert abs((follows == b).float().mean() - p) < 5 * (p * (1 - p) / len(follows)) ** 0.5


def test_largest():
    scores = torch.tensor([[0.1, 0.4, 0.4, -torch.inf], [-torch.inf] * 4])
    assert largest(scores, torch.tensor([1, 2])).tolist() == [[False, True, False, False], [False] * 4]
    assert largest(scores, torch.tensor([9, 0]))[0].tolist() == [True, True, True, False]


def test_rules_refuse_what_does_not_compose():
    with pytest.raises(OrderError, match=r"Threshold compares probabilities.*Threshold\(Confidence\(\), \.\.\)"):
        Threshold(Entropy(), 0.9)
    with pytest.raises(OrderError, match="Factor compares probabilities"):
        Factor(Noisy(Confidence(), 1.0), 1.0)
    for rule, message in (
        (lambda: Threshold(Confidence(), 1.5), "threshold of 1.5"),
        (lambda: Factor(Confidence(), 0), "factor of 0"),
        (lambda: EntropyBudget(Entropy(), -1), "budget of -1"),
        (lambda: Noisy(Entropy(), 0), "noise temperature of 0"),
        (lambda: Blockwise(Random(), 0), "block of 0"),
        (lambda: Confidence("sample"), "expected 'mode'"),
    ):
        with pytest.raises(OrderError, match=message):
            rule()
    with pytest.raises(DenoiserError, match="temperature of -1"):
        Tempered(ORACLE, -1)


def step_of(oracle, order, probabilities):
    from demask.contracts import Step

    logits = torch.tensor(probabilities).log()
    canvas = Canvas.blank(1, len(logits))
    chance = Keyed.of(0, torch.arange(1))
    return order.score(
        Step(canvas, canvas.masked, canvas.masked, lambda c, w: Marginals(w, logits[w[0]]), chance, chance)
    )


def test_rules_by_hand():
    laws = [[0.6, 0.4], [0.95, 0.05], [0.2, 0.8], [0.1, 0.9]]
    through = lambda rule: (step_of(None, rule, laws)[0] > -torch.inf).tolist()  # noqa: E731
    assert through(Threshold(Confidence(), 0.8)) == [False, True, True, True]
    assert through(Threshold(Confidence(), 0.99)) == [False, True, False, False]
    # sorted .95 .9 .8 .6 against 1 - f/2, 1 - f/3, 1 - f/4, 1 - f/5
    assert through(Factor(Confidence(), 0.4)) == [False, True, False, True]
    assert through(Factor(Confidence(), 0.8)) == [False, True, True, True]
    assert through(Factor(Confidence(), 1e-6)) == [False, True, False, False]
    # entropies .1985 .3251 .5004 .6730, best first
    assert through(EntropyBudget(Entropy(), 0.19)) == [False, True, False, False]
    assert through(EntropyBudget(Entropy(), 0.2)) == [False, True, False, True]
    assert through(EntropyBudget(Entropy(), 0.53)) == [False, True, True, True]
    assert step_of(None, Margin(), laws)[0].tolist() == pytest.approx([0.2, 0.9, 0.6, 0.8], abs=1e-6)


def test_blocks_skip_prompts_and_gaps():
    masked = torch.tensor([[False, True, True, False, True, True, True, False]])
    oracle = Table.random(8, 2, key=3)
    canvas = Canvas(oracle.sample(1, key=0), masked)
    run = sample(oracle, Parallel(PerRow(uniform, steps=5), Blockwise(LeftToRight(), 3)), canvas, key=0)
    assert run.when.tolist() == [[-1, 0, 1, -1, 2, 3, 4, -1]]
    run = sample(oracle, Parallel(PerBlock(PerRow(uniform, steps=1), 3), Blockwise(Random(), 3)), canvas, key=0)
    assert run.when.tolist() == [[-1, 0, 0, -1, 0, 1, 1, -1]]


def test_canvas_refuses():
    with pytest.raises(CanvasError, match="both must be"):
        Canvas(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(CanvasError, match="expected int64 and bool"):
        Canvas(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool))
    with pytest.raises(CanvasError, match="length >= 1"):
        Canvas.blank(1, 0)


class Delayed:
    """Answers each ask of a step only when the step is taken for the second time after it."""

    def __init__(self, inner):
        self.inner, self.answers, self.next = inner, [], 0

    def __call__(self, canvas, where):
        if self.next == len(self.answers):
            self.answers.append(self.inner(canvas, where))
            raise Later
        self.next += 1
        return self.answers[self.next - 1]


@pytest.mark.parametrize("sampler", [Parallel(uniform(6, 3), Random()), Stable(Parallel(uniform(6, 3), Confidence()))])
def test_a_step_that_waits_is_taken_again_and_gives_the_same_run(sampler):
    plain = sample(Table.random(6, 2, key=1), sampler, Canvas.blank(4, 6), key=5)
    late = Delayed(Table.random(6, 2, key=1))
    waits = 0
    for run in steps(late, sampler, Canvas.blank(4, 6), key=5):
        late.next = 0
        waits += run.status is Status.WAITING
        if run.status is Status.RUNNING:
            late.answers = []
    assert waits == plain.steps.max() > 2
    assert torch.equal(run.tokens, plain.tokens)
    assert torch.equal(run.when, plain.when)
    assert torch.equal(run.nfe, plain.nfe)
    assert run.status is Status.FINISHED


def test_the_logits_of_a_step_are_gone_before_the_next_one_asks():
    """Two of them at a time would double what a run needs."""
    asked, alive = [], []

    def network(canvas, where):
        alive.append(sum(logits() is not None for logits in asked))
        logits = torch.zeros(int(where.sum()), 3)
        asked.append(weakref.ref(logits))
        return Marginals(where, logits)

    sample(network, Parallel(Plan([2, 2, 2]), Entropy()), Canvas.blank(1, 6), key=0)
    assert alive == [0, 0, 0]


def of_anything(canvas, where):
    """Answer for visible positions too, as networks do: the next number after the sum of all visible ones is likely."""
    row, position = where.nonzero(as_tuple=True)
    likely = (canvas.tokens.masked_fill(canvas.masked, 0).sum(1)[row] + position) % 3
    return Marginals(where, 2.0 * torch.nn.functional.one_hot(likely, 3))


CHANGING = {
    **SAMPLERS,
    "ended": Ended(Parallel(PerRow(uniform, steps=3), Confidence()), 0),
    "stopped": Stopped(
        Parallel(PerRow(uniform, steps=3), Random()), 0, lambda row: row.index(2) + 1 if 2 in row else None
    ),
    "remasking": Remasking(4, Cap(0.5)),
    "editing": Editing(Parallel(PerRow(uniform, steps=3), Confidence()), 0.4),
    "absorbing": Absorbing(Constant(5)),
    "uniform state": UniformState(ExponentialThenConstant(4)),
    "renoising": Renoising(6, 2.0),
    "speculative": Speculative(3, Random()),
    "adaptive": Adaptive(Chain.markov([0.2, 0.3, 0.5], [[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]], length=6)),
}


@pytest.mark.parametrize("sampler", CHANGING.values(), ids=CHANGING)
def test_when_tells_the_step_at_which_each_token_was_written(sampler):
    """By comparing canvases, whatever a sampler says of its steps: unmasked, remasked, written over, or filled up."""
    tokens = ORACLE.sample(16, key=4)
    masked = torch.rand(16, 6, generator=torch.Generator().manual_seed(1)) < 0.8
    if sampler is SAMPLERS["minimax"]:
        masked[:] = True
    course = Course.begin(sampler, Canvas(tokens, masked), Keyed.of(3, torch.arange(16)))
    denoiser = of_anything if isinstance(sampler, Editing) else ORACLE
    expected, turn = torch.full((16, 6), -1).masked_fill(masked, -2), 0
    while not bool(course.done.all()):
        before = course.canvas
        course, _ = course.step(denoiser)
        after = course.canvas
        expected[before.masked | (before.tokens != after.tokens)] = turn
        expected[after.masked] = -2
        assert torch.equal(course.when, expected)
        turn += 1
    assert (expected[masked] >= 0).all()


@pytest.mark.parametrize("values", [3, 1000])
def test_a_few_largest_are_the_first_of_a_stable_sort(values):
    """With many equals and with few, open ones fewer than asked for, one size for all rows and several."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(values, (40, 12), generator=generator).float()
    scores[torch.rand(40, 12, generator=generator) < 0.4] = -torch.inf
    order = scores.argsort(dim=1, descending=True, stable=True)
    for sizes in [[size] * 40 for size in (0, 1, 2, 5, 11, 12, 15)] + [list(range(8)) * 5]:
        expected = torch.zeros_like(scores, dtype=torch.bool)
        for row, size in enumerate(sizes):
            expected[row, order[row, :size]] = True
        found = largest(scores, torch.tensor(sizes))
        assert torch.equal(found, expected & (scores > -torch.inf))
