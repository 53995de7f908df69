import pytest
import torch

from demask.canvas import ABSENT, Canvas
from demask.denoisers import Tempered
from demask.denoisers.checkpoints import read
from demask.errors import DenoiserError
from demask.loop import sample
from demask.orders import Blockwise, Confidence, Entropy, Margin, Threshold
from demask.samplers import Parallel
from demask.schedules import PerBlock, PerRow, Plan, Unlimited, uniform
from demask.testing import check_denoiser

from .published import BERT, DREAM, FAMILIES, LLADA, drawn, write
from .published_more import FAMILIES as MORE

MASK, END, CLS, V = 21, 20, 22, 23


@pytest.fixture(scope="module", params=FAMILIES | MORE)
def family(request, tmp_path_factory):
    """A denoiser, and the law of one row (N,) of ids by plain tensors, the mask barred: (N, V)."""
    config, shapes, forward = (FAMILIES | MORE)[request.param]
    tensors = drawn(shapes(config), key=7)
    opened = read(write(tmp_path_factory.mktemp(request.param), config, tensors))
    framed = request.param in ("bert", "roberta", "modernbert")

    def plain(ids):
        if framed:
            ids = torch.cat((torch.tensor([CLS]), ids, torch.tensor([END])))
        logits = forward(config, tensors, ids)[:, :V].clone()
        logits[:, MASK] = -torch.inf
        return logits[1:-1] if framed else logits

    return opened, plain


def canvas(rows=3, length=9, key=1):
    chance = torch.Generator().manual_seed(key)
    tokens = torch.randint(20, (rows, length), generator=chance)
    masked = torch.rand((rows, length), generator=chance) < 0.5
    masked[:, 0] = True  # the first position has no logits before it
    return Canvas(tokens, masked)


def gap(one, other):
    assert torch.equal(one.isinf(), other.isinf())
    return float((one - other).masked_fill(one.isinf(), 0).abs().amax())


def test_logits_are_those_of_the_architecture(family):
    opened, plain = family
    given = canvas()
    answer = opened.denoiser(given, given.masked).logits
    ids = given.tokens.masked_fill(given.masked, MASK)
    expected = torch.cat([plain(row)[masked] for row, masked in zip(ids, given.masked, strict=True)])
    assert expected[:, :MASK].std() > 0.3  # the comparison is of something
    assert gap(answer, expected) < 1e-4
    assert bool((answer[:, MASK] == -torch.inf).all())


def test_padded_rows_are_as_if_alone(family):
    opened, plain = family
    given = canvas()
    absent = torch.tensor([[0, 0, 1, 0, 0, 0, 0, 1, 1], [0] * 9, [1, 1, 0, 1, 0, 0, 1, 0, 0]]).bool()
    tokens = given.tokens.masked_fill(absent, ABSENT)
    ragged = Canvas(tokens, given.masked & ~absent)
    answer = opened.denoiser(ragged, ragged.masked).logits
    expected = []
    for row, masked, gone in zip(ragged.tokens, ragged.masked, absent, strict=True):
        expected.append(plain(row.masked_fill(masked, MASK)[~gone])[masked[~gone]])
    assert gap(answer, torch.cat(expected)) < 1e-4


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_a_ragged_batch_is_decoded_as_its_rows(family, side):
    """Token for token, whichever side is padded: draws are named by the place in the text, so the mode is taken."""
    opened, _ = family
    lengths, wide, prompts = (5, 9, 12), 15, (1, 2, 4)
    chance = torch.Generator().manual_seed(3)
    rows = [torch.randint(20, (length,), generator=chance) for length in lengths]
    tokens, masked = torch.full((3, wide), ABSENT), torch.zeros(3, wide).bool()
    alone = []
    over = "row" if opened.facts.causal else "masked"
    sampler = Parallel(PerBlock(PerRow(uniform, 3), 4, over), Blockwise(Confidence(), 4, over))
    denoiser = Tempered(opened.denoiser, 0)
    for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        start = {"left": wide - len(row), "right": 0, "both": (wide - len(row)) // 2}[side]
        tokens[index, start : start + len(row)] = row
        masked[index, start + prompt : start + len(row)] = True
        alone.append(
            sample(denoiser, sampler, Canvas(row[None], torch.arange(len(row))[None] >= prompt), key=0).tokens[0]
        )
    run = sample(denoiser, sampler, Canvas(tokens, masked), key=0)
    for row, found in zip(alone, run.tokens, strict=True):
        assert found[found != ABSENT].tolist() == row.tolist()


def test_the_last_token_influences_the_first(family):
    """Unless it is in a later block of a network that knows blocks: then only that block sees it."""
    opened, _ = family
    tokens = torch.zeros(2, 6).long()
    tokens[1, -1] = 5
    where = torch.arange(6).expand(2, 6) == 0
    logits = opened.denoiser(Canvas(tokens, where), where).logits
    if opened.facts.block is None:
        assert gap(logits[:1], logits[1:]) > 1e-3
        return
    assert torch.equal(logits[0], logits[1])
    where = torch.arange(6).expand(2, 6) == 4
    logits = opened.denoiser(Canvas(tokens, where), where).logits
    assert gap(logits[:1], logits[1:]) > 1e-3


def test_it_is_a_denoiser(family):
    opened, _ = family
    check_denoiser(opened.denoiser, canvas())
    given = canvas()
    none = torch.zeros_like(given.masked)
    assert opened.denoiser(given, none).logits.shape == (0, V)


def test_what_cannot_be_asked(family):
    opened, _ = family
    denoiser = opened.denoiser
    assert denoiser.context == (30 if opened.facts.before else 32)
    full = Canvas.blank(1, denoiser.context)
    assert denoiser(full, full.masked).logits.shape == (denoiser.context, V)
    longer = Canvas.blank(1, denoiser.context + 1)
    with pytest.raises(DenoiserError, match=rf"{denoiser.context + 1} positions for a context of {denoiser.context}"):
        denoiser(longer, longer.masked)
    where = torch.tensor([[True, False]])
    with pytest.raises(DenoiserError, match="1 visible tokens are the mask 21"):
        denoiser(Canvas(torch.tensor([[0, MASK]]), where), where)
    for token in (V, -2):
        with pytest.raises(DenoiserError, match=f"a visible token {token}; expected 0 .. 22"):
            denoiser(Canvas(torch.tensor([[0, token]]), where), where)


def llada_generate(law, prompt, length, block, steps):
    """Transcribe the published loop: blocks in turn, in each of its steps the most confident of the block stay."""
    x = torch.cat((prompt, torch.full((length,), MASK)))
    each = steps // (length // block)
    for number in range(length // block):
        stop = len(prompt) + (number + 1) * block
        base, more = divmod(block, each)
        for step in range(each):
            masks = x == MASK
            logits = law(x)
            guess = logits.argmax(-1)
            confidence = logits.double().softmax(-1)[torch.arange(len(x)), guess]
            confidence[stop:] = -torch.inf
            confidence[~masks] = -torch.inf
            chosen = confidence.topk(base + (step < more)).indices
            x[chosen] = guess[chosen]
    return x


@pytest.mark.parametrize(("length", "block", "steps"), [(16, 8, 8), (12, 4, 12), (14, 7, 6), (10, 10, 3)])
def test_greedy_decoding_is_lladas(family, length, block, steps):
    opened, plain = family
    for key in range(3):
        prompt = torch.randint(20, (5,), generator=torch.Generator().manual_seed(key))
        tokens = torch.cat((prompt, torch.zeros(length).long()))[None]
        sampler = Parallel(
            PerBlock(PerRow(uniform, steps=steps // (length // block)), block), Blockwise(Confidence("draft"), block)
        )
        run = sample(Tempered(opened.denoiser, 0), sampler, Canvas(tokens, torch.arange(5 + length)[None] >= 5), key=0)
        assert torch.equal(run.tokens[0], llada_generate(plain, prompt, length, block, steps))
        assert run.nfe.tolist() == [steps]


def dream_sizes(length, steps, eps=1e-3):
    times, left, sizes = torch.linspace(1, eps, steps + 1), length, []
    for step in range(steps):
        sizes.append(left if step == steps - 1 else int(left * (1 - times[step + 1] / times[step])))
        left -= sizes[-1]
    return sizes


def dream_generate(law, prompt, length, steps, rule):
    """Transcribe the published loop: a linear clock says how many, `alg` which."""
    x = torch.cat((prompt, torch.full((length,), MASK)))
    for size in dream_sizes(length, steps):
        masks = x == MASK
        probabilities = law(x)[masks].softmax(-1)
        confidence, guess = probabilities.max(-1)
        if rule == "topk_margin":
            best = probabilities.topk(2).values
            confidence = best[:, 0] - best[:, 1]
        elif rule == "entropy":
            confidence = (probabilities * (probabilities + 1e-10).log()).sum(-1)
        everywhere, guesses = torch.full(x.shape, -torch.inf), x.clone()
        everywhere[masks], guesses[masks] = confidence, guess
        chosen = everywhere.topk(size).indices
        x[chosen] = guesses[chosen]
    return x


@pytest.mark.parametrize(
    ("rule", "order"), [("maskgit_plus", Confidence()), ("entropy", Entropy()), ("topk_margin", Margin())]
)
@pytest.mark.parametrize("steps", [16, 7, 24])
def test_greedy_decoding_is_dreams(family, rule, order, steps):
    opened, plain = family
    for key in range(2):
        prompt = torch.randint(20, (4,), generator=torch.Generator().manual_seed(key))
        tokens = torch.cat((prompt, torch.zeros(16).long()))[None]
        plan = Plan([size for size in dream_sizes(16, steps) if size])  # its steps of nothing cost it a pass each
        run = sample(
            Tempered(opened.denoiser, 0), Parallel(plan, order), Canvas(tokens, torch.arange(20)[None] >= 4), key=0
        )
        assert torch.equal(run.tokens[0], dream_generate(plain, prompt, 16, steps, rule))


def block_generate(law, prompt, length, block, threshold, steps):
    """Transcribe the published loop of block-diffusion families: blocks counted from the start of the row.

    What is surer than the threshold goes, or where that is less than the step's share of the block, its share.
    """
    total = -(-(len(prompt) + length) // block) * block
    x = torch.cat((prompt, torch.full((total - len(prompt),), MASK)))
    base, more = divmod(block, steps)
    for number in range(len(prompt) // block, total // block):
        window = x[: (number + 1) * block]
        for step in range(steps):
            masks = window[-block:] == MASK
            if not masks.any():
                break
            probabilities, guess = law(window)[-block:].softmax(-1).max(-1)
            confidence = probabilities.masked_fill(~masks, -torch.inf)
            sure, share = confidence > threshold, base + (step < more)
            if sure.sum() < share:
                sure = torch.zeros_like(masks).index_fill(
                    0, confidence.topk(min(share, int(masks.sum()))).indices, True
                )
            window[-block:][sure] = guess[sure]
    return x


@pytest.mark.parametrize("prompt", [1, 3, 4, 9])
@pytest.mark.parametrize(("threshold", "steps"), [(0.35, 4), (1.0, 4), (1.0, 2)])
def test_greedy_decoding_is_that_of_block_diffusion(family, prompt, threshold, steps):
    opened, plain = family
    if not opened.facts.causal:
        pytest.skip("sees all blocks")
    block = opened.facts.block
    for key in range(3):
        given = torch.randint(20, (prompt,), generator=torch.Generator().manual_seed(key))
        tokens = torch.cat((given, torch.zeros(20 - prompt).long()))[None]
        order = Blockwise(Confidence("draft"), block, over="row")
        one = Parallel(Unlimited(), Threshold(order, threshold))  # at least one, as `steps` of a block of so many say
        several = Parallel(PerBlock(PerRow(uniform, steps), block, over="row"), order)
        sampler = one if steps == block else several
        canvas = Canvas(tokens, torch.arange(20)[None] >= prompt)
        if steps < block and prompt % block:
            continue  # the release counts the prompt's share of the first block too
        run = sample(Tempered(opened.denoiser, 0), sampler, canvas, key=0)
        assert torch.equal(run.tokens[0], block_generate(plain, given, 20 - prompt, block, threshold, steps))


def test_later_blocks_are_not_computed(family, monkeypatch):
    opened, _ = family
    if not opened.facts.causal:
        pytest.skip("sees all blocks")
    denoiser, given = opened.denoiser, canvas(2, 16)
    where = given.masked & (torch.arange(16) < 6)
    whole = denoiser(given, given.masked).only(where).logits
    widths = []
    inner = type(denoiser.backbone).features
    monkeypatch.setattr(
        type(denoiser.backbone), "features", lambda s, ids, p: widths.append(ids.shape[1]) or inner(s, ids, p)
    )
    assert gap(denoiser(given, where).logits, whole) < 1e-5
    assert widths == [8]


def test_tied_embeddings(tmp_path):
    config = LLADA | {"weight_tying": True}
    _, shapes, forward = FAMILIES["llada"]
    tensors = drawn(shapes(config))
    del tensors["model.transformer.ff_out.weight"]
    given = canvas(1)
    ids = given.tokens.masked_fill(given.masked, MASK)[0]
    answer = read(write(tmp_path, config, tensors)).denoiser(given, given.masked).logits
    expected = forward(config, tensors, ids)[given.masked[0], :V]
    expected[:, MASK] = -torch.inf
    assert gap(answer, expected) < 1e-4


def test_only_asked_rows_are_projected(tmp_path, monkeypatch):
    _, shapes, _ = FAMILIES["dream"]
    denoiser = read(write(tmp_path, DREAM, drawn(shapes(DREAM)))).denoiser
    seen = []
    denoiser.backbone.network.lm_head.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))
    where = torch.arange(9).expand(2, 9) < 2
    denoiser(Canvas.blank(2, 9), where)
    assert seen == [(4, 16)]


def test_precision(tmp_path):
    _, shapes, _ = FAMILIES["bert"]
    folder = write(tmp_path, BERT, drawn(shapes(BERT)))
    assert read(folder).denoiser.dtype == torch.float32
    half = read(folder, dtype=torch.bfloat16).denoiser
    given = canvas()
    answer = half(given, given.masked).logits
    assert (half.dtype, answer.dtype) == (torch.bfloat16, torch.bfloat16)
    exact = read(folder).denoiser(given, given.masked).logits
    assert gap(answer.float(), exact) < 0.2
