"""Uniform-canvas acceptance against a plain transcription."""

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.contracts import Law
from demask.errors import DenoiserError, OrderError, PlanError
from demask.information import law
from demask.loop import sample
from demask.oracles import Chain, Table, repetition
from demask.samplers import Ended, Renoising


class Watching:
    name = "watching"

    def __init__(self):
        self.seen = []

    def see(self, info):
        self.seen.append(
            (info.step.canvas, info.step.marginals(info.step.start), info.canvas, info.step.denoiser.levels)
        )

    def result(self):
        return self.seen


@pytest.mark.parametrize("nats", [0.1, 1.0, 8.0])
def test_it_is_the_transcription(nats):
    """One row: what is kept from one canvas to the next, how hot, how noisy, and what comes out."""
    accepted_all = 0
    for key in range(12):
        chain = Chain.random(7, 3, key=key, concentration=0.3)
        sampler = Renoising(9, nats, 0.8, 0.4, calm=9)
        run = sample(chain, sampler, Canvas.blank(1, 7), key=key, collect=[Watching()])
        share = None
        for k, (_, answer, shown, levels) in enumerate(run.collected["watching"]):
            if share is None:
                assert levels.tolist() == [torch.inf]
            else:
                assert levels.tolist() == pytest.approx([-float(share.log())])
            heat = 0.4 + 0.4 * (9 - k) / 9
            tempered = (answer.logits / heat).softmax(-1)
            entropy = torch.special.entr(tempered).sum(-1)
            order = entropy.argsort(stable=True).tolist()
            accepted = [i for n, i in enumerate(order) if float(entropy[order[:n]].sum()) <= nats]
            share = torch.tensor(len(accepted) / 7, dtype=torch.float64)
            accepted_all += len(accepted) == 7
            assert shown.tokens[0].tolist() == answer.logits.argmax(-1).tolist()
            if k + 1 < 9:
                following = run.collected["watching"][k + 1][0].tokens[0]
                for i in accepted:  # a draw: a token that can be
                    assert tempered[i, following[i]] > 0
        assert run.nfe.tolist() == [9]
        assert torch.equal(run.tokens, shown.tokens)
    assert accepted_all or nats < 8


def test_unaccepted_tokens_are_noise():
    """A network that is sure of position 0 alone: the others are uniform at every step."""

    class Sure:
        vocabulary = 4

        def noised(self, canvas, where, level):
            logits = torch.zeros(*canvas.shape, 4)
            logits[:, 0, 2] = 50.0
            return Marginals(where, logits[where])

    watching = Watching()
    sample(Sure(), Renoising(2, 0.1), Canvas.blank(4000, 3), key=1, collect=[watching])
    second = watching.seen[1][0].tokens
    assert (second[:, 0] == 2).all()
    counts = torch.stack([(second[:, i] == v).float().mean() for i in (2,) for v in range(4)])
    assert (counts - 0.25).abs().max() < 0.035  # 5 standard errors of 0.0068
    # position 1 is the first of the equally uncertain ones: accepted too, since the largest entropy is free


def test_it_stops_when_calm_and_sure():
    """Six copies of a letter: a bound of 3 nats accepts three of them at first, one of 0.1 one, which noise drowns."""
    bold, shy = (sample(repetition(6, 3), Renoising(48, nats), Canvas.blank(64, 6), key=0) for nats in (3.0, 0.1))
    assert (bold.tokens.amin(1) == bold.tokens.amax(1)).all()
    assert torch.equal(bold.nfe, bold.steps)
    assert bold.nfe.double().mean() < 12 < 36 < shy.nfe.double().mean()
    longer = sample(repetition(6, 3), Renoising(48, 3.0, calm=4), Canvas.blank(64, 6), key=0)
    assert (longer.nfe >= bold.nfe).all()
    assert int(longer.nfe.min()) >= 5
    never = sample(repetition(6, 3), Renoising(12, 3.0, calm=12), Canvas.blank(8, 6), key=0)
    assert never.nfe.tolist() == [12] * 8


def test_rows_are_alone_and_prompts_stay():
    chain, names = Chain.random(6, 3, key=1, concentration=0.4), torch.tensor([3, 141, 5, 92])
    tokens, masked = chain.sample(4, key=2), torch.ones(4, 6, dtype=torch.bool)
    masked[:, 2], masked[3] = False, False
    canvas = Canvas(tokens, masked)
    together = sample(chain, Renoising(20), canvas, key=7, names=names)
    assert torch.equal(together.tokens[~masked], tokens[~masked])
    assert int(together.nfe[3]) == 0
    for row in range(3):
        alone = sample(chain, Renoising(20), canvas.rows(torch.tensor([row])), key=7, names=names[row : row + 1])
        for name in ("tokens", "when", "nfe"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[row])


def test_it_makes_no_claim_and_needs_none():
    """By replay: two bits that agree with probability 0.9 come out as modes; the law is far from the truth."""
    table = Table.dense([[0.5, 0.05], [0.05, 0.4]])
    found = law(table, Renoising(2), limit=1_000_000)
    assert Renoising().law is Law.TILTED
    assert table.tv(found) > 0.1


def test_refusals():
    for bad in (lambda: Renoising(0), lambda: Renoising(True)):
        with pytest.raises(PlanError, match="an integer >= 1"):
            bad()
    with pytest.raises(OrderError, match="nats > 0"):
        Renoising(4, 0.0)
    with pytest.raises(OrderError, match="coldest <= hottest"):
        Renoising(4, 0.1, 0.4, 0.8)
    with pytest.raises(OrderError, match="an integer >= 0"):
        Renoising(4, calm=-1)
    with pytest.raises(OrderError, match="writes over every token"):
        Ended(Renoising(), 1)
    with pytest.raises(DenoiserError, match="made for masks"):
        sample(lambda c, w: None, Renoising(4), Canvas.blank(1, 2), key=0)
