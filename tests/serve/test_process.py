"""What only a real process shows: the command, its signals, its log."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.processes import below
from tests.serve.running import wait_until

httpx = pytest.importorskip("httpx2", reason="the client is for development: pip install -e '.[dev]'")
ASK = {"prompt": "dear anna ,", "seed": 3, "schedule": "uniform", "steps": 40}


class Process:
    def __init__(self, *options, **environment):
        command = [sys.executable, "-m", "demask.cli", "serve", "--port", "0", "--threads", "1", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )
        self.log = []
        self.reader = threading.Thread(target=lambda: self.log.extend(iter(self.process.stderr.readline, "")))
        self.reader.start()

    def __enter__(self):
        try:
            wait_until(lambda: self.process.poll() is not None or "serving" in "".join(self.log), 300)
            found = re.search(r"serving (\S+) on (http://\S+);", "".join(self.log))
            assert found, self.log
        except AssertionError:
            self.__exit__()
            raise
        self.url = found[2]
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()


def test_sigterm_under_load_answers_what_was_taken():
    with Process() as server, ThreadPoolExecutor(16) as pool:
        answers = [
            pool.submit(httpx.post, server.url + "/v1/completions", json=ASK | {"seed": seed}, timeout=60)
            for seed in range(16)
        ]
        wait_until(lambda: "demask_active_rows 16" in httpx.get(server.url + "/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        assert {answer.result().status_code for answer in answers} == {200}
        assert server.process.wait(30) == 0
        assert server.process.stdout.read() == ""
    assert "Traceback" not in "".join(server.log)


def test_keys_stay_out_of_the_log_and_prompts_too(tmp_path):
    (tmp_path / "keys").write_text("first-secret\nsecond-secret\n")
    with Process("--api-keys", str(tmp_path / "keys")) as server:
        url = server.url + "/v1/completions"
        assert httpx.post(url, json=ASK).status_code == 401
        key = {"authorization": "Bearer second-secret", "x-request-id": "mine"}
        assert httpx.post(url, json=ASK, headers=key, timeout=60).status_code == 200
        wait_until(lambda: '"id": "mine"' in "".join(server.log))
        assert httpx.get(server.url + "/v1/models", headers={"authorization": "Bearer third"}).status_code == 401
    log = "".join(server.log)
    assert "secret" not in log
    assert "anna" not in log


def test_keys_come_from_the_environment_too():
    with Process(DEMASK_API_KEYS="one, two") as server:
        assert httpx.get(server.url + "/v1/models").status_code == 401
        assert httpx.get(server.url + "/v1/models", headers={"authorization": "Bearer two"}).status_code == 200
        assert httpx.get(server.url + "/healthz").status_code == 200


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "demask.cli", "serve", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert f"port {port}" in done.stderr
        assert "--port" in done.stderr


@pytest.mark.slow
def test_ray_serves_and_a_killed_replica_is_replaced():
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'demask[ray]'")
    with Process("--ray", "local", "--replicas", "2", "--port", "8123") as server:

        def ask(seed):
            answer = httpx.post(server.url + "/v1/completions", json=ASK | {"seed": seed}, timeout=120)
            assert answer.status_code == 200, answer.text
            return answer.json()["choices"][0]["text"]

        from demask import load

        model = load("demask/notes")
        alone = [model.generate(ASK["prompt"], key=seed, schedule="uniform", steps=40).gaps[0] for seed in range(8)]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(8))) == alone
        body = ASK | {"stream": True}
        with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as answer:
            assert list(answer.iter_lines())[-2] == "data: [DONE]"
        replicas = below(server.process.pid, "ray::ServeReplica:demask")
        assert len(replicas) == 2
        for replica in replicas:
            os.kill(replica, signal.SIGKILL)

        def alive():
            try:
                return ask(0) == alone[0]
            except (AssertionError, httpx.HTTPError):
                return False

        wait_until(alive, 120)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0
    assert ray.__version__
