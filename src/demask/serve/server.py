"""The process: a socket, an engine, and an end that loses nothing."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from demask.errors import SpecError
from demask.generate import Model
from demask.serve.application import application
from demask.serve.engine import Engine
from demask.serve.limits import Limits
from demask.serve.metrics import Metrics

LOOPBACK: Final = frozenset(("127.0.0.1", "localhost", "[::1]", "::1"))


class Server(uvicorn.Server):
    """On the first SIGTERM or Ctrl-C what is under way is finished, and new requests get 503; the second ends at once.

    Parameters:
        config: of uvicorn.
        engine: decodes; started by who calls.
        ready: called once requests are taken.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self.engine, self.ready = engine, ready
        self.draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        if self.draining:
            super().handle_exit(sig, frame)
        self.draining = True
        self.engine.drain()

    async def on_tick(self, counter: int) -> bool:
        """End when all is done."""
        if self.draining and self.engine.idle:
            self.should_exit = True
        return await super().on_tick(counter)


def serve(
    model: Model,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Sequence[str] = (),
    limits: Limits | None = None,
    ready: Callable[[str, str], None] = lambda name, url: None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Parameters:
        model: its name is the last two parts of its folder's, so that no answer tells where it lies.
        host: to listen at; requests to the loopback must be addressed to it.
        port: likewise; 0 takes a free one.
        keys: API keys, of which every request to /v1 must show one; none: anybody may ask.
        limits: of rows, queue, bodies and seconds.
        ready: called with the model's name and the address once requests are taken.

    Raises:
        SpecError: the address is taken, or is none of this machine's.
    """
    listening = _listen(host, port)
    engine, app = assemble(model, keys=keys, limits=limits, hosts=LOOPBACK if host in LOOPBACK else None)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listening.getsockname()[1]}"
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    with listening, engine:
        Server(config, engine, lambda: ready(engine.model.name, url)).run([listening])


def assemble(
    model: Model, *, keys: Sequence[str], limits: Limits | None, hosts: frozenset[str] | None
) -> tuple[Engine, FastAPI]:
    """Return an engine, not yet started, and the application in front of it."""
    named = replace(model, name="/".join(model.name.rstrip("/").split("/")[-2:]) or "model")
    metrics = Metrics()
    engine = Engine(named, limits, metrics)
    return engine, application(engine, metrics, keys=keys, hosts=hosts)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (")[0].lower()
        raise SpecError(
            f"cannot listen at {host} port {port}: {reason}; give another by --port, 0 for a free one"
        ) from None
