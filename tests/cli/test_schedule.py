import pytest

from demask import Plan, minimax, uniform


def test_json_equals_the_library(as_json):
    told = as_json("schedule", "--length", 64, "--steps", 8, "--target", "dtc", "--draw", 3, "--key", 7)
    sizes = minimax(64, 8, target="dtc")
    assert told["schedule"] == repr(sizes)
    assert (told["length"], told["steps"], told["kind"]) == (64, 8, "mixture")
    assert told["inclusion"] == sizes.inclusion.tolist()
    assert told["residual"] == sizes.residual().tolist()
    assert told["constants"] == {t: sizes.constant(t) for t in ("tc", "dtc", "both", "complexity")}
    mixture = sizes.mixture()
    assert told["plans_in_all"] == len(mixture)
    assert [(p["probability"], tuple(p["sizes"])) for p in told["plans"]] == [(s, p.sizes) for s, p in mixture[:8]]
    assert [Plan(sizes) for sizes in told["draws"]] == sizes.draw(3, key=7)


def test_a_constant_finds_the_fewest_steps(as_json):
    told = as_json("schedule", "--length", 256, "--constant", 0.05)
    assert told["steps"] == minimax.steps_for(256, 0.05, target="both")
    assert told["constants"]["both"] <= 0.05 < minimax(256, told["steps"] - 1).constant("both")


@pytest.mark.parametrize(
    ("spec", "kind", "listed"), [("Plan((4, 2, 1))", "plan", 1), ("binomial", "mixture", None), ("uniform", "plan", 1)]
)
def test_kinds(as_json, demask, spec, kind, listed):
    told = as_json("schedule", "--schedule", spec)
    assert (told["kind"], told["plans_in_all"]) == (kind, listed)
    assert "constant" in demask("schedule", "--schedule", spec).stdout


def test_tables_name_the_sizes(demask):
    out = demask("schedule", "--schedule", "uniform", "--length", 10, "--steps", 4).stdout
    assert " ".join(map(str, uniform(10, 4).sizes)) in out
    assert "10 positions in 4 steps" in out


def test_one_position(demask):
    assert "1 position in 1 step" in demask("schedule", "--length", 1).stdout
