import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random

import pytest

from demask.serve import Limits
from tests.serve.running import Running, wait_until

openai = pytest.importorskip("openai", reason="the client is for development: pip install -e '.[dev]'")
httpx = pytest.importorskip("httpx2", reason="the client is for development: pip install -e '.[dev]'")

PROMPT = "dear anna ,"


def test_the_official_client_completes(running, model):
    answer = running.client.completions.create(
        model="demask/notes", prompt=PROMPT, max_tokens=10, seed=3, n=2, extra_body={"steps": 4, "return_steps": True}
    )
    alone = model.generate([PROMPT], 10, n=2, key=3, steps=4)
    assert [choice.text for choice in answer.choices] == [result.gaps[0] for result in alone]
    assert answer.usage.completion_tokens == sum(result.new for result in alone)
    assert answer.usage.nfe == sum(result.nfe for result in alone)
    assert answer.choices[0].demask["when"] == list(alone[0].when)


def test_the_official_client_streams(running, model):
    stream = running.client.completions.create(
        model="demask/notes", prompt=PROMPT, max_tokens=10, seed=3, stream=True, stream_options={"include_usage": True},
        extra_body={"steps": 5},
    )  # fmt: skip
    chunks = list(stream)
    alone = model.generate(PROMPT, 10, key=3, steps=5)
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == alone.gaps[0]
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].usage.nfe == alone.nfe


def test_the_official_client_chats(running, model):
    answer = running.client.chat.completions.create(
        model="demask/notes", messages=[{"role": "user", "content": PROMPT}], max_completion_tokens=6, seed=1
    )
    assert answer.choices[0].message.content == model.generate(PROMPT, 6, key=1).gaps[0]
    stream = running.client.chat.completions.create(
        model="demask/notes",
        messages=[{"role": "user", "content": PROMPT}],
        max_completion_tokens=6,
        seed=1,
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content for chunk in stream) == answer.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="chat template"):
        running.client.chat.completions.create(
            model="demask/notes",
            messages=[{"role": "system", "content": "be kind"}, {"role": "user", "content": PROMPT}],
        )


def test_gaps_and_a_suffix_are_filled(running, model):
    body = {"template": "dear [MASK] ,", "seed": 5}
    answer = running.http.post("/v1/fill", json=body).json()
    assert answer["choices"][0]["text"] == model.fill("dear [MASK] ,", key=5).text
    suffix = running.client.completions.create(model="demask/notes", prompt="dear", suffix=" ,", max_tokens=1, seed=5)
    assert suffix.choices[0].text == model.fill("dear[MASK:1] ,", key=5).gaps[0]


def test_canvases_are_streamed(running, model):
    body = {"prompt": PROMPT, "max_tokens": 8, "seed": 2, "steps": 4, "stream": True, "stream_mode": "canvas"}
    with running.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    frames = [json.loads(line)["choices"][0] for line in lines[:-1]]
    expected = list(model.stream(PROMPT, 8, key=2, steps=4))[:-1]
    assert [frame["canvas"]["cells"] for frame in frames[:-1]] == [list(frame.cells) for frame in expected]
    for frame in frames[:-1]:
        assert len(frame["canvas"]["entropies"]) == len(frame["canvas"]["fresh"])
        assert all(0 <= entropy < 7 for entropy in frame["canvas"]["entropies"])


def test_64_clients_get_what_each_would_get_alone_though_a_third_leaves(running, model):
    def ask(number):
        body = {"prompt": PROMPT, "max_tokens": 4 + number % 9, "seed": number, "steps": 1 + number % 4}
        if number % 3 == 2:
            long = body | {"steps": 80, "schedule": "uniform", "max_tokens": None}
            with pytest.raises(httpx.TimeoutException):
                httpx.post(running.url + "/v1/completions", json=long, timeout=Random(number).uniform(0.005, 0.25))
            return None
        return running.http.post("/v1/completions", json=body).json()["choices"][0]["text"]

    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(ask, range(64)))
    for number, text in enumerate(found):
        if text is not None:
            alone = model.generate(PROMPT, 4 + number % 9, key=number, steps=1 + number % 4)
            assert text == alone.gaps[0], number
    wait_until(lambda: running.engine.idle)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": PROMPT, "best_of": 3}, "best_of"),
        ({"prompt": PROMPT, "frequency_penalty": 1.0}, "frequency_penalty"),
        ({"prompt": PROMPT, "colour": "red"}, "colour: this field is unknown"),
        ({"prompt": PROMPT, "max_tokens": 0}, "max_tokens"),
        ({"prompt": PROMPT, "max_tokens": "many"}, "max_tokens"),
        ({"prompt": PROMPT, "max_tokens": 100000}, "leave room for"),
        ({"prompt": "bonjour"}, "bonjour"),
        ({"prompt": PROMPT, "schedule": "markov(length=9)"}, "not for requests"),
        ({"prompt": PROMPT, "sampler": "Learned('etc')"}, "not for requests"),
        ({"prompt": PROMPT, "order": "Noisy(10**9)"}, ""),
        ({"prompt": PROMPT, "schedule": "uniform", "sampler": "Parallel"}, "give one of them"),
        ({"prompt": PROMPT, "suffix": ","}, "max_tokens"),
        ({"prompt": PROMPT, "n": 65}, "64 rows"),
        ({"prompt": PROMPT, "stream_options": {"include_usage": True}}, "stream_options without stream"),
        ({"prompt": PROMPT, "stream_mode": "canvas"}, "stream_mode without stream"),
        ({"prompt": PROMPT, "logprobs": 0}, "logprobs"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(running, body, message):
    answer = running.http.post("/v1/completions", json=body)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "raw", [b"{", b"\xff\xfe", b"[" * 5000, b'{"seed": ' + b"9" * 5000 + b"}", b'{"temperature": NaN}', b"null", b""]
)
def test_what_is_no_request_is_refused(running, raw):
    answer = running.http.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text


def test_unknown_models_huge_bodies_and_foreign_hosts_are_refused(running):
    assert running.http.post("/v1/completions", json={"prompt": PROMPT, "model": "../x"}).status_code == 404
    assert running.http.post("/v1/completions", content=b" " * (1 << 20) + b" ").status_code == 413
    assert running.http.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert running.http.get("/nowhere").status_code == 404


def test_health_metrics_and_pages(running):
    running.http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 2})
    assert running.http.get("/healthz").status_code == running.http.get("/readyz").status_code == 200
    figures = running.http.get("/metrics").text
    assert 'demask_requests_total{path="/v1/completions",status="200"}' in figures
    assert "demask_batch_rows_bucket" in figures
    page = running.http.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert running.http.get("/viewer.js").status_code == running.http.get("/viewer.css").status_code == 200
    assert running.http.get("/healthz", headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"


def test_keys_a_full_queue_and_the_end(model):
    with Running(model, Limits(queue=1, rows=1), keys=["secret"]) as server:
        ask = {"prompt": PROMPT, "steps": 60, "schedule": "uniform"}
        assert server.http.post("/v1/completions", json=ask).status_code == 401
        server.http.headers["authorization"] = "Bearer secret"
        with ThreadPoolExecutor(8) as pool:
            codes = [
                answer.status_code
                for answer in pool.map(lambda _: server.http.post("/v1/completions", json=ask), range(8))
            ]
            assert 429 in codes
            assert 200 in codes
            wait_until(lambda: not server.engine.active)  # an answered row leaves a moment later
            late = pool.submit(server.http.post, "/v1/completions", json=ask)
            wait_until(lambda: server.engine.active)
            server.server.handle_exit(15, None)
            refused = server.http.post("/v1/completions", json=ask)
            assert late.result().status_code == 200
        assert refused.status_code == 503
        server.thread.join(20)
        assert not server.thread.is_alive()


def test_a_model_that_fails_is_told_with_the_id_of_the_request(model, caplog):
    class Broken:
        def __call__(self, canvas, where):
            raise RuntimeError("a secret of the server")

    with Running(replace(model, denoiser=Broken())) as server:
        answer = server.http.post("/v1/completions", json={"prompt": PROMPT}, headers={"x-request-id": "q7"})
        assert answer.status_code == 500
        assert "q7" in answer.json()["error"]["message"]
        assert "secret" not in answer.text
        assert server.http.get("/readyz").status_code == 200
    [told] = [json.loads(record.message) for record in caplog.records if '"error"' in record.message]
    assert (told["id"], told["error"]) == ("q7", "RuntimeError: a secret of the server")
    assert "in __call__" in told["where"]


def test_a_client_that_leaves_a_stream_frees_its_rows_at_the_next_step(model):
    import time

    passes = []

    def slow(canvas, where):
        passes.append(len(canvas.tokens))
        time.sleep(0.05)
        return model.denoiser(canvas, where)

    with Running(replace(model, denoiser=slow)) as server:
        body = {"prompt": PROMPT, "seed": 1, "schedule": "uniform", "steps": 90, "n": 3, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body | {"stream_mode": "canvas"}) as answer:
            next(answer.iter_lines())
            assert server.engine.active == 3
        wait_until(lambda: server.engine.idle)
        assert len(passes) < 60


def test_who_asks_stands_in_the_log_and_what_does_not(running, caplog):
    caplog.set_level("INFO", logger="demask.serve")
    body = {"prompt": PROMPT, "max_tokens": 2, "seed": 1, "user": "u-17"}
    running.http.post("/v1/completions", json=body, headers={"x-request-id": "mine"})
    wait_until(lambda: caplog.records)
    [told] = [json.loads(record.message) for record in caplog.records if "mine" in record.message]
    assert (told["user"], told["path"], told["status"]) == ("u-17", "/v1/completions", 200)
    assert "anna" not in caplog.text


def test_other_pages_may_not_ask(running):
    """There is no CORS: a browser lets no page from elsewhere send JSON here, or read what comes back."""
    foreign = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    assert running.http.options("/v1/completions", headers=foreign).status_code == 405
    answer = running.http.get("/v1/models", headers=foreign)
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_model_that_fails_in_the_middle_harms_only_whose_rows_fail(model):
    [poison] = model.tokenizer.encode("max")

    class Poisoned:
        """Fails where the word is visible, from the third pass on."""

        def __init__(self):
            self.passes = 0

        def __call__(self, canvas, where):
            self.passes += 1
            if self.passes > 2 and bool(((canvas.tokens == poison) & ~canvas.masked).any()):
                raise RuntimeError("a secret of the server")
            return model.denoiser(canvas, where)

    with Running(replace(model, denoiser=Poisoned())) as server:

        def ask(number):
            body = {"prompt": "dear max ," if number % 3 == 2 else PROMPT, "max_tokens": 8, "seed": number}
            body |= {"schedule": "uniform", "steps": 8, "stream": number % 3 == 1}
            return server.http.post("/v1/completions", json=body, headers={"x-request-id": f"q{number}"})

        with ThreadPoolExecutor(9) as pool:
            answers = list(pool.map(ask, range(9)))
        for number, answer in enumerate(answers):
            alone = model.generate(PROMPT, 8, key=number, schedule="uniform", steps=8).gaps[0]
            if number % 3 == 0:
                assert answer.json()["choices"][0]["text"] == alone
            elif number % 3 == 1:
                parts = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
                assert "".join(json.loads(part)["choices"][0]["text"] for part in parts) == alone
            else:
                assert answer.status_code == 500
                assert f"q{number}" in answer.json()["error"]["message"]
                assert "secret" not in answer.text
        assert server.http.get("/readyz").status_code == 200
        assert ask(0).json()["choices"][0]["text"] == answers[0].json()["choices"][0]["text"]


@pytest.mark.parametrize(
    "sampler", ["SMC(Parallel(uniform(steps=4), Random()), SelfReward(), 4)", "Remasking(12, Cap(0.1))"]
)
def test_samplers_with_rows_of_their_own_are_served(running, model, sampler):
    body = {"prompt": PROMPT, "max_tokens": 8, "seed": 2, "sampler": sampler}
    answer = running.http.post("/v1/completions", json=body).json()
    alone = model.generate(PROMPT, 8, key=2, sampler=sampler)
    assert answer["choices"][0]["text"] == alone.gaps[0]
    assert answer["usage"]["nfe"] == alone.nfe


def test_what_does_not_fit_into_one_pass_goes_into_several(model):
    with Running(model, Limits(positions=250)) as server:
        body = {"prompt": PROMPT, "max_tokens": 8, "seed": 2, "steps": 3, "n": 4}
        found = server.http.post("/v1/completions", json=body).json()["choices"]
        assert [one["text"] for one in found] == [
            one.gaps[0] for one in model.generate([PROMPT], 8, n=4, key=2, steps=3)
        ]
        wide = body | {"steps": None, "n": 1, "sampler": "SMC(Parallel(uniform(steps=4), Random()), SelfReward(), 4)"}
        refused = server.http.post("/v1/completions", json=wide)
        assert refused.status_code == 400
        assert "positions; at most 250" in refused.json()["error"]["message"]


def test_a_conversation_is_written_by_the_template_of_the_tokenizer(model):
    class Template:
        special = ()

        def write(self, messages):
            return " ".join(f"dear {message['content']} ," for message in messages)

    class Tokens:
        chat = Template()

        def __getattr__(self, name):
            return getattr(model.tokenizer, name)

    with Running(replace(model, tokenizer=Tokens())) as server:
        messages = [{"role": "system", "content": "anna"}, {"role": "user", "content": "max"}]
        answer = server.client.chat.completions.create(model="demask/notes", messages=messages, max_tokens=5, seed=2)
        assert answer.choices[0].message.content == model.generate("dear anna , dear max ,", 5, key=2).gaps[0]
