import pytest

from demask import orders, schedules
from demask.errors import SpecError
from demask.registry import KINDS, build, cite, names
from demask.samplers import Parallel

SPECS = {
    "schedule": [
        "minimax(length=16, steps=4, target='both')",
        "minimax(length=4, steps=2, target=(1.0, 2.0, 0.5))",
        "Plan(sizes=(3, 2, 1))",
        "minimax(steps=4, target='tc')",
        "uniform(steps=4)",
        "PerBlock(uniform(steps=4), 32)",
        "binomial(length=8, steps=4, clock='log-linear')",
        "sequential(length=8, steps=4)",
        "two_number(length=8, steps=4, tc=1.0, dtc=0.5)",
        "Unlimited()",
    ],
    "order": [
        "Random()",
        "LeftToRight()",
        "Confidence(of='draft')",
        "Threshold(Blockwise(Confidence(of='mode'), 32), 0.9)",
        "Factor(Confidence(of='mode'), 1.0)",
        "EntropyBudget(Noisy(Entropy(), 0.1), 0.5)",
        "Margin()",
    ],
    "sampler": [
        "Parallel(uniform(steps=4), Blockwise(Confidence(of='mode'), 8))",
        "Editing(inner=Parallel(Unlimited(), Threshold(Confidence(of='mode'), 0.95)), least=0.9, block=32, post=16, "
        "over='masked')",
        "Remasking(steps=64, strategy=Confident(strategy=Rescale(eta=0.5)))",
        "Remasking(steps=8, strategy=Loop(eta=0.02, on=0.55, off=0.05, level=0.9))",
        "Speculative(5, Random(), draft='context')",
        "Absorbing(grid=Constant(steps=64, horizon=8.0), rule='truncated')",
        "UniformState(grid=ExponentialThenConstant(steps=32, horizon=8.0, least=0.001), rule='leave-one-out')",
        "Renoising(steps=48, nats=0.1, hottest=0.8, coldest=0.4, calm=1, sure=0.005)",
        "Beam(width=8, copies='merged', last='all', order=LeftToRight())",
    ],
    "verifier": ["AcceptAll()"],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in SPECS.items() for text in texts])
def test_repr_is_the_language(kind, text):
    assert repr(build(text, kind)) == text


def test_context_fills_in():
    assert build("minimax", "schedule", steps=4, length=16).steps == 4
    assert build("minimax", "schedule", steps=4) == schedules.PerRow(schedules.minimax, steps=4)
    assert build("optimal", "schedule", steps=2, curve=[1.0, 0.5, 0.5]).sizes == (1, 2)
    assert build("uniform(steps=2)", "schedule", steps=4, length=16).sizes == (8, 8)
    assert build("left_to_right", "order") == build("LeftToRight()", "order") == orders.LeftToRight()
    assert isinstance(build("parallel(uniform(steps=2), random)", "sampler"), Parallel)
    blocks = build("PerBlock(uniform(steps=2), 4)", "schedule", steps=4, length=16)
    assert repr(blocks) == "PerBlock(uniform(steps=2), 4)"
    assert build("latin_square", "oracle").length == 16
    assert build("shuffle(3)", "oracle").length == 3


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("maximin", "schedule", "no schedule is called 'maximin'; there are: binomial, cosine"),
        ("random", "schedule", "no schedule is called 'random'"),
        ("minimax(goal='tc')", "schedule", "minimax has no option 'goal'; it has: length, steps, target"),
        ("uniform", "schedule", "uniform needs length and steps"),
        ("optimal(steps=3)", "schedule", "optimal needs curve"),
        ("Threshold(Confidence())", "order", "Threshold needs least"),
        ("minimax(", "schedule", "is not a specification"),
        ("", "order", "is not a specification"),
        ("lambda: 0", "order", "names no order"),
        ("__import__('os').system('true')", "order", "names no order"),
        ("Blockwise(Nothing(), 4)", "order", "'Nothing' in"),
        ("Blockwise(Random(), 2 + x)", "order", "neither a literal nor a specification"),
        ("minimax(**{'steps': 3})", "schedule", "unpacks a mapping"),
        ("Random(1, 2)", "order", "Random"),
        ("Random()", "ordering", "kind 'ordering'"),
    ],
)
def test_errors(text, kind, message):
    with pytest.raises(SpecError, match=message.replace("(", r"\(").replace(")", r"\)").replace("*", r"\*")):
        build(text, kind)


def test_every_name_is_listed_and_documented():
    for kind, entries in KINDS.items():
        assert names(kind) == sorted(entries, key=str.lower)
        for entry in entries.values():
            assert (entry.__doc__ or "").strip(), entry


def test_cite():
    assert "2602.20126" in cite(schedules.minimax)
    assert "MaskGIT" in cite(schedules.PerRow(schedules.cosine, steps=3))
    assert "Fast-dLLM" in cite(orders.Threshold(orders.Confidence(), 0.9))
    with pytest.raises(SpecError, match="states no reference"):
        cite(orders.Random())


def test_specifications_are_read_in_many_threads():
    """Python 3.11's parser raises a SystemError where a thread enters it while another one pauses in it."""
    import gc
    import time
    from concurrent.futures import ThreadPoolExecutor

    def pause(phase, info):
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(pause)
    gc.set_threshold(5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: build("Blockwise(Confidence(), 8)", "order"), range(200)))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(pause)
    assert {repr(order) for order in found} == {"Blockwise(Confidence(of='mode'), 8)"}
