"""The model inside the package: it is small, whole, knows its words, and writes notes of which many are right."""

import csv
from pathlib import Path

import pytest
import torch

import demask
from demask.cli.right import measured
from demask.errors import TokenizerError
from demask.oracles import Notes

FOLDER = Path(demask.__file__).parent / "models" / "notes"
POINTS = Path(__file__).parents[1] / "benchmarks" / "notes.csv"


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


def test_it_looks_up_the_sign_off(model):
    """Where one word is masked, the greeting decides it: probability over 0.9 on the mean of 100 notes."""
    notes = Notes().sample(100, key=3)
    rows = [model.tokenizer.encode(note) for note in notes]
    tokens = torch.tensor([row + [model.tokenizer.end] * (model.context - len(row)) for row in rows])
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[torch.arange(100), torch.tensor([len(row) - 3 for row in rows])] = True
    answer = model.denoiser(demask.Canvas(tokens, where), where)
    assert float(answer.logp(tokens[where]).exp().mean()) > 0.9


@pytest.mark.slow
def test_notes_stay_as_right_as_they_were(model):
    """What was measured when it was shipped, with room for 64 texts: its card."""
    [one] = measured(model, [("uniform", None)], key=4)
    [honest] = measured(model, [("uniform", None)], order="Random()", temperature=1.0, key=4)
    [few] = measured(model, [("uniform", 8)], key=4)
    assert one.right >= 0.88
    assert honest.right >= 0.25
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
