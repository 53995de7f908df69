"""`demask generate --chat`."""

import json

import pytest

from demask.generate import load
from tests.denoisers.checkpoints.published import DREAM, FAMILIES, drawn, write

TEMPLATE = "{% for m in messages %}w11 {{ m.content }} {% endfor %}w12"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    special = {"mask_token": "<|mask|>", "eos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    return write(
        tmp_path_factory.mktemp("chat"), DREAM, drawn(FAMILIES["dream"][1](DREAM), key=7), tokenizer_config=special
    )


def test_the_answer_alone_is_printed(model, demask, as_json):
    options = ("--model", model, "--max-new-tokens", 6, "--key", 3)
    answers = [load(model).chat("w3 w4", 6, key=3, row=(0, row)).gaps[0] for row in range(2)]
    assert demask("generate", "w3 w4", "--chat", *options).stdout == answers[0] + "\n"
    assert demask("generate", "-", "--chat", *options, input="w3 w4\n").stdout == answers[0] + "\n"
    several = demask("generate", "w3 w4", "--chat", "--n", 2, *options).stdout
    assert several == f"--- 1 of 2\n{answers[0]}\n--- 2 of 2\n{answers[1]}\n"
    told = as_json("generate", "w3 w4", "--chat", *options)
    assert told["text"].startswith("w11 w3 w4 w12 ")
    assert told["gaps"] == [answers[0]]
    lines = demask("generate", "--jsonl", "--chat", *options, input='"w3 w4"\n').stdout
    assert json.loads(lines)["gaps"] == [answers[0]]


def test_a_model_without_a_template(demask):
    told = demask("generate", "hello", "--chat", code=2)
    assert "this model has no chat template" in told.stderr
