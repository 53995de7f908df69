import pytest

from demask import registry


@pytest.fixture
def files(tmp_path):
    (tmp_path / "short.txt").write_text("a")
    (tmp_path / "latin1.txt").write_bytes("déjà vu".encode("latin-1"))
    return tmp_path


def test_unknown_schedules_list_the_names(english, refused):
    line = refused("sample", "--text", english, "--schedule", "minmax")
    for name in registry.names("schedule"):
        assert name in line


def test_unknown_options_list_the_options(english, refused):
    assert "length, steps, target" in refused("sample", "--text", english, "--schedule", "minimax(goal=1)")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--steps", "0"], ["--steps 0", "1 or more"]),
        (["--steps", "x"], ["--steps 'x'", "--help"]),
        (["--temperature", "-1"], ["--temperature -1", "0 or more"]),
        (["--smoothing", "nan"], ["--smoothing nan"]),
        (["--target", "all"], ["'all'", "complexity"]),
        (["--schedule", "uniform", "--target", "tc"], ["--schedule uniform", "--target tc", "one of them"]),
        (["--schedule", "uniform(steps=4)", "--steps", "8"], ["--steps 8", "one of them"]),
        (["--schedule", "Plan((3, 1))", "--length", "8"], ["4 positions", "--length 4"]),
        (["--schedule", "uniform("], ["not a specification"]),
        (["--order", "alphabetical"], ["no order", "Random"]),
        (["--plot", "/no/such/folder/x.png"], ["/no/such/folder", "mkdir -p"]),
        (["--plot", "x.gif"], [".gif", ".svg"]),
        (["--nonsense"], ["--nonsense", "--help"]),
        (["--markov", "300"], ["--length"]),
    ],
)
def test_options(english, refused, args, words):
    line = refused("sample", "--text", english, *args)
    for word in words:
        assert word in line


def test_files(files, refused):
    assert "needs; expected at least 3" in refused("sample", "--text", files / "short.txt")
    assert "--unit bytes" in refused("sample", "--text", files / "latin1.txt")
    assert "no such file" in refused("sample", "--text", files / "missing.txt")
    assert "is a directory" in refused("sample", "--text", files)


def test_data(english, refused):
    assert "--text" in refused("sample")
    line = refused("compare")
    assert "--text FILE" in line
    assert "--oracle SPEC" in line
    assert "one of them" in refused("compare", "--text", english, "--oracle", "latin_square")
    assert "length 16" in refused("compare", "--oracle", "latin_square", "--length", 8)
    assert "4,8,16,32" in refused("compare", "--text", english, "--steps", "4,many")
    assert "no oracle" in refused("compare", "--oracle", "sudoku")
    assert "hours" in refused("compare", "--text", english, "--markov", 2)
    assert "leave them out" in refused("compare", "--oracle", "latin_square", "--smoothing", 1)


def test_schedule(refused):
    assert "one of them" in refused("schedule", "--constant", 0.1, "--steps", 4)
    assert "--target" in refused("schedule", "--constant", 0.1, "--schedule", "uniform")
    assert "curve" in refused("schedule", "--schedule", "optimal")
    assert "tc" in refused("schedule", "--schedule", "two_number")
    assert "before a row is seen" in refused("schedule", "--schedule", "unlimited")


def test_defects_are_not_hidden(english, demask, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("a defect")

    monkeypatch.setattr("demask.cli.schedule.run", broken)
    assert isinstance(demask("schedule", code=1).exception, RuntimeError)


def test_an_interrupt_is_one_line(demask, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("demask.cli.schedule.run", interrupted)
    result = demask("schedule", code=130)
    assert (result.stdout, result.stderr) == ("", "demask: interrupted\n")
