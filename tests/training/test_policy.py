"""Training a policy: the identities of its gradient, what is refused, what is kept, and that it learns."""

import os
import signal
from itertools import product

import pytest
import torch

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.contracts import Law
from demask.errors import CheckpointError, TrainingError
from demask.oracles import Notes, Table, parity
from demask.orders import Confidence, Random, Threshold
from demask.policies import Bernoulli, Learned, Network, PlackettLuce, Policy, read
from demask.samplers import Parallel
from demask.schedules import Plan, Unlimited
from demask.tokenizer import Tokenizer
from demask.training import PolicyRecipe, Task, possible, texts, train_policy
from demask.training.groups import Decisions, advantages, objective, speed, steered
from demask.training.policy import _Learner
from demask.training.train import Status

QUICK = PolicyRecipe(iterations=2, law="plackett_luce", prompts=2, rollouts=6)


@pytest.fixture(scope="module")
def two():
    """Two groups of two identical bits, behind a mark that tells positions apart."""
    return possible(Table.uniform(torch.tensor([[0, a, b, a, b] for a, b in product((0, 1), repeat=2)]), 2), shown=1)


@pytest.mark.parametrize("law", ["bernoulli", "plackett_luce"])
def test_the_first_pass_is_reinforce(two, law):
    """Its gradient is that of - mean over runs of (1 / T) sum_t A log p(u_t), added up decision by decision."""
    network = Network(key=1)
    network.out.weight.data.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(0))
    recipe = PolicyRecipe(iterations=1, law=law, prompts=3, rollouts=4)
    learner = _Learner(two, recipe, None, Policy(network, law))
    batch, worth, _, steps = learner.runs(two.canvas(3, 0), 0)
    advantage = advantages(worth, 3)
    assert (advantage != 0).any()
    assert torch.equal(torch.bincount(batch.row, minlength=12), steps)
    weight = (advantage[batch.row] / steps[batch.row] / 12).float()
    learner.learn(batch, weight, torch.zeros(len(batch.row), dtype=torch.bool), None)
    found = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    choice = Bernoulli(empty="wait") if law == "bernoulli" else PlackettLuce()
    total = torch.zeros(())
    for run in range(12):
        mean = worth[run // 4 * 4 : run // 4 * 4 + 4].mean()
        for t in (batch.row == run).nonzero()[:, 0]:
            one = batch.part(t[None])
            logp = choice.logp(one.where, network(one.features), one.ranks)[0]
            total = total - (worth[run] - mean).float() * logp / steps[run] / 12
    total.backward()
    expected = [p.grad for p in network.parameters() if p.grad is not None]
    assert max(float(g.abs().max()) for g in expected) > 1e-4
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-7)


def test_later_passes_are_clipped():
    logp = torch.tensor([0.3, 0.3, 0.9, -0.9, -0.9, 0.9], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    objective(logp, torch.zeros(6), advantage, 0.5).sum().backward()
    assert (logp.grad == 0).tolist() == [False, False, True, True, False, False]


def test_worth():
    """Wrong answers are never better than their group; alpha = 0 does not look at steps."""
    steps, n = torch.tensor([1, 2, 3, 9]), torch.full((4,), 4)
    assert speed(steps, n, 0.0).tolist() == [1.0] * 4
    assert speed(steps, n, 2.0).tolist() == [1.0, 0.5625, 0.25, 0.0625]
    chance = torch.Generator().manual_seed(0)
    for _ in range(20):
        correct = (torch.rand(8, generator=chance) < 0.4).double()
        worth = correct * speed(torch.randint(1, 9, (8,), generator=chance), torch.full((8,), 8), 3.0)
        advantage = advantages(worth, 2)
        assert float(advantage[correct == 0].max()) <= 0
        assert float(advantage.view(2, 4).sum(1).abs().max()) < 1e-12


def test_ratios_of_an_expert_are_bounded():
    logp = torch.tensor([-200.0, -3.0, 0.0, -3.0], dtype=torch.float64)
    expert = torch.tensor([True, True, True, False])
    mixed = steered(logp, expert, 7, 1)
    assert float(mixed[:3].min()) >= torch.tensor(1 / 8).log()
    assert float(mixed[:3].max()) < 1e-12
    assert float(mixed[3]) == -3.0
    assert torch.equal(steered(logp, expert, 8, 0), logp)


def test_decisions_of_an_expert():
    """Of any sampler: what it unmasked, the surest first, with the features it would have shown to a policy."""
    table = Table.random(4, 3, key=1, concentration=0.4)
    task, decisions = possible(table), Decisions()
    run = task.run(
        Parallel(Plan((2, 1, 1)), Confidence()), Canvas.blank(3, 4), Keyed.of(0, torch.arange(3)), decisions=decisions
    )
    batch = decisions.result()
    assert batch.row.tolist() == [0, 1, 2] * 3
    assert batch.features.time.tolist() == [0.0] * 3 + [0.25] * 3 + [0.5] * 3
    for decision, row in enumerate(batch.row.tolist()):
        assert torch.equal(batch.ranks[decision] > 0, run.when[row] == decision // 3)
        if decision < 3:
            first, second = (batch.features.confidence[decision][batch.ranks[decision] == rank] for rank in (1, 2))
            assert float(first) >= float(second)


def test_experts_teach(two):
    seen = []
    recipe = PolicyRecipe(iterations=2, prompts=2, rollouts=4, experts=1, clip=0.2)
    expert = Parallel(Unlimited(), Threshold(Confidence(), 0.9))
    trained = train_policy(two, recipe, expert=expert, watch=seen.append)
    assert [each.iteration for each in seen] == [1, 2]
    assert trained.status is Status.FINISHED
    assert Policy(Network()).network.out.weight.abs().sum() == 0 < trained.policy.network.out.weight.abs().sum()


def test_equal_keys_give_equal_policies(two, tmp_path):
    one, other = (train_policy(two, QUICK, out=tmp_path / name) for name in ("a", "b"))
    assert [each.worth for each in one.rounds] == [each.worth for each in other.rounds]
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    for x, y in zip(a.network.parameters(), b.network.parameters(), strict=True):
        assert torch.equal(x, y)
    assert a.about["iterations"] == 2
    assert Learned(tmp_path / "a").law is Law.FACTORISED


def test_a_kept_policy_is_not_lost(two, tmp_path):
    out = tmp_path / "policy"
    first = train_policy(two, QUICK, out=out)
    with pytest.raises(CheckpointError, match="holds a policy; begin with it by --resume"):
        train_policy(two, QUICK, out=out)
    second = train_policy(two, QUICK, out=out, resume=True)
    assert not torch.equal(first.policy.network.out.weight, second.policy.network.out.weight)
    with pytest.raises(CheckpointError, match="of law plackett_luce; resume with that one"):
        train_policy(two, PolicyRecipe(iterations=1), out=out, resume=True)
    with pytest.raises(TrainingError, match="resume without a folder"):
        train_policy(two, QUICK, resume=True)


def test_an_interrupt_keeps_what_was_learned(two, tmp_path):
    def ask(moment):
        if moment.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)

    trained = train_policy(two, PolicyRecipe(seconds=600, prompts=2, rollouts=2), out=tmp_path / "policy", watch=ask)
    assert trained.status is Status.INTERRUPTED
    assert len(trained.rounds) == read(tmp_path / "policy").about["iterations"] == 2


@pytest.mark.parametrize(
    ("correct", "message"),
    [
        (lambda tokens: torch.full((len(tokens),), float("nan")), "the reward of a row is nan; expected a number in"),
        (lambda tokens: torch.full((len(tokens),), 2.0), "the reward of a row is 2.0"),
        (lambda tokens: torch.zeros(1, 1), "the reward answered shape"),
    ],
)
def test_rewards_that_are_none_are_refused(two, tmp_path, correct, message):
    task = Task(two.denoiser, two.canvas, correct)
    with pytest.raises(TrainingError, match=message):
        train_policy(task, PolicyRecipe(iterations=1, law="plackett_luce"), out=tmp_path / "policy")
    assert read(tmp_path / "policy").about["iterations"] == 0


def test_unfinished_rows_are_wrong():
    task = possible(parity(3))
    network = Network()
    network.out.bias.data.fill_(-30.0)
    run = task.run(Learned(Policy(network), empty="wait"), Canvas.blank(4, 3), Keyed.of(0, torch.arange(4)))
    assert (run.when == -2).all()
    assert task.judge(run).tolist() == [0.0] * 4


def test_tasks_of_texts():
    notes = Notes()
    tokenizer = Tokenizer.words(notes.words)
    task = texts(lambda canvas, where: None, tokenizer, notes, context=100)
    canvas = task.canvas(5, 1)
    assert canvas.masked.sum(1).tolist() == [97] * 5
    assert [tokenizer.decode(row[:3].tolist()) for row in canvas.tokens] == [
        " ".join(note.split()[:3]) for note in notes.sample(5, key=1)
    ]
    rows = torch.full((3, 100), tokenizer.end)
    for row, note in enumerate(notes.sample(2, key=3)):
        rows[row, : len(note.split())] = torch.tensor(tokenizer.encode(note))
    assert task.correct(rows).tolist() == [1.0, 1.0, 0.0]


def test_score():
    correct, steps = possible(parity(4)).score(Parallel(Plan((1, 1, 1, 1)), Random()), 10, key=0, rows=4)
    assert (correct, steps) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "iterations = None and seconds = None; give exactly one"),
        ({"iterations": 0}, "iterations = 0; expected an integer >= 1"),
        ({"iterations": 1, "rollouts": 1}, "groups of 1 run; expected 2 or more"),
        ({"iterations": 1, "alpha": float("nan")}, "alpha = nan"),
        ({"iterations": 1, "rate": 0.0}, "rate = 0.0; expected a finite number > 0"),
        ({"iterations": 1, "warmup": 1.0}, "warmup = 1.0"),
    ],
)
def test_recipes_are_checked(values, message):
    with pytest.raises(TrainingError, match=message):
        PolicyRecipe(**values)


def test_errors(two):
    with pytest.raises(TrainingError, match="give both"):
        train_policy(two, QUICK, expert=Parallel(Unlimited(), Random()))
    with pytest.raises(TrainingError, match="3 tokens shown of 3"):
        possible(parity(3), shown=3)


@pytest.mark.slow
def test_it_finds_the_two_step_optimum(two):
    """One position of each group, then the rest: worth 3/4. One at each step is worth 1/4, all at once 1/4 on average."""
    trained = train_policy(two, PolicyRecipe(iterations=400, prompts=4))
    assert trained.rounds[0].worth < 0.5
    right, steps = two.score(Learned(trained.policy), 256, key=9)
    assert right > 0.98
    assert steps < 2.1


@pytest.mark.slow
def test_draws_up_to_a_stop_find_it_in_large_groups(two):
    """Ten iterations in a row at the optimum, where groups of eight stay at a worth of 0.48; it takes some fifty."""

    worth = []

    def watch(moment):
        worth.append(moment.worth)
        if len(worth) >= 10 and min(worth[-10:]) >= 0.72:
            raise StopIteration

    with pytest.raises(StopIteration):
        train_policy(two, PolicyRecipe(iterations=200, prompts=4, rollouts=64, law="plackett_luce"), watch=watch)
