"""What `demask serve` refuses before it serves; the rest is in tests/serve."""

import pytest

pytest.importorskip("fastapi", reason="the server is an extra: pip install 'demask[serve]'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "70000"),
        (["--deadline", "0"], "deadline = 0"),
        (["--api-keys", "nowhere"], "nowhere: no such file"),
        (["--replicas", "2"], "--ray local"),
        (["--ray", "local", "--replicas", "2", "--most-replicas", "1"], "at least 2 replicas and at most 1"),
        (["--idle", "5"], "--ray local"),
        (["--idle", "0", "--ray"], "idle = 0"),
        (["--ray", "--idle", "0"], "idle = 0"),
        (["--ray", "local", "--idle", "0"], "idle = 0"),
        (["--host", "203.0.113.7"], "cannot listen at 203.0.113.7"),
        (["no-such-model"], "no-such-model"),
        (["--load", "mask"], "expected NAME=VALUE"),
        (["--load", "mask=3"], "mask is for published checkpoints"),
        (["--load", "device=cpu", "--ray", "local"], "leave out --ray"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(refused, options, message):
    assert message in refused("serve", *options)


def test_a_file_of_keys_without_a_key_is_refused(refused, tmp_path):
    (tmp_path / "keys").write_text("\n")
    assert "has no key" in refused("serve", "--api-keys", tmp_path / "keys")
