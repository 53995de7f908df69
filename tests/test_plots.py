import itertools
import os
import stat
import sys

import pytest

from demask import (
    Canvas,
    DemaskError,
    Parallel,
    Random,
    binomial,
    files,
    minimax,
    oracles,
    panels,
    plots,
    sample,
    uniform,
)
from demask.cli.compare import measured

SIGNATURES = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture(scope="module")
def rows():
    return measured(oracles.reed_solomon(6, 3), [1, 2])


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_formats(tmp_path, suffix):
    path = tmp_path / f"schedule{suffix}"
    plots.save(plots.schedule(minimax(16, 4)), path)
    assert path.read_bytes().startswith(SIGNATURES[suffix])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("sizes", [minimax(32, 6), uniform(32, 6), binomial(12, 3), uniform(5, 5), minimax(2, 1)])
def test_every_kind_of_sizes(sizes):
    above, below = plots.schedule(sizes).axes
    assert below.lines[-1].get_ydata() == pytest.approx(sizes.residual())
    assert len(above.patches) + len(above.collections) > 0


def test_a_schedule_without_anything_to_draw():
    with pytest.raises(DemaskError, match="length of 2"):
        plots.schedule(uniform(1, 1))


def test_compare_draws_every_row(rows):
    figure = plots.compare(rows)
    lines = figure.axes[0].lines
    drawn = sorted(y for line in lines[:-1] for y in line.get_ydata() if y == y)
    assert drawn == pytest.approx(sorted(row["path_kl_nats"] for row in rows if row["path_kl_nats"] > 0))
    assert "uniform at 2" in figure.axes[0].get_title(loc="left")  # exact, which a logarithmic axis cannot show
    assert lines[-1].get_linestyle() == "--"
    with pytest.raises(DemaskError, match="no rows"):
        plots.compare([])


def test_right_draws_every_share_and_the_level_of_one_token_each():
    def row(schedule, steps, nfe, right):
        return {"schedule": schedule, "steps": steps, "nfe": nfe, "right": right, "low": right / 2, "high": 1.0}

    one, other = [row("uniform", None, 70.0, 0.5), row("uniform", 9, 8.0, 0.1)], [row("optimal", 4, 4.0, 0.3)]
    alone, (left, right) = plots.right(one).axes[0], panels.right({"honest": one, "by default": other}).axes
    for axes in (alone, left):
        assert [list(line.get_ydata()) for line in axes.lines] == [[0.1], [0.5, 0.5]]  # one schedule, and the level
        assert list(axes.lines[0].get_xdata()) == [8.0]
        assert {text.get_text() for text in axes.texts} == {"one token each, 70 passes", "uniform"}
    assert [list(line.get_ydata()) for line in right.lines] == [[0.3]]
    assert left.get_ylim() == right.get_ylim()
    assert [axes.get_title(loc="left") for axes in (left, right)] == ["honest", "by default"]
    for nothing in ({}, {"honest": one, "none": []}):
        with pytest.raises(DemaskError, match="no rows"):
            panels.right(nothing)
    with pytest.raises(DemaskError, match="no rows"):
        plots.right([])


def test_names_at_the_ends_do_not_touch():
    places = plots._apart([0.5, 0.5, 0.5, 0.52, 0.9, 1.0], 0.05)
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert min(gaps) >= 0.05 - 1e-9
    assert places[0] >= 0
    assert places[-1] <= 1
    assert plots._apart([0.0] * 10, 0.05)[0] == pytest.approx(0)


@pytest.mark.parametrize("length", [20, 130])
def test_canvas_writes_every_token(length, tmp_path):
    chain = oracles.fit("abracadabra$ ^_", length=length, smoothing=0.1)
    run = sample(chain, Parallel(minimax(length, 5), Random()), Canvas.blank(2, length), key=0)
    cells = list(chain.decode(run.tokens)[1])
    figure = plots.canvas(run, cells, row=1)
    when = run.when[1].tolist()
    shown = sum(5 - step for step in when) if length <= 96 else length
    assert len(figure.axes[0].texts) == shown
    plots.save(figure, tmp_path / "canvas.png")
    with pytest.raises(DemaskError, match="3 cells"):
        plots.canvas(run, ["a"] * 3)


def test_refusals(tmp_path):
    with pytest.raises(DemaskError, match=r"\.gif.*\.png, \.svg, \.pdf"):
        plots.check(tmp_path / "x.gif")
    with pytest.raises(DemaskError, match="mkdir -p"):
        plots.check(tmp_path / "missing" / "x.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DemaskError, match="is a folder"):
        plots.check(tmp_path / "folder.png")


def test_matplotlib_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DemaskError, match=r"pip install 'demask\[plot\]'"):
        plots.schedule(uniform(8, 2))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch, error, call):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"before")

    def fails(*args):
        raise error

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(type(error)):
        files.write(path, b"after")
    with pytest.raises(type(error)):
        files.write(tmp_path / "new.csv", b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_files_that_belong_together_are_all_written_or_none(tmp_path, monkeypatch, error):
    """The disk is full at the second of two; what was there is what is there."""
    one, two, write = tmp_path / "one", tmp_path / "two", os.fsync
    for path in (one, two):
        path.write_bytes(b"before")
    left = [None]

    def fails(handle):
        if not left:
            raise error
        left.pop()
        write(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(type(error)) as told:
            files.write_all({one: b"after", two: b"after"})
    assert getattr(told.value, "filename", str(two)) == str(two)
    assert [path.read_bytes() for path in (one, two)] == [b"before"] * 2
    assert sorted(tmp_path.iterdir()) == [one, two]
    files.write_all({one: b"after", two: b"after"})
    assert [path.read_bytes() for path in (one, two)] == [b"after"] * 2


def test_a_figure_that_fails_leaves_no_file(tmp_path, monkeypatch):
    figure = plots.schedule(uniform(8, 2))
    monkeypatch.setattr(figure, "savefig", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plots.save(figure, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_permissions_and_links_are_kept(tmp_path):
    path, link = tmp_path / "real.csv", tmp_path / "link.csv"
    path.write_bytes(b"before")
    path.chmod(0o640)
    link.symlink_to(path)
    files.write(link, b"after")
    assert link.is_symlink()
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    files.write(os.devnull, b"anything")
    assert not os.path.isfile(os.devnull)
