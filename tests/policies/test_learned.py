"""The sampler of a policy: what it claims, by replay, and what it is."""

import pytest
import torch

from demask import oracles
from demask.canvas import ABSENT, Canvas
from demask.contracts import Law
from demask.errors import CheckpointError, OrderError
from demask.information import law
from demask.loop import sample
from demask.oracles import Table
from demask.policies import Features, Learned, Network, Policy, folder, write
from demask.registry import build, cite
from demask.samplers import Ended


def fresh(law="bernoulli", key=0, spread=1.0):
    """A policy whose logits depend on everything it sees."""
    network = Network(key=key)
    chance = torch.Generator().manual_seed(key)
    for matrix in (network.adapt.weight, network.out.weight):
        matrix.data.normal_(0.0, spread * matrix.shape[1] ** -0.5, generator=chance)
    return Policy(network.double().requires_grad_(False), law)


def features(rows=2, length=5):
    chance = torch.Generator().manual_seed(0)
    shape = (rows, length)
    masked = torch.rand(shape, generator=chance) < 0.7
    return Features(torch.rand(shape, generator=chance), masked, torch.full((rows,), 0.4), torch.ones(shape).bool())


def test_every_logit_is_minus_two_in_the_beginning():
    assert Policy(Network(key=3))(features()).unique().tolist() == [-2.0]


def test_the_network_sees_what_it_should():
    """Confidence, mask bit, time and place change a logit; what is under a position that does not exist does not."""
    policy, seen = fresh(), features()
    base = policy(seen)
    assert base.std() > 0.01
    for name, other in {"confidence": seen.confidence.flip(1), "masked": ~seen.masked, "time": seen.time + 0.3}.items():
        changed = Features(**{**seen.__dict__, name: other})
        assert float((policy(changed) - base).abs().min()) > 1e-4, name
    moved = policy(Features(seen.confidence.roll(1, 1), seen.masked.roll(1, 1), seen.time, seen.present)).roll(-1, 1)
    assert float((moved - base).abs().max()) > 1e-4
    gone = seen.present.clone()
    gone[:, -1] = False
    hidden = seen.confidence.clone()
    hidden[:, -1] = 0.5
    one, two = (policy(Features(c, seen.masked, seen.time, gone)) for c in (seen.confidence, hidden))
    assert torch.equal(one[:, :-1], two[:, :-1])


@pytest.mark.parametrize("kind", ["bernoulli", "plackett_luce"])
def test_one_position_at_a_time_is_exact(kind):
    """A policy sees no draw: where it lets one position go per step, the law is the model's own. Where more, it is not."""
    table = Table.random(3, 2, key=5, concentration=0.4)
    policy = fresh(kind, key=1)
    policy.network.out.bias.data.fill_(0.0)
    assert Learned(policy).law is Law.FACTORISED
    assert table.kl(law(table, Learned(policy))) > 0.01
    policy.network.out.bias.data.fill_(-14.0)  # no coin ever shows, the stop comes at once
    assert table.kl(law(table, Learned(policy))) < 1e-9


@pytest.mark.parametrize("kind", ["bernoulli", "plackett_luce"])
def test_the_law_is_that_of_its_parts(kind):
    """The exact output of two positions, from the two logits: together with probability p, else exact."""
    table = Table.random(2, 3, key=2, concentration=0.4)
    sampler = Learned(fresh(kind, key=4, spread=0.3))
    blank = Canvas.blank(1, 2)
    _, info = sampler.step(sampler.init(blank, key(0)), table, key(1))
    where = torch.ones(1, 2, dtype=torch.bool)
    both = [[1, 1]] if kind == "bernoulli" else [[1, 2], [2, 1]]
    logits = sampler.loaded(info.features)
    together = sum(float(sampler.choice.logp(where, logits, torch.tensor([ranks])).exp()) for ranks in both)
    assert 0.001 < together < 0.999
    joint = dense(table)
    product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    found = dense(law(table, sampler))
    assert float((found - (together * product + (1 - together) * joint)).abs().max()) < 1e-6


def dense(table):
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    return table.log_prob(grid).exp().view(3, 3)


def key(number):
    from demask.chance import Keyed

    return Keyed.of(number, torch.arange(1))


def test_rows_are_alone_and_runs_repeat():
    table, sampler = oracles.latin_square(), Learned(fresh(key=2), temperature=0.7)
    run = sample(table, sampler, Canvas.blank(6, 16), key=3)
    assert torch.equal(run.tokens, sample(table, sampler, Canvas.blank(6, 16), key=3).tokens)
    alone = sample(table, sampler, Canvas.blank(1, 16), key=3, names=torch.tensor([4]))
    assert torch.equal(alone.tokens[0], run.tokens[4])
    assert torch.equal(alone.when[0], run.when[4])
    assert torch.equal(run.nfe, run.steps)


def test_blocks_prompts_and_places_that_do_not_exist():
    tokens = torch.tensor([[3, 0, 0, 0, 0, ABSENT], [1, 2, 0, 0, 0, 0]])
    masked = torch.tensor([[False, True, True, True, True, False], [False, False, True, True, True, True]])
    chain = oracles.Chain.random(6, 4, key=1)

    def denoiser(canvas, where):
        return chain(Canvas(canvas.tokens.clamp(min=0), canvas.masked), where)

    run = sample(denoiser, Learned(fresh(), 2), Canvas(tokens, masked), key=0)
    assert torch.equal(run.tokens[~masked], tokens[~masked])
    assert (run.when[~masked] == -1).all()
    for row in range(2):
        when = run.when[row][masked[row]]
        assert int(when[:2].max()) < int(when[2:].min())


def test_waiting_spends_steps():
    policy = fresh(spread=0.0)
    patient = sample(oracles.parity(4), Learned(policy, empty="wait"), Canvas.blank(16, 4), key=0)
    eager = sample(oracles.parity(4), Learned(policy), Canvas.blank(16, 4), key=0)
    assert int(eager.steps.max()) <= 4 < int(patient.steps.max())


def test_the_end_token_ends_a_row():
    words = Table.dense([[0.0, 0.0], [0.0, 1.0]])
    assert (
        sample(words, Ended(Learned(fresh("plackett_luce")), 1), Canvas.blank(2, 2), key=0).tokens.tolist()
        == [[1, 1]] * 2
    )


def test_registry(tmp_path):
    write(tmp_path / "policy", fresh())
    sampler = build(f"Learned({str(tmp_path / 'policy')!r}, temperature=0.5)", "sampler")
    assert repr(sampler) == f"Learned({str(tmp_path / 'policy')!r}, temperature=0.5)"
    assert build(repr(sampler), "sampler") == sampler
    assert "2512.09106" in cite(Learned)
    with pytest.raises(CheckpointError, match="no such folder; make a policy with demask train-policy"):
        build("Learned('nowhere')", "sampler")


def test_errors():
    with pytest.raises(OrderError, match="a block of 0 positions"):
        Learned(fresh(), 0)
    with pytest.raises(OrderError, match="draws up to a stop and is never empty"):
        Learned(fresh("plackett_luce"), boldness=2.0)
    with pytest.raises(OrderError, match="a policy of law 'dice'; expected one of bernoulli, plackett_luce"):
        Policy(Network(), "dice")
    long = Features(
        *(torch.zeros(1, 5000, dtype=d) for d in (torch.float32, torch.bool)),
        torch.zeros(1),
        torch.ones(1, 5000).bool(),
    )
    with pytest.raises(OrderError, match="5000 positions for a policy of at most 4096"):
        Policy(Network())(long)
    assert folder.SCHEMA == "demask.policy/1"
