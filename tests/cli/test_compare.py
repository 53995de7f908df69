import csv
from io import StringIO

import pytest

from demask import Parallel, Random, law, minimax, oracles, two_number, uniform
from demask.cli.compare import SPECS, parse_specs, parse_steps
from demask.errors import SpecError


def test_json_equals_the_library_with_the_law_of_the_output(as_json):
    told = as_json("compare", "--oracle", "table(3, 2, key=3)", "--steps", "2")
    oracle = oracles.Table.random(3, 2, key=3)
    assert told["curve_exact"]
    assert told["tc"]["nats"] == pytest.approx(oracle.tc())
    rows = {row["schedule"]: row for row in told["rows"]}
    assert list(rows) == list(SPECS)
    tc, dtc = oracle.tc(), oracle.dtc()
    known = {
        "uniform": uniform(3, 2),
        'minimax(target="both")': minimax(3, 2),
        "two_number": two_number(3, 2, tc=tc, dtc=dtc),
    }
    for spec, sizes in known.items():
        assert rows[spec]["path_kl_nats"] == pytest.approx(sizes.cost(oracle.curve()))
        assert rows[spec]["guarantee_nats"] == pytest.approx(sizes.guarantee(tc=tc, dtc=dtc))
        output = law(oracle, Parallel(sizes, Random()))
        assert rows[spec]["output_kl_nats"] == pytest.approx(oracle.kl(output))
    for row in told["rows"]:
        assert row["output_kl_nats"] <= row["path_kl_nats"] + 1e-9
        assert row["path_kl_nats"] <= row["guarantee_nats"] * (1 + 1e-12) + 1e-12
    assert rows["optimal"]["path_kl_nats"] == pytest.approx(min(row["path_kl_nats"] for row in told["rows"]))


def test_csv_round_trip(english, as_json, tmp_path):
    path = tmp_path / "rows.csv"
    told = as_json("compare", "--text", english, "--length", 32, "--steps", "4,8", "--csv", path)
    rows = list(csv.DictReader(StringIO(path.read_text())))
    assert len(rows) == len(told["rows"]) == 2 * len(SPECS)
    for written, row in zip(rows, told["rows"], strict=True):
        assert written["output_kl_nats"] == ""
        assert row["output_kl_nats"] is None
        assert {k: float(v) for k, v in written.items() if k not in ("schedule", "output_kl_nats")} == {
            k: v for k, v in row.items() if k not in ("schedule", "output_kl_nats")
        }
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_has_every_schedule_and_the_totals_first(english, demask):
    out = demask("compare", "--text", english, "--length", 16, "--steps", "4").stdout
    assert out.splitlines()[1].startswith("TC ")
    for spec in SPECS:
        assert spec in out


def test_own_schedules(as_json):
    told = as_json(
        "compare", "--oracle", "reed_solomon(16, 8)", "--steps", "4", "--schedules", "uniform; Plan((8, 4, 4))"
    )
    assert [(row["schedule"], row["steps"]) for row in told["rows"]] == [("Plan((8, 4, 4))", 3), ("uniform", 4)]


def test_length_reaches_oracles_that_ask_for_it(as_json):
    assert as_json("compare", "--oracle", "parity", "--length", 6, "--steps", 2)["length"] == 6


@pytest.mark.parametrize("text", ["", "4,", "4,x", "0", "4;8", "4,4", "-1", "2.5", "²"])
def test_bad_lists_of_steps(text):
    with pytest.raises(SpecError, match="--steps"):
        parse_steps(text)


def test_lists():
    assert parse_steps("8, 4") == [4, 8]
    assert parse_specs(" uniform ;;cosine;uniform") == ["uniform", "cosine"]
    with pytest.raises(SpecError):
        parse_specs(" ; ")
