"""The process: a socket, an engine, and an end that loses nothing."""

from collections.abc import Sequence
from dataclasses import replace
from types import FrameType

import uvicorn

from demask.generate import Model
from demask.serve.application import application
from demask.serve.engine import Engine
from demask.serve.limits import Limits
from demask.serve.metrics import Metrics

_LOOPBACK = frozenset(("127.0.0.1", "localhost", "[::1]"))


class Server(uvicorn.Server):
    """On the first SIGTERM or Ctrl-C what is under way is finished, and new requests get 503; the second ends at once."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self.engine = engine
        self.draining = False

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
    model: Model, *, host: str = "127.0.0.1", port: int = 8000, keys: Sequence[str] = (), limits: Limits | None = None
) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Parameters:
        model: its name is the last two parts of its folder's, so that no answer tells where it lies.
        host: to listen at; requests to the loopback must be addressed to it.
        port: likewise; 0 takes a free one.
        keys: API keys, of which every request to /v1 must show one; none: anybody may ask.
        limits: of rows, queue, bodies and seconds.
    """
    named = replace(model, name="/".join(model.name.rstrip("/").split("/")[-2:]) or "model")
    metrics = Metrics()
    engine = Engine(named, limits, metrics)
    hosts = _LOOPBACK if host in ("127.0.0.1", "localhost", "::1") else None
    app = application(engine, metrics, keys=keys, hosts=hosts)
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, lifespan="off")
    with engine:
        Server(config, engine).run()
