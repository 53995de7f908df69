"""The permutation transformer: nothing leaks from later ranks, and one pass gives what one pass per token gives."""

import pytest
import torch

from demask.canvas import ABSENT, Canvas
from demask.denoisers import Permutation, Shape, Transformer, folder
from demask.denoisers.permutation import streams
from demask.denoisers.transformer import Network
from demask.errors import CheckpointError, DenoiserError
from demask.information import law
from demask.loop import sample
from demask.oracles import Table
from demask.orders import LeftToRight, Random
from demask.samplers import Ended, Speculative
from demask.testing import check_denoiser
from demask.tokenizer import Tokenizer

SHAPE = Shape(vocabulary=3, context=6, width=16, layers=2, heads=2, hidden=24)


@pytest.fixture
def model():
    return Permutation(Network(SHAPE, key=1).double())


def rows(count, length=6):
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(3, (count, length), generator=generator)
    ranks = torch.rand(count, length, generator=generator).argsort(1) + 1
    return tokens, ranks * (torch.rand(count, length, generator=generator) < 0.8)


def test_it_is_a_denoiser(model):
    tokens, ranks = rows(5)
    masked = ranks > 0
    masked[1] = False
    check_denoiser(model, Canvas(tokens, masked), atol=1e-9)


@pytest.mark.parametrize("documents", [None, torch.tensor([[0, 0, 0, 1, 1, 1]])])
def test_nothing_leaks_from_later_ranks(documents):
    """The gradient of each law by what stands in the input: not zero for smaller ranks, exactly zero for all others."""
    network = Network(SHAPE, key=1).double()
    inputs = []

    def keep(module, given, out):
        out.retain_grad()
        inputs.append(out)

    network.embedding.register_forward_hook(keep)
    tokens, ranks = torch.tensor([[0, 2, 1, 1, 0, 2]]), torch.tensor([[3, 0, 2, 4, 0, 1]])
    for asked in range(6):
        network.zero_grad()
        features = streams(network, tokens, ranks, documents=documents)
        network.logits(features)[0, asked].square().sum().backward()
        reached = inputs.pop().grad[0].abs().sum(1) > 0
        same = torch.ones(6, dtype=torch.bool) if documents is None else documents[0] == documents[0, asked]
        assert reached[:6].tolist() == ((ranks[0] < ranks[0, asked]) & same).tolist()
        assert reached[6:].tolist() == [place == asked for place in range(6)] + [True]  # the anchor


def test_one_pass_is_token_by_token(model):
    tokens, ranks = rows(4)
    where = ranks > 0
    answer = model.along(Canvas(tokens, torch.zeros_like(where)), where, ranks)
    logp = answer.spread(answer.logp(tokens[where]))
    for row, position in where.nonzero().tolist():
        hidden = (ranks[row] >= ranks[row, position])[None] & where[row]
        canvas = Canvas(tokens[row : row + 1].masked_fill(hidden, 0), hidden)
        alone = model.along(canvas, torch.arange(6)[None] == position, ranks[row : row + 1])
        assert alone.logp(tokens[row, position : position + 1]).item() == pytest.approx(logp[row, position].item())
    assert torch.allclose(model.log_prob(tokens, ranks), logp.sum(1))


def test_absent_positions_are_not_seen(model):
    tokens, ranks = rows(3)
    tokens[:, 2], ranks[:, 2] = ABSENT, 0
    where, none = ranks > 0, torch.zeros(3, 6, dtype=torch.bool)
    canvas = Canvas(tokens, none)
    answer = model.along(canvas, where, ranks)
    last = ranks.clone()
    last[:, 2] = 9  # after all others, it would not be seen either
    assert torch.equal(answer.logits, model.along(canvas, where, last).logits)


def test_the_joint_law_sums_to_one_and_is_what_is_sampled(model):
    everything = torch.cartesian_prod(*[torch.arange(3)] * 3)
    ranks = torch.tensor([2, 3, 1]).expand(27, 3)
    joint = Table(everything, model.log_prob(everything, ranks), 3)

    class Fixed(LeftToRight):
        def score(self, step):
            return -ranks[:1].double().expand(step.open.shape)

    for size in (2, 3):
        output = law(model, Speculative(size, Fixed()), canvas=Canvas.blank(1, 3), vocabulary=3)
        assert joint.kl(output) == pytest.approx(0, abs=1e-9)
    other = Table(everything, model.log_prob(everything, torch.tensor([1, 2, 3]).expand(27, 3)), 3)
    assert joint.kl(other) > 1e-4  # an untrained network has another law in another order


def test_the_first_query_knows_where_it_is(model):
    canvas = Canvas.blank(1, 6)
    laws = model(canvas, canvas.masked).logits.softmax(-1)
    assert all((laws[i] - laws[j]).abs().max() > 1e-3 for i in range(6) for j in range(i))


@pytest.mark.parametrize("draft", ["network", "context"])
def test_given_tokens_see_each_other_and_the_law_stays(model, draft):
    pairs = torch.cartesian_prod(torch.tensor([0]), torch.arange(3), torch.tensor([2]), torch.arange(3))
    joint = Table(pairs, model.log_prob(pairs, torch.tensor([0, 1, 0, 2]).expand(9, 4)), 3)
    canvas = Canvas(torch.tensor([[0, 0, 2, 0]]), torch.tensor([[False, True, False, True]]))
    output = law(model, Speculative(2, draft=draft), canvas=canvas, vocabulary=3)
    assert joint.kl(output) == pytest.approx(0, abs=1e-9)


def test_it_ends_as_others_do():
    run = sample(Permutation(Network(SHAPE, key=1)), Ended(Speculative(4, Random()), 2), Canvas.blank(8, 6), key=0)
    assert (run.nfe <= 6).all()


def test_folder(tmp_path):
    model, words = Permutation(Network(SHAPE, key=1)), Tokenizer.words(["a", "b"])
    folder.write(tmp_path, model, words, card="a test", about={})
    again = folder.read(tmp_path).denoiser
    assert type(again) is Permutation
    tokens, ranks = rows(4)
    assert torch.equal(again.log_prob(tokens, ranks), model.log_prob(tokens, ranks))
    config = tmp_path / folder.CONFIG
    config.write_text(config.read_text().replace('"permutation"', '"recurrent"'))
    with pytest.raises(CheckpointError, match="the network is 'recurrent'; expected one of transformer, permutation"):
        folder.read(tmp_path)
    folder.write(tmp_path, Transformer(Network(SHAPE)), words, card="a test", about={})
    assert type(folder.read(tmp_path).denoiser) is Transformer


def test_refusals(model):
    with pytest.raises(DenoiserError, match="a canvas of 7 positions for a context of 6"):
        sample(model, Speculative(2), Canvas.blank(1, 7), key=0)
    with pytest.raises(DenoiserError, match="a visible token 3"):
        model.log_prob(torch.tensor([[0, 3]]), torch.tensor([[1, 2]]))
