import csv
from io import StringIO

import pytest

from demask import panels, plots
from demask.cli.continuous import measured
from demask.errors import DemaskError
from demask.information.continuous import guarantee, output_kl, path_kl, total_variation
from demask.oracles import subspaces
from demask.samplers import Backward, Forward, General, LowDimensional

SMALL = ("compare", "--continuous", "--steps", "12,24", "--dimensions", "4,9", "--rank", "2")


def test_json_equals_the_library(as_json):
    told = as_json(*SMALL)
    rules = {"General()": General(), "LowDimensional()": LowDimensional()}
    assert [(r["coefficients"], r["dimension"], r["steps"]) for r in told["rows"]] == [
        (rule, d, steps) for rule in rules for d in (4, 9) for steps in (12, 24)
    ]
    for row in told["rows"]:
        target = subspaces(row["dimension"], 2)
        sampler = Backward(Forward(row["steps"]), rules[row["coefficients"]])
        assert row["path_kl_nats"] == pytest.approx(path_kl(target, sampler))
        assert row["guarantee_nats"] == pytest.approx(guarantee(target, sampler))
        assert row["output_kl_nats"] == pytest.approx(output_kl(target, sampler))
        assert row["tv"] == pytest.approx(total_variation(target, sampler))
        assert row["path_kl_error"] == 0


def test_the_error_follows_the_intrinsic_dimension(as_json):
    rows = as_json("compare", "--continuous", "--steps", "100", "--rank", "3")["rows"]
    general, low = rows[:4], rows[4:]
    assert [row["dimension"] for row in low] == [8, 32, 128, 512]
    for error in ("path_kl_nats", "output_kl_nats", "tv"):
        assert [row[error] for row in low] == pytest.approx([low[0][error]] * 4, rel=1e-6)
        assert general[-1][error] > 4 * general[0][error] or error == "tv"
        assert [row[error] for row in general] == sorted(row[error] for row in general)


def test_files_and_the_table(demask, tmp_path):
    table, picture = tmp_path / "rows.csv", tmp_path / "rows.png"
    out = demask(*SMALL, "--csv", table, "--plot", picture).stdout
    assert "intrinsic dimension 2" in out
    assert f"wrote {picture}" in out
    assert "LowDimensional()" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(StringIO(table.read_text())))
    expected = measured(steps=[12, 24], dimensions=[4, 9], rank=2)
    assert [float(row["tv"]) for row in rows] == [row["tv"] for row in expected]


def test_mixtures_are_drawn(as_json, demask):
    args = ("compare", "--continuous", "--oracle", "points(count=3)", "--steps", "10", "--dimensions", "3")
    rows = as_json(*args, "--key", "1")["rows"]
    assert all(row["path_kl_error"] > 0 and row["tv"] is None and row["rank"] == 0 for row in rows)
    assert rows != as_json(*args, "--key", "2", "--rank", "1")["rows"]
    out = demask(*args, "--rules", "LowDimensional()").stdout
    assert "512 drawn paths" in out
    assert "General" not in out


def test_the_picture_has_a_line_per_dimension():
    rows = measured(steps=[10, 20], dimensions=[2, 5, 7], rank=2)
    figure = panels.continuous(rows)
    assert len(figure.axes) == 4
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    general = [row for row in rows if row["coefficients"] == "General()"]
    assert drawn == [[row["path_kl_nats"] for row in general if row["dimension"] == d] for d in (2, 5, 7)]
    assert [text.get_text() for text in figure.axes[2].get_legend().get_texts()] == ["d = 2", "d = 5", "d = 7"]
    assert len(panels.continuous([row | {"tv": None} for row in rows]).axes) == 2
    assert plots.svg(figure).startswith("<svg")
    with pytest.raises(DemaskError, match="no rows"):
        panels.continuous([])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--rank", "9"], ["--rank 9", "--dimensions 8"]),
        (["--rank", "-1"], ["--rank -1", "0 or more"]),
        (["--dimensions", "8,x"], ["--dimensions", "'x'"]),
        (["--steps", "1"], ["T = 1", "Forward(200)"]),
        (["--steps", "0"], ["--steps '0'"]),
        (["--steps", "4"], ["beta_4", "Forward(9"]),
        (["--rules", "Best()"], ["no coefficients", "LowDimensional"]),
        (["--rules", ";"], ["--rules", "General();LowDimensional()"]),
        (["--oracle", "parity"], ["no distribution", "subspaces"]),
        (["--oracle", "subspaces(variance=-1)"], ["variance -1"]),
        (["--oracle", "subspaces(variance=nan)"], ["variance nan"]),
        (["--oracle", "subspaces(rank=5)", "--dimensions", "3", "--rank", "2"], ["rank 5 in 3 dimensions"]),
        (["--length", "4"], ["--continuous", "not tokens"]),
        (["--model", "demask/notes"], ["--continuous", "not tokens"]),
        (["--schedules", "uniform"], ["--continuous", "not tokens"]),
        (["--plot", "x.gif"], [".gif"]),
    ],
)
def test_bad_input(refused, args, words):
    line = refused("compare", "--continuous", *args)
    for word in words:
        assert word in line


@pytest.mark.parametrize("args", [["--rank", "2"], ["--dimensions", "8"], ["--rules", "General()"]])
def test_only_with_continuous(refused, args):
    assert "are for --continuous" in refused("compare", "--oracle", "latin_square", *args)
