import json

import pytest

from demask.cli.listing import FAMILY, components, run
from demask.errors import SpecError
from demask.registry import KINDS

ASKED = (FAMILY, "schedule", "order", "verifier", "sampler")
OURS = {  # of nobody in particular, or of this project
    "AcceptAll", "Ended", "LeftToRight", "Noisy", "Parallel", "PerBlock", "Plan", "Random", "Unlimited",
}  # fmt: skip


def test_everything_is_there():
    found = {(one.kind, one.name) for one in components()}
    assert {(kind, name) for kind, entries in KINDS.items() for name in entries} <= found
    assert {name for kind, name in found if kind == FAMILY} == {
        "Dream", "LLaDA", "LLaDA2", "masked language model", "MDLM", "SDAR"
    }  # fmt: skip


def test_all_that_decodes_states_law_cost_and_reference():
    for one in components():
        assert one.says.endswith("."), one
        if one.kind in ASKED:
            assert one.law, one
            assert one.cost, one
            assert one.reference or one.name in OURS, one
        for text in (one.law, one.cost, one.reference):
            assert text is None or (text and "\n" not in text and ">>>" not in text), one


def test_a_kind_a_name_and_all(capsys):
    run("orders", as_json=False)
    told = capsys.readouterr().out
    assert told.startswith("order\n  Blockwise: Finish one block")
    assert "sampler\n" not in told
    assert max(map(len, told.splitlines())) <= 120
    run("families", as_json=True)
    assert "Nie et al." in next(
        one["reference"] for one in json.loads(capsys.readouterr().out)["components"] if one["name"] == "LLaDA"
    )
    run("smc", as_json=True)
    (one,) = json.loads(capsys.readouterr().out)["components"]
    assert (one["kind"], one["name"]) == ("sampler", "SMC")
    assert one["options"].startswith("SMC(inner, potential")
    run(None, as_json=False)
    told = capsys.readouterr().out
    assert all(f"\n{kind}\n" in f"\n{told}" for kind in (FAMILY, *KINDS))


def test_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    run("Threshold", as_json=False)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_unknown_names():
    with pytest.raises(SpecError, match=r"'Treshold'; did you mean Threshold"):
        run("Treshold", as_json=False)
    with pytest.raises(SpecError, match=r"kinds are family, schedule, order"):
        run("zzzz", as_json=False)
