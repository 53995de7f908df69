import copy

import pytest
import torch
from torch.nn import functional

from demask.canvas import ABSENT, Canvas
from demask.denoisers.transformer import SIZES, Network, Shape, Transformer
from demask.errors import DenoiserError
from demask.testing import check_denoiser

SHAPE = Shape(vocabulary=11, context=24, width=32, layers=2, heads=4, hidden=48)


@pytest.fixture(scope="module")
def model():
    network = Network(SHAPE, key=1)
    network.places.data.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(2))
    return Transformer(network)


def canvas(rows=3, length=12, share=0.5, key=0):
    chance = torch.Generator().manual_seed(key)
    tokens = torch.randint(0, SHAPE.vocabulary, (rows, length), generator=chance)
    masked = torch.rand(rows, length, generator=chance) < share
    masked[:, 0] = True
    return Canvas(tokens, masked)


def plainly(network, ids):
    """The same network in float64, written with loops over heads and explicit softmax."""
    weights = {name: value.double() for name, value in network.state_dict().items()}

    def normal(x, name):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[name]

    length, size = ids.shape[1], SHAPE.width // SHAPE.heads
    angle = torch.arange(length)[:, None] * 10_000.0 ** -(torch.arange(0, size, 2).double() / size)
    turn = torch.polar(torch.ones_like(angle), angle)
    x = weights["embedding.weight"][ids] + weights["places"][:length]
    for layer in range(SHAPE.layers):
        block = f"blocks.{layer}."
        y = normal(x, block + "before_attention.weight")
        heads = []
        for head in range(SHAPE.heads):
            rows = slice(head * size, (head + 1) * size)
            q, k, v = (y @ weights[f"{block}attention.{n}.weight"][rows].T for n in ("query", "key", "value"))
            q, k = (torch.complex(*z.chunk(2, -1)) * turn for z in (q, k))
            scores = (q[:, :, None] * k[:, None].conj()).real.sum(-1) / size**0.5
            heads.append(scores.softmax(-1) @ v)
        x = x + torch.cat(heads, -1) @ weights[block + "attention.out.weight"].T
        y = normal(x, block + "before_gate.weight")
        up = functional.silu(y @ weights[block + "gate.gate.weight"].T) * (y @ weights[block + "gate.up.weight"].T)
        x = x + up @ weights[block + "gate.down.weight"].T
    return normal(x, "norm.weight") @ weights["embedding.weight"][: SHAPE.vocabulary].T


def test_it_is_the_network_that_it_says(model):
    given = canvas()
    ids = given.tokens.masked_fill(given.masked, SHAPE.vocabulary)
    expected = plainly(model.network, ids)[given.masked]
    assert torch.allclose(model(given, given.masked).logits.double(), expected, atol=1e-5)


def test_it_conforms(model):
    check_denoiser(model, canvas())


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size):
    shape = Shape.of(size, 300, 64)
    with torch.device("meta"):
        network = Network(shape)
    assert sum(p.numel() for p in network.parameters()) == shape.parameters


def test_tiny_is_small_enough_to_ship():
    assert Shape.of("tiny", 400, 104).parameters * 4 < 8 << 20


def test_a_masked_token_does_not_leak(model):
    given = canvas()
    other = Canvas((given.tokens + given.masked * 3) % SHAPE.vocabulary, given.masked)
    assert torch.equal(model(given, given.masked).logits, model(other, given.masked).logits)


def test_only_its_places_tell_the_ends_of_a_row_of_masks_apart(model):
    """To rotary positions a row of masks is everywhere alike; without the places no text could begin or end."""
    blank = Canvas.blank(1, 12)
    told = model(blank, blank.masked).logits
    assert (told[1:] - told[:1]).abs().amax(1).min() > 0.01
    untold = Transformer(Network(SHAPE, key=1))(blank, blank.masked).logits
    assert torch.allclose(untold, untold[:1].expand_as(untold), atol=1e-6)


def test_the_head_has_no_row_for_the_mask(model):
    """The embedding of the mask moves features, but no logit reads it directly."""
    network = model.network
    features = torch.randn(2, SHAPE.width)
    before = network.logits(features)
    assert before.shape == (2, SHAPE.vocabulary)
    network.zero_grad()
    network.logits(features).sum().backward()
    assert not network.embedding.weight.grad[SHAPE.vocabulary].any()
    network.zero_grad()


def test_rows_do_not_depend_on_the_batch(model):
    given = canvas(rows=7)
    full = model(given, given.masked)
    row = given.masked.nonzero()[:, 0]
    for keep in ([0], [3, 1], [6, 5, 4, 3]):
        part = given.rows(torch.tensor(keep))
        answer = model(part, part.masked)
        expected = torch.cat([full.logits[row == r] for r in keep])
        assert torch.allclose(answer.logits, expected, atol=1e-5)
        assert torch.equal(answer.mode, expected.argmax(-1))


@pytest.mark.parametrize("left", [0, 5])
def test_absent_positions_change_nothing(model, left):
    given = canvas(rows=2, length=9)
    tokens = torch.full((2, 17), ABSENT)
    masked = torch.zeros(2, 17, dtype=torch.bool)
    tokens[:, left : left + 9], masked[:, left : left + 9] = given.tokens, given.masked
    padded = Canvas(tokens, masked)
    ours, alone = model(padded, padded.masked), model(given, given.masked)
    assert torch.allclose(ours.logits, alone.logits, atol=1e-5)


def test_what_is_masked_may_have_any_token(model):
    given = canvas()
    strange = Canvas(given.tokens.masked_fill(given.masked, ABSENT), given.masked)
    assert torch.equal(model(strange, given.masked).logits, model(given, given.masked).logits)


def test_packed_documents_are_as_if_alone():
    network = Network(SHAPE, key=2)
    ids = canvas(rows=1, length=20).tokens
    documents = torch.tensor([[0] * 6 + [1] + [2] * 9 + [5] * 4])
    packed = network(ids, documents=documents)
    for start, stop in ((0, 6), (6, 7), (7, 16), (16, 20)):
        assert torch.allclose(packed[:, start:stop], network(ids[:, start:stop]), atol=1e-5)


def test_no_mask_is_built_when_nothing_is_absent(model, monkeypatch):
    seen = []
    original = functional.scaled_dot_product_attention

    def spy(*args, attn_mask, **options):
        seen.append(attn_mask)
        return original(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    given = canvas()
    model(given, given.masked)
    assert seen == [None, None]


def test_logits_are_computed_for_the_asked_rows_only(model, monkeypatch):
    rows = []
    original = Network.logits
    monkeypatch.setattr(Network, "logits", lambda self, x: rows.append(len(x)) or original(self, x))
    given = canvas()
    where = given.masked & (torch.arange(12) < 2)
    assert len(model(given, where).logits) == rows[0] == int(where.sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, dtype):
    given = canvas()
    half = Transformer(copy.deepcopy(model.network).to(dtype))
    answer = half(given, given.masked)
    assert answer.logits.dtype == dtype == half.dtype
    assert (answer.logits.float() - model(given, given.masked).logits).abs().max() < 0.25


def test_keys_draw_different_networks():
    one, same, other = (Network(SHAPE, key=key).embedding.weight for key in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [([[0] * 25], "25 positions for a context of 24"), ([[0, 11]], "token 11"), ([[0, -2]], "token -2")],
)
def test_bad_canvases(model, tokens, words):
    tokens = torch.tensor(tokens)
    masked = torch.zeros(tokens.shape, dtype=torch.bool)
    masked[:, 0] = True
    with pytest.raises(DenoiserError, match=words):
        model(Canvas(tokens, masked), masked)


@pytest.mark.parametrize("change", [{"width": 33}, {"layers": 0}, {"hidden": 1.5}, {"vocabulary": True}])
def test_bad_shapes(change):
    with pytest.raises(DenoiserError, match="expected"):
        Shape(**{"vocabulary": 9, "context": 8, "width": 32, "layers": 1, "heads": 4, "hidden": 8, **change})
    with pytest.raises(DenoiserError, match="tiny, small, base"):
        Shape.of("huge", 9, 8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled(model):
    given = canvas()
    answer = model.compiled()(given, given.masked)
    assert torch.allclose(answer.logits, model(given, given.masked).logits, atol=1e-5)
