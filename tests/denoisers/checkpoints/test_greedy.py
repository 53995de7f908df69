"""Greedy decoding at the families' published defaults is, token for token, what their published loops write.

The loops are transcribed from their descriptions in the plainest way, on the plain-tensor networks of `published`.
"""

import pytest
import torch

from demask.canvas import Canvas
from demask.denoisers import Tempered
from demask.denoisers.checkpoints import read
from demask.loop import sample
from demask.orders import Blockwise, Confidence, Entropy, Factor, Margin, Random, Threshold
from demask.samplers import Parallel
from demask.schedules import PerBlock, PerRow, Plan, Unlimited, binomial, uniform

from .published import FAMILIES as USUAL
from .published import drawn, write
from .published_more import FAMILIES as MORE
from .test_logits import block_generate, dream_generate, dream_sizes, llada_generate

MASK, V = 21, 23
FAMILIES = USUAL | MORE
HEAD = {
    "llada": "model.transformer.ff_out.weight",
    "mdlm": "backbone.output_layer.linear.weight",
}  # else lm_head.weight
LENGTH = {"llada": "max_sequence_length", "mdlm": "model_length"}  # else max_position_embeddings
FACTS = {"llada2": {"mask": MASK}}  # what its tokenizer would say


def opened(name, folder, sure, **changed):
    """A denoiser, the surer of itself the larger `sure`, and the law of one row (N,) of ids by plain tensors: (N, V)."""
    config, shapes, forward = FAMILIES[name]
    config = config | {LENGTH.get(name, "max_position_embeddings"): 256} | changed
    tensors = drawn(shapes(config), key=11)
    tensors[HEAD.get(name, "lm_head.weight")] *= sure

    def plain(ids, **more):
        logits = forward(config, tensors, ids, **more)[:, :V].clone()
        logits[:, MASK] = -torch.inf
        return logits

    return read(write(folder, config, tensors), **FACTS.get(name, {})).denoiser, plain


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    return {name: opened(name, tmp_path_factory.mktemp(name), 2) for name in ("llada", "dream", "mdlm")}


@pytest.fixture(scope="module")
def surer(tmp_path_factory):
    """So sure that thresholds let several through; where positions are ranked, rounding would make some of them equal."""
    return {name: opened(name, tmp_path_factory.mktemp(name), 6) for name in ("llada", "dream", "sdar", "llada2")}


def start(length, given=8, key=0):
    """A prompt, and a canvas of it with `length` masked positions behind."""
    prompt = torch.randint(20, (given,), generator=torch.Generator().manual_seed(key))
    tokens = torch.cat((prompt, torch.zeros(length).long()))[None]
    return prompt, Canvas(tokens, torch.arange(given + length)[None] >= given)


def greedy(denoiser, sampler, canvas):
    return sample(Tempered(denoiser, 0), sampler, canvas, key=0)


def best(law, x):
    """Transcribe greedy choice: the mode of every position and its probability, -inf where nothing is masked."""
    probability, guess = law(x).softmax(-1).max(-1)
    return probability.masked_fill(x != MASK, -torch.inf), guess


@pytest.mark.parametrize(("block", "steps"), [(128, 128), (32, 128), (32, 64)])
def test_llada(families, block, steps):
    """steps = gen_length = block_length = 128, temperature 0, low confidence; and the model card's blocks of 32."""
    denoiser, plain = families["llada"]
    prompt, canvas = start(128)
    schedule = PerBlock(PerRow(uniform, steps=steps * block // 128), block)
    run = greedy(denoiser, Parallel(schedule, Blockwise(Confidence("draft"), block)), canvas)
    assert torch.equal(run.tokens[0], llada_generate(plain, prompt, 128, block, steps))
    assert run.nfe.tolist() == [steps]


def fast_dllm_generate(law, prompt, length, block, through):
    """Transcribe the released rule with a threshold or a factor: `through` says how many of the sorted best go."""
    x, passes = torch.cat((prompt, torch.full((length,), MASK))), 0
    for first in range(len(prompt), len(prompt) + length, block):
        while (x[first : first + block] == MASK).any():
            confidence, guess = best(law, x)
            confidence[first + block :] = -torch.inf
            ranked, places = confidence.sort(descending=True, stable=True)
            open_ = int((ranked > -torch.inf).sum())
            chosen = places[: max(1, through(ranked[:open_].tolist()))]
            x[chosen] = guess[chosen]
            passes += 1
    return x, passes


def at_least(threshold):
    return lambda ranked: sum(p >= threshold for p in ranked)


def by_factor(factor):
    def through(ranked):
        n = 0
        while n < len(ranked) and ranked[n] >= 1 - factor / (n + 2):
            n += 1
        return n

    return through


@pytest.mark.parametrize(
    ("rule", "through"),
    [
        (lambda inner: Threshold(inner, 0.9), at_least(0.9)),
        (lambda inner: Threshold(inner, 0.6), at_least(0.6)),
        (lambda inner: Factor(inner, 1.0), by_factor(1.0)),
    ],
    ids=["0.9", "0.6", "factor 1"],
)
@pytest.mark.parametrize("name", ["llada", "dream"])
def test_fast_dllm(surer, name, rule, through):
    """threshold 0.9, block 32, 128 new tokens; the factor rule."""
    denoiser, plain = surer[name]
    prompt, canvas = start(128, key=1)
    run = greedy(denoiser, Parallel(Unlimited(), rule(Blockwise(Confidence("draft"), 32))), canvas)
    expected, passes = fast_dllm_generate(plain, prompt, 128, 32, through)
    assert torch.equal(run.tokens[0], expected)
    assert run.nfe.tolist() == [passes]
    assert passes < 128  # the rule really lets several through


@pytest.mark.parametrize(
    ("rule", "order"), [("maskgit_plus", Confidence()), ("entropy", Entropy()), ("topk_margin", Margin())]
)
@pytest.mark.parametrize(("length", "steps"), [(64, 512), (128, 64)])
def test_dream(families, rule, order, length, steps):
    """512 steps with eps = 1e-3; most of them unmask nothing, and cost the published loop a pass, and this one none."""
    denoiser, plain = families["dream"]
    prompt, canvas = start(length)
    sizes = [size for size in dream_sizes(length, steps) if size]
    run = greedy(denoiser, Parallel(Plan(sizes), order), canvas)
    assert torch.equal(run.tokens[0], dream_generate(plain, prompt, length, steps, rule))
    assert run.nfe.tolist() == [len(sizes)]
    assert len(sizes) <= steps


@pytest.mark.parametrize(("name", "steps"), [("dream", 512), ("mdlm", 128)])
def test_the_clock_alone(families, name, steps):
    """Dream's `origin` and MDLM's ancestral sampling: which positions go is drawn. The same ones give the same tokens."""
    denoiser, plain = families[name]
    prompt, canvas = start(64)
    run = greedy(denoiser, Parallel(PerRow(binomial, steps=steps), Random()), canvas)
    x = torch.cat((prompt, torch.full((64,), MASK)))
    turns = sorted(set(run.when[0].tolist()) - {-1})
    for turn in turns:
        chosen = run.when[0] == turn
        x[chosen] = plain(x).argmax(-1)[chosen]
    assert torch.equal(run.tokens[0], x)
    assert 20 < len(turns) <= 64


def sdar_generate(law, prompt, length, block, threshold):
    """Transcribe the released loop: a block of masks is put behind the row, and in each of `block` steps those above the
    threshold stay, or else the best one; then the next block."""
    x = prompt
    for _ in range(length // block):
        x = torch.cat((x, torch.full((block,), MASK)))
        for _ in range(block):
            if not (x == MASK).any():
                break
            confidence, guess = best(law, x)
            chosen = confidence > threshold
            if not chosen.any():
                chosen[confidence.argmax()] = True
            x = torch.where(chosen, guess, x)
    return x


@pytest.mark.parametrize("threshold", [0.85, 0.95, 1.0])
@pytest.mark.parametrize("name", ["sdar", "llada2"])
def test_blocks_of_the_row(surer, name, threshold):
    """Blocks of 4 in 4 steps: SDAR's low_confidence_dynamic and _static, at 1; LLaDA2's loop at 0.95 is the same."""
    denoiser, plain = surer[name]
    prompt, canvas = start(64)
    order = Blockwise(Confidence("draft"), 4)
    if threshold < 1:
        run = greedy(denoiser, Parallel(Unlimited(), Threshold(order, threshold)), canvas)
        assert int(run.nfe) < 64
    else:
        run = greedy(denoiser, Parallel(PerBlock(PerRow(uniform, steps=4), 4), order), canvas)
    assert torch.equal(run.tokens[0], sdar_generate(plain, prompt, 64, 4, threshold))


@pytest.mark.parametrize(("prompt", "length"), [(8, 88), (32, 64), (45, 51)])
def test_llada2(tmp_path, prompt, length):
    """block_length = 32, steps = 32, threshold = 0.95, and a prompt that ends within a block or with it."""
    denoiser, plain = opened("llada2", tmp_path, 6, block_size=32)
    given, canvas = start(length, prompt, key=2)
    order = Threshold(Blockwise(Confidence("draft"), 32, over="row"), 0.95)
    run = greedy(denoiser, Parallel(Unlimited(), order), canvas)
    assert torch.equal(run.tokens[0], block_generate(plain, given, length, 32, 0.95, 32))
    assert int(run.nfe) < length
