"""From a file of lines to a folder of results, shard by shard; a run that was killed goes on where it was."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from demask import files
from demask.batch.work import Output, Work
from demask.errors import GenerateError
from demask.generate import Model, load

SCHEMA: Final = "demask.batch/1"
MANIFEST: Final = "manifest.json"
SHARD: Final = 256
Shard = tuple[int, int, list[bytes]]  # its number, that of its first line, its lines
Workers = Callable[[Work, Iterable[Shard]], Iterator[tuple[int, Output]]]


@dataclass(frozen=True)
class Done:
    """How far a run is.

    Parameters:
        shards, records, rejects: done so far, those of earlier sittings among them.
        total: shards in all.
    """

    shards: int
    records: int
    rejects: int
    total: int


@dataclass(frozen=True)
class Run:
    """A run that can be started, stopped and started again.

    Every shard becomes `part-00000.jsonl`, and `rejects-00000.jsonl` if a line of it could not be done. Each file is whole
    or not there, the part is written last, and a line's tokens depend on the key and on its number alone: so a run that was
    killed at any moment loses and duplicates nothing.

    Parameters:
        source: the file of lines.
        out: the folder of results.
        work: what is done with the lines.
        shard: lines per shard.
        lines: how many there are.
    """

    source: Path
    out: Path
    work: Work
    shard: int
    lines: int

    @property
    def total(self) -> int:
        """Shards."""
        return -(-self.lines // self.shard)

    def part(self, number: int) -> Path:
        """Return where the records of a shard go."""
        return self.out / f"part-{number:05d}.jsonl"

    def rejects(self, number: int) -> Path:
        """Return where the rejected lines of a shard go."""
        return self.out / f"rejects-{number:05d}.jsonl"

    def missing(self) -> Iterator[Shard]:
        """Return the shards that have no part yet, one at a time, as the file is read."""
        with self.source.open("rb") as file:
            for number in range(self.total):
                lines = [line.rstrip(b"\r\n") for line in _take(file, self.shard)]
                if not self.part(number).exists():
                    yield number, number * self.shard, lines

    def keep(self, number: int, output: Output) -> None:
        """Write what a shard became, its part last."""
        rejects = self.rejects(number)
        if output.rejects:
            files.write(rejects, _lines(output.rejects))
        else:
            rejects.unlink(missing_ok=True)
        files.write(self.part(number), _lines(output.records))

    def done(self) -> Done:
        """Count what is there."""
        finished = [number for number in range(self.total) if self.part(number).exists()]
        records = sum(_count(self.part(number)) for number in finished)
        rejects = sum(_count(self.rejects(number)) for number in finished if self.rejects(number).exists())
        return Done(len(finished), records, rejects, self.total)


def prepare(source: str | Path, out: str | Path, work: Work, *, shard: int = SHARD) -> Run:
    """Return the run of a file into a folder: a new one, or the one that was begun there.

    Parameters:
        source: a JSON string or object per line; see `Line`.
        out: made if it does not exist.
        work: what is done with the lines.
        shard: lines per shard.

    Raises:
        GenerateError: no such file, an empty one, or a folder that holds another run or other things; says what differs.

    Cost: the file is read once, for its digest.
    """
    source, out = Path(source), Path(out)
    if isinstance(shard, bool) or not isinstance(shard, int) or shard < 1:
        raise GenerateError(f"shard = {shard!r}; expected lines >= 1")
    digest, count = _digest(source)
    if count == 0:
        raise GenerateError(f"{source} is empty; expected a JSON string or object per line")
    facts = {"schema": SCHEMA, "input": digest, "lines": count, "shard": shard, **json.loads(json.dumps(asdict(work)))}
    manifest = out / MANIFEST
    if manifest.exists():
        _same(manifest, facts)
    else:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise GenerateError(f"{out} is not an empty folder, and holds no {MANIFEST} of a run; choose another one")
        out.mkdir(parents=True, exist_ok=True)
        files.write(manifest, json.dumps(facts, ensure_ascii=False, indent=1).encode() + b"\n")
    return Run(source, out, work, shard, count)


def run(
    prepared: Run,
    *,
    model: Model | None = None,
    workers: Workers | None = None,
    watch: Callable[[Done], None] | None = None,
) -> Done:
    """Do what is missing, and keep each shard as it is done.

    Parameters:
        prepared: from `prepare`.
        model: already loaded; None: loaded here.
        workers: who does the shards, in any order; None: this process, one after the other.
        watch: told how far it is, at first and after every shard.

    Raises:
        GenerateError, OSError: what concerns all lines: no model, a full disk. What is done is kept.
    """
    done = prepared.done()
    if watch is not None:
        watch(done)
    if done.shards == done.total:
        return done
    for number, output in (workers or _here(model))(prepared.work, prepared.missing()):
        prepared.keep(number, output)
        done = Done(done.shards + 1, done.records + len(output.records), done.rejects + len(output.rejects), done.total)
        if watch is not None:
            watch(done)
    return done


def _here(model: Model | None) -> Workers:
    def work_off(work: Work, shards: Iterable[Shard]) -> Iterator[tuple[int, Output]]:
        loaded = model or load(work.model)
        for number, first, lines in shards:
            yield number, work.do(loaded, first, lines)

    return work_off


def _take(file: Iterable[bytes], count: int) -> Iterator[bytes]:
    for _, line in zip(range(count), file, strict=False):
        yield line


def _lines(records: Iterable[str]) -> bytes:
    return "".join(record + "\n" for record in records).encode()


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _digest(source: Path) -> tuple[str, int]:
    """Return a hash of the file and how many lines it has."""
    hashed, count = blake2b(digest_size=16), 0
    try:
        with source.open("rb") as file:
            for line in file:
                hashed.update(line)
                count += 1
    except OSError as error:
        raise GenerateError(
            f"{source}: {(error.strerror or str(error)).lower()}; expected a file of JSON lines"
        ) from None
    return hashed.hexdigest(), count


def _same(manifest: Path, facts: dict[str, Any]) -> None:
    try:
        found = json.loads(manifest.read_bytes())
        differing = sorted(name for name in facts.keys() | found.keys() if facts.get(name) != found.get(name))
    except (ValueError, AttributeError):
        raise GenerateError(f"{manifest}: no manifest of a run; choose another folder") from None
    if differing:
        raise GenerateError(
            f"{manifest.parent} holds another run: {', '.join(differing)} differ; give the same file and options to go on, "
            "or choose another folder"
        )
