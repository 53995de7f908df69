"""The model inside the package: it is small, whole, knows its words, and writes notes of which many are right."""

import csv
from pathlib import Path
from runpy import run_path

import pytest

import demask
from demask.cli.right import measured
from demask.errors import TokenizerError
from demask.oracles import Notes

FOLDER = Path(demask.__file__).parent / "models" / "notes"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
POINTS = BENCHMARKS / "notes.csv"


@pytest.fixture(scope="module")
def model():
    return demask.load()


def test_it_is_small_and_whole():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8 << 20
    assert {file.name for file in FOLDER.iterdir()} == {
        "README.md", "config.json", "curve.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip


def test_it_is_the_default_and_a_planned_note_carries_its_certificate(model):
    result = model.generate(key=1)
    assert set(result.text.split()) <= set(Notes().words)
    assert result.nfe >= result.new  # its own recipe: one token per step, in confidence order
    assert result.certificate is None
    planned = model.generate(key=1, steps=32, order="Random()", temperature=1.0)
    assert planned.certificate is not None
    assert model.again(planned.call).text == planned.text
    assert model.curve is not None
    assert model.curve.length == model.context == 100


def test_what_is_given_is_kept(model):
    result = model.fill("dear anna , [MASK:3] max . [MASK:8] [END]", key=1)
    assert result.text.startswith("dear anna , ")
    assert result.text.split()[6:8] == ["max", "."]


def test_a_word_that_it_does_not_know_is_refused_by_name(model):
    with pytest.raises(TokenizerError, match="'bonjour'"):
        model.generate("bonjour anna ,")


def test_it_knows_the_law_of_what_each_constraint_decides_or_bounds(model):
    """Given all other words of a note: little probability for what may not stand there, and a law near the true one.

    The first question of each note; of "repeats" the last ones are tasks, which it has not learned to tell apart.
    """
    laws, notes = run_path(str(BENCHMARKS / "lookups.py"))["laws"], Notes()
    asked = {}
    for text in notes.sample(60, key=3):
        for constraint, questions in notes.questions(text).items():
            asked.setdefault(constraint, []).append((text, questions[0]))
    assert asked.keys() == {
        "names", "friend", "sender", "sum", "items", "repeats", "place", "occasion", "sign_off",
    }  # fmt: skip
    for constraint, questions in asked.items():
        truth, law = laws(model, notes, questions)
        assert float(law.masked_fill(truth > 0, 0.0).sum(1).mean()) < 0.05, constraint
        assert float((law - truth).abs().sum(1).mean()) / 2 < 0.1, constraint


@pytest.mark.slow
def test_notes_stay_as_right_as_they_were(model):
    """What was measured when it was shipped, with room for 64 texts: its card."""
    [one] = measured(model, [("uniform", None)], key=4)
    [honest] = measured(model, [("uniform", None)], order="Random()", temperature=1.0, key=4)
    [few] = measured(model, [("uniform", 8)], key=4)
    assert one.right >= 0.93
    assert honest.right >= 0.3
    assert few.right <= 0.2


@pytest.mark.slow
def test_every_schedule_is_as_right_as_the_docs_say(model):
    """Honest draws at about 24 passes, with another key: the interval meets the documented one, and the passes are equal."""
    with POINTS.open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["setting"].startswith("honest")]
    told = [row for row in rows if 20 <= float(row["nfe"]) <= 28]
    assert {row["schedule"] for row in told} == {"uniform", "cosine", 'minimax(target="both")', "optimal"}
    for row in told:
        cases = [(row["schedule"], int(row["steps"]))]
        [found] = measured(model, cases, order="Random()", temperature=1.0, key=4)
        assert found.low <= float(row["high"]), row["schedule"]
        assert found.high >= float(row["low"]), row["schedule"]
        assert found.nfe == pytest.approx(float(row["nfe"]), rel=0.15)
