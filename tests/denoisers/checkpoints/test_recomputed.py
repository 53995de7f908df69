"""The recompute window against plain tensors: adaptive parallel decoding with keys that are partly out of date."""

import pytest
import torch

from demask.canvas import ABSENT, Marginals
from demask.contracts import Law
from demask.denoisers import Recomputed, Tempered
from demask.errors import DenoiserError
from demask.loop import sample
from demask.oracles import parity
from demask.orders import LeftToRight, Random
from demask.samplers import Adaptive, Parallel
from demask.schedules import PerRow, uniform
from demask.testing import check_denoiser

from .test_cached import canvas_of, gap, row
from .test_greedy import MASK, V, opened

RATIO = 0.7


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    return {name: opened(name, tmp_path_factory.mktemp(name), 3) for name in ("llada", "dream", "sdar")}


class Moves:
    """A verifier that looks at the token before."""

    vocabulary = V

    def __init__(self):
        laws = torch.rand(V, V, generator=torch.Generator().manual_seed(4), dtype=torch.float64) ** 6
        self.laws = laws / laws.sum(1, keepdim=True)

    def along(self, canvas, where, ranks):
        return Marginals(where, self.laws[canvas.tokens.roll(1, 1)[where]].log())


def apd_generate(plain, moves, x, window, ahead):
    """Transcribe it at temperature 0, one row: what stands `window` before the frontier of the last pass is kept."""
    x, kept, begin, passes = x.clone(), {}, 0, 0
    while (x == MASK).any():
        first = int((x == MASK).nonzero()[0, 0])

        def keep(layer, *new, begin=begin):
            old = kept.get(layer, new)
            kept[layer] = tuple(
                torch.cat((o[..., :begin, :], n[..., begin:, :]), -2) for o, n in zip(old, new, strict=True)
            )
            return kept[layer]

        logp = plain(x[: first + ahead], keep=keep).log_softmax(-1)[first:]
        draft = logp.argmax(-1)
        mixed = RATIO * logp[1:].double() + (1 - RATIO) * moves.laws[draft[:-1]].log()
        agreed = int((mixed.argmax(-1) == draft[1:]).long().cumprod(0).sum())
        x[first : first + 1 + agreed] = draft[: 1 + agreed]
        begin, passes = max(0, first - window), passes + 1
    return x, passes


@pytest.mark.parametrize("name", ["llada", "dream"])
@pytest.mark.parametrize(("window", "ahead"), [(0, 6), (3, 6), (3, 99)])
def test_it_is_the_transcription(families, name, window, ahead):
    denoiser, plain = families[name]
    differs, several = 0, 0
    for key in range(4):
        x = row(6, 24, key)
        moves = Moves()
        sampler = Adaptive(moves, RATIO, ahead)
        run = sample(Tempered(Recomputed(denoiser, window), 0), sampler, canvas_of([x]), key=0)
        expected, passes = apd_generate(plain, moves, x, window, ahead)
        assert torch.equal(run.tokens[0], expected)
        assert run.nfe.tolist() == [passes]
        exact = sample(Tempered(denoiser, 0), sampler, canvas_of([x]), key=0)
        whole = sample(Tempered(Recomputed(denoiser, 30), 0), sampler, canvas_of([x]), key=0)
        assert torch.equal(exact.tokens, whole.tokens)
        differs += not torch.equal(exact.tokens, run.tokens)
        several += passes < 24
    assert several  # more than a token was kept now and then
    assert differs or window  # an approximation, and the comparison would notice


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_rows_go_at_their_own_speed(families, name):
    """Ragged, two alike, each as alone, with its own passes; and again with what a run left."""
    denoiser, plain = families[name]
    rows = [row(5, 24), row(9, 16, 1), row(5, 24), row(3, 20, 2), row(8, 24, 3)]
    kept = Recomputed(denoiser, 2)
    moves = Moves()
    for given in (rows, rows[1:], rows[::-1]):
        run = sample(Tempered(kept, 0), Adaptive(moves, RATIO, 5), canvas_of(given, 33), key=0)
        for one, tokens, nfe in zip(given, run.tokens, run.nfe.tolist(), strict=True):
            expected, passes = apd_generate(plain, moves, one, 2, 5)
            assert torch.equal(tokens[tokens != ABSENT], expected)
            assert nfe == passes
        assert len(set(run.nfe.tolist())) > 1


def test_what_is_computed(families):
    denoiser, _ = families["llada"]
    widths = []
    hook = denoiser.backbone.network.model.norm.register_forward_hook(
        lambda _, given, __: widths.append(tuple(given[0].shape[:2]))
    )
    sample(Recomputed(denoiser, 2), Adaptive(Moves(), 1.0, 4), canvas_of([row(6, 12)] * 3), key=0)
    hook.remove()
    assert widths == [(3, 10), (3, 14 - 4), (3, 18 - 8)]  # up to the lookahead, from two before the last frontier


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_where_nothing_is_kept_it_is_exact(families, name):
    denoiser, _ = families[name]
    given = canvas_of([row(5, 24)] * 2)
    check_denoiser(Recomputed(denoiser, 3), given)
    whole = Recomputed(denoiser, 29)
    for sampler in (Parallel(PerRow(uniform, steps=9), Random()), Parallel(PerRow(uniform, steps=9), LeftToRight())):
        run, same = (sample(one, sampler, given, key=1) for one in (whole, denoiser))
        assert torch.equal(run.tokens, same.tokens)
    assert whole(given, torch.zeros_like(given.masked)).logits.shape == (0, V)


def test_a_pass_that_fails_leaves_nothing_behind(families):
    denoiser, _ = families["llada"]
    kept, given = Recomputed(denoiser, 0), canvas_of([row(4, 8)] * 2)
    kept(given, given.masked)
    later = given.unmask(torch.arange(12)[None] < 8, torch.full((2, 12), 3))

    def fail(*_):
        raise MemoryError

    hook = denoiser.backbone.network.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        kept(later, later.masked)
    hook.remove()
    assert gap(kept(later, later.masked).logits, denoiser(later, later.masked).logits) < 1e-5


def test_what_it_shows_and_claims(families):
    denoiser, _ = families["llada"]
    kept = Recomputed(denoiser)
    for name in ("context", "vocabulary", "device", "dtype"):
        assert getattr(kept, name) == getattr(denoiser, name)
    sampler, given = Parallel(PerRow(uniform, steps=8), LeftToRight()), canvas_of([row(2, 8)])
    assert sample(kept, sampler, given, key=0).law is Law.TILTED


def test_refusals(families):
    with pytest.raises(DenoiserError, match="LinearCode has no keys and values to keep, so everything is computed"):
        Recomputed(parity(4))
    with pytest.raises(DenoiserError, match='no key goes out of date; write Cached\\(denoiser, "blocks"\\)'):
        Recomputed(families["sdar"][0])
    for window in (-1, 1.5, True):
        with pytest.raises(DenoiserError, match="expected an integer >= 0, such as 16"):
            Recomputed(families["llada"][0], window)
