"""The routes: from a request to rows of the engine, and back."""

import asyncio
import hmac
import json
import logging
import re
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as Refused

from demask.errors import DemaskError
from demask.generate import Result
from demask.serve.answers import Shape, canvas
from demask.serve.engine import Busy, Closed, Engine, Expired
from demask.serve.group import Event, Ticket
from demask.serve.metrics import Metrics
from demask.serve.requests import Chat, Common, Completion, Fill

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PAGES: Final = {"/": "text/html", "/viewer.js": "text/javascript", "/viewer.css": "text/css"}
_POLICY: Final = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
LOG: Final = logging.getLogger("demask.serve")


def application(
    engine: Engine, metrics: Metrics, *, keys: Sequence[str] = (), hosts: frozenset[str] | None = None
) -> FastAPI:
    """Return the server's application; the engine is started and stopped by who calls.

    Parameters:
        engine: decodes.
        metrics: that the engine is watched by.
        keys: of which a client must show one; none: no key is asked for.
        hosts: that a request may be addressed to, against DNS rebinding; None: any.
    """
    app = FastAPI(title="demask", docs_url=None, redoc_url=None)
    app.state.engine = engine
    metrics.follow("queue_rows", "Rows that wait.", lambda: engine.waiting)
    metrics.follow("active_rows", "Rows being decoded.", lambda: engine.active)
    secret = [key.encode() for key in keys]
    name = engine.model.name

    @app.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("x-request-id", "")
        request.state.id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        began = time.perf_counter()
        refused = _refused(request, secret, hosts, engine.limits.body)
        response = refused or await call(request)
        response.headers["x-request-id"] = request.state.id
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["content-security-policy"] = _POLICY
        route = request.scope.get("route")
        path = getattr(route, "path", "unknown")
        metrics.requests.labels(path, response.status_code).inc()
        fields = {"id": request.state.id, "method": request.method, "path": path, "status": response.status_code}
        if getattr(request.state, "user", None) is not None:
            fields["user"] = request.state.user
        LOG.info(json.dumps(fields | {"ms": round(1e3 * (time.perf_counter() - began), 1)}))
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])[:100]
        message = "this field is unknown; it would be ignored" if first["type"] == "extra_forbidden" else first["msg"]
        return _error(400, f"{place}: {message}" if place else message, param=place or None)

    @app.exception_handler(Refused)
    async def other(request: Request, error: Refused) -> JSONResponse:
        headers = dict(error.headers or {})
        return _error(error.status_code, str(error.detail), headers=headers)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        _log(request.state.id, error)
        return _error(500, f"a fault of the server; its log tells of request {request.state.id}")

    @app.post("/v1/completions", response_model=None)
    async def completions(body: Completion, request: Request) -> Response:
        return await answer(body, request, "text", echo=body.echo)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: Chat, request: Request) -> Response:
        return await answer(body, request, "chat")

    @app.post("/v1/fill", response_model=None)
    async def fill(body: Fill, request: Request) -> Response:
        return await answer(body, request, "fill")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "demask"}]}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", response_model=None)
    async def readyz() -> Response:
        return JSONResponse({"status": "ready" if engine.open else "closing"}, 200 if engine.open else 503)

    @app.get("/metrics", response_model=None)
    async def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    def page(path: str, kind: str) -> None:
        content = (Path(__file__).parent / "viewer" / (path.strip("/") or "index.html")).read_bytes()

        @app.get(path, include_in_schema=False)
        async def show() -> Response:
            return Response(content, media_type=kind)

    for path, kind in _PAGES.items():
        page(path, kind)

    async def answer(
        body: Completion | Chat | Fill, request: Request, kind: Literal["text", "chat", "fill"], *, echo: bool = False
    ) -> Response:
        if body.model not in (None, name):
            raise HTTPException(404, f"this server has one model, {name!r}; leave model out, or name it")
        for option in ("stream_options", "stream_mode"):
            if getattr(body, option) is not None and not body.stream:
                raise HTTPException(400, f"{option} without stream; it would be ignored")
        request.state.user = body.user
        seed = secrets.randbits(31) if body.seed is None else body.seed
        shape = Shape(request.state.id, kind, name, seed, echo, body.return_steps)
        try:
            tickets = await asyncio.to_thread(_tickets, engine, body, seed)
        except DemaskError as error:
            raise HTTPException(400, str(error)) from None
        flight = Flight(engine, tickets, metrics)
        try:
            flight.begin()
        except Busy as error:
            raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
        except Closed as error:
            raise HTTPException(503, str(error), {"Retry-After": "5"}) from None
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            return StreamingResponse(_stream(flight, shape, usage=usage), media_type="text/event-stream")
        gone = asyncio.ensure_future(_gone(request))
        whole = asyncio.ensure_future(flight.results())
        try:
            await asyncio.wait((gone, whole), return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                return Response(status_code=499)
            return JSONResponse(shape.whole(whole.result()))
        except Exception as error:
            status, message = _why(error, shape.id)
            raise HTTPException(status, message) from None
        finally:
            gone.cancel()
            whole.cancel()
            flight.cancel()

    return app


class Flight:
    """The rows of one request, under way."""

    def __init__(self, engine: Engine, tickets: Sequence[Ticket], metrics: Metrics) -> None:
        self.engine, self.tickets, self.metrics = engine, tickets, metrics
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._began = time.perf_counter()

    def begin(self) -> None:
        """Submit all rows, or none."""
        loop = asyncio.get_running_loop()

        def teller(index: int) -> Callable[[Event], None]:
            def tell(event: Event) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

            return tell

        for index, ticket in enumerate(self.tickets):
            ticket.tell = teller(index)
        self.engine.submit(self.tickets)

    def cancel(self) -> None:
        """Free the rows at the next step."""
        for ticket in self.tickets:
            ticket.cancelled = True

    async def events(self) -> AsyncIterator[tuple[int, str, Any]]:
        """Yield what happens, until every row is done; raise what a row failed with."""
        left, first = len(self.tickets), True
        while left:
            index, (kind, value) = await self._events.get()
            if kind == "failed":
                raise value
            if first:
                self.metrics.first.observe(time.perf_counter() - self._began)
                first = False
            if kind == "done":
                self.metrics.finished(value)
                left -= 1
            yield index, kind, value
        self.metrics.latency.observe(time.perf_counter() - self._began)

    async def results(self) -> list[Result]:
        """Return the results of all rows."""
        found = {index: value async for index, kind, value in self.events() if kind == "done"}
        return [found[index] for index in range(len(self.tickets))]


async def _stream(flight: Flight, shape: Shape, *, usage: bool) -> AsyncIterator[bytes]:
    """Yield server-sent events; a text grows from the left, as far as it is unmasked."""
    told = [""] * len(flight.tickets)
    results: list[Result] = []
    try:
        async for index, kind, value in flight.events():
            if kind == "canvas":
                yield _event(shape.part(index, canvas=canvas(*value)))
            elif kind == "text":
                text = _before(flight.tickets[index]) + value if shape.echo else value
                if text.startswith(told[index]) and len(text) > len(told[index]):
                    yield _event(shape.part(index, text[len(told[index]) :]))
                    told[index] = text
            else:
                results.append(value)
                yield _event(shape.last(index, shape.text(value).removeprefix(told[index]), value))
        if usage:
            yield _event(shape.usage(results))
        yield b"data: [DONE]\n\n"
    except Exception as error:
        status, message = _why(error, shape.id)
        yield _event(_body(status, message))
    finally:
        flight.cancel()


def _tickets(engine: Engine, body: Completion | Chat | Fill, seed: int) -> list[Ticket]:
    """Return the rows of a request, checked."""
    from demask.errors import GenerateError

    prompts, settings = body.prompts(engine.model), body.settings()
    if len(prompts) * body.n > engine.limits.samples:
        raise GenerateError(
            f"{len(prompts)} prompts with {body.n} samples each; a request may have {engine.limits.samples} rows"
        )
    most = engine.limits.deadline
    if body.deadline is not None and body.deadline > most:
        raise GenerateError(f"deadline = {body.deadline}; at most {most} seconds")
    deadline = time.monotonic() + (body.deadline or most)
    tickets = []
    for place, (prompt, tokens) in enumerate(prompts):
        for sample in range(body.n):
            ticket = engine.ticket(prompt, tokens, key=seed, row=(place, sample), **settings)
            ticket.show, ticket.deadline = _show(body), deadline
            tickets.append(ticket)
    return tickets


def _before(ticket: Ticket) -> str:
    """Return the prompt of a row."""
    first = ticket.row.layout.template.pieces[0]
    return first if isinstance(first, str) else ""


def _show(body: Common) -> Literal["nothing", "text", "canvas"]:
    """Return what a stream tells between: what may still change or be cut is told at the end."""
    if not body.stream:
        return "nothing"
    if body.stream_mode == "canvas":
        return "canvas"
    steady = body.sampler is None and not getattr(body, "stop", None) and not isinstance(body, Fill)
    return "text" if steady else "nothing"


def _refused(request: Request, keys: Sequence[bytes], hosts: frozenset[str] | None, most: int) -> JSONResponse | None:
    """Return why a request is not read at all."""
    host = request.headers.get("host", "").rsplit(":", 1)[0]
    if hosts is not None and host not in hosts:
        return _error(403, "addressed to a host that this server does not answer for")
    if keys and request.url.path.startswith("/v1/"):
        shown = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        matches = [hmac.compare_digest(shown, key) for key in keys]  # a list: every key is compared
        if not any(matches):
            return _error(401, "no valid API key; send the header Authorization: Bearer KEY")
    length = request.headers.get("content-length", "0" if request.method == "GET" else "")
    if request.method == "POST" and not length.isdigit():
        return _error(411, "a body without its length; send the header Content-Length")
    if length.isdigit() and int(length[:20]) > most:
        return _error(413, f"a body of {length[:20]} bytes; at most {most}")
    return None


async def _gone(request: Request) -> None:
    """Wait until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _why(error: Exception, identity: str) -> tuple[int, str]:
    """Return the status and the words for what a row failed with."""
    if isinstance(error, DemaskError):
        return 400, str(error)
    if isinstance(error, Expired):
        return 504, str(error)
    _log(identity, error)
    return 500, f"the model failed; the server's log tells of request {identity}"


def _log(identity: str, error: Exception) -> None:
    """Log what went wrong with a request, as one line."""
    where = "".join(traceback.format_tb(error.__traceback__))
    LOG.error(json.dumps({"id": identity, "error": f"{type(error).__name__}: {error}", "where": where}))


def _error(
    status: int, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(_body(status, message, param), status, headers)


def _body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
