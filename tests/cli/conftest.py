"""A file of English, and the command line in this process."""

import json
from pydoc_data.topics import topics

import pytest
from typer.testing import CliRunner

from demask.cli.app import app


@pytest.fixture(scope="session")
def english(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "english.txt"
    path.write_text("\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    return path


@pytest.fixture
def demask():
    def run(*args, code=0, **options):
        result = CliRunner().invoke(app, [str(arg) for arg in args], **options)
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def as_json(demask):
    def run(*args):
        result = demask(*args, "--json")
        assert result.stdout.count("\n") == 1
        return json.loads(result.stdout)

    return run


@pytest.fixture
def refused(demask):
    """The one line on stderr of a command that fails."""

    def run(*args, **options):
        result = demask(*args, code=2, **options)
        assert result.stdout == ""
        assert result.stderr.startswith("demask: ")
        assert result.stderr.count("\n") == 1
        assert "Traceback" not in result.stderr
        return result.stderr

    return run
