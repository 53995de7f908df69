"""Classifier-free guidance, against a transcription of the published loop."""

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.denoisers import Guided, Nucleus, Tempered
from demask.errors import DenoiserError
from demask.loop import sample
from demask.oracles import Chain
from demask.orders import Confidence, Random
from demask.samplers import Parallel
from demask.schedules import PerRow, uniform
from demask.testing import check_denoiser

V, MASK, LENGTH = 7, 7, 8
generator = torch.Generator().manual_seed(2)
TOKEN, PLACE, OUT = (torch.randn(*shape, generator=generator) for shape in ((V + 1, 12), (LENGTH, 12), (12, V)))


def network(ids):
    h = TOKEN[ids] + PLACE
    return torch.tanh(PLACE + 3 * torch.softmax(h @ h.transpose(1, 2) / 12, -1) @ h) @ OUT


class Counting:
    def __init__(self):
        self.rows = []

    def __call__(self, canvas, where):
        self.rows.append(canvas.shape[0])
        return Marginals(where, network(canvas.tokens.masked_fill(canvas.masked, MASK))[where])


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_it_is_the_published_loop_token_for_token(scale):
    """One token per step, the most confident first, at temperature 0; prompt of three tokens."""
    differ = 0
    for key in range(20):
        prompt = torch.randint(V, (3,), generator=torch.Generator().manual_seed(key))
        x = torch.cat((prompt, torch.full((LENGTH - 3,), MASK)))[None]
        given = x != MASK
        while bool((x == MASK).any()):
            un = x.clone()
            un[given] = MASK
            logits, un_logits = torch.chunk(network(torch.cat([x, un], dim=0)), 2, dim=0)
            logits = un_logits + (scale + 1) * (logits - un_logits)
            best = logits.argmax(-1)
            sure = torch.softmax(logits, -1).amax(-1).masked_fill(x != MASK, -1)
            at = int(sure.argmax())
            x[0, at] = best[0, at]
        model = Counting()
        canvas = Canvas(torch.cat((prompt, torch.zeros(LENGTH - 3, dtype=torch.int64)))[None], ~given)
        sampler = Parallel(PerRow(uniform, LENGTH), Confidence())
        run = sample(Tempered(Guided(model, (0, 1, 2), scale), 0), sampler, canvas, key=0)
        assert torch.equal(run.tokens, x)
        assert run.nfe.tolist() == [2 * (LENGTH - 3)]
        assert model.rows == [2] * (LENGTH - 3), "one call on both halves"
        plain = sample(Tempered(model, 0), sampler, canvas, key=0)
        assert plain.nfe.tolist() == [LENGTH - 3]
        differ += not torch.equal(plain.tokens, run.tokens)
    assert differ > 5


def test_passes_are_counted_through_other_wrappers_and_for_each_row():
    """A row that is done costs nothing more, a guided pass costs two."""
    canvas = Canvas(torch.zeros(3, LENGTH, dtype=torch.int64), torch.arange(LENGTH) >= torch.tensor([[3], [6], [8]]))
    denoiser = Nucleus(Tempered(Guided(Counting(), (0, 1), 1.0), 0.7), 0.9)
    run = sample(denoiser, Parallel(PerRow(uniform, LENGTH), Random()), canvas, key=0)
    assert run.nfe.tolist() == [10, 4, 0]
    assert run.steps.tolist() == [5, 2, 0]


def test_scale_0_is_the_inner_denoiser():
    model = Counting()
    canvas = Canvas.blank(1, LENGTH)
    answer = Guided(model, (0,), 0.0)(canvas, canvas.masked)
    assert (model.rows, answer.passes) == ([1], 1)


def test_it_is_a_denoiser():
    canvas = Canvas(torch.ones(3, LENGTH, dtype=torch.int64), torch.arange(LENGTH).expand(3, -1) >= 3)
    check_denoiser(Guided(Counting(), (0, 1, 2), 2.0), canvas)


def test_what_the_prompt_excludes_stays_excluded_and_the_rest_must_be_possible():
    chain = Chain.markov([0.5, 0.5, 0.0], [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]], length=2)
    row = Canvas(torch.tensor([[0, 0]]), torch.tensor([[False, True]]))
    assert Guided(chain, (0,), 1.0)(row, row.masked).logits[0, 2] == -torch.inf

    def contrary(canvas, where):
        logits = torch.zeros(int(where.sum()), 2)
        logits[canvas.masked[:, 0], 1] = -torch.inf
        return Marginals(where, logits)

    with pytest.raises(DenoiserError, match="no probability without it"):
        Guided(contrary, (0,), 1.0)(row, row.masked)


def test_refusals():
    for scale in (-1.0, float("nan"), float("inf")):
        with pytest.raises(DenoiserError, match="guidance of"):
            Guided(Counting(), (0,), scale)
    with pytest.raises(DenoiserError, match="without a prompt"):
        Guided(Counting(), (), 1.0)
