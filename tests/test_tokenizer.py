import json
import random

import pytest

from demask.errors import TokenizerError
from demask.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat, and the cat sat still\n"] * 20


@pytest.fixture(scope="module")
def pieces():
    return Tokenizer.train(TEXTS, size=300)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces ",
        "\n\t\r\n",
        "the cat",
        "[END]",
        "a [END] b",
        "[MASK]",
        "<|endoftext|>",
        "café ∞ 🎈 \x00",
    ],
)
def test_any_text_comes_back_byte_for_byte(pieces, text):
    ids = pieces.encode(text)
    assert pieces.decode(ids) == text
    assert pieces.end not in ids


def test_random_unicode_comes_back(pieces):
    chance, points = random.Random(0), [*range(32, 127), *range(0x100, 0xD7FF), 0x1F600]
    for _ in range(50):
        text = "".join(chr(chance.choice(points)) for _ in range(40))
        assert pieces.decode(pieces.encode(text)) == text


def test_pieces_are_learned(pieces):
    assert 257 < pieces.size <= 300
    assert len(pieces.encode("the cat sat")) < 11
    assert Tokenizer.train(TEXTS, size=300) == pieces


def test_end_tokens_are_dropped(pieces):
    assert pieces.decode([*pieces.encode("the cat"), pieces.end, pieces.end]) == "the cat"


def test_words():
    tokenizer = Tokenizer.words(["cat", ".", "the"])
    assert (tokenizer.size, tokenizer.end) == (4, 3)
    assert tokenizer.encode("the cat .") == [2, 0, 1]
    assert tokenizer.decode([2, 3, 0]) == "the cat"
    assert tokenizer.encode("") == []


@pytest.mark.parametrize(
    ("text", "name"), [("the dog", "'dog'"), ("the  cat", "''"), ("[END]", "'[END]'"), (" the", "''")]
)
def test_unknown_words_are_named(text, name):
    with pytest.raises(TokenizerError, match="unknown") as error:
        Tokenizer.words(["cat", "the"]).encode(text)
    assert name in str(error.value)


def test_the_library_reads_word_tokenizers_alike(tmp_path):
    from tokenizers import Tokenizer as Library

    tokenizer = Tokenizer.words(["cat", ".", "the"])
    tokenizer.save(tmp_path / "tokenizer.json")
    assert Library.from_file(str(tmp_path / "tokenizer.json")).encode("the cat .").ids == tokenizer.encode("the cat .")


def test_save_and_load(tmp_path, pieces):
    for tokenizer in (pieces, Tokenizer.words(["a", "b"])):
        tokenizer.save(tmp_path / "tokenizer.json")
        assert Tokenizer.load(tmp_path / "tokenizer.json") == tokenizer


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{}", b'{"model": {}}', b'{"model": {"vocab": 3}}', b"\xff\xfe", b"\x80\x04x"],
)
def test_foreign_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


def test_truncated_and_missing_files(tmp_path, pieces):
    path = tmp_path / "tokenizer.json"
    path.write_text(pieces.source[:500])
    with pytest.raises(TokenizerError, match="JSONDecodeError"):
        Tokenizer.load(path)
    with pytest.raises(TokenizerError, match="no such file"):
        Tokenizer.load(tmp_path / "none.json")


def test_a_tokenizer_without_an_end_is_refused():
    body = json.loads(Tokenizer.words(["a"]).source)
    body["added_tokens"] = []
    body["model"]["vocab"] = {"a": 0}
    with pytest.raises(TokenizerError, match="no end-of-text token"):
        Tokenizer(json.dumps(body))
    body["model"]["vocab"] = {"a": 0, "</s>": 2}
    with pytest.raises(TokenizerError, match="not 0"):
        Tokenizer(json.dumps(body))


@pytest.mark.parametrize("words", [[], ["a", "a"], [""], ["a b"], ["[END]"]])
def test_bad_words(words):
    with pytest.raises(TokenizerError, match="expected"):
        Tokenizer.words(words)


def test_bad_values(pieces):
    with pytest.raises(TokenizerError, match="257"):
        Tokenizer.train(TEXTS, size=256)
    for ids in ([-1], [pieces.size]):
        with pytest.raises(TokenizerError, match="expected 0"):
            pieces.decode(ids)
    with pytest.raises(TokenizerError, match="not Unicode"):
        pieces.encode("\ud800")
