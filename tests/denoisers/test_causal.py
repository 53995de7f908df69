"""A causal model as a verifier: the same laws as asking it token by token."""

from types import SimpleNamespace

import pytest
import torch

from demask.canvas import ABSENT, Canvas
from demask.denoisers import Causal, Tempered
from demask.errors import DenoiserError
from demask.loop import sample
from demask.oracles import Table
from demask.samplers import Adaptive


class Prefix:
    """Logits that are a hash of everything seen so far, places included: any leak or shift shows."""

    config = SimpleNamespace(vocab_size=6)

    def __call__(self, input_ids, attention_mask, position_ids):
        value = (torch.sin(1.7 * input_ids + 0.9 * position_ids + 0.3) * attention_mask).cumsum(1)
        return SimpleNamespace(logits=torch.sin(value[..., None] * torch.arange(1, 7)) * 3)


def shown(rows):
    tokens = torch.tensor(rows)
    return Canvas(tokens, torch.zeros_like(tokens, dtype=torch.bool))


def left(canvas):
    return torch.arange(canvas.shape[1]).expand(canvas.shape)


def test_one_pass_is_token_by_token():
    model, row = Causal(Prefix(), 5, begin=5), [3, 0, 4, 1]
    canvas = shown([row])
    answer = model.along(canvas, ~canvas.masked, left(canvas)).logits
    for i in range(4):
        ids = torch.tensor([[5, *row[:i]]])
        alone = Prefix()(ids, torch.ones_like(ids), torch.arange(i + 1)[None]).logits[0, -1, :5]
        assert torch.allclose(answer[i], alone, atol=1e-5)


def test_absent_positions_do_not_exist():
    for begin in (5, None):
        model = Causal(Prefix(), 6, begin=begin)
        padded, plain = shown([[ABSENT, ABSENT, 3, 0, 4]]), shown([[3, 0, 4]])
        first = 0 if begin else 1
        asked = torch.arange(5)[None] >= 2 + first
        expected = model.along(plain, torch.arange(3)[None] >= first, left(plain)).logits
        assert torch.allclose(model.along(padded, asked, left(padded)).logits, expected, atol=1e-5)


def test_refusals():
    model, canvas = Causal(Prefix(), 6), shown([[1, 2, 3]])
    with pytest.raises(DenoiserError, match="ranks that grow along the row"):
        model.along(canvas, ~canvas.masked, -left(canvas))
    with pytest.raises(DenoiserError, match="no token to begin with"):
        model.along(canvas, ~canvas.masked, left(canvas))
    gap = Canvas(canvas.tokens, torch.tensor([[False, True, False]]))
    with pytest.raises(DenoiserError, match="position 2 of row 0 is asked for, but something to its left is masked"):
        model.along(gap, torch.tensor([[False, False, True]]), left(gap))
    with pytest.raises(DenoiserError, match="a vocabulary of 7 tokens for a model of 6"):
        Causal(Prefix(), 7)


def test_verifies():
    oracle = Table.random(5, 6, key=1, concentration=0.1)
    run = sample(oracle, Adaptive(Causal(Prefix(), 6, begin=0), 0.7), shown_masked(8, 5), key=0)
    assert oracle.log_prob(run.tokens).shape == (8,)
    assert (run.nfe <= 5).all()
    assert (run.nfe > 1).any()
    with pytest.raises(DenoiserError, match="a verifier of 5 tokens for a denoiser of 6"):
        sample(oracle, Adaptive(Causal(Prefix(), 5, begin=0)), shown_masked(1, 5), key=0)
    cold = sample(Tempered(oracle, 0), Adaptive(Tempered(Causal(Prefix(), 6, begin=0), 0.5)), shown_masked(2, 5), key=0)
    assert torch.equal(cold.tokens[0], cold.tokens[1])


def shown_masked(rows, length):
    return Canvas.blank(rows, length)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=11, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=10)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = Causal.load(tmp_path)
    assert (model.vocabulary, model.begin) == (11, 10)
    canvas = shown([[3, 0, 4, 1], [9, 9, 2, 5]])
    answer = model.along(canvas, ~canvas.masked, left(canvas)).logits.view(2, 4, 11)
    for i in range(4):
        ids = torch.cat((torch.full((2, 1), 10), canvas.tokens[:, :i]), 1)
        assert torch.allclose(answer[:, i], model.model(input_ids=ids).logits[:, -1], atol=1e-5)
    padded = shown([[ABSENT, ABSENT, 3, 0]])
    part = model.along(padded, torch.tensor([[False, False, True, True]]), left(padded)).logits
    assert torch.allclose(part, answer[0, :2], atol=1e-5)
