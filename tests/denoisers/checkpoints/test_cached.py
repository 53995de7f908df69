"""Caches against plain tensors: what is kept is what the network had computed, and nothing else is."""

import pytest
import torch

from demask.canvas import ABSENT, Canvas
from demask.contracts import Law
from demask.denoisers import Cached, Guided, Tempered
from demask.denoisers.checkpoints import read
from demask.errors import DenoiserError
from demask.loop import sample
from demask.oracles import parity
from demask.orders import Blockwise, Confidence, Random, Threshold
from demask.samplers import Parallel
from demask.schedules import PerBlock, PerRow, Unlimited, uniform
from demask.testing import check_denoiser

from .published import BERT, bert_shapes, drawn, write
from .test_greedy import MASK, best, opened

KINDS = ("prefix", "dual")
CAUSAL = ("sdar", "llada2")


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    return {name: opened(name, tmp_path_factory.mktemp(name), 3) for name in ("llada", "dream", "sdar", "llada2")}


def gap(one, other):
    assert torch.equal(one.isinf(), other.isinf())
    return float((one - other).masked_fill(one.isinf(), 0).abs().amax())


def fast_dllm_generate(plain, x, block, kind, shift, choose):
    """Transcribe the released loops: a whole pass when a block begins, then passes over the suffix or the block, which see
    the keys and values that the whole pass left of the rest. One row; returns it and the passes."""
    x, passes, masks, number = x.clone(), 0, (x == MASK).nonzero()[:, 0].tolist(), torch.arange(len(x))
    for begin in range(0, len(masks), block):
        mine = masks[begin : begin + block]
        inside = torch.isin(number, torch.tensor(mine))
        kept = {}
        fresh = number >= mine[0] if kind == "prefix" else inside.clone()
        if shift:
            fresh[mine[0] - 1] = True  # the law of the block's first token is read there

        def record(layer, k, v, kept=kept):
            kept[layer] = k, v
            return k, v

        def reuse(layer, k, v, kept=kept, fresh=fresh):
            return tuple(torch.where(fresh[:, None], new, old) for new, old in zip((k, v), kept[layer], strict=True))

        keep = record
        while (x[inside] == MASK).any():
            confidence, guess = best(lambda ids: plain(ids, keep=keep), x)  # noqa: B023
            chosen = choose(confidence.masked_fill(~inside, -torch.inf), int((x[inside] != MASK).sum()))
            x[chosen] = guess[chosen]
            passes, keep = passes + 1, reuse
    return x, passes


def at_least(threshold):
    def choose(confidence, _):
        chosen = confidence >= threshold
        chosen[confidence.argmax()] = True
        return chosen.nonzero()[:, 0]

    return choose


def row(prompt, length, key=0):
    ids = torch.randint(20, (prompt,), generator=torch.Generator().manual_seed(key))
    return torch.cat((ids, torch.full((length,), MASK)))


def canvas_of(rows, wide=None):
    wide = wide or max(map(len, rows))
    ids = torch.full((len(rows), wide), ABSENT)
    for index, one in enumerate(rows):
        ids[index, wide - len(one) :] = one
    return Canvas(ids.masked_fill(ids == MASK, 0), ids == MASK)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llada", "dream"])
def test_greedy_decoding_is_fast_dllms(families, name, kind):
    denoiser, plain = families[name]
    differs = 0
    for key in range(4):
        x = row(5, 24, key)
        shift = name == "dream"
        sampler = Parallel(Unlimited(), Threshold(Blockwise(Confidence("draft"), 8), 0.7))
        run = sample(Tempered(Cached(denoiser, kind), 0), sampler, canvas_of([x]), key=0)
        expected, passes = fast_dllm_generate(plain, x, 8, kind, shift, at_least(0.7))
        assert torch.equal(run.tokens[0], expected)
        assert run.nfe.tolist() == [passes]
        exact = sample(Tempered(denoiser, 0), sampler, canvas_of([x]), key=0)
        differs += not torch.equal(exact.tokens, run.tokens)

        def evenly(confidence, done):
            return confidence.topk(2).indices

        sampler = Parallel(PerBlock(PerRow(uniform, steps=4), 8), Blockwise(Confidence(), 8))
        run = sample(Tempered(Cached(denoiser, kind), 0), sampler, canvas_of([x]), key=0)
        assert torch.equal(run.tokens[0], fast_dllm_generate(plain, x, 8, kind, shift, evenly)[0])
    assert differs  # it is an approximation, and the comparison would notice


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llada", "dream"])
def test_rows_may_be_in_different_blocks(families, name, kind):
    """Ragged, two of them alike, each as the released loop alone, with its own passes; and again with what a run left."""
    denoiser, plain = families[name]
    rows = [row(5, 24), row(9, 16, 1), row(5, 24), row(3, 20, 2), row(8, 24, 3)]
    sampler = Parallel(Unlimited(), Threshold(Blockwise(Confidence(), 8), 0.7))
    cached = Cached(denoiser, kind)
    for given in (rows, rows[1:], rows[::-1]):
        run = sample(Tempered(cached, 0), sampler, canvas_of(given, 33), key=0)
        seen = set()
        for one, tokens, nfe in zip(given, run.tokens, run.nfe.tolist(), strict=True):
            expected, passes = fast_dllm_generate(plain, one, 8, kind, name == "dream", at_least(0.7))
            assert torch.equal(tokens[tokens != ABSENT], expected)
            assert nfe == passes
            seen.add(passes)
        assert len(seen) > 1  # rows really go at different speeds


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_begin_alike_and_are_drawn_apart(families, kind):
    """Four samples of one prompt at temperature 1: each as alone."""
    denoiser, _ = families["llada"]
    sampler = Parallel(Unlimited(), Threshold(Blockwise(Confidence("draft"), 8), 0.5))
    tokens = canvas_of([row(6, 24)] * 4)
    cached = Cached(denoiser, kind)
    together = sample(Tempered(cached, 2.0), sampler, tokens, key=3)
    assert len({tuple(one) for one in together.tokens.tolist()}) == 4
    for name in range(4):
        alone = sample(
            Tempered(Cached(denoiser, kind), 2.0), sampler, tokens.rows([name]), key=3, names=torch.tensor([name])
        )
        assert torch.equal(alone.tokens[0], together.tokens[name])
        assert alone.nfe[0] == together.nfe[name]


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_block_begins_and_where_nothing_is_kept_it_is_exact(families, kind):
    denoiser, _ = families["llada"]
    cached, given = Cached(denoiser, kind), canvas_of([row(5, 24)] * 2)
    check_denoiser(cached, given)
    sampler = Parallel(PerRow(uniform, steps=9), Random())  # asks elsewhere at every step
    run, same = (sample(one, sampler, given, key=1) for one in (cached, denoiser))
    assert torch.equal(run.tokens, same.tokens)
    prompt = torch.zeros_like(given.masked)
    assert cached(given, prompt).logits.shape == (0, 23)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed(families, kind):
    denoiser, _ = families["llada"]
    widths = []
    hook = denoiser.backbone.network.model.norm.register_forward_hook(
        lambda _, given, __: widths.append(given[0].shape[:2])
    )
    sampler = Parallel(PerBlock(PerRow(uniform, steps=4), 8), Blockwise(Confidence(), 8))
    sample(Cached(denoiser, kind), sampler, canvas_of([row(6, 24)] * 3), key=0)
    hook.remove()
    later = {"prefix": (24, 16, 8), "dual": (8, 8, 8)}[kind]
    assert widths == [(3, size) for behind in later for size in (30, behind, behind, behind)]


def test_guidance_goes_around_it(families):
    """The same canvas with and without its prompt: two rows for each, told apart by what stands in them."""
    denoiser, _ = families["llada"]
    sampler = Parallel(PerBlock(PerRow(uniform, steps=4), 8), Blockwise(Confidence(), 8))
    given = canvas_of([row(6, 16), row(6, 16, 1)])
    run = sample(Tempered(Guided(Cached(denoiser, "dual"), tuple(range(6)), 1.0), 0), sampler, given, key=0)
    assert run.nfe.tolist() == [16, 16]
    alone = [
        sample(Tempered(Guided(Cached(denoiser, "dual"), tuple(range(6)), 1.0), 0), sampler, given.rows([one]), key=0)
        for one in (0, 1)
    ]
    assert torch.equal(run.tokens, torch.cat([one.tokens for one in alone]))


class Compared:
    """Asks with and without a cache, and keeps the largest difference."""

    def __init__(self, inner):
        self.inner, self.cached, self.most, self.calls = inner, Cached(inner, "blocks"), 0.0, 0

    def __call__(self, canvas, where):
        exact, answer = self.inner(canvas, where), self.cached(canvas, where)
        self.most, self.calls = max(self.most, gap(exact.logits, answer.logits)), self.calls + 1
        return answer


@pytest.mark.parametrize("name", CAUSAL)
def test_the_block_causal_cache_is_exact(families, name):
    """Rows of different lengths that are done at different times: equal logits at every step."""
    denoiser, _ = families[name]
    rows = [row(4, 24), row(9, 15, 1), row(4, 24), row(3, 22, 2), row(8, 20, 3)]
    for order in (Threshold(Blockwise(Confidence(), 4), 0.6), Blockwise(Random(), 4), Random()):
        both = Compared(denoiser)
        schedule = Unlimited() if isinstance(order, Threshold) else PerBlock(PerRow(uniform, steps=3), 4)
        run = sample(both, Parallel(schedule, order), canvas_of(rows), key=0)
        assert both.most < 1e-4
        assert both.calls > 8
        assert run.law is not Law.TILTED


@pytest.mark.parametrize("name", CAUSAL)
def test_the_block_causal_cache_is_exact_whatever_is_asked(families, name):
    """Canvases that continue nothing, rows that come and go, tokens that change, and masks that come back."""
    denoiser, _ = families[name]
    both, chance = Compared(denoiser), torch.Generator().manual_seed(0)
    pool = torch.randint(20, (6, 21), generator=chance)
    for _ in range(60):
        rows = torch.randperm(6, generator=chance)[: int(torch.randint(1, 7, (), generator=chance))]
        wide = int(torch.randint(6, 22, (), generator=chance))
        pool[rows, torch.randint(21, rows.shape, generator=chance)] = torch.randint(20, rows.shape, generator=chance)
        masked = torch.rand((len(rows), wide), generator=chance) < 0.3
        masked[:, -1] = True
        where = masked & (torch.rand(masked.shape, generator=chance) < 0.7)
        where[torch.arange(len(rows)), masked.long().argmax(1)] = True
        both(Canvas(pool[rows, :wide], masked), where)
    assert both.most < 1e-4


def test_the_block_causal_cache_computes_each_block_once_more(families):
    denoiser, _ = families["sdar"]
    widths = []
    hook = denoiser.backbone.network.model.norm.register_forward_hook(
        lambda _, given, __: widths.append(given[0].shape[1])
    )
    sampler = Parallel(PerBlock(PerRow(uniform, steps=2), 4), Blockwise(Confidence(), 4))
    sample(Cached(denoiser, "blocks"), sampler, canvas_of([row(8, 16)] * 2), key=0)
    hook.remove()
    assert widths == [12, 4, 8, 4, 8, 4, 8, 4]  # the prompt, then with a new block the one before it, now unmasked


@pytest.mark.parametrize(("name", "kind"), [("llada", "dual"), ("sdar", "blocks")])
def test_a_pass_that_fails_leaves_nothing_behind(families, name, kind):
    denoiser, _ = families[name]
    cached, given = Cached(denoiser, kind), canvas_of([row(4, 8)] * 2)
    where = given.masked & (torch.arange(12) < 8)
    cached(given, where)
    later = given.unmask(torch.arange(12)[None] == 5, torch.full((2, 12), 3))
    where = where & later.masked

    def fail(*_):
        raise MemoryError

    hook = denoiser.backbone.network.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        cached(later, where)
    hook.remove()
    assert gap(cached(later, where).logits, denoiser(later, where).logits) < 1e-5


def test_a_run_says_that_it_is_approximate(families):
    denoiser, _ = families["llada"]
    sampler, given = Parallel(PerRow(uniform, steps=8), Random()), canvas_of([row(2, 8)])
    assert sample(denoiser, sampler, given, key=0).law is Law.FACTORISED
    assert sample(Tempered(Cached(denoiser, "dual"), 0.5), sampler, given, key=0).law is Law.TILTED
    assert Cached(denoiser, "prefix").law is Law.TILTED
    assert Cached(families["sdar"][0], "blocks").law is Law.EXACT


def test_it_shows_what_the_denoiser_shows(families):
    denoiser, _ = families["llada"]
    cached = Cached(denoiser, "dual")
    for name in ("context", "vocabulary", "device", "dtype"):
        assert getattr(cached, name) == getattr(denoiser, name)


def test_what_cannot_be_cached(families, tmp_path):
    with pytest.raises(DenoiserError, match="LinearCode has no keys and values to keep"):
        Cached(parity(4), "dual")
    bert = read(write(tmp_path, BERT, drawn(bert_shapes(BERT)))).denoiser
    with pytest.raises(DenoiserError, match="Checkpoint has no keys and values to keep"):
        Cached(bert, "dual")
    with pytest.raises(DenoiserError, match="a cache of kind 'suffix'; expected one of prefix, dual, blocks"):
        Cached(families["llada"][0], "suffix")
    with pytest.raises(DenoiserError, match='write Cached\\(denoiser, "prefix"\\) or "dual"'):
        Cached(families["llada"][0], "blocks")
    with pytest.raises(DenoiserError, match='its cache is exact; write Cached\\(denoiser, "blocks"\\)'):
        Cached(families["sdar"][0], "dual")
    with pytest.raises(DenoiserError, match="a canvas of 257 positions for a context of 256"):
        Cached(families["llada"][0], "dual")(Canvas.blank(1, 257), Canvas.blank(1, 257).masked)
