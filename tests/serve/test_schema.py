"""Whatever fits the server's own OpenAPI document, and what does not, is answered without a fault."""

import pytest
from hypothesis import HealthCheck, given, settings

from demask.generate import Model
from demask.oracles import Chain
from demask.serve import Limits
from demask.tokenizer import Tokenizer

schemathesis = pytest.importorskip("schemathesis", reason="for development: pip install -e '.[dev]'")
pytest.importorskip("httpx2", reason="the client is for development: pip install -e '.[dev]'")
TIMES = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def small():
    from tests.serve.running import Running

    chain = Chain.markov([0.5, 0.5, 0.0], [[0.0, 0.9, 0.1], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], length=9)
    with Running(Model(chain, Tokenizer.words(["tick", "tock"]), context=9, window=9), Limits(deadline=20)) as server:
        yield server


def test_nothing_that_is_sent_makes_the_server_fail(small):
    schema = schemathesis.openapi.from_url(small.url + "/openapi.json")
    seen = {}

    def check(case):
        answer = case.call(base_url=small.url, timeout=60)
        assert answer.status_code < 500 or answer.status_code == 504, (case.as_curl_command(), answer.text)
        seen.setdefault(case.operation.path, set()).add(answer.status_code)

    for found in schema.get_all_operations():
        operation = found.ok()
        TIMES(given(case=operation.as_strategy())(check))()
    assert {200, 400} <= seen["/v1/completions"]
    assert {"/v1/chat/completions", "/v1/fill", "/v1/models", "/metrics"} <= set(seen)
    assert small.http.get("/readyz").status_code == 200
