import math

import pytest
import torch
from rich.console import Console

from demask import Canvas, Law, Parallel, Random, minimax, oracles, sample, uniform
from demask.cli.sample import Watch

SHORT = ("--length", 24, "--steps", 4)


def test_json_equals_the_library(english, as_json):
    told = as_json("sample", "--text", english, *SHORT, "--rows", 3, "--key", 5, "--target", "tc")
    chain = oracles.fit(english.read_text("utf-8"), length=24)
    sizes = minimax(24, 4, target="tc")
    run = sample(chain, Parallel(sizes, Random()), Canvas.blank(3, 24), key=5)
    assert told["tokens"] == run.tokens.tolist()
    assert told["text"] == chain.decode(run.tokens)
    assert told["when"] == run.when.tolist()
    assert told["sizes"] == [torch.bincount(row).tolist() for row in run.when]
    assert told["nfe"] == told["steps"] == [4, 4, 4]
    assert (told["key"], told["law"], told["status"]) == (5, Law.FACTORISED.name, "FINISHED")
    assert told["tc"] == pytest.approx(chain.tc())
    assert told["dtc"] == pytest.approx(chain.dtc())
    assert told["path_kl_nats"] == pytest.approx(sizes.cost(chain.curve()))
    assert told["guarantee_nats"] == pytest.approx(sizes.guarantee(tc=chain.tc(), dtc=chain.dtc()))
    assert told["guarantee_bits_per_token"] == pytest.approx(told["guarantee_nats"] / math.log(2) / 24)
    assert told["schedule"] == repr(sizes)
    assert told["order"] == "Random()"


def test_plain_output_is_the_text_then_what_it_cost(english, demask, as_json):
    told = as_json("sample", "--text", english, *SHORT)
    out = demask("sample", "--text", english, *SHORT).stdout
    assert out.startswith(told["text"][0] + "\n\n")
    lines = dict(line.split("  ", 1) for line in out.removeprefix(told["text"][0]).strip().splitlines())
    assert lines["law"].strip() == f"FACTORISED: {Law.FACTORISED.value}"
    assert lines["guarantee"].strip().startswith("E KL <= ")
    assert "\x1b" not in out


def test_equal_keys_give_equal_output_and_others_do_not(english, demask):
    first, again, other = (demask("sample", "--text", english, *SHORT, "--key", key).stdout for key in (1, 1, 2))
    assert first == again != other


def test_stdin_and_bytes(tmp_path, demask):
    raw = bytes(range(256)) * 20
    (tmp_path / "raw").write_bytes(raw)
    command = ("sample", "--unit", "bytes", *SHORT, "--json", "--text")
    assert demask(*command, "-", input=raw).stdout == demask(*command, tmp_path / "raw").stdout


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--order", "confidence"], "uniformly random positions"),
        (["--temperature", "0.5"], "temperature 0.5"),
        (["--schedule", "perblock(uniform, 8)"], "does not fix the law of the sizes"),
        (["--order", "blockwise(random, 8)"], "uniformly random positions"),
    ],
)
def test_no_guarantee_where_none_holds(english, as_json, options, why):
    told = as_json("sample", "--text", english, *SHORT, *options)
    assert told["path_kl_nats"] is told["guarantee_nats"] is told["guarantee_bits_per_token"] is None
    assert why in told["guarantee_basis"]


def test_schedules_that_know_the_chain(english, as_json):
    costs = [
        as_json("sample", "--text", english, *SHORT, "--schedule", spec)["path_kl_nats"]
        for spec in ("optimal", "two_number", "uniform")
    ]
    assert costs[0] == min(costs)


def test_order_two_says_what_it_cannot_know(tmp_path, as_json):
    text = tmp_path / "text.txt"
    text.write_text("".join(chr(97 + i * i * 7 % 26) for i in range(400)) * 3 + "abcdefghijklmnopqrstuvwxyz")
    told = as_json("sample", "--text", text, "--markov", 2, "--length", 64, "--steps", 1)
    assert told["path_kl_nats"] is None
    assert told["guarantee_nats"] > 0


def test_the_watch_shows_every_step():
    screen = Console(force_terminal=True, width=40, height=10, record=True, no_color=True)
    chain = oracles.fit("abracadabra", length=12, smoothing=0.1)
    with Watch(screen, list("abcdr"), 1, 3) as watch:
        run = sample(chain, Parallel(uniform(12, 3), Random()), Canvas.blank(1, 12), key=0, collect=[watch])
    shown = screen.export_text()
    assert "step 1 of 3, 4 of 12 tokens" in shown
    assert "·" in shown
    assert chain.decode(run.tokens)[0] in shown
