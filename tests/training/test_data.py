from dataclasses import replace

import pytest
import torch

from demask.canvas import ABSENT
from demask.chance import Keyed
from demask.denoisers.transformer import Network, Shape
from demask.errors import TrainingError
from demask.oracles import Notes
from demask.tokenizer import Tokenizer
from demask.training import Fresh, HeldOut, Text, corpus, read, split
from demask.training.data import Batch
from demask.training.lesson import Lesson

WORDS = Tokenizer.words(["a", "b", "c"])
END = WORDS.end
TEXTS = [Text("one", "a b c a b"), Text("two", "c"), Text("three", "b b")]


def chance(rows, key=0):
    return Keyed.of(key, torch.arange(rows))


def test_windows_are_filled_with_end_tokens():
    data = corpus(TEXTS, WORDS, context=4, fill="windows")
    assert data.tokens.tolist() == [[0, 1, 2, 0], [1, END, END, END], [2, END, END, END], [1, 1, END, END]]
    batch = data.batch(chance(40))
    assert batch.documents is None
    assert {tuple(row) for row in batch.tokens.tolist()} == {tuple(row) for row in data.tokens.tolist()}


def test_packed_windows_know_their_documents():
    data = corpus(TEXTS, WORDS, context=6, fill="packed")
    stream = [0, 1, 2, 0, 1, END, 2, END, 1, 1, END]
    seen = set()
    batch = data.batch(chance(60))
    for tokens, documents in zip(batch.tokens.tolist(), batch.documents.tolist(), strict=True):
        starts = [s for s in range(6) if stream[s : s + 6] == tokens]
        seen.update(starts)
        assert documents == [sum(token == END for token in tokens[:place]) for place in range(6)]
    assert seen == set(range(6))


def test_batches_are_a_function_of_the_chance():
    data = corpus(TEXTS, WORDS, context=4, fill="packed")
    assert torch.equal(data.batch(chance(5)).tokens, data.batch(chance(5)).tokens)
    assert not torch.equal(data.batch(chance(5)).tokens, data.batch(chance(5, key=1)).tokens)


def test_held_out_windows_count_every_token_once():
    packed = HeldOut.of([t.content for t in TEXTS], WORDS, context=4, fill="packed")
    assert packed.tokens.tolist() == [
        [0, 1, 2, 0], [1, END, ABSENT, ABSENT], [2, END, ABSENT, ABSENT], [1, 1, END, ABSENT],
    ]  # fmt: skip
    assert (packed.owner.tolist(), packed.texts, packed.bytes) == ([0, 0, 1, 2], 3, 13)
    windows = HeldOut.of([t.content for t in TEXTS], WORDS, context=4, fill="windows")
    assert int((windows.tokens == ABSENT).sum()) == 0


class Source:
    words = ("a", "b", "c")

    def sample(self, count, *, key):
        return [f"a {'b ' * (key % 3)}c"] * count


def test_fresh_texts():
    data = Fresh(Source(), WORDS, 6)
    rows = [data.batch(chance(2, key)).tokens for key in range(12)]
    assert {row.shape for row in rows} == {(2, 6)}
    assert len({tuple(row[0].tolist()) for row in rows}) == 3
    with pytest.raises(TrainingError, match="--context 16"):
        [Fresh(Source(), WORDS, 3).batch(chance(2, key)) for key in range(12)]


def test_some_rows_ask_for_one_constraint_each():
    source = Notes()
    data = Fresh(source, Tokenizer.words(source.words), 100, ("place", "repeats"), 0.75)
    lesson = Lesson.draw(data, chance(8, 3), shares=(0.0, 1.0), network="transformer")
    asked, laws = lesson.batch.asked.where, lesson.batch.asked.laws
    assert asked.any(1).tolist() == [True] * 6 + [False] * 2
    assert torch.equal(lesson.masked.where[:6], asked[:6])
    assert torch.allclose(lesson.masked.weights * lesson.masked.where.sum(1), torch.ones(8))
    turns = []
    for row in range(6):
        text = data.tokenizer.decode(
            [token for token in lesson.batch.tokens[row].tolist() if token != data.tokenizer.end]
        )
        places = asked[row].nonzero()[:, 0].tolist()
        turns += [
            name for name, found in source.questions(text).items() if tuple(places) in found and name in data.focus
        ]
        law = {data.tokenizer.decode([token]): float(laws[row, token]) for token in laws[row].nonzero()[:, 0].tolist()}
        assert law == pytest.approx(source.law(text, places), rel=1e-6)
    assert turns in (["place", "repeats"] * 3, ["repeats", "place"] * 3)
    assert not bool(laws[6:].any())
    again = Lesson.draw(data, chance(8, 3), shares=(0.0, 1.0), network="transformer")
    assert torch.equal(again.batch.tokens, lesson.batch.tokens)
    assert torch.equal(again.masked.where, lesson.masked.where)


def test_few_rows_come_to_all_constraints_in_time():
    data = Fresh(Notes(), Tokenizer.words(Notes().words), 100, ("place", "sum"), 0.1)
    seen = set()
    for key in range(12):
        batch = data.batch(chance(8, key))
        assert batch.asked.where.any(1).tolist() == [True] + [False] * 7
        text = data.tokenizer.decode([token for token in batch.tokens[0].tolist() if token != data.tokenizer.end])
        places = tuple(batch.asked.where[0].nonzero()[:, 0].tolist())
        seen |= {name for name, questions in Notes().questions(text).items() if places in questions}
    assert seen == {"place", "sum"}


def test_a_loss_against_laws_is_the_mean_of_the_losses_against_words():
    source = Notes()
    data = Fresh(source, Tokenizer.words(source.words), 100, ("names",), 0.5)
    lesson = Lesson.draw(data, chance(2, 4), shares=(0.0, 1.0), network="transformer")
    network = Network(Shape(295, 100, 16, 1, 2, 16), key=1)
    known = lesson.loss(network, slice(0, 1), precision="fp32").detach()
    mean = 0.0
    for token in lesson.batch.asked.laws[0].nonzero()[:, 0]:
        tokens = lesson.batch.tokens.masked_fill(lesson.batch.asked.where, token)
        drawn = replace(lesson, batch=Batch(tokens)).loss(network, slice(0, 1), precision="fp32").detach()
        mean += float(lesson.batch.asked.laws[0, token]) * drawn
    assert float(known) == pytest.approx(float(mean), rel=1e-5)
    plain = replace(lesson, batch=Batch(lesson.batch.tokens))  # the row that asks for nothing keeps its words
    rest = [one.loss(network, slice(1, 2), precision="fp32").detach() for one in (lesson, plain)]
    assert float(rest[0]) == pytest.approx(float(rest[1]), rel=1e-6)


@pytest.mark.parametrize(
    ("source", "focus", "share", "message"),
    [
        (Notes(), ("plce",), 0.5, "no question asks for 'plce'; there are: friend, items, names"),
        (Notes(), ("place",), 0.0, "a share of 0.0 of the rows"),
        (Source(), ("place",), 0.5, "Source has no questions to focus on"),
    ],
)
def test_a_focus_that_cannot_be(source, focus, share, message):
    with pytest.raises(TrainingError, match=message):
        Fresh(source, WORDS, 100, focus, share)


@pytest.fixture
def folder(tmp_path):
    for name, content in (
        ("b.py", "x = 1\n"),
        ("a.txt", "hello"),
        ("sub/c.py", "y = 2\n"),
        ("empty.py", ""),
        (".git/h.py", "no"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_folders_are_read_in_order(folder):
    assert [text.content for text in read([folder])] == ["hello", "x = 1\n", "y = 2\n"]
    assert [text.content for text in read([folder], glob="*.py")] == ["x = 1\n", "y = 2\n"]
    assert len(read([folder, folder / "a.txt"])) == 3


def test_files_that_cannot_be_read(folder):
    with pytest.raises(TrainingError, match=r"empty\.py is empty"):
        read([folder / "empty.py"])
    with pytest.raises(TrainingError, match="no such file"):
        read([folder / "none"])
    with pytest.raises(TrainingError, match=r"'\*\.rs'; try another --glob"):
        read([folder], glob="*.rs")
    (folder / "latin1.txt").write_bytes("déjà".encode("latin-1"))
    with pytest.raises(TrainingError, match=r"latin1\.txt: byte 0xe9 at offset 1 is not UTF-8"):
        read([folder])


def test_a_split_is_by_content_and_complete():
    texts = [Text(str(i), f"text {i} " * 20) for i in range(50)]
    kept, aside = split(texts, 0.1)
    assert sorted(kept + aside, key=lambda t: int(t.name)) == texts
    assert 3 <= len(aside) <= 6
    assert {t.name for t in split(texts[::-1], 0.1)[1]} == {t.name for t in aside}


def test_one_text_is_cut_at_a_line():
    (kept,), (aside,) = split([Text("one", "line\n" * 20)], 0.25)
    assert (kept.content, aside.content) == ("line\n" * 15, "line\n" * 5)
    with pytest.raises(TrainingError, match="too few"):
        split([Text("one", "x")], 0.5)


def test_too_little_text():
    with pytest.raises(TrainingError, match=r"11 tokens in all, shorter than one window of 12.*--context 2"):
        corpus(TEXTS, WORDS, context=12, fill="packed")
    with pytest.raises(TrainingError, match="no text"):
        corpus([], WORDS, context=4, fill="packed")
    with pytest.raises(TrainingError, match="packed, windows"):
        corpus(TEXTS, WORDS, context=4, fill="ragged")
    with pytest.raises(TrainingError, match="held out"):
        HeldOut.of([], WORDS, context=4, fill="packed")
    for share in (0, 1, float("nan")):
        with pytest.raises(TrainingError, match="share"):
            split(TEXTS, share)
