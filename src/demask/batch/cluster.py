"""Shards done by Ray: a pool of actors, each with the model loaded, on one machine or many."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from demask.batch.run import Shard
from demask.batch.work import Output, Work
from demask.errors import GenerateError
from demask.generate import load

LOCAL: Final = "local"


class Worker:
    """What an actor does: it loads the model once, then works shards off."""

    def __init__(self, work: Work, threads: int | None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.work, self.model = work, load(work.model)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a shard became, as plain values."""
        output = self.work.do(self.model, int(row["first"]), list(row["lines"]))
        return {"number": int(row["number"]), "records": list(output.records), "rejects": list(output.rejects)}


@dataclass(frozen=True)
class Cluster:
    """Workers of a Ray cluster, as `run(prepared, workers=Cluster(..))` takes them.

    The lines travel to the actors and the records back, so no folder needs to be shared. Shards come back in the order in
    which they are done. An actor that dies is started again, and its shard with it; a driver that dies has kept what was
    done.

    Parameters:
        address: of a running cluster, "auto" for that of this machine, "local" to start one for this run.
        actors: how many; each holds the model.
        gpus: of each actor; 0 for CPUs.
        threads: of torch in each actor; None: what torch chooses.

    Raises:
        GenerateError: no ray, or no cluster at the address.
    """

    address: str = LOCAL
    actors: int = 1
    gpus: float = 0.0
    threads: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.actors, bool) or not isinstance(self.actors, int) or self.actors < 1:
            raise GenerateError(f"actors = {self.actors!r}; expected an integer >= 1")
        if not self.gpus >= 0:
            raise GenerateError(f"gpus = {self.gpus!r}; expected a number >= 0")

    def __call__(self, work: Work, shards: Iterable[Shard]) -> Iterator[tuple[int, Output]]:
        """Do the shards."""
        with joined(self.address):
            yield from self._work_off(work, shards)

    def _work_off(self, work: Work, shards: Iterable[Shard]) -> Iterator[tuple[int, Output]]:
        data = import_module("ray.data")
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        rows = [{"number": number, "first": first, "lines": lines} for number, first, lines in shards]
        if not rows:
            return
        done = data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker,
            fn_constructor_args=(work, self.threads),
            concurrency=min(self.actors, len(rows)),
            num_cpus=0 if self.gpus else 1,
            num_gpus=self.gpus,
        )
        for row in done.iter_rows():
            yield int(row["number"]), Output(tuple(row["records"]), tuple(row["rejects"]))


@contextmanager
def joined(address: str, part: str = "ray.data") -> Iterator[Any]:
    """Give `ray`: of the cluster that this process is part of, or joined to the one at an address and left in the end.

    Raises:
        GenerateError: no ray, or no cluster at the address.
    """
    ray = _ray(part)
    if ray.is_initialized():
        yield ray
        return
    join(address, part)
    try:
        yield ray
    finally:
        ray.shutdown()


def join(address: str, part: str = "ray.data") -> Any:
    """Return `ray`, joined to the cluster at an address; "local" starts one.

    Raises:
        GenerateError: no ray, or no cluster at the address.
    """
    ray = _ray(part)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers run in this environment, as it is
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == LOCAL:
        options |= {"address": "local", "include_dashboard": False}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise GenerateError(
            f"no Ray cluster at {address} ({str(error).splitlines()[0]}); start one with ray start --head, or "
            f"write {LOCAL} instead"
        ) from None
    return ray


def _ray(part: str) -> Any:
    try:
        ray = import_module("ray")
        import_module(part)
    except ModuleNotFoundError as error:
        raise GenerateError(
            f"Ray is not whole here ({error.name} is missing); pip install 'demask[ray]', or do without Ray"
        ) from None
    return ray
