"""`demask compare --model`: the share of right texts, on models whose share is known: none, and all."""

import csv

import pytest
import torch

from demask.cli.right import measured
from demask.denoisers.folder import write
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.errors import SpecError
from demask.generate import Model, load
from demask.oracles import Notes, Table
from demask.tokenizer import Tokenizer

WORDS = Tokenizer.words(Notes().words)
ARGUMENTS = ("compare", "--steps", "2,3", "--schedules", "uniform;cosine", "--texts", "4")


def folder(path, language):
    network = Transformer(Network(Shape(WORDS.size, 12, 16, 1, 2, 16)))
    about = {"documents": "windows", "language": language}
    write(path, network, WORDS, card="# none\n", about=about)
    return path


@pytest.fixture
def model(tmp_path):
    return folder(tmp_path / "model", "notes")


def test_an_untrained_network_writes_no_right_note(tmp_path, model, demask, as_json):
    drawn, table = tmp_path / "right.png", tmp_path / "right.csv"
    found = as_json(*ARGUMENTS, "--model", model, "--csv", table, "--plot", drawn)
    assert [(row["schedule"], row["steps"]) for row in found["rows"]] == [
        ("uniform", None), ("uniform", 2), ("cosine", 2), ("uniform", 3), ("cosine", 3),
    ]  # fmt: skip
    for row in found["rows"]:
        assert (row["right"], row["low"]) == (0.0, 0.0)
        assert row["high"] == pytest.approx(1 - 0.025 ** (1 / 4))  # of 4 texts none: Clopper and Pearson
        assert 1 <= row["nfe"] <= (row["steps"] or 12)
        assert row["held"]["form"] == 0.0
    with table.open() as lines:
        assert [row["right"] for row in csv.DictReader(lines)] == ["0.0"] * 5
    assert drawn.read_bytes().startswith(b"\x89PNG")
    said = demask(*ARGUMENTS, "--model", model).stdout
    assert "one each" in said
    assert "form 100%" in said


def test_independent_words_are_right_in_any_number_of_steps():
    """Notes that differ in one free word, and in the greeting's own: nothing depends on anything else."""
    note = next(note for note in Notes().sample(99, key=0) if note.split()[3] == "this")
    rows = torch.tensor([WORDS.encode(note), WORDS.encode(note.replace("this", "here", 1))])
    model = Model(Table.uniform(rows, WORDS.size), WORDS, context=rows.shape[1], about={"language": "notes"})
    for row in measured(model, [("uniform", None), ("uniform", 1), ("uniform", 5)], texts=8):
        assert (row.right, row.high) == (1.0, 1.0)
        assert set(row.held.values()) == {1.0}
        assert row.nfe == (row.steps or rows.shape[1])
        assert row.tokens_per_pass == rows.shape[1] / row.nfe


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--oracle", "latin_square"], "has its own language"),
        (["--schedules", ";"], "names none"),
        (["--steps", "0"], "not a whole number"),
    ],
)
def test_bad_input(model, refused, more, message):
    assert message in refused(*ARGUMENTS, "--model", model, *more)


def test_texts_without_a_language_cannot_be_checked(tmp_path):
    with pytest.raises(SpecError, match="cannot be checked"):
        list(measured(load(folder(tmp_path / "model", None)), [("uniform", 2)]))


def test_texts_and_key_belong_to_a_model(refused):
    assert "for --model" in refused("compare", "--oracle", "latin_square", "--texts", "4")


def test_order_and_temperature_are_those_asked_for(model, demask, as_json):
    asked = ("--order", "Noisy(Entropy(), 0.5)", "--temperature", 0.7)
    found = as_json(*ARGUMENTS, "--model", model, *asked)
    assert (found["order"], found["temperature"]) == ("Noisy(Entropy(), 0.5)", 0.7)
    assert {row["order"] for row in found["rows"]} == {"Noisy(Entropy(), 0.5)"}
    assert "Noisy(Entropy(), 0.5), temperature 0.7" in demask(*ARGUMENTS, "--model", model, *asked).stdout
    for wrong, words in ((("--order", "Sideways"), "Sideways"), (("--temperature", -1), "temperature of -1")):
        refused = demask(*ARGUMENTS, "--model", model, *wrong, code=2)
        assert words in refused.stderr
    assert "--order" in demask("compare", "--oracle", "parity", "--order", "Random()", code=2).stderr
