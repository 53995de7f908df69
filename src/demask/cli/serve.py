"""`demask serve`: a model behind HTTP, on this machine or on a Ray cluster."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from demask.cli import facts
from demask.errors import SpecError
from demask.generate import load
from demask.serve.limits import Limits


def go(
    model: str,
    said: Sequence[str] | None,
    *,
    host: str,
    port: int,
    keys: Path | None,
    limits: Limits,
    threads: int | None,
    ray: str | None,
    replicas: int,
    most: int | None,
    gpus: float,
    idle: float,
) -> None:
    """Load, say where, and answer until asked to stop.

    Raises:
        SpecError: the packages of the server are missing, or a file of keys has none.
    """
    try:
        from demask.serve.server import LOOPBACK, serve
    except ModuleNotFoundError as error:
        raise SpecError(f"the server needs {error.name}; install it by: pip install 'demask[serve]'") from None
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("demask.serve").setLevel(logging.INFO)
    known, given = read_keys(keys), facts.read(said)

    def ready(name: str, url: str) -> None:
        sys.stderr.write(f"serving {name} on {url}; Ctrl-C ends when all is answered\n")
        if host not in LOOPBACK and not known:
            sys.stderr.write(f"anybody who reaches {host} may ask: give keys by --api-keys FILE or DEMASK_API_KEYS\n")
        sys.stderr.flush()

    if ray is not None:
        if given:
            raise SpecError("--load is for a server in this process; leave it out, or leave out --ray")
        from demask.serve.cluster import Replicas, serve_replicas

        pool = Replicas(model, replicas, most or replicas, gpus, threads, idle)
        serve_replicas(pool, ray, host=host, port=port, keys=known, limits=limits, ready=ready)
        return
    if (replicas, most, gpus, idle) != (1, None, 0.0, 600.0):
        raise SpecError(
            "--replicas, --most-replicas, --gpus and --idle are for --ray; leave them out, or write --ray local"
        )
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    serve(load(model, **given), host=host, port=port, keys=known, limits=limits, ready=ready)


def read_keys(path: Path | None) -> list[str]:
    """Return the keys of a file, one per line, or those of DEMASK_API_KEYS, between commas.

    Raises:
        SpecError: a file that cannot be read, or that has no key.
    """
    if path is None:
        return [key.strip() for key in os.environ.get("DEMASK_API_KEYS", "").split(",") if key.strip()]
    try:
        keys = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise SpecError(f"{path}: {(error.strerror or str(error)).lower()}; expected a key per line") from None
    if not keys:
        raise SpecError(f"{path} has no key; expected one per line")
    return keys
