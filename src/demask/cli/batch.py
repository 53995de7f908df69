"""`demask batch`: a file of prompts to a folder of results."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from demask.batch import Done, Work, prepare, run
from demask.cli.output import counted, say, say_json
from demask.errors import SpecError


def go(
    source: Path,
    out: Path,
    work: Work,
    *,
    shard: int,
    ray: str | None,
    actors: int | None,
    gpus: float,
    threads: int | None,
    as_json: bool,
) -> None:
    """Do what is missing, and tell.

    Raises:
        typer.Exit: 130 after Ctrl-C; what is done is kept.
    """
    workers = None
    if ray is not None:
        from demask.batch.cluster import Cluster

        workers = Cluster(ray, actors or 1, gpus, threads)
    elif actors is not None or gpus:
        raise SpecError("--actors and --gpus are for --ray; leave them out, or write --ray local")
    elif threads is not None:
        import torch

        torch.set_num_threads(threads)
    prepared = prepare(source, out, work, shard=shard)
    try:
        with _watching(quiet=as_json) as watch:
            done = run(prepared, workers=workers, watch=watch)
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; the same command goes on where {out} is\n")
        raise typer.Exit(130) from None
    if as_json:
        say_json({"out": str(out), "records": done.records, "rejects": done.rejects, "shards": done.shards})
        return
    say(f"wrote {counted(done.records, 'record')} to {out}/part-*.jsonl")
    if done.rejects:
        say(f"could not do {counted(done.rejects, 'line')}; {out}/rejects-*.jsonl says why")


@contextmanager
def _watching(*, quiet: bool) -> Iterator[Callable[[Done], None] | None]:
    """Show a bar on a terminal, a line per shard elsewhere."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield lambda done: print(_told(done), file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda done: bar.update(task, total=done.total, completed=done.shards, description=_told(done))


def _told(done: Done) -> str:
    return f"{done.shards} of {done.total} shards, {counted(done.records, 'record')}, {counted(done.rejects, 'reject')}"
