import json

import pytest

from demask.batch import Line, Work
from demask.errors import GenerateError
from demask.generate import Model
from demask.oracles import Chain
from demask.tokenizer import Tokenizer

CHAIN = Chain.markov([0.5, 0.5, 0.0], [[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.0, 0.0, 1.0]], length=9)


@pytest.fixture
def model():
    return Model(CHAIN, Tokenizer.words(["tick", "tock"]), context=9, window=9)


def raw(*values):
    return [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\xff", "byte 0 is not UTF-8"),
        (b"{", "no JSON"),
        (b"3", "a JSON int"),
        (b'{"prompt": "a", "temperature": 1}', "'temperature' is unknown"),
        (b"{}", "one of them"),
        (b'{"prompt": "a", "template": "b"}', "one of them"),
        (b'{"prompt": 3}', "has the type int"),
        (b'{"prompt": "a", "max_new_tokens": true}', "has the type bool"),
        (b'{"template": "[MASK]", "max_new_tokens": 3}', "leave it out"),
    ],
)
def test_a_bad_line_says_what_is_wrong(line, words):
    with pytest.raises(GenerateError, match=words):
        Line.parse(0, line)


def test_lines_do_not_depend_on_each_other(model):
    """A record is the same alone, among others, beside bad lines, and in another shard."""
    lines = raw(
        "tick",
        "tock",
        {"prompt": "tick tick", "max_new_tokens": 3, "id": "x"},
        {"template": "tick [MASK:2] tick"},
        "tock",
    )
    work = Work("here", key=4)
    together = work.do(model, 10, lines).records
    assert len(together) == 5
    alone = [work.do(model, 10 + i, [line]).records[0] for i, line in enumerate(lines)]
    assert list(together) == alone
    third = json.loads(together[2])
    assert (third["line"], third["id"], third["new"] <= 3) == (13, "x", True)
    assert json.loads(together[0])["text"] != json.loads(together[4])["text"] or together[0] != together[4]


def test_a_bad_line_hinders_no_other(model):
    lines = raw("tick", "bonjour", b"nonsense", "tock", {"prompt": "tick " * 12}, b"", "tick")
    found = Work("here").do(model, 0, lines)
    assert [json.loads(record)["line"] for record in found.records] == [1, 4, 7]
    reasons = {json.loads(reject)["line"]: json.loads(reject)["reason"] for reject in found.rejects}
    assert reasons.keys() == {2, 3, 5}
    assert "'bonjour'" in reasons[2]
    assert "shorten" in reasons[5]
    assert json.loads(found.rejects[1])["input"] == "nonsense"
    clean = Work("here").do(model, 3, lines[3:4]).records[0]
    assert clean == found.records[1]


def test_a_full_record_is_a_result(model):
    from demask.generate import Result

    [record] = Work("here", full=True).do(model, 0, raw("tick")).records
    body = json.loads(record)
    assert body.pop("line") == 1
    assert Result.from_json(body).text == body["text"]


def test_settings_are_those_of_generate(model):
    one, two = (Work("here", settings={"steps": steps}).do(model, 0, raw("tick")).records[0] for steps in (1, 8))
    assert (json.loads(one)["nfe"], json.loads(two)["nfe"] > 1) == (1, True)
