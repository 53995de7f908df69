"""Conversations: the template of the tokenizer files, and the several tokens that end an answer."""

import json
import sys

import pytest

import demask
from demask.denoisers.checkpoints import read
from demask.errors import CheckpointError, GenerateError, TokenizerError

from .published import DREAM, FAMILIES, drawn, write

TEMPLATE = (
    "{% for message in messages %}{% if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no role ' + message.role) }}{% endif %}"
    "{{ {'system': 'w10', 'user': 'w11', 'assistant': 'w12'}[message.role] }} {{ message.content }} {{ eos_token }} "
    "{% endfor %}{% if add_generation_prompt %}w12{% endif %}"
)
SPECIAL = {"mask_token": "<|mask|>", "eos_token": "<|endoftext|>"}


def folder_of(tmp_path, config=DREAM, special=None, **files):
    tensors = drawn(FAMILIES["dream"][1](config), key=7)
    return write(tmp_path / "model", config, tensors, tokenizer_config=SPECIAL | (special or {}), **files)


@pytest.mark.parametrize("where", ["tokenizer_config", "named", "jinja", "json", "both", "given"])
def test_a_conversation_is_written_by_the_template(tmp_path, where):
    inside = {"tokenizer_config": TEMPLATE, "both": TEMPLATE}.get(where)
    if where == "named":
        inside = [{"name": "tool", "template": "no"}, {"name": "default", "template": TEMPLATE}]
    folder = folder_of(tmp_path, special={} if inside is None else {"chat_template": inside})
    if where in ("jinja", "both"):
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    if where == "json":
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    model = demask.load(folder, chat=TEMPLATE) if where == "given" else demask.load(folder)
    messages = [
        {"role": "system", "content": "w1"},
        {"role": "user", "content": "w2 w3"},
        {"role": "assistant", "content": "w4"},
        {"role": "user", "content": "w5"},
    ]
    written = "w10 w1 <|endoftext|> w11 w2 w3 <|endoftext|> w12 w4 <|endoftext|> w11 w5 <|endoftext|> w12"
    assert model.prompt(messages) == written
    assert model.prompt("w6") == "w11 w6 <|endoftext|> w12"
    answer = model.chat(messages, 5, key=3, temperature=0.5)
    assert answer == model.generate(written, 5, key=3, temperature=0.5)
    assert answer == model.again(answer.call)
    assert answer.text == f"{written} {answer.gaps[0]}".rstrip()
    assert model.chat("w6", 5, key=3, template="w9 {{ messages[0].content }} w8").text.startswith("w9 w6 w8")
    assert model.prompt("w6", "{{ eos_token }} {{ messages[0].role }}") == "<|endoftext|> user"


def test_files_that_contradict_each_other(tmp_path):
    folder = folder_of(tmp_path, special={"chat_template": TEMPLATE})
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(
        CheckpointError, match=r"on the chat template: chat_template.jinja, tokenizer_config.json: chat_te"
    ):
        read(folder)
    assert read(folder, chat=TEMPLATE).tokenizer.chat.source == TEMPLATE
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template.jinja: no chat template \(UnicodeDecodeError\)"):
        read(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"chat_template.json: no chat template \(KeyError\)"):
        read(folder)
    for wrong, message in (
        (3, "is int; expected the text"),
        ([{"name": "tool", "template": "x"}], "'tool' and no 'default'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read(folder_of(tmp_path / str(wrong)[:3], special={"chat_template": wrong}))


def test_what_cannot_be_written(tmp_path):
    plain = demask.load(folder_of(tmp_path / "plain"))
    with pytest.raises(
        GenerateError, match=r"no chat template; continue a text with generate, or give a Jinja template"
    ):
        plain.chat("w1")
    with pytest.raises(GenerateError, match="no chat template"):
        demask.load("demask/notes").chat("hello")
    model = demask.load(folder_of(tmp_path / "chat", special={"chat_template": TEMPLATE}))
    for messages, words in (
        ([], "messages = "),
        (3, "messages = 3"),
        ([{"role": "user"}], "message 0"),
        (["w1"], "'w1'"),
    ):
        with pytest.raises(GenerateError, match=words):
            model.chat(messages)
    with pytest.raises(TokenizerError, match=r"cannot write this conversation .*no role judge"):
        model.chat([{"role": "judge", "content": "w1"}])
    with pytest.raises(TokenizerError, match="cannot write this conversation"):
        model.chat("w1", template="{% for %}")
    with pytest.raises(TokenizerError, match=r"SecurityError|is unsafe|cannot write"):
        model.chat("w1", template="{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(TokenizerError, match="holds the mask token"):
        model.chat("w1 <|mask|>")


def test_without_jinja(tmp_path, monkeypatch):
    from transformers.utils import chat_template_utils

    monkeypatch.setattr(chat_template_utils, "is_jinja_available", lambda: False)
    model = demask.load(folder_of(tmp_path, special={"chat_template": TEMPLATE + "{# another #}"}))
    with pytest.raises(CheckpointError, match=r"chat templates need jinja2 .*pip install 'demask\[checkpoints\]'"):
        model.chat("w1")
    assert "jinja2" in sys.modules


def test_every_end_ends_a_text(tmp_path):
    """The second end stops a text as the first does; nothing behind it is paid for, and none is in a gap."""
    config = DREAM | {"eos_token_id": [20, 7]}
    model = demask.load(folder_of(tmp_path, config))
    assert model.tokenizer.ends == (20, 7)
    shorter = 0
    for key in range(80):
        result = model.generate("w1 w2", 12, key=key, order="LeftToRight()", steps=12, schedule="uniform")
        new = result.tokens[2:]
        first = min([place for place, token in enumerate(new) if token in (20, 7)], default=None)
        assert "w7" not in result.gaps[0].split()
        if first is None:
            continue
        assert result.new == result.nfe == first + 1
        assert set(new[first + 1 :]) <= {20}
        shorter += new[first] == 7
        stopped = model.generate("w1 w2", 12, key=key, order="LeftToRight()", steps=12, schedule="uniform", stop="w3")
        assert "w3" not in stopped.text
        assert "w7" not in stopped.gaps[0].split()
    assert shorter > 3
    never = model.generate("w1 w2", 12, n=8, end="never")
    assert not any(token in (20, 7) for result in never for token in result.tokens)
    filled = model.fill("w1 [MASK:12]", n=8)
    assert not any(token in (20, 7) for result in filled for token in result.tokens)
    reached = model.generate("w1 w2", 12, n=8, end="reached")
    for result in reached:
        places = [place for place, token in enumerate(result.tokens) if token == 7 and result.when[place] >= 0]
        assert all(result.when[place] >= max(result.when[2:place], default=0) for place in places)
