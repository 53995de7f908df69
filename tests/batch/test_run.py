import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from demask.batch import Work, prepare, run
from demask.cli.app import app
from demask.errors import GenerateError
from tests.batch.test_work import model, raw  # noqa: F401
from tests.processes import below


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(raw(*["tick", "tock", "bonjour"] * 4, "tick")) + b"\n")
    return path


def outputs(out):
    return {path.name: path.read_bytes() for path in Path(out).glob("*.jsonl")}


def test_from_file_to_folder(source, tmp_path, model):  # noqa: F811
    done = run(prepare(source, tmp_path / "out", Work("here"), shard=5), model=model)
    assert (done.shards, done.total, done.records, done.rejects) == (3, 3, 9, 4)
    lines = [json.loads(line)["line"] for name in sorted(outputs(tmp_path / "out")) if name.startswith("part")
             for line in (tmp_path / "out" / name).read_text().splitlines()]  # fmt: skip
    assert lines == [1, 2, 4, 5, 7, 8, 10, 11, 13]
    whole = run(prepare(source, tmp_path / "whole", Work("here"), shard=100), model=model)
    assert whole.records == 9
    parts = b"".join(outputs(tmp_path / "out")[f"part-0000{i}.jsonl"] for i in range(3))
    assert parts == outputs(tmp_path / "whole")["part-00000.jsonl"]


def test_a_run_that_was_stopped_goes_on(source, tmp_path, model):  # noqa: F811
    prepared = prepare(source, tmp_path / "out", Work("here"), shard=3)

    def killed(work, shards):
        for number, first, lines in shards:
            if number == 2:
                raise KeyboardInterrupt
            yield number, work.do(model, first, lines)

    with pytest.raises(KeyboardInterrupt):
        run(prepared, workers=killed)
    before = outputs(tmp_path / "out")
    assert {name for name in before if name.startswith("part")} == {"part-00000.jsonl", "part-00001.jsonl"}
    asked = []

    def rest(work, shards):
        for number, first, lines in shards:
            asked.append(number)
            yield number, work.do(model, first, lines)

    done = run(prepare(source, tmp_path / "out", Work("here"), shard=3), workers=rest)
    assert asked == [2, 3, 4]
    assert (done.records, done.rejects) == (9, 4)
    straight = run(prepare(source, tmp_path / "straight", Work("here"), shard=3), model=model)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "straight")
    assert straight == done
    assert (
        run(prepare(source, tmp_path / "out", Work("here"), shard=3), workers=killed) == done
    )  # nothing is done again


@pytest.mark.parametrize(
    ("change", "words"),
    [({"key": 1}, "key differ"), ({"settings": {"steps": 2}}, "settings differ"), ({"model": "other"}, "model differ")],
)
def test_another_run_is_refused(source, tmp_path, change, words):
    prepare(source, tmp_path / "out", Work("here"))
    with pytest.raises(GenerateError, match=words):
        prepare(source, tmp_path / "out", Work(**{"model": "here", **change}))


def test_bad_input(source, tmp_path):
    prepare(source, tmp_path / "out", Work("here"))
    source.write_text('"tock"\n')
    with pytest.raises(GenerateError, match="input, lines differ"):
        prepare(source, tmp_path / "out", Work("here"))
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    with pytest.raises(GenerateError, match="is empty"):
        prepare(empty, tmp_path / "other", Work("here"))
    with pytest.raises(GenerateError, match="no such file"):
        prepare(tmp_path / "none", tmp_path / "other", Work("here"))
    with pytest.raises(GenerateError, match="not an empty folder"):
        prepare(source, tmp_path, Work("here"))
    with pytest.raises(GenerateError, match="shard = 0"):
        prepare(source, tmp_path / "other", Work("here"), shard=0)


def test_a_full_disk_loses_nothing(source, tmp_path, model, monkeypatch):  # noqa: F811
    import demask.files

    prepared, write = prepare(source, tmp_path / "out", Work("here"), shard=3), demask.files.write

    def full(path, content):
        if Path(path).name == "part-00001.jsonl":
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(demask.files, "write", full)
    with pytest.raises(OSError, match="No space"):
        run(prepared, model=model)
    monkeypatch.undo()
    assert run(prepared, model=model).records == 9
    assert Counter(json.loads(line)["line"] for name, body in outputs(tmp_path / "out").items()
                   for line in body.decode().splitlines()) == Counter(range(1, 14))  # fmt: skip


COMMAND = (sys.executable, "-m", "demask.cli", "batch")


def notes(path, count=24):
    path.write_text("".join(json.dumps(f"dear {name} ,") + "\n" for name in ["anna", "max", "bonjour"] * (count // 3)))
    return path


def started(*args):
    return subprocess.Popen([*COMMAND, *map(str, args)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finished(*args):
    process = started(*args)
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return out


def alone(*args):
    """What the same command says in this process, to spare a start."""
    done = CliRunner().invoke(app, ["batch", *map(str, args)])
    assert done.exit_code == 0, done.output
    return done.stdout


QUICK = ("--steps", 4, "--max-new-tokens", 40, "--shard", 2)


def test_a_driver_that_is_killed_loses_nothing(tmp_path):
    """SIGKILL after the second shard; the same command completes what one that was left alone writes."""
    source, out = notes(tmp_path / "in.jsonl"), tmp_path / "out"
    process = started(source, out, *QUICK)
    while not (out / "part-00001.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert "16 records" in alone(source, out, *QUICK)
    alone(source, tmp_path / "alone", *QUICK)
    assert outputs(out) == outputs(tmp_path / "alone")


@pytest.mark.slow
def test_ray_does_the_same_and_survives_a_killed_worker(tmp_path):
    """Two actors; one process of them is killed with SIGKILL in the middle."""
    pytest.importorskip("ray")
    source, out = notes(tmp_path / "in.jsonl", 48), tmp_path / "out"
    options = ("--ray", "local", "--actors", 2, "--threads", 1)
    process = started(source, out, *QUICK, *options)
    while not list(out.glob("part-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    victim, *_ = [one for one in below(process.pid, "ray::") if one in below(process.pid, "Worker")]
    os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    finished(source, tmp_path / "here", *QUICK)
    assert outputs(out) == outputs(tmp_path / "here")


@pytest.mark.slow
def test_a_ray_driver_that_is_killed_loses_nothing(tmp_path):
    pytest.importorskip("ray")
    source, out = notes(tmp_path / "in.jsonl", 48), tmp_path / "out"
    process = started(source, out, *QUICK, "--ray", "local", "--actors", 2, "--threads", 1)
    while not list(out.glob("part-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    finished(source, out, *QUICK, "--ray", "local", "--actors", 2, "--threads", 1)
    finished(source, tmp_path / "here", *QUICK)
    assert outputs(out) == outputs(tmp_path / "here")
