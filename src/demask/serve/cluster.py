"""The server on a Ray cluster: replicas of the model behind Ray Serve's proxy, as many as the load asks for."""

import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from demask.batch.cluster import join
from demask.errors import SpecError
from demask.generate import load
from demask.serve.limits import Limits
from demask.serve.server import LOOPBACK, assemble

_PATIENCE: Final = 30.0  # seconds of load before there is one more


@dataclass(frozen=True)
class Replicas:
    """How many models, and what each takes.

    A row's tokens depend on the request alone, so it does not matter which replica answers.

    Parameters:
        model: a name, or a folder that every machine of the cluster has.
        least: replicas that always stand.
        most: replicas under load.
        gpus: of each; 0 for CPUs.
        threads: of torch in each; None: what torch chooses.
        idle: seconds of little load after which the replicas above `least` end, one by one; > 0.

    Raises:
        SpecError: numbers that do not fit.

    Example:
        >>> Replicas("demask/notes", 2, 1)
        Traceback (most recent call last):
        demask.errors.SpecError: at least 2 replicas and at most 1; expected 1 <= least <= most
    """

    model: str
    least: int = 1
    most: int = 1
    gpus: float = 0.0
    threads: int | None = None
    idle: float = 600.0

    def __post_init__(self) -> None:
        if not 0 < self.idle < float("inf"):
            raise SpecError(f"idle = {self.idle} seconds; expected a number > 0, such as 600")
        if not 1 <= self.least <= self.most:
            raise SpecError(f"at least {self.least} replicas and at most {self.most}; expected 1 <= least <= most")

    def deployment(self, *, keys: Sequence[str], limits: Limits, hosts: frozenset[str] | None) -> Any:
        """Return what Ray Serve runs: one engine and one application per replica."""
        serve = import_module("ray.serve")
        name, threads = self.model, self.threads

        def build() -> Any:
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            engine, app = assemble(load(name), keys=keys, limits=limits, hosts=hosts)
            engine.__enter__()
            return app

        class Replica:
            def check_health(self) -> None:
                """Have Ray replace a replica whose engine has ended."""
                if not self.app.state.engine.open:  # type: ignore[attr-defined]
                    raise RuntimeError("the engine has ended")

        scale: dict[str, Any] = {"num_replicas": self.least}
        if self.most > self.least:
            scaling: dict[str, Any] = {"min_replicas": self.least, "max_replicas": self.most}
            scaling |= {"upscale_delay_s": min(_PATIENCE, self.idle), "downscale_delay_s": self.idle}
            scaling["target_ongoing_requests"] = limits.rows
            scale = {"autoscaling_config": scaling}
        return serve.deployment(
            name="demask",
            max_ongoing_requests=limits.rows + limits.queue,
            graceful_shutdown_timeout_s=limits.deadline,
            health_check_period_s=5.0,
            ray_actor_options={"num_gpus": self.gpus, "num_cpus": 0 if self.gpus else 1},
            **scale,
        )(serve.ingress(build)(Replica)).bind()


def serve_replicas(
    replicas: Replicas,
    address: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Sequence[str] = (),
    limits: Limits | None = None,
    ready: Callable[[str, str], None] = lambda name, url: None,
) -> None:
    """Answer requests by Ray Serve until SIGTERM or Ctrl-C; requests under way are finished.

    Parameters:
        replicas: of the model.
        address: of a running cluster, "auto" for that of this machine, "local" to start one.
        host, port, keys, limits, ready: as for `serve`; the limits are those of every replica.

    Raises:
        GenerateError: no ray, or no cluster at the address.
    """
    ended = threading.Event()
    ray = join(address, "ray.serve")
    # Ray has a handler of its own for SIGTERM by now, which would end the process in the middle.
    before = {name: signal.signal(name, lambda *_: ended.set()) for name in (signal.SIGTERM, signal.SIGINT)}
    serve = import_module("ray.serve")
    try:
        serve.start(http_options={"host": host, "port": port})
        hosts = LOOPBACK if host in LOOPBACK else None
        serve.run(
            replicas.deployment(keys=keys, limits=limits or Limits(), hosts=hosts), name="demask", route_prefix="/"
        )
        ready(replicas.model, f"http://{host}:{port}")
        ended.wait()
    finally:
        serve.shutdown()
        ray.shutdown()
        for name, handler in before.items():
            signal.signal(name, handler)
