from itertools import product
from math import comb, exp

import pytest
import torch

from demask import chance as chance_module
from demask.canvas import Marginals
from demask.chance import Keyed, Scripted, Tape

ROWS = torch.arange(4096)


def everything(draw):
    """All outcomes of a scripted draw for one row, with their probabilities."""
    pending, out = [[]], {}
    while pending:
        tape = Tape(pending.pop())
        result = draw(Scripted.of([tape]))
        out[result] = out.get(result, 0.0) + exp(tape.logp)
        for turn in range(len(tape.script), len(tape.taken)):
            pending += [[*tape.taken[:turn], other] for other in range(1, tape.widths[turn])]
    assert sum(out.values()) == pytest.approx(1, abs=1e-12)
    return out


def test_levels_are_stratified():
    """Any 2^k consecutive rows have one level in each of 2^k equal cells, whatever the key."""
    for key in (0, 1, 12345, -7):
        level = Keyed.of(key, ROWS).level(torch.empty(0))
        assert ((level >= 0) & (level < 1)).all()
        shift = level[0]
        for k, start in ((1, 0), (3, 5), (6, 64), (10, 2**11 + 3)):
            cells = ((level[start : start + 2**k] - shift) % 1.0 * 2**k + 1e-9).floor() % 2**k
            assert len(cells.unique()) == 2**k
    one = torch.stack([Keyed.of(key, ROWS[:1]).level(torch.empty(0)) for key in range(400)])
    assert abs(one.mean() - 0.5) < 5 * (1 / 12 / 400) ** 0.5  # uniform over keys; alarm 6e-7


def test_uniforms_look_uniform():
    """Chi-square of 100 cells over 4096 x 64 draws, and lag correlations along rows and positions; alarm below 1e-6."""
    where = torch.ones(4096, 64, dtype=torch.bool)
    u = Keyed.of(5, ROWS).fork("step", 3).permutation(where)
    counts = torch.histc(u.flatten().float(), bins=100, min=0, max=1)
    expected = 4096 * 64 / 100
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi - 99) < 6 * (2 * 99) ** 0.5
    centred = u - 0.5
    for a, b in ((centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])):
        correlation = float((a * b).mean() * 12)
        assert abs(correlation) < 5 / a.numel() ** 0.5
    other = Keyed.of(5, ROWS).fork("step", 4).permutation(where) - 0.5
    assert abs(float((other * centred).mean() * 12)) < 5 / other.numel() ** 0.5


def test_rows_of_other_keys_at_other_steps_draw_what_they_would_alone():
    """Every draw of rows that were put side by side, also after some have left, is that of each by itself."""
    parts = [
        (3, torch.tensor([0, 4]), torch.tensor([1, 1])), (8, torch.tensor([0]), torch.tensor([0])),
        (3, torch.tensor([9]), torch.tensor([2])),
    ]  # fmt: skip
    turns, probability = (6, 6, 0, 2), torch.tensor([0.2, 0.5, 0.3])
    where = torch.ones(1, 5, dtype=torch.bool)

    def drawn(chance, rows):
        wide = where.expand(rows, 5)
        return (
            chance.level(torch.empty(0)),
            chance.permutation(wide),
            chance.bernoulli(wide, torch.full((rows, 5), 0.5)),
            chance.categorical(Marginals(wide, probability.log().expand(5 * rows, 3))).view(rows, 5),
            chance.multinomial(torch.full((rows,), 7), probability),
        )

    def below(chance, turn):
        return chance.fork("run", turn).fork("draft")

    alone = [Keyed.of(key, names).fork("prompt", prompts) for key, names, prompts in parts]
    both = Keyed.join(alone)
    single = [below(chance.rows(torch.tensor([row])), turns[place]) for place, (chance, row) in
              enumerate(((alone[0], 0), (alone[0], 1), (alone[1], 0), (alone[2], 0)))]  # fmt: skip
    expected = [torch.cat(column) for column in zip(*(drawn(chance, 1) for chance in single), strict=True)]
    for got, want in zip(drawn(below(both, turns), 4), expected, strict=True):
        assert torch.equal(got, want)
    stay = torch.tensor([True, False, True, True])
    for keep in (stay, stay.nonzero()[:, 0]):
        left = below(both.rows(keep), (6, 0, 2))
        for got, want in zip(drawn(left, 3), expected, strict=True):
            assert torch.equal(got, want[keep])


def test_forks_differ_and_repeat():
    chance = Keyed.of(1, torch.arange(3))
    level = lambda c: c.level(torch.empty(0)).tolist()  # noqa: E731
    seen = [level(chance.fork(*labels)) for labels in ((), ("a",), ("b",), ("a", 1), (1, "a"), ("1",), (1,))]
    assert len({tuple(x) for x in seen}) == len(seen)
    assert level(chance.fork("a").fork(1)) == level(chance.fork("a", 1))
    assert level(Keyed.of(1, torch.arange(3)).fork("a")) == level(chance.fork("a"))
    blocks = chance.fork("block", torch.tensor([0, 1, 0]))
    assert level(blocks.rows(torch.tensor([1]))) == level(
        chance.rows(torch.tensor([1])).fork("block", torch.tensor([1]))
    )


def test_rows_keep_their_draws():
    chance, keep = Keyed.of(3, torch.arange(9)), torch.tensor([7, 2])
    where = torch.ones(9, 5, dtype=torch.bool)
    assert torch.equal(chance.permutation(where)[keep], chance.rows(keep).permutation(where[keep]))
    mask = torch.arange(9) % 2 == 0
    assert torch.equal(chance.permutation(where)[mask], chance.rows(mask).permutation(where[mask]))


def test_known_levels_stay_known_in_some_rows():
    keep = torch.tensor([7, 2])
    fresh, asked = (Keyed.of(3, torch.arange(9)).fork("sizes") for _ in range(2))
    asked.level(torch.empty(0))
    assert torch.equal(fresh.rows(keep).level(torch.empty(0)), asked.rows(keep).level(torch.empty(0)))


def test_only_forks_under_words_are_remembered():
    """What every step asks for is made once; what one step asks for is not kept for the whole run."""
    chance = Keyed.of(1, torch.arange(3))
    assert chance.fork("sizes") is chance.fork("sizes")
    assert chance.fork("step", 0) is not chance.fork("step", 0)
    assert chance.fork(torch.zeros(3, dtype=torch.int64)) is not chance.fork(torch.zeros(3, dtype=torch.int64))


def everything_drawn(chance):
    where = torch.tensor([[True, False, True, True], [False, True, False, True], [False, False, False, False]])
    marginals = Marginals(where, torch.zeros(5, 1000))
    return {
        "level": chance.level(torch.empty(0)),
        "categorical": chance.categorical(marginals),
        "permutation": chance.permutation(where),
        "weighted": chance.permutation(where, torch.arange(4.0).expand(3, 4)),
        "subset": chance.subset(where, torch.tensor([2, 1, 0])),
        "bernoulli": chance.bernoulli(where, torch.full((3, 4), 0.5)),
        "multinomial": chance.multinomial(torch.tensor([5, 0, 9]), torch.tensor([0.2, 0.8])),
    }


def test_arrays_and_integers_on_a_host_draw_what_tensors_draw(monkeypatch):
    """A device computes with tensors, a host with arrays, for few draws with integers; a draw is the same, bit for bit."""
    make = lambda: Keyed.of(-3, torch.tensor([4, 0, 2**32 - 1])).fork("a", torch.tensor([-5, 7, 2**62]), 2)  # noqa: E731
    integers = everything_drawn(make())["categorical"]
    monkeypatch.setattr(chance_module, "_FEW", 0)
    few = everything_drawn(make())
    assert torch.equal(integers, few["categorical"])
    monkeypatch.setattr(chance_module, "_FEW_ROWS", 0)
    arrays = everything_drawn(make())
    for name, drawn in few.items():
        assert torch.equal(drawn, arrays[name]), name
    monkeypatch.setattr(chance_module, "_words", lambda x: x)
    for name, drawn in everything_drawn(make()).items():
        assert torch.equal(drawn, arrays[name]), name


def test_golden_draws():
    """A key means the same for ever."""
    chance = Keyed.of(7, torch.tensor([3, 1, 4])).fork("step", 2)
    drawn = everything_drawn(chance)
    assert drawn["categorical"].tolist() == [644, 328, 533, 281, 64]
    assert drawn["level"].tolist() == [0.01193082384733346, 0.7619308238473333, 0.38693082384733335]


def test_a_token_is_drawn_at_the_number_of_its_position():
    chance, where = Keyed.of(11, torch.arange(5)), torch.arange(30).view(5, 6) % 3 > 0
    marginals = Marginals(where, torch.arange(20.0 * 50).view(20, 50).sin() * 3)
    uniform = chance.permutation(torch.ones_like(where))
    assert torch.equal(chance.categorical(marginals), marginals.draw(uniform[where]))


def test_subset_and_multinomial_and_coins():
    """Sizes are exact; frequencies of 4096 rows within five standard errors."""
    chance, where = Keyed.of(2, ROWS), torch.ones(4096, 6, dtype=torch.bool)
    where[:, 4] = False
    size = ROWS % 6
    chosen = chance.subset(where, size)
    assert torch.equal(chosen.sum(1), size.clamp(max=5))
    assert not chosen[:, 4].any()
    pairs = chance.subset(where, torch.full((4096,), 2))
    share = pairs.float().mean(0)[[0, 1, 2, 3, 5]]
    assert (share - 0.4).abs().max() < 5 * (0.24 / 4096) ** 0.5
    total = ROWS % 40
    counts = chance.multinomial(total, torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64))
    assert torch.equal(counts.sum(1), total)
    assert abs(counts[:, 1].sum() / total.sum() - 0.5) < 5 * (0.25 / total.sum()) ** 0.5
    coins = chance.bernoulli(where, torch.full((4096, 6), 0.3))
    assert not coins[:, 4].any()
    assert abs(coins.float().sum() / (4096 * 5) - 0.3) < 5 * (0.21 / 4096 / 5) ** 0.5


def test_weighted_permutation():
    """First places of a Plackett-Luce ranking follow the softmax; five standard errors."""
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(4096, 3)
    first = Keyed.of(0, ROWS).permutation(torch.ones(4096, 3, dtype=torch.bool), logits).argmax(1)
    p = logits[0].softmax(-1)
    for i in range(3):
        assert abs((first == i).float().mean() - p[i]) < 5 * (p[i] * (1 - p[i]) / 4096) ** 0.5


def test_scripts_enumerate_every_draw():
    where = torch.tensor([[True, False, True, True]])
    rank = lambda c: tuple(c.permutation(where)[0].tolist())  # noqa: E731
    uniform = everything(rank)
    assert len(uniform) == 6
    assert list(uniform.values()) == pytest.approx([1 / 6] * 6)
    logits = torch.tensor([[0.3, 9.0, -0.7, 1.1]])
    weighted = everything(lambda c: tuple(c.permutation(where, logits)[0].tolist()))
    w = logits[0].exp()
    first = sum(p for ranks, p in weighted.items() if ranks[3] == 3.0)
    assert first == pytest.approx(float(w[3] / (w[0] + w[2] + w[3])), rel=1e-6)
    subsets = everything(lambda c: tuple(c.subset(where, torch.tensor([2]))[0].tolist()))
    assert len(subsets) == comb(3, 2)
    assert all(not chosen[1] and sum(chosen) == 2 for chosen in subsets)
    p = torch.tensor([0.25, 0.0, 0.75], dtype=torch.float64)
    counts = everything(lambda c: tuple(c.multinomial(torch.tensor([3]), p)[0].tolist()))
    assert counts == {(k, 0, 3 - k): pytest.approx(comb(3, k) * 0.25**k * 0.75 ** (3 - k)) for k in range(4)}
    coins = everything(lambda c: tuple(c.bernoulli(where, torch.full((1, 4), 0.2))[0].tolist()))
    for pattern in product((False, True), repeat=3):
        heads = sum(pattern)
        assert coins[pattern[0], False, pattern[1], pattern[2]] == pytest.approx(0.2**heads * 0.8 ** (3 - heads))
    tokens = everything(
        lambda c: tuple(c.categorical(Marginals(where, torch.tensor([[0.0, -torch.inf]] * 3))).tolist())
    )
    assert tokens == {(0, 0, 0): 1.0}
    cells = everything(lambda c: round(float(c.level(torch.tensor([0.75, 0.25]))[0]), 3))
    assert cells == {0.125: 0.25, 0.5: 0.5, 0.875: 0.25}
    outcome = everything(lambda c: int(c.outcome(torch.tensor([[0.1, 0.9]], dtype=torch.float64))[0]))
    assert outcome == {0: pytest.approx(0.1), 1: pytest.approx(0.9)}


def test_scripts_remember_an_address():
    """The same draw asked twice is one choice; another label is another."""

    def twice(chance):
        p = torch.tensor([[0.5, 0.5]])
        return tuple(int(c.outcome(p)[0]) for c in (chance.fork("a"), chance.fork("a"), chance.fork("b")))

    assert set(everything(twice)) == {(a, a, b) for a in (0, 1) for b in (0, 1)}


def test_scripted_mode_needs_no_choice():
    m = Marginals(torch.tensor([[True]]), torch.tensor([[0.0, 2.0]]), temperature=0.0)
    assert everything(lambda c: tuple(c.categorical(m).tolist())) == {(1,): 1.0}
