"""`demask generate` and `demask fill`, in a pipe and on a pretended terminal."""

import json

import pytest
import torch
from rich.console import Console

from demask.cli import live
from demask.denoisers.folder import write
from demask.denoisers.transformer import Network, Shape, Transformer
from demask.generate import Result, load
from demask.tokenizer import Tokenizer
from tests.denoisers.checkpoints.published import FAMILIES, LLADA, drawn
from tests.denoisers.checkpoints.published import write as write_published


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizer = Tokenizer.words(["tick", "tock", "."])
    torch.manual_seed(1)
    network = Network(Shape(tokenizer.size, 16, 16, 1, 2, 32))
    folder = tmp_path_factory.mktemp("models") / "clock"
    write(folder, Transformer(network), tokenizer, card="a test", about={})
    return folder


def test_in_a_pipe_there_is_only_the_text(model, demask):
    result = demask("generate", "tick tock", "--model", model, "--key", 3)
    assert result.stdout == load(model).generate("tick tock", key=3).text + "\n"
    assert result.stderr == ""
    assert demask("generate", "-", "--model", model, "--seed", 3, input="tick tock\n").stdout == result.stdout


def test_options_are_those_of_the_library(model, as_json):
    options = ("--steps", 3, "--order", "confidence", "--temperature", 0.5, "--top-p", 0.9, "--max-new-tokens", 6)
    told = as_json("generate", "tick", "--model", model, *options, "--schedule", "uniform", "--key", 2)
    same = load(model).generate(
        "tick", 6, key=2, schedule="uniform", steps=3, order="confidence", temperature=0.5, top_p=0.9
    )
    assert Result.from_json(told) == same


def test_what_shapes_the_laws(model, as_json):
    options = (
        "--top-k",
        3,
        "--min-p",
        0.05,
        "--repetition-penalty",
        1.2,
        "--forbid",
        1,
        "--forbid",
        2,
        "--guidance",
        0.5,
    )
    same = {"top_k": 3, "min_p": 0.05, "repetition_penalty": 1.2, "forbid": [1, 2], "guidance": 0.5}
    told = as_json("generate", "tick", "--model", model, *options, "--end", "never", "--stop", ". .", "--stop", "tock")
    assert Result.from_json(told) == load(model).generate("tick", end="never", stop=[". .", "tock"], **same)
    told = as_json("fill", "tick [MASK:3]", "--model", model, *options, "--n", 3)
    assert [Result.from_json(body) for body in told["results"]] == load(model).fill("tick [MASK:3]", n=3, **same)
    told = as_json(
        "generate", "tick", "--model", model, "--sampler", "Parallel(Unlimited(), Threshold(Confidence(), 0.5))"
    )
    assert told["call"]["arguments"]["sampler"].startswith("Parallel")
    for spec in ("Remasking(20, Cap(0.1))", "Editing(Parallel(uniform(steps=4), Confidence()), 0.9, block=4)"):
        told = as_json("generate", "tick", "--model", model, "--sampler", spec)
        assert Result.from_json(told) == load(model).generate("tick", sampler=spec)
        assert min(told["when"][1:]) >= 0


def test_many(model, demask, as_json):
    out = demask("generate", "tick", "--model", model, "--n", 3).stdout
    texts = [result.text for result in load(model).generate("tick", n=3)]
    assert out == "".join(f"--- {number} of 3\n{text}\n" for number, text in enumerate(texts, start=1))
    told = as_json("generate", "tick", "--model", model, "--n", 3)
    assert [body["text"] for body in told["results"]] == texts


def test_json_lines(model, demask, refused):
    lines = demask("generate", "--jsonl", "--model", model, input='"tick"\n{"prompt": "tock ."}\n').stdout.splitlines()
    expected = load(model).generate(["tick", "tock ."], n=1)
    assert [Result.from_json(json.loads(line)) for line in lines] == expected
    line = refused("generate", "--jsonl", "--model", model, input='"tick"\ntock\n')
    assert "line 2" in line
    assert "jq" in line


def test_fill(model, demask, as_json):
    out = demask("fill", "tick [MASK:3] . tock [END]", "--model", model, "--key", 1).stdout
    assert out == load(model).fill("tick [MASK:3] . tock [END]", key=1).text + "\n"
    assert out.startswith("tick ")
    assert out.endswith(" . tock\n")
    told = as_json("fill", "tick [MASK] .", "--model", model, "--n", 2)
    assert len(told["results"]) == 2


def test_a_saved_run_is_played_again(model, demask, refused, tmp_path):
    path = tmp_path / "RUN.json"
    text = demask("generate", "tick", "--model", model, "--save", path, "--steps", 4, "--order", "lefttoright").stdout
    result = Result.load(path)
    lines = demask("generate", "--replay", path).stdout.splitlines()
    assert len(lines) == result.steps + 1
    assert lines[0] == "   0  tick" + "░" * 15
    assert lines[-1] == f"{result.steps:4d}  {text.rstrip()}"
    assert demask("generate", "--replay", path, "--step", result.steps).stdout == text
    assert "░" in demask("generate", "--replay", path, "--step", 1).stdout
    assert "steps 0" in refused("generate", "--replay", path, "--step", result.steps + 1)
    path.write_text(path.read_text()[:-9])
    assert "was cut" in refused("generate", "--replay", path)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["generate", "tick tack"], ["'tack'", "unknown"]),
        (["generate", "tick", "--max-new-tokens", 0], ["--max-new-tokens 0"]),
        (["generate", "tick", "--max-new-tokens", 99], ["room for 15"]),
        (["generate", " ".join(["tick"] * 20)], ["20 tokens", "context of 16"]),
        (["generate", "tick", "--schedule", "minmax"], ["minmax", "minimax"]),
        (["generate", "tick", "--order", "alphabetical"], ["no order"]),
        (["generate", "tick", "--steps", 4, "--excess", 0.1], ["one of them"]),
        (["generate", "tick", "--top-p", 2], ["top-p", "(0, 1]"]),
        (["generate", "tick", "--top-k", 0], ["--top-k 0"]),
        (["generate", "tick", "--min-p", 1.5], ["min-p", "[0, 1]"]),
        (["generate", "tick", "--forbid", -1], ["--forbid -1"]),
        (["generate", "tick", "--forbid", 77], ["token 77"]),
        (["generate", "tick", "--stop", ""], ["stop", "empty"]),
        (["generate", "--guidance", 1], ["without a prompt"]),
        (["generate", "tick", "--sampler", "Parallel(uniform(steps=2), Random())", "--steps", 2], ["one of them"]),
        (["generate", "tick", "--n", 2, "--save", "x.json"], ["--save", "--json"]),
        (["generate", "tick", "--save", "/no/such/x.json"], ["mkdir -p"]),
        (["generate", "tick", "--step", 2], ["--replay"]),
        (["generate", "--replay", "missing.json"], ["missing.json", "no such file"]),
        (["fill", "tick"], ["[MASK"]),
        (["fill", "tick [MASK:0]"], ["[MASK:0]"]),
        (["fill", "tick [MSAK:3]"], ["[MSAK:3]", "\\[MSAK:3]"]),
    ],
)
def test_refusals(model, refused, args, words):
    line = refused(*args, "--model", model)
    for word in words:
        assert word in line


def test_a_model_that_does_not_exist(refused, tmp_path):
    assert "demask train" in refused("generate", "--model", "demask/nothing")
    assert str(tmp_path) in refused("generate", "--model", tmp_path)


def test_an_interrupt_leaves_no_file(model, demask, monkeypatch, tmp_path):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("demask.generate.job.Job.stream", interrupted)
    result = demask("generate", "tick", "--model", model, "--save", tmp_path / "RUN.json", code=130)
    assert (result.stdout, result.stderr) == ("", "demask: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_the_live_view_shows_every_step(model, monkeypatch):
    monkeypatch.setattr(live, "_SHOW", 0.0)
    screen = Console(force_terminal=True, width=60, height=12, record=True, no_color=True)
    result = live.watch(load(model).stream("tick", 9, steps=3, key=1), screen, 3)
    shown = screen.export_text()
    assert result == load(model).generate("tick", 9, steps=3, key=1)
    for step in range(result.steps + 1):
        assert f"step {step} of 3   NFE {step}" in shown
    assert "░" in shown


def test_the_scrubber_follows_the_keys(model, monkeypatch, tmp_path):
    """End, left, home, right, right, quit: the steps shown."""
    monkeypatch.setattr(live, "_raw", __import__("contextlib").nullcontext)
    keys = iter([b"\x1b[F", b"\x1b[D", b"\x1b[H", b"\x1b[C", b"\x1b[C", b"q"])
    monkeypatch.setattr(live.os, "read", lambda handle, size: next(keys))
    monkeypatch.setattr(live.sys, "stdin", type("Tty", (), {"fileno": lambda self: 0})())
    seen = []
    monkeypatch.setattr(live, "picture", lambda shown, screen, steps: seen.append(shown.step + 1) or "")
    frames = list(load(model).generate("tick", 9, steps=4, key=1, order="lefttoright").frames())
    live._scrub(frames, Console(force_terminal=True, width=60, height=12, record=True))
    last = len(frames) - 1
    assert seen == [0, last, last - 1, 0, 1, min(2, last)]


def test_what_is_said_of_a_published_model(tmp_path, demask, refused):
    odd = {"mask_token": "w3", "eos_token": "<|endoftext|>"}  # and config.json has another mask
    folder = write_published(tmp_path, LLADA, drawn(FAMILIES["llada"][1](LLADA)), tokenizer_config=odd)
    assert "give the right one as mask=.." in refused("generate", "w1", "--model", folder)
    (tmp_path / "chat.jinja").write_text("{% for m in messages %}{{ m.content }} w9{% endfor %}")
    said = ("--load", "mask=21", "--load", "dtype=bfloat16", "--load", f"chat={tmp_path / 'chat.jinja'}")
    given = {"mask": 21, "dtype": torch.bfloat16, "chat": (tmp_path / "chat.jinja").read_text()}
    model = load(folder, **given)
    told = demask("generate", "w1", "--chat", "--model", folder, *said, "--max-new-tokens", 4, "--key", 2)
    assert told.stdout == model.chat("w1", 4, key=2).gaps[0] + "\n"
    filled = demask("fill", "w1 [MASK:2] w2", "--model", folder, *said, "--key", 2)
    assert filled.stdout == model.fill("w1 [MASK:2] w2", key=2).text + "\n"
    assert "mask is for published checkpoints" in refused("generate", "--load", "mask=1")
