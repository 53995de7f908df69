"""Token editing against a transcription of the published loop, and its law by replay."""

from itertools import product

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.contracts import Law
from demask.denoisers import Tempered
from demask.errors import OracleError, OrderError
from demask.information import law
from demask.loop import sample
from demask.oracles import Table
from demask.orders import Confidence, Random, Threshold
from demask.samplers import Editing, Ended, Parallel
from demask.schedules import Plan, Unlimited, uniform

V, MASK = 5, 5


class Network(torch.nn.Module):
    """Sees every token, also the one at the position that it answers for, and is sure of itself now and then."""

    def __init__(self, seed, length):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        self.token, self.place, self.out = draw(V + 1, 16), draw(length, 16), draw(16, V)

    def forward(self, ids):
        h = self.token[ids] + self.place
        return torch.tanh(h + torch.softmax(h @ h.transpose(1, 2) / 8, -1) @ h) @ self.out


def denoiser(network):
    return lambda canvas, where: Marginals(where, network(canvas.tokens.masked_fill(canvas.masked, MASK))[where])


def published(network, ids, block, threshold, editing, post, over):
    """One row: tokens, and how many passes."""
    prompt, passes = (ids != MASK)[0].tolist(), 0
    free = [place for place, given in enumerate(prompt) if not given]
    number = {place: (place if over == "row" else count) // block for count, place in enumerate(free)}
    for current in sorted(set(number.values())):
        places, after = [place for place in free if number[place] == current], 0
        while True:
            masked = [i for i in places if ids[0, i] == MASK]
            if not masked:
                after += 1
                if after > post:
                    break
            p = torch.softmax(network(ids)[0], -1)
            passes += 1
            best, sure = p.argmax(-1).tolist(), p.amax(-1).tolist()
            moves = [i for i in masked if sure[i] >= threshold]
            if masked and not moves:
                moves = [max(masked, key=lambda i: sure[i])]
            edits = [i for i in places if i not in masked and best[i] != ids[0, i] and sure[i] >= editing]
            for i in moves + edits:
                ids[0, i] = best[i]
            if not masked and not edits:
                break
    return ids, passes


@pytest.mark.parametrize(
    ("block", "post", "over"),
    [(4, 16, "masked"), (4, 1, "masked"), (3, 0, "masked"), (8, 3, "masked"), (4, 16, "row"), (3, 2, "row")],
)
def test_it_is_the_published_loop_token_for_token(block, post, over):
    edited = capped = 0
    for seed in range(60):
        network = Network(seed, 10)
        ids = torch.full((1, 10), MASK)
        ids[0, [0, 4]] = torch.tensor([1, 2])
        canvas = Canvas(ids.masked_fill(ids == MASK, 0), ids == MASK)
        plain = Parallel(Unlimited(), Threshold(Confidence(), 0.8))
        expected, passes = published(network, ids.clone(), block, 0.8, 0.7, post, over)
        editing = Editing(plain, 0.7, block, post, over)
        run = sample(Tempered(denoiser(network), 0), editing, canvas, key=0)
        assert (run.tokens.tolist(), run.nfe.tolist()) == (expected.tolist(), [passes]), seed
        assert torch.equal(run.when == -1, ids != MASK)
        unedited = sample(Tempered(denoiser(network), 0), Editing(plain, 1.0, block, post, over), canvas, key=0)
        edited += not torch.equal(run.tokens, unedited.tokens)
        capped += int(run.nfe) > 20
    assert edited > 10 or post == 0
    assert capped or post != 16, "no row runs into the cap"


def certain(table):
    """Answers of a visible position that it is what it is, as a joint law must."""

    def answer(canvas, where):
        logits = torch.full((*canvas.shape, table.vocabulary), -torch.inf, dtype=torch.float64)
        logits.scatter_(2, canvas.tokens[..., None], 0.0)
        hidden = where & canvas.masked
        asked = hidden.any(1)
        if bool(asked.any()):
            logits[hidden] = table(canvas.rows(asked), hidden[asked]).logits
        return Marginals(where, logits[where])

    return answer


def doubtful(table):
    """Answers of a visible position by its law given the others alone."""

    def answer(canvas, where):
        out = []
        for row, place in where.nonzero().tolist():
            masked = canvas.masked[row : row + 1].clone()
            masked[0, place] = True
            one = torch.zeros_like(masked)
            one[0, place] = True
            out.append(table(Canvas(canvas.tokens[row : row + 1], masked), one).logits)
        return Marginals(where, torch.cat(out) if out else torch.zeros(0, table.vocabulary, dtype=torch.float64))

    return answer


@pytest.mark.parametrize("block", [None, 2])
def test_with_a_joint_law_nothing_is_edited(block):
    """By replay: the law of the inner sampler, block by block."""
    table = Table.random(4, 2, key=2, concentration=0.4)
    inner = Parallel(uniform(block or 4, 2), Random())
    edited = law(certain(table), Editing(inner, 0.6, block), canvas=Canvas.blank(1, 4), vocabulary=2)
    if block is None:
        assert edited.tv(law(table, inner)) < 1e-9
    one = Parallel(Plan([1] * (block or 4)), Random())
    exact = law(certain(table), Editing(one, 0.6, block), canvas=Canvas.blank(1, 4), vocabulary=2)
    assert abs(table.to_table().kl(exact)) < 1e-9


@pytest.mark.parametrize("post", [0, 1, 2, 16])
def test_the_law_is_tilted_as_enumerated(post):
    """Two tokens drawn at once, then edited together: every start followed by hand."""
    joint = torch.tensor([[0.42, 0.08], [0.05, 0.45]], dtype=torch.float64)
    table = Table.dense(joint.tolist())
    expected = torch.zeros(2, 2, dtype=torch.float64)
    for x, y in product(range(2), repeat=2):
        share = joint.sum(1)[x] * joint.sum(0)[y]
        for _ in range(post):
            rows, columns = joint[:, y] / joint[:, y].sum(), joint[x] / joint[x].sum()
            new = tuple(int(p.argmax()) if float(p.max()) >= 0.8 else old for p, old in ((rows, x), (columns, y)))
            if new == (x, y):
                break
            x, y = new
        expected[x, y] += share
    sampler = Editing(Parallel(Plan((2,)), Random()), 0.8, post=post)
    assert sampler.law is Law.TILTED
    out = law(doubtful(table), sampler, canvas=Canvas.blank(1, 2), vocabulary=2)
    found = torch.zeros(2, 2, dtype=torch.float64)
    for (x, y), p in zip(out.sequences.tolist(), out.logp.exp().tolist(), strict=True):
        found[x, y] = p
    assert torch.allclose(found, expected, atol=1e-12)
    assert float((found - joint).abs().sum()) > 0.05


def test_when_is_the_step_of_the_last_edit():
    canvases = []

    class Watching:
        name = "watching"

        def see(self, info):
            canvases.append(info.canvas)

        def result(self):
            return None

    later = 0
    for seed in range(10):
        canvases.clear()
        sampler = Editing(Parallel(Unlimited(), Threshold(Confidence(), 0.8)), 0.7)
        canvas = Canvas.blank(2, 8)
        run = sample(Tempered(denoiser(Network(seed, 8)), 0), sampler, canvas, key=0, collect=[Watching()])
        for place in range(8):
            shown = [None if c.masked[0, place] else int(c.tokens[0, place]) for c in canvases]
            last = max(turn for turn, token in enumerate(shown) if token != (shown[turn - 1] if turn else None))
            assert run.when[0, place] == last
            later += last > shown.index(next(token for token in shown if token is not None))
    assert later > 3


def test_a_row_does_not_depend_on_its_batch():
    model, sampler = denoiser(Network(3, 8)), Editing(Parallel(uniform(4, 2), Random()), 0.6, block=4)
    names = torch.tensor([3, 141, 5, 92])
    together = sample(model, sampler, Canvas.blank(4, 8), key=7, names=names)
    for row in range(4):
        alone = sample(model, sampler, Canvas.blank(1, 8), key=7, names=names[row : row + 1])
        for name in ("tokens", "when", "nfe", "steps"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[row])


def test_an_end_around_it():
    """What is written behind the end is neither asked about nor edited."""
    asked = []

    def watched(canvas, where):
        ended = ((canvas.tokens == 4) & ~canvas.masked).cumsum(1)
        asked.append(int((where & ~canvas.masked & (ended > 1)).sum()))
        return model(canvas, where)

    model = denoiser(Network(5, 8))
    inner = Parallel(uniform(4, 4), Confidence())
    run = sample(watched, Ended(Editing(inner, 0.6, block=4), 4), Canvas.blank(32, 8), key=1)
    ends = (run.tokens == 4).cumsum(1) > 0
    assert (run.tokens[ends] == 4).all()
    assert bool(ends[:, :4].any())
    assert sum(asked) == 0
    plain = sample(model, Editing(inner, 0.6, block=4), Canvas.blank(32, 8), key=1)
    assert run.nfe.sum() < plain.nfe.sum()


def test_refusals():
    inner = Parallel(Unlimited(), Confidence())
    for least in (0.0, 1.1, float("nan")):
        with pytest.raises(OrderError, match="editing threshold"):
            Editing(inner, least)
    for block in (0, 1.5, True):
        with pytest.raises(OrderError, match="a block of"):
            Editing(inner, 0.9, block)
    for post in (-1, 0.5):
        with pytest.raises(OrderError, match="only edit"):
            Editing(inner, 0.9, None, post)
    with pytest.raises(OracleError, match="asked for but visible"):
        sample(Table.random(3, 2, key=0), Editing(inner, 0.9), Canvas.blank(1, 3), key=0)
