"""Measured curves against enumeration: unbiased, paired, covered, resumable, refused where they must be."""

import json
from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.curve import Estimate
from demask.errors import CurveError, DenoiserError
from demask.information.measure import fingerprint, increments, measure, per_block
from demask.information.measurement import Measurement, interpolation
from demask.information.paths import Paths, Problem, default_grid
from demask.oracles import Chain, Table, parity


class Inconsistent:
    """An oracle's logits, bent by a function of which positions are visible: no joint law has these conditionals."""

    def __init__(self, oracle):
        self.oracle, self.length, self.vocabulary = oracle, oracle.length, oracle.vocabulary

    def __call__(self, canvas, where):
        exact = self.oracle(canvas, where)
        places = torch.arange(1, self.length + 1, dtype=torch.float64)
        seen = ((~canvas.masked) * places.square()).sum(1)
        row, place = where.nonzero(as_tuple=True)
        bend = torch.sin(seen[row] + place)[:, None] * torch.arange(self.vocabulary)
        return Marginals(where, exact.logits + bend)


class Answer:
    """A denoiser made of one function of (canvas, where)."""

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, canvas, where):
        return Marginals(where, self.logits(canvas, where))


def skewed(length=4, key=3):
    return Table.random(length, 2, key=key)


def exact_losses(denoiser, table, free=None, shown=()):
    """L_j by enumeration of every set and every sequence; `shown` is a prompt, what is neither stays masked."""
    free = range(table.length) if free is None else free
    weight, out = table.logp.exp(), []
    for count in range(len(free)):
        losses = []
        for seen in combinations(free, count):
            masked = torch.ones(len(weight), table.length, dtype=torch.bool)
            masked[:, [*seen, *shown]] = False
            where = torch.zeros_like(masked)
            where[:, [i for i in free if i not in seen]] = True
            answer = denoiser(Canvas(table.sequences, masked), where)
            loss = answer.spread(-answer.logp(table.sequences[where])).sum(1) / where.sum(1)
            losses.append(float(weight @ loss))
        out.append(np.mean(losses))
    return np.array(out)


def expected_path(denoiser, table, grid, ends=1, moves=False, prompt=None):
    """The mean of one path over every sequence, every order and every count between, from the walker itself."""
    problem = Problem.of(table.sequences, prompt)
    paths = Paths(denoiser, problem, np.array(grid), ends, moves)
    free = problem.free[0].nonzero()[:, 0].tolist()
    total, cases = 0.0, 0
    for order in permutations(range(len(free))):
        ranks = torch.full(problem.tokens.shape, table.length)
        ranks[:, free] = torch.tensor(order)
        for off in paths.between if len(paths.between) else [0]:
            rows = paths.rows(torch.arange(len(table.sequences)), ranks, np.full(len(table.sequences), off))
            total, cases = total + table.logp.exp().numpy() @ rows, cases + 1
    return total / cases


@pytest.mark.parametrize("wrap", [lambda o: o, Inconsistent], ids=["exact", "inconsistent"])
@pytest.mark.parametrize("grid", [[0, 3], [0, 1, 3], [0, 1, 2, 3]])
def test_a_path_is_unbiased(wrap, grid):
    """L_j at the grid, NELBO, and with them TC and DTC: over all sequences, orders and counts between."""
    table = skewed()
    denoiser = wrap(table)
    losses = exact_losses(denoiser, table)
    mean = expected_path(denoiser, table, grid, ends=2)
    np.testing.assert_allclose(mean[: len(grid)], losses[grid], atol=1e-12)
    np.testing.assert_allclose(mean[len(grid)], losses.sum(), atol=1e-12)
    assert wrap is not Inconsistent or abs(losses.sum() - table.entropy()) > 0.05  # it is not the exact law in disguise


def test_totals_are_the_paths_totals():
    """TC = n L_0 - NELBO and DTC = NELBO - n L_{n-1}, as the summary reports them."""
    table = skewed(5)
    m = measure(table, table.sample(40, key=0), passes=400, grid=[0, 2, 4])
    assert m.tc == pytest.approx(5 * m.loss[0] - m.nelbo)
    assert m.dtc == pytest.approx(m.nelbo - 5 * m.loss[-1])


@pytest.mark.parametrize("grid", [[0, 4], [0, 1, 3, 4], [0, 2, 3, 4]])
def test_movement_is_the_curve_difference_for_exact_conditionals(grid):
    table = skewed(5, key=5)
    curve = table.curve().values
    mean = expected_path(table, table, grid, ends=2, moves=True)
    np.testing.assert_allclose(mean[len(grid) + 1 :], -np.diff(curve[grid]), atol=1e-12)


def test_movement_is_steadier_than_losses():
    chain = Chain.markov([0.6, 0.4], [[0.9, 0.1], [0.2, 0.8]], length=16)
    data = chain.sample(100, key=0)
    m = increments(chain, data, passes=1500)
    plain = measure(chain, data, passes=1500)
    np.testing.assert_array_equal(m.loss, plain.loss)  # the same passes
    assert plain.movement is None
    assert np.all(m.movement >= 0)
    truth = -np.diff(chain.curve().values[m.grid])
    assert np.all(np.abs(m.movement - truth) < 5 * m.movement_error + 1e-12)
    both = np.hypot(m.error[:-1], m.error[1:])
    assert np.all(m.movement_error[:3] < both[:3] / 2)


def test_intervals_cover():
    """500 repetitions on a binary chain, 80 sequences each: the stated 95 % within [0.92, 0.98].

    False alarm about 0.2 % for each of six. Losses of single tokens are skewed: 24 sequences cover L_{n-1} by 92 % only.
    """
    chain = Chain.markov([0.6, 0.4], [[0.9, 0.1], [0.3, 0.7]], length=5)
    data = chain.sample(500 * 80, key=7).view(500, 80, 5)
    losses = chain.curve().values
    truth = [*losses[[0, 2, 4]], chain.entropy(), chain.tc(), chain.dtc()]
    hits = np.zeros(len(truth))
    for key, rows in enumerate(data):
        m = measure(chain, rows, passes=321, grid=[0, 2, 4], key=key, batch=80, ends=1)
        means = [Estimate(*pair) for pair in zip(m.loss, m.error, strict=True)]
        for column, (found, exact) in enumerate(zip([*means, m.nelbo, m.tc, m.dtc], truth, strict=True)):
            low, high = found.interval(0.95)
            hits[column] += low <= exact <= high
    assert np.all((hits / 500 >= 0.92) & (hits / 500 <= 0.98)), hits / 500


def test_repeated_rounds_do_not_shrink_the_error_of_the_data():
    """Twenty times the passes on ten sequences: the interval remains that of ten sequences."""
    chain = Chain.markov([0.5, 0.5], [[0.95, 0.05], [0.05, 0.95]], length=8)
    data = chain.sample(10, key=2)
    once, often = (measure(chain, data, passes=1 + 10 * 11 * k, key=1) for k in (1, 20))
    assert often.nelbo.error > 0.5 * once.nelbo.error
    low, high = often.nelbo.interval(0.99)
    assert low < chain.entropy() < high


class StopError(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize("run", [measure, increments])
def test_a_killed_run_continues_to_the_same_bits(tmp_path, stop_after, run):
    chain = Chain.random(9, 3, key=1)
    data = chain.sample(30, key=4)
    whole = run(chain, data, passes=500, batch=7)
    calls = []

    def kill(done, wanted, so_far):
        calls.append((done, wanted))
        if len(calls) == stop_after:
            raise StopError

    path = tmp_path / "state.json"
    with pytest.raises(StopError):
        run(chain, data, passes=500, batch=7, save=path, progress=kill)
    assert calls[-1][0] < calls[-1][1] <= 500
    again = run(chain, data, passes=500, batch=7, save=path)
    same = {**whole.to_json(), "seconds": 0, "data": ""}
    assert {**again.to_json(), "seconds": 0, "data": ""} == same
    more = run(chain, data, passes=900, batch=7, save=path)  # a larger budget extends the same file
    assert {**more.to_json(), "seconds": 0} == {**run(chain, data, passes=900, batch=7).to_json(), "seconds": 0}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"denoiser": Chain.random(6, 2, key=9)}, "another denoiser"),
        ({"data": Chain.random(6, 2, key=1).sample(20, key=5)}, "another data"),
        ({"key": 1}, "another key"),
        ({"grid": [0, 5]}, "another grid"),
        ({"ends": 1}, "another ends"),
        ({"batch": 5}, "another batch"),
    ],
)
def test_passes_of_something_else_are_refused(tmp_path, change, named):
    chain = Chain.random(6, 2, key=1)
    given = {"denoiser": chain, "data": chain.sample(20, key=0), "passes": 200, "save": tmp_path / "state.json"}
    measure(**given)
    with pytest.raises(CurveError, match=rf"state.json keeps passes of {named}"):
        measure(**{**given, **change})


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"schema": "other/1"}', '{"schema": "demask.passes/1"}'])
def test_a_foreign_state_is_refused(tmp_path, content):
    chain = Chain.random(6, 2, key=1)
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(CurveError, match=r"state\.json"):
        measure(chain, chain.sample(20, key=0), passes=200, save=path)
    assert path.read_text() == content


def test_precision_stops_early():
    chain = Chain.random(6, 2, key=1)
    seen = []
    m = measure(
        chain, chain.sample(2000, key=0), passes=100_000, precision=0.1, progress=lambda *now: seen.append(now[2])
    )
    assert m.tc.error <= 0.1 * m.tc
    assert m.dtc.error <= 0.1 * m.dtc
    assert int(m.passes.sum()) < 20_000
    assert max(seen[-2].tc.error / seen[-2].tc, seen[-2].dtc.error / seen[-2].dtc) > 0.1


def test_seconds_stop():
    chain = Chain.random(6, 2, key=1)
    m = measure(chain, chain.sample(50, key=0), passes=None, seconds=1e-6, batch=8)
    assert m.passes[1] == 8  # one batch


@pytest.mark.parametrize("wrap", [lambda o: o, Inconsistent], ids=["exact", "inconsistent"])
def test_prompt_by_enumeration(wrap):
    table = skewed(5, key=8)
    prompt = torch.tensor([False, True, False, False, True])
    losses = exact_losses(wrap(table), table, free=[0, 2, 3], shown=[1, 4])
    mean = expected_path(wrap(table), table, [0, 2], prompt=prompt)
    np.testing.assert_allclose(mean, [losses[0], losses[2], losses.sum()], atol=1e-12)


def test_blocks_by_enumeration():
    """Every block within five standard errors of its exact losses given the earlier blocks."""
    table = skewed(5, key=8)
    blocks = per_block(table, table.sample(400, key=1), size=2, passes=1600, batch=400)
    for b, (m, free) in enumerate(zip(blocks, [[0, 1], [2, 3], [4]], strict=True)):
        losses = exact_losses(table, table, free=free, shown=range(2 * b))
        assert m.length == len(free)
        assert m.data == f"data[{free[0]}:{free[-1] + 1}]"
        np.testing.assert_array_less(np.abs(m.loss - losses), 5 * m.error)
        assert abs(m.nelbo - losses.sum()) < 5 * m.nelbo.error


def test_prompts_differ_by_sequence_but_not_in_count():
    table = skewed(5)
    data = table.sample(6, key=0)
    prompt = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)).argsort(1) < 2
    assert measure(table, data, prompt=prompt, passes=60).length == 3
    prompt[2] = True
    prompt[2, 0] = False
    with pytest.raises(CurveError, match=r"3 masked positions in sequence 0 but 1 in sequence 2 \(sequences 2\)"):
        measure(table, data, prompt=prompt, passes=60)


def test_one_position():
    table = Table.dense([0.7, 0.3])
    m = measure(table, table.sample(50, key=0), passes=10)
    assert m.grid.tolist() == [0]
    assert (m.tc, m.dtc) == (0.0, 0.0)
    assert m.curve().values == pytest.approx(m.loss)


def test_bracket_contains_the_curve_and_the_curve_is_between():
    """From exact grid values: low <= Z_j <= high everywhere, and the interpolation keeps within."""
    exact = Chain.markov([0.6, 0.4], [[0.9, 0.1], [0.2, 0.8]], length=64).curve().values
    grid = default_grid(64)
    m = value(length=64, grid=grid, loss=exact[grid])
    low, high = (end.values for end in m.bracket())
    between = m.curve().values
    for curve in (exact, between):
        assert np.all(low <= curve + 1e-12)
        assert np.all(curve <= high + 1e-12)
    assert np.abs(between - exact).max() < 0.02


def test_projection_never_raises_the_weighted_error():
    generator = np.random.default_rng(0)
    for _ in range(200):
        truth = np.sort(generator.gamma(1.0, size=6))[::-1]
        noisy = np.abs(truth + 0.5 * generator.normal(size=6))
        passes = generator.integers(1, 50, size=6)
        m = value(length=6, grid=np.arange(6), loss=noisy, passes=passes)
        fit = m.curve().values
        assert np.all(np.diff(fit) <= 1e-12)
        assert passes @ (fit - truth) ** 2 <= passes @ (noisy - truth) ** 2 + 1e-12


def test_interpolation_weights():
    weights = interpolation(np.array([0, 2, 9]), 10)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_array_equal(weights[[0, 2, 9]], np.eye(3))
    assert np.all(weights >= 0)


@pytest.mark.parametrize("length", range(1, 70))
def test_default_grid(length):
    grid = default_grid(length)
    assert grid == sorted(set(grid))
    assert (grid[0], grid[-1]) == (0, length - 1)
    assert len(grid) <= 2 * np.log2(length) + 6


def test_fingerprint_is_of_the_law():
    chain = Chain.random(6, 2, key=1)
    mark = fingerprint(chain)
    assert len(mark) == 16
    assert int(mark, 16) >= 0
    assert mark == fingerprint(chain.to_table()) == fingerprint(Answer(lambda c, w: chain(c, w).logits + 5.0), length=6)
    assert mark not in (fingerprint(Chain.random(6, 2, key=2)), fingerprint(Inconsistent(chain)))
    with pytest.raises(CurveError, match="length=n"):
        fingerprint(Answer(lambda c, w: chain(c, w).logits))


def value(**changed):
    size = len(changed.get("grid", [0, 1, 3]))
    given = {
        "length": 4, "grid": np.array([0, 1, 3]), "loss": np.array([0.7, 0.6, 0.1]), "error": np.zeros(size),
        "passes": np.full(size, 9), "nelbo": Estimate(2.0, 0.1), "tc": Estimate(0.8, 0.1), "dtc": Estimate(1.6, 0.2),
        "movement": None, "movement_error": None, "fingerprint": "0" * 16, "data": "x", "key": 0, "seconds": 0.5,
    }  # fmt: skip
    return Measurement(**{**given, **changed})


def test_round_trip(tmp_path):
    chain = Chain.random(9, 3, key=1)
    for m in (
        measure(chain, chain.sample(9, key=0), passes=300),
        increments(chain, chain.sample(9, key=0), passes=300),
    ):
        m.save(tmp_path / "m.json")
        again = Measurement.load(tmp_path / "m.json")
        assert again.to_json() == m.to_json()
        assert (again.tc, again.tc.error) == (m.tc, m.tc.error)
        assert repr(again) == repr(m)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda b: {**b, "schema": "demask.measurement/2"}, r"demask.measurement/2.*expected 'demask.measurement/1'"),
        (lambda b: {k: v for k, v in b.items() if k != "loss"}, "loss missing"),
        (lambda b: {**b, "colour": 1}, "unknown field colour"),
        (lambda b: {**b, "loss": [0.7, float("nan"), 0.1]}, "NaN is not finite"),
        (lambda b: {**b, "loss": [0.7, "0.6", 0.1]}, "loss is not a list of numbers"),
        (lambda b: {**b, "loss": [0.7, 0.1]}, r"loss has shape \(2,\)"),
        (lambda b: {**b, "error": [0.0, -1.0, 0.0]}, r"error\[1\] = -1"),
        (lambda b: {**b, "grid": [0, 1, 2]}, "the last n - 1 = 3"),
        (lambda b: {**b, "grid": [0, 1.5, 3]}, "grid is not a list of integers"),
        (lambda b: {**b, "length": 0}, "length = 0"),
        (lambda b: {**b, "key": "k"}, "key is 'k'"),
        (lambda b: {**b, "tc": 1.0}, "tc is 1.0"),
        (lambda b: {**b, "movement": [0.1, 0.2]}, "a movement without its errors"),
        (lambda b: {**b, "seconds": -1}, "seconds = -1"),
        (lambda b: [b], "the schema is 'list'"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path, edit, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(edit(value().to_json())))
    with pytest.raises(CurveError, match=f"bad.json: .*{message}"):
        Measurement.load(path)


def test_truncated_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "m.json"
    value().save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CurveError, match=r"m.json: not whole JSON"):
        Measurement.load(path)
    with pytest.raises(CurveError, match=r"none.json: No such file"):
        Measurement.load(tmp_path / "none.json")


GOOD = Chain.random(6, 2, key=1).sample(20, key=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": GOOD.float()}, r"torch.float32; expected .* write data.long\(\)"),
        ({"data": GOOD[0]}, "expected .sequences, positions"),
        ({"data": GOOD[:1]}, "2 or more sequences"),
        ({"data": GOOD[:0]}, "2 or more sequences"),
        ({"data": GOOD[:, :5]}, "sequences of 5 positions for a denoiser of length 6"),
        ({"data": GOOD + 1}, "has token 2 at position .*tokens 0 to 1"),
        ({"data": GOOD - 1}, "has token -1"),
        ({"passes": 12}, "12 passes are too few for an interval; expected 13 or more"),
        ({"passes": None}, "no budget"),
        ({"seconds": 0}, "seconds = 0"),
        ({"precision": 2}, "precision = 2"),
        ({"batch": 0}, "batch=0"),
        ({"grid": [0, 3]}, "the last n - 1 = 5"),
        ({"grid": [0, 3, 3, 5]}, "increasing"),
        ({"grid": []}, "a grid of shape"),
        ({"prompt": torch.ones(6, dtype=torch.bool)}, "shows every position"),
        ({"prompt": torch.ones(6)}, r"a prompt of \(6,\) torch.float32"),
    ],
)
def test_bad_input_is_refused(given, message):
    chain = Chain.random(6, 2, key=1)
    with pytest.raises(CurveError, match=message):
        measure(chain, **{"data": GOOD, **given})


def test_a_block_has_a_size():
    with pytest.raises(CurveError, match="blocks of 0 positions"):
        per_block(Chain.random(6, 2, key=1), GOOD, size=0)


def test_bad_answers_are_named():
    chain = Chain.random(6, 2, key=1)

    def broken(canvas, where):
        logits = chain(canvas, where).logits.clone()
        logits[(~canvas.masked).sum(1)[where.nonzero()[:, 0]] == 5] = torch.nan
        return logits

    with pytest.raises(DenoiserError, match=r"position \d of .* no finite normaliser"):
        measure(Answer(broken), GOOD, passes=100)
    with pytest.raises(DenoiserError, match=r"logits of shape \(2, 2\) for 1 positions"):
        measure(
            Answer(lambda c, w: torch.zeros(int(w.sum()) + 1, 2)), GOOD[:, :6], prompt=None, passes=100, grid=[0, 5]
        )


def test_an_impossible_token_is_named():
    """Data that the law cannot produce: the loss is infinite."""
    data = parity(4).sample(8, key=0)
    data[3, 0] = 1 - data[3, 0]
    with pytest.raises(CurveError, match=r"probability 0 to token \d at position \d of sequence 3.*smoothing"):
        measure(parity(4), data, passes=200)


def test_what_stands_under_the_masks_is_never_shown():
    def peek(canvas, where):
        assert not bool(canvas.tokens[canvas.masked].any())
        return torch.zeros(int(where.sum()), 2)

    m = measure(Answer(peek), GOOD, passes=100)
    assert m.tc == pytest.approx(0.0, abs=1e-12)
    assert m.loss == pytest.approx(np.log(2))
