"""The friendly surface, on an oracle with words and on a tiny network with pieces."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from demask.canvas import Canvas, Marginals
from demask.curve import Estimate
from demask.denoisers.folder import write
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.errors import DemaskError, GenerateError, SpecError, TokenizerError
from demask.generate import Frame, Model, Recipe, Result, Template, load
from demask.generate.recipe import Fitted, Paced
from demask.generate.template import Layout
from demask.information.measurement import Measurement
from demask.loop import sample, steps
from demask.oracles import Chain
from demask.orders import LeftToRight, Random
from demask.samplers import Parallel
from demask.schedules import PerRow, minimax, uniform
from demask.tokenizer import Tokenizer

WORDS = Tokenizer.words(["tick", "tock", "."])
CHAIN = Chain.markov(
    [0.5, 0.4, 0.1, 0.0],
    [[0.1, 0.8, 0.1, 0.0], [0.6, 0.1, 0.2, 0.1], [0.3, 0.1, 0.0, 0.6], [0.0, 0.0, 0.0, 1.0]],
    length=12,
)
CLOCK = Model(CHAIN, WORDS, context=12, name="clock", window=12)
CODE = "def add(a, b):\n    return a + b\n\ndef mul(a, b):\n    return a * b  # été ≥ naïve\n" * 4
PIECES = Tokenizer.train([CODE], size=300)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Transformer(Network(Shape(PIECES.size, 40, 32, 2, 2, 64)))


@pytest.fixture(scope="module")
def coder(network):
    return Model(network, PIECES, context=40, name="coder", window=40)


# ---- generate


def test_a_prompt_is_continued_until_the_end():
    result = CLOCK.generate("tick tock", key=1)
    assert result.text.startswith("tick tock")
    assert result.text == WORDS.decode(result.tokens)
    assert result.when[:2] == (-1, -1)
    assert result.steps == result.nfe == max(result.when) + 1
    assert len(result.tokens) == 12
    end = result.tokens.index(WORDS.end)
    assert set(result.tokens[end:]) == {WORDS.end}
    assert result.new == end - 2 + 1
    assert result.tokens_per_forward == result.new / result.nfe
    assert result.gaps[0] == result.text.removeprefix("tick tock ")


def test_the_default_is_the_recipe():
    fast = Model(CHAIN, WORDS, context=12, window=12, recipe=Recipe(pace=12.0))
    assert fast.generate(key=0).nfe == 1
    assert fast.generate(key=0, pace=1, order="LeftToRight").law.name == "FACTORISED"
    assert CLOCK.generate("tick", 6, steps=3, key=0).nfe <= 3


def test_each_row_is_as_if_alone():
    prompts = ["tick", "tock . tick", "", "tick tock tick tock .", "tock"]
    together = CLOCK.generate(prompts, 5, n=3, key=5, batch=4)
    assert len(together) == 15
    for index, prompt in enumerate(prompts):
        for number in range(3):
            alone = CLOCK.generate(prompt, 5, key=5, row=(index, number))
            assert alone == together[3 * index + number]
    assert CLOCK.generate(prompts, 5, n=1, key=5, batch=1) == together[::3]
    assert CLOCK.generate([], 5) == []


@pytest.mark.parametrize("window", [None, 40])
def test_ragged_prompts_on_a_network_in_float32(network, window):
    model = Model(network, PIECES, context=40, window=window)
    prompts = ["def", "def add(a, b):\n   ", "x", "# été", "return a ", "b "]
    together = model.generate(prompts, 9, key=2)
    for index, prompt in enumerate(prompts):
        alone = model.generate(prompt, 9, key=2, row=(index, 0))
        assert (alone.tokens, alone.when, alone.text) == (
            together[index].tokens,
            together[index].when,
            together[index].text,
        )


def test_a_network_that_has_generated_can_still_be_trained():
    """Nothing that generation keeps is barred from a gradient; a stream leaves its reader's mode alone."""
    torch.manual_seed(0)
    network = Network(Shape(PIECES.size, 40, 32, 2, 2, 64))
    model = Model(Transformer(network), PIECES, context=40, window=40)
    model.generate("def", 4)
    for _ in model.stream("def", 4):
        assert not torch.is_inference_mode_enabled()
    ids = torch.randint(PIECES.size, (1, 40))
    network.logits(network(ids)).logsumexp(-1).sum().backward()
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in network.parameters())


def test_samples_of_a_prompt_do_not_depend_on_how_many():
    assert CLOCK.generate("tick", 6, n=2, key=3) == CLOCK.generate("tick", 6, n=7, key=3)[:2]
    texts = {result.text for result in CLOCK.generate("tick", 6, n=30, key=3)}
    assert len(texts) > 5


def test_a_short_continuation_has_the_law_of_the_model():
    """One token after "tick", the rest unknown: 0.1, 0.8, 0.1 by the chain. z < 4.5, false alarm below 1e-5 in all."""
    counts = {}
    for result in CLOCK.generate("tick", 1, n=2000, key=0, batch=500):
        counts[result.gaps[0]] = counts.get(result.gaps[0], 0) + 1
    for word, p in (("tick", 0.1), ("tock", 0.8), (".", 0.1)):
        assert abs(counts[word] / 2000 - p) < 4.5 * (p * (1 - p) / 2000) ** 0.5


@pytest.mark.parametrize("prompt", ["return ", "return", "    ", " ", "", "a\n"])
def test_a_prompt_that_ends_in_a_space_is_healed(coder, prompt):
    for number in range(4):
        result = coder.generate(prompt, 6, key=number)
        assert result.text.startswith(prompt)
        assert result.text == prompt + result.gaps[0]
        if prompt.endswith(" "):
            first = result.when.index(next(step for step in result.when if step >= 0))
            gap = len(PIECES.encode(prompt[:-1]))
            assert PIECES.decode([result.tokens[gap]]).startswith(" ")
            assert first >= gap


def test_a_call_makes_the_result_again():
    for options in (
        {"schedule": "uniform", "steps": 3, "order": "Confidence()", "temperature": 0.7},
        {"schedule": minimax(6, 2), "order": Random(), "top_p": 0.9},
        {"sampler": Parallel(PerRow(uniform, 4), LeftToRight())},
        {},
    ):
        for result in CLOCK.generate(["tick", "tock"], 6, n=2, key=11, **options):
            read = Result.from_json(json.loads(json.dumps(result.to_json())))
            assert CLOCK.again(read.call) == read == result
    filled = CLOCK.fill("tick [MASK:3] tick [END]", key=4, steps=2)
    assert CLOCK.again(filled.call) == filled
    typed = str(CLOCK.generate("tick", 2, key=3, row=(1, 2), steps=2).call)
    assert typed == "demask.load('clock').generate('tick', max_new_tokens=2, key=3, row=(1, 2), steps=2)"
    assert eval(typed.replace("demask.load('clock')", "CLOCK")) == CLOCK.generate("tick", 2, key=3, row=(1, 2), steps=2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: CLOCK.generate("tick tack"), ["'tack'", "unknown"]),
        (lambda: CLOCK.generate("tick", 0), ["max_new_tokens = 0", ">= 1"]),
        (lambda: CLOCK.generate("tick", 2.5), ["max_new_tokens = 2.5"]),
        (lambda: CLOCK.generate("tick", 12), ["room for 11", "max_new_tokens=11"]),
        (lambda: CLOCK.generate(" ".join(["tick"] * 12)), ["12 tokens", "context of 12", "shorten"]),
        (lambda: CLOCK.generate(["tick", 3]), ["int", "a text"]),
        (lambda: CLOCK.generate("tick", n=0), ["n = 0"]),
        (lambda: CLOCK.generate("tick", batch=0), ["batch = 0"]),
        (lambda: CLOCK.generate("tick", row=(0, -1)), ["row = (0, -1)"]),
        (lambda: CLOCK.generate("tick", step=3), ["'step'", "steps"]),
        (lambda: CLOCK.generate("tick", steps=3, excess=0.1), ["steps=3", "excess=0.1", "one of them"]),
        (lambda: CLOCK.generate("tick", steps=0), ["steps = 0"]),
        (lambda: CLOCK.generate("tick", excess=0.1), ["curve"]),
        (lambda: CLOCK.generate("tick", pace=0.5), ["pace = 0.5"]),
        (lambda: CLOCK.generate("tick", block=0), ["block of 0", ">= 1"]),
        (lambda: CLOCK.generate("tick", block=2, over="prompt"), ["over 'prompt'", "'row'"]),
        (lambda: CLOCK.generate("tick", block=2, sampler="Speculative(2)"), ["sampler", "block=2", "one of them"]),
        (lambda: CLOCK.generate("tick", block=2, excess=0.1), ["decoded in blocks", "steps=16"]),
        (lambda: CLOCK.generate("tick", schedule="uniform(steps=3)", steps=3), ["its steps itself"]),
        (lambda: CLOCK.generate("tick", schedule="PerBlock(uniform, 4)"), ["steps=8"]),
        (lambda: CLOCK.generate("tick", schedule="minmax"), ["minmax", "minimax"]),
        (lambda: CLOCK.generate("tick", temperature=-1), ["temperature"]),
        (lambda: CLOCK.generate("tick", top_p=0), ["top-p"]),
        (lambda: CLOCK.generate("tick", top_k=0), ["top-k", ">= 1"]),
        (lambda: CLOCK.generate("tick", min_p=2), ["min-p", "[0, 1]"]),
        (lambda: CLOCK.generate("tick", repetition_penalty=0.0), ["repetition penalty"]),
        (lambda: CLOCK.generate("tick", forbid=["tock"]), ["forbid", "encode"]),
        (lambda: CLOCK.generate("tick", forbid="tock"), ["forbid", "encode"]),
        (lambda: CLOCK.generate("tick", forbid=[9]), ["token 9", "0 .. 3"]),
        (lambda: CLOCK.generate("tick", forbid=[0, 1, 2, 3]), ["nothing has any probability"]),
        (lambda: CLOCK.generate("tick", end="last"), ["end = 'last'", "'reached'"]),
        (lambda: CLOCK.generate("tick", guidance=-1), ["guidance of -1"]),
        (lambda: CLOCK.generate("", guidance=1), ["without a prompt"]),
        (lambda: CLOCK.generate("tick", stop=""), ["stop = ''"]),
        (lambda: CLOCK.generate("tick", stop=["a", 3]), ["stop"]),
        (lambda: CLOCK.generate("tick", stop=3), ["stop = 3"]),
        (lambda: CLOCK.generate("tick", forbid=3), ["forbid = 3"]),
        (lambda: CLOCK.fill("tick [MASK]", stop="."), ["stop = '.'", "generate"]),
        (lambda: CLOCK.fill("tick [MASK]", end="never"), ["end = 'never'", "generate"]),
        (lambda: CLOCK.fill("tick [MASK]", n=0), ["n = 0"]),
        (lambda: CLOCK.score(""), ["empty"]),
        (lambda: CLOCK.score(" ".join(["tick"] * 13)), ["13 tokens", "context of 12"]),
        (lambda: load("demask/nothing"), ["demask/nothing", "demask train"]),
    ],
)
def test_refusals(call, words):
    with pytest.raises(DemaskError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


# ---- what shapes the laws


def test_the_order_of_what_shapes_the_laws():
    """As transformers' logits processors stand, on one position: each step transcribed."""
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, -0.5, -1.0, 3.0, 1.6])
    tokens, masked = torch.tensor([[0, 0, 0]]), torch.tensor([[False, True, True]])
    free = logits.flip(0) * 0.3

    def network(canvas, where):
        per_row = torch.where(canvas.masked[:, :1], free, logits)
        return Marginals(where, per_row[where.nonzero()[:, 0]])

    recipe = Recipe().changed(
        {"guidance": 0.5, "repetition_penalty": 1.3, "forbid": [6], "end": "reached", "temperature": 0.7, "top_k": 5,
         "top_p": 0.9, "min_p": 0.2}
    )  # fmt: skip
    answer = recipe.wrap(network, ends=(7,), given=[0])(Canvas(tokens, masked), masked)
    assert (answer.temperature, answer.passes) == (0.7, 2)
    got = (answer.logits / answer.temperature).softmax(-1)
    for place in (0, 1):
        score = free + 1.5 * (logits - free)
        score[0] = score[0] / 1.3 if score[0] > 0 else score[0] * 1.3
        score[6] = -torch.inf
        if place == 1:
            score[7] = -torch.inf  # something before is masked
        p = (score / 0.7).softmax(-1)
        p[p < p.sort().values[-5]] = 0.0
        p /= p.sum()
        ranked = p.sort(descending=True)
        p[ranked.indices[ranked.values.cumsum(0) - ranked.values >= 0.9]] = 0.0
        p /= p.sum()
        p[p < 0.2 * p.max()] = 0.0
        assert torch.allclose(got[place], p / p.sum(), atol=1e-6)
        assert 1 < int((p > 0).sum()) < 5
    assert not torch.allclose(got[0], got[1])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_settings_reach_the_laws(temperature):
    tock = WORDS.encode("tock")[0]
    texts = [r.text for r in CLOCK.generate("tick", n=20, forbid=[tock], temperature=temperature)]
    assert not any("tock" in text for text in texts)
    whole = CLOCK.generate("tick", n=20, end="never", temperature=temperature)
    assert all(WORDS.end not in result.tokens for result in whole)
    assert {result.new for result in whole} == {11}
    for result in CLOCK.generate("tick", n=20, end="reached", steps=11, temperature=temperature):
        if WORDS.end in result.tokens:
            at = result.tokens.index(WORDS.end)
            assert result.when[at] > max(result.when[:at])
    again = CLOCK.generate("tick", forbid=(tock,), top_k=2, min_p=0.1, key=3)
    assert CLOCK.again(Result.from_json(json.loads(json.dumps(again.to_json()))).call) == again


def test_top_k_1_is_the_mode():
    for setting in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-9}):
        sharp = CLOCK.generate("tick", 6, order="LeftToRight()", steps=6, key=5, **setting)
        assert sharp.tokens == CLOCK.generate("tick", 6, order="LeftToRight()", steps=6, key=5, temperature=0).tokens


def test_guided_rows_are_as_if_alone(network):
    """Prompts of different lengths do not share a pass, and every pass counts twice."""
    model = Model(network, PIECES, context=40, window=40)
    prompts = ["def", "def add(a, b):\n   ", "x"]
    together = model.generate(prompts, 6, n=2, key=2, guidance=1.5, steps=3)
    for index, prompt in enumerate(prompts):
        for number in range(2):
            alone = model.generate(prompt, 6, key=2, row=(index, number), guidance=1.5, steps=3)
            assert alone == together[2 * index + number]
    assert {result.nfe for result in together} == {6}
    plain = model.generate(prompts, 6, n=2, key=2, steps=3)
    assert [r.tokens for r in plain] != [r.tokens for r in together]


# ---- stop


@pytest.mark.parametrize("order", ["LeftToRight()", "Random()", "Confidence()"])
def test_a_text_stops_before_the_first_stop(order):
    options = {"n": 40, "key": 7, "order": order, "steps": 11}
    plain, stopped = CLOCK.generate("tick", **options), CLOCK.generate("tick", stop=["tock tock", "."], **options)
    fewer = 0
    for whole, cut in zip(plain, stopped, strict=True):
        places = [whole.gaps[0].find(stop) for stop in ("tock tock", ".") if stop in whole.gaps[0]]
        assert cut.gaps[0] == whole.gaps[0][: min(places, default=None)]
        assert cut.text == "tick " + cut.gaps[0] or not cut.gaps[0]
        assert cut.nfe <= whole.nfe
        fewer += cut.nfe < whole.nfe
        if places and order == "LeftToRight()":
            assert cut.nfe == cut.new
        if not places:
            assert cut.tokens == whole.tokens
    assert fewer > 5
    assert CLOCK.again(stopped[3].call) == stopped[3]
    *_, last = CLOCK.stream("tick", key=7, order=order, steps=11, stop=("tock tock", "."))
    assert last.text == stopped[0].text


def test_a_stop_of_pieces_and_a_healed_space(coder):
    """The space that the prompt ends with is not searched; a stop may begin and end within a token."""
    for key in range(12):
        whole = coder.generate("return ", 24, key=key, order="LeftToRight()", steps=24)
        text = whole.gaps[0]
        for stop in (text[3:5], text[:1], text[-1:]):
            cut = coder.generate("return ", 24, key=key, order="LeftToRight()", steps=24, stop=stop)
            assert cut.text == "return " + text[: text.index(stop)]
            assert cut.nfe == cut.new <= whole.new
            shown = PIECES.decode(cut.tokens[-24:][: cut.new])
            assert stop in shown.removeprefix(" ")
            assert stop not in PIECES.decode(cut.tokens[-24:][: cut.new - 1]).removeprefix(" ")


def test_blocks():
    """One after the other; the settings of steps are those of each block, and the row may count with its prompt."""
    result = CLOCK.generate("tick tock tick", 9, key=2, block=4, steps=2, schedule="uniform", end="never")
    assert [sorted(result.when[place : place + 4]) for place in (3, 7)] == [[0, 0, 1, 1], [2, 2, 3, 3]]
    rows = CLOCK.generate("tick tock tick", 9, key=2, block=4, over="row", steps=2, schedule="uniform", end="never")
    assert rows.when[3] == 0
    assert [sorted(rows.when[place : place + 4]) for place in (4, 8)] == [[1, 1, 2, 2], [3, 3, 4, 4]]
    assert CLOCK.again(rows.call) == rows
    recipe = Recipe(block=4, over="row")
    assert (
        repr(recipe.open())
        == "Parallel(PerBlock(Paced(minimax, 2.0), 4, over='row'), Blockwise(Random(), 4, over='row'))"
    )
    by_blocks = replace(CLOCK, recipe=recipe).score("tick tock . tick tock .", passes=64).nelbo
    assert by_blocks.exact  # 15 sets for each of three blocks, the last of end tokens
    assert by_blocks == pytest.approx(CLOCK.score("tick tock . tick tock .", passes=4096).nelbo, abs=1e-4)
    with pytest.raises(GenerateError, match="3 passes for 3 blocks are too few"):
        replace(CLOCK, recipe=recipe).score("tick tock . tick tock .", passes=3)


# ---- fill


def test_many_samples_of_a_template():
    template = "tick [MASK:3] . [MASK]"
    many = CLOCK.fill(template, n=9, key=3, batch=4)
    assert [CLOCK.fill(template, key=3, row=(0, number)) for number in range(9)] == many
    assert CLOCK.fill(template, n=2, key=3, row=(0, 5)) == many[5:7]
    assert CLOCK.fill(template, n=1, key=3) == many[:1]
    assert len({result.text for result in many}) > 2
    assert all(CLOCK.again(result.call) == result for result in many)
    guided = CLOCK.fill(Template.parse(template), n=2, key=3, repetition_penalty=1.2, top_k=2)
    assert all(result.text.startswith("tick ") for result in guided)


def test_marks():
    assert Template.parse("a [MASK] b [MASK:12]").pieces == ("a ", 1, " b ", 12)
    assert Template.parse("[MASK][MASK:2]").pieces == (1, 2)
    assert Template.parse(r"\[MASK:2] \\[MASK] \\\[EOS] \x [N]").pieces == ("[MASK:2] \\", 1, r" \[EOS] \x [N]")
    assert Template.parse(r"\[MASK:2] = [MASK] \x [N]").pieces == ("[MASK:2] = ", 1, " \\x [N]")
    assert Template.parse(r"\\[MASK]").pieces == ("\\", 1)
    assert Template.parse("[MASK] end. [END]") == Template((1, " end."), ends=True)


@pytest.mark.parametrize(
    "text",
    ["[MASK:0]", "[MASK:-1]", "[MASK:x]", "[MASK:]", "[MASK:1.5]", "[MSAK:3] [MASK]", "[EOS] [MASK]", "no gap", "",
     "[END] [MASK]", r"\[MASK]", "[MASK: 3]", "[CLS:1][MASK]"],
)  # fmt: skip
def test_marks_that_are_refused(text):
    with pytest.raises(GenerateError, match=r"\[MASK"):
        Template.parse(text)


bits = st.sampled_from([*"ab \\[]:36éß\n", "MASK", "END", "[MASK:2]", "漢", "  "])
plain = st.lists(bits, min_size=1, max_size=8).map("".join)


@given(st.lists(st.one_of(plain, st.integers(1, 3)), min_size=1, max_size=5), st.booleans())
@settings(max_examples=200, deadline=None)
def test_templates_round_trip(pieces, ends):
    if all(isinstance(piece, str) for piece in pieces):
        pieces.append(1)
    merged = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        else:
            merged.append(piece)
    if ends and isinstance(merged[-1], str) and merged[-1].endswith(" "):
        merged[-1] += "."
    template = Template(tuple(merged), ends)
    assert Template.parse(str(template)) == template


@given(st.lists(st.tuples(plain, st.integers(1, 2)), min_size=1, max_size=3), plain, st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_pinned_text_never_changes(parts, last, key):
    """Byte for byte: the filled text begins, goes on and ends with what was given, around the gaps."""
    model = _coder()
    pieces = [piece for part in parts for piece in part]
    template = Template((*pieces, last))
    result = model.fill(template, key=key)
    expected = "".join(text + gap for (text, _), gap in zip(parts, result.gaps, strict=True)) + last
    assert result.text.encode() == expected.encode()
    layout = Layout.of(template, PIECES)
    for token, masked, shown in zip(result.tokens, layout.masked, layout.tokens, strict=True):
        assert masked or token == shown
    gaps = [token for token, masked in zip(result.tokens, layout.masked, strict=True) if masked]
    assert PIECES.end not in gaps
    assert len(gaps) == sum(template.gaps)


def _coder(found=[]):  # noqa: B006
    if not found:
        torch.manual_seed(0)
        network = Transformer(Network(Shape(PIECES.size, 128, 16, 1, 2, 32)))
        found.append(Model(network, PIECES, context=128, window=None, recipe=Recipe(pace=4.0)))
    return found[0]


def test_fill_conditions_on_both_sides_and_on_the_end():
    """After "." and before the end only "." of "tock ." is possible: checked against the chain by enumeration."""
    filled = [CLOCK.fill("tick [MASK] tick", key=key).gaps[0] for key in range(300)]
    odds = {"tick": 0.1 * 0.1, "tock": 0.8 * 0.6, ".": 0.1 * 0.3}
    for word, odd in odds.items():
        p = odd / sum(odds.values())
        assert abs(filled.count(word) / 300 - p) < 4.5 * (p * (1 - p) / 300) ** 0.5
    ended = [CLOCK.fill("tick tock [MASK] [END]", key=key).gaps[0] for key in range(200)]
    p = 0.2 * 0.6 / (0.2 * 0.6 + 0.1 * 0.1)  # "." and then the end, or "tock" and then the end; never after "tick"
    assert abs(ended.count(".") / 200 - p) < 4.5 * (p * (1 - p) / 200) ** 0.5
    assert "tick" not in ended


def test_words_need_spaces_around_a_gap():
    assert CLOCK.fill("[MASK] . [MASK:2]", key=0).text.split(" ")[1] == "."
    with pytest.raises(GenerateError, match="space around a gap"):
        CLOCK.fill("[MASK:2]. tick")
    with pytest.raises(TokenizerError, match="unknown"):
        CLOCK.fill("tick  [MASK]")


def test_a_template_longer_than_the_context_is_refused():
    with pytest.raises(GenerateError, match="14 tokens for a context of 12"):
        CLOCK.fill("tick [MASK:13]")


# ---- stream


def test_stream_is_generate_step_by_step():
    for key in range(5):
        *frames, last = CLOCK.stream("tick", 8, key=key)
        assert last == CLOCK.generate("tick", 8, key=key)
        assert frames == list(last.frames())
        assert [shown.step for shown in frames] == list(range(-1, last.steps))
        assert frames[0].text == "tick" + "░" * 8
        assert frames[-1].text == last.text
        for before, after in pairwise(frames):
            newly = {place for place in range(9) if before.masked[place] and not after.masked[place]}
            assert newly == set(after.fresh)
    *frames, last = CLOCK.stream(Template.parse("tick [MASK:3] ."), key=2)
    assert last == CLOCK.fill("tick [MASK:3] .", key=2)
    assert all(isinstance(shown, Frame) for shown in frames)


def test_a_stream_that_is_left_asks_nothing_more():
    asked = []

    def counting(canvas, where):
        asked.append(1)
        return CHAIN(canvas, where)

    stream = Model(counting, WORDS, context=12, window=12).stream("tick", 8, steps=8)
    next(stream)
    next(stream)
    assert len(asked) == 1
    stream.close()


def test_sample_is_the_last_of_steps():
    sampler = Parallel(PerRow(uniform, 3), Random())
    *_, last = steps(CHAIN, sampler, Canvas.blank(2, 12), key=4)
    whole = sample(CHAIN, sampler, Canvas.blank(2, 12), key=4)
    assert torch.equal(last.tokens, whole.tokens)
    assert (last.status, last.nfe.tolist()) == (whole.status, whole.nfe.tolist())


# ---- score


def test_score_is_the_negative_log_probability_of_an_exact_model():
    """-log p of "tick tock ." and its end: 0.5 0.8 0.2 0.6, from which the interval may miss by 4.5 standard errors."""
    score = CLOCK.score("tick tock .", passes=600)
    truth = -torch.tensor([0.5, 0.8, 0.2, 0.6]).log().sum().item()
    assert abs(score.nelbo - truth) < 4.5 * score.nelbo.error + 1e-6
    assert isinstance(score.nelbo, Estimate)
    assert score.bits_per_byte == pytest.approx(score.nelbo / torch.tensor(2.0).log().item() / 11)
    assert CLOCK.score("tick tock .", ends=False, passes=7).nelbo.exact  # all 7 sets of 3 tokens
    behind = CLOCK.score("tock .", given="tick ", ends=False)
    assert (behind.tokens, behind.bytes) == (2, 6)
    assert behind.nelbo == pytest.approx(-torch.tensor([0.8, 0.2]).log().sum().item(), abs=1e-5)
    open_end = CLOCK.score("tick tock .", ends=False, passes=600)
    assert abs(open_end.nelbo - truth - torch.tensor(0.6).log().item()) < 4.5 * open_end.nelbo.error + 1e-6


# ---- recipes


def test_what_a_recipe_makes():
    opened = Recipe().changed({"schedule": "uniform"}).open()
    assert isinstance(opened.schedule, Paced)
    assert opened.schedule.plan(5).sizes == (2, 2, 1)
    assert Recipe().changed({"schedule": 'minimax(target="tc")', "pace": 4}).open().schedule.plan(8).steps == 2
    assert repr(Recipe().changed({"schedule": "Plan((4, 2))"}).open().schedule) == "Plan(sizes=(4, 2))"
    assert repr(Recipe().changed({"sampler": "Parallel(uniform(8, 4), Random())"}).open().order) == "Random()"
    with pytest.raises(SpecError):
        Recipe(order="alphabetical").open()


def test_a_curve_gives_the_fewest_steps_for_an_excess():
    zero = torch.zeros(12).numpy()
    values = CHAIN.curve().values
    curve = Measurement(
        length=12, grid=torch.arange(12).numpy(), loss=values, error=zero, passes=torch.full((12,), 9).numpy(),
        nelbo=Estimate(values.sum()), tc=Estimate(1.0), dtc=Estimate(1.0), movement=None, movement_error=None,
        fingerprint="0" * 16, data="clock", key=0, seconds=0.0,
    )  # fmt: skip
    schedule = Fitted(curve, None, 0.05)
    sizes = schedule.plan(12)
    fewer = Fitted(curve, sizes.steps - 1, None).plan(12)
    assert sizes.cost(values) <= 0.05 * 12 < fewer.cost(values)
    model = Model(CHAIN, WORDS, context=12, window=12, curve=curve)
    results = model.generate(["tick", "tick tock tick"], excess=0.05, order="LeftToRight", key=0)
    assert [result.nfe <= schedule.plan(12 - size).steps for result, size in zip(results, (1, 3), strict=True)]
    assert model.generate("tick", steps=4, key=0).nfe <= 4
    with pytest.raises(GenerateError, match="measured on 12"):
        schedule.plan(13)


# ---- runs on disk


def test_runs_round_trip_and_refuse(tmp_path):
    path = tmp_path / "RUN.json"
    result = CLOCK.generate("tick", 5, key=9)
    result.save(path)
    assert Result.load(path) == result
    whole = path.read_bytes()
    for content, words in (
        (whole[:-20], "cut"),
        (b"\xff\xfe", "no JSON"),
        (b"[1]", "schema"),
        (b'{"schema": "demask.measurement/1"}', "demask.result/1"),
    ):
        path.write_bytes(content)
        with pytest.raises(GenerateError, match=words) as caught:
            Result.load(path)
        assert "RUN.json" in str(caught.value)
    body = result.to_json()
    for change in (
        {"tokens": body["tokens"][:-1]},
        {"tokens": "abc"},
        {"when": [99] * len(body["when"])},
        {"passes": body["passes"][::-1] if len(set(body["passes"])) > 1 else [2, 1]},
        {"law": "HONEST"},
        {"call": {}},
        {"call": None},
        {"certificate": {"schema": "x"}},
        {"new": "1"},
        {"more": 1},
    ):
        with pytest.raises(GenerateError):
            Result.from_json(body | change)
    for name in body:
        with pytest.raises(GenerateError):
            Result.from_json({other: value for other, value in body.items() if other != name})
    with pytest.raises(GenerateError, match="no such file"):
        Result.load(tmp_path / "missing.json")


def test_a_folder_is_loaded(tmp_path, network):
    write(tmp_path / "model", network, PIECES, card="a test", about={})
    model = load(tmp_path / "model")
    assert (model.context, model.window, model.curve) == (40, 40, None)
    result = model.generate("def add(a, ", 8, key=3)
    assert result.text.startswith("def add(a, ")
    assert load(result.call.model).again(result.call) == result
    assert model.score("def add(a, b)", passes=64).bits_per_byte > 0


def test_packed_texts_end_with_one_end_token(network):
    """A model of packed texts saw nothing behind an end token, so nothing is put there."""
    seen = []

    def watching(canvas, where):
        seen.append(canvas.tokens.masked_fill(canvas.masked, -9).tolist()[0])
        return network(canvas, where)

    for filled, behind in ((False, []), (True, [PIECES.end] * (40 - len(PIECES.encode("def")) - 3))):
        seen.clear()
        model = Model(watching, PIECES, context=40, window=40, filled=filled)
        model.fill("def[MASK:2][END]", key=0, steps=1)
        assert seen == [[*PIECES.encode("def"), -9, -9, PIECES.end, *behind]]
        model.score("def", passes=64)
        assert {len(tokens) for tokens in seen[1:]} == {40 if filled else len(PIECES.encode("def")) + 1}


def test_an_empty_prompt_leaves_no_space_in_front():
    chain = Chain.markov([0.5, 0.5, 0.0], [[0.0, 0.9, 0.1], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], length=9)
    words = Model(chain, Tokenizer.words(["tick", "tock"]), context=9, window=9)
    result = words.generate("", 4, key=3)
    assert result.text == "".join(result.cells) == "tock tick"
    assert words.fill("[MASK:2][MASK:1] tock").text.split(" ")[-1] == "tock"
