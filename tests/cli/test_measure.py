"""measure, plan and report, end to end on a text and on oracles."""

import json
import re

import pytest
from typer.testing import CliRunner

from demask import oracles
from demask.cli.app import app
from demask.information.measurement import Measurement


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    import pydoc_data.topics

    path = tmp_path_factory.mktemp("text") / "english.txt"
    path.write_text("\n".join(pydoc_data.topics.topics[k] for k in sorted(pydoc_data.topics.topics))[:60_000])
    return path


@pytest.fixture(scope="module")
def curve(text):
    path = text.parent / "curve.json"
    result = call("measure", "chain", str(text), "--length", "32", "--passes", "600", "--out", str(path))
    assert result.exit_code == 0, result.stderr
    return path


def call(*arguments):
    return CliRunner().invoke(app, list(arguments))


def refused(message, *arguments):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0], lines[0]


def test_measure_writes_what_it_prints(curve):
    found = Measurement.load(curve)
    assert found.length == 32
    assert found.data == "english.txt"
    assert found.tc > 0
    result = call("measure", "latin_square", "--passes", "400", "--json")
    content = json.loads(result.stdout)
    again = Measurement.from_json(content)
    low, high = again.tc.interval(0.999)
    assert low < oracles.latin_square().tc() < high


def test_equal_keys_measure_alike(text):
    arguments = ("measure", "chain", str(text), "--length", "16", "--passes", "200", "--json")
    one, two, other = (json.loads(call(*arguments, "--key", key).stdout) for key in ("1", "1", "2"))
    del one["seconds"], two["seconds"]
    assert one == two
    assert one["loss"] != other["loss"]


def test_plan_by_steps_and_by_excess(curve, tmp_path):
    content = json.loads(call("plan", str(curve), "--steps", "8", "--json").stdout)
    assert sum(content["sizes"]) == 32
    assert len(content["sizes"]) == 8
    low, high = content["interval"]
    assert low <= content["cost"] <= high
    fewest = json.loads(call("plan", str(curve), "--excess", str(content["cost"] * 1.0001), "--json").stdout)
    assert len(fewest["sizes"]) <= 8
    out = tmp_path / "certificate.json"
    result = call("plan", str(curve), "--steps", "8", "--hedge", "0.2", "--out", str(out))
    assert result.exit_code == 0
    assert "Not promised" in result.stdout
    assert json.loads(out.read_text())["hedge"] == 0.2
    picture = tmp_path / "plan.png"
    assert call("plan", str(curve), "--steps", "8", "--plot", str(picture)).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_movements_are_measured_unless_refused(text):
    found = json.loads(call("measure", "chain", str(text), "--passes", "64", "--length", "32", "--json").stdout)
    plain = json.loads(
        call("measure", "chain", str(text), "--passes", "64", "--length", "32", "--json", "--no-movement").stdout
    )
    assert len(found["movement"]) == len(found["grid"]) - 1
    assert plain["movement"] is None
    assert plain["loss"] == found["loss"]


def test_report_puts_its_pictures_beside_the_page(curve, tmp_path):
    out = tmp_path / "page.html"
    result = call("report", str(curve), "--steps", "4,8", "--out", str(out), "--plots", str(tmp_path), "--json")
    assert result.exit_code == 0, result.stderr
    names = {"curve.png", "curve.svg", "cost-1.png", "cost-1.svg"}
    assert {path.rsplit("/", 1)[1] for path in json.loads(result.stdout)["pictures"]} == names
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)
    refused("there is no folder", "report", str(curve), "--plots", str(tmp_path / "no"))


def test_report_is_one_page_without_outside_resources(curve, tmp_path):
    out = tmp_path / "page.html"
    result = call("report", str(curve), str(curve), "--steps", "4,8,64", "--out", str(out))
    assert result.exit_code == 0, result.stderr
    page = out.read_text()
    assert page.count("<svg") == 3
    assert page.count("demask certificate") == 2
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r'(src|href)\s*=\s*"(?!#)', page)  # nothing is loaded; references stay inside the page
    assert not re.search(r"url\((?!#)", page)
    assert "64 steps" not in page  # beyond the 32 positions of this curve


def test_refusals(curve, text, tmp_path):
    refused("needs one TEXT", "measure", "chain")
    refused("leave out", "measure", "latin_square", str(text))
    refused("windows of 50000", "measure", "chain", str(text), "--length", "50000")
    refused("no oracle is called 'llama'", "measure", "llama")
    refused("one of them", "plan", str(curve))
    refused("one of them", "plan", str(curve), "--steps", "4", "--excess", "1")
    refused("excess = -1", "plan", str(curve), "--excess", "-1")
    refused("No such file", "plan", str(tmp_path / "missing.json"), "--steps", "4")
    foreign = tmp_path / "foreign.json"
    foreign.write_text('{"schema": "other/1"}')
    refused("foreign.json", "plan", str(foreign), "--steps", "4")
    cut = tmp_path / "cut.json"
    cut.write_text(curve.read_text()[:100])
    refused("cut.json", "report", str(cut))
    refused("is not a whole number", "report", str(curve), "--steps", "x")
    refused("there is no folder", "report", str(curve), "--out", str(tmp_path / "no" / "page.html"))
