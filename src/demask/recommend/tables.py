"""Rows of named values from CSV, JSON lines and Parquet, gzipped or not, one at a time."""

import ast
import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from demask.errors import RecommendError

Row = Mapping[str, Any]


def rows(path: str | Path) -> Iterator[tuple[str, Row]]:
    """Yield every row with the place where it stands, such as `log.csv:17`.

    Parameters:
        path: .csv, .jsonl or .json (one object per line; the literals of Python that some published files hold are read
            too), each also as .gz; or .parquet, for which pyarrow is needed.

    Raises:
        RecommendError: another ending, a line that cannot be read, an empty file, pyarrow missing.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        found = _parquet(path)
    elif kind in ("csv", "json", "jsonl"):
        found = _lines(path, kind)
    else:
        raise RecommendError(f"{path}: expected a file that ends in .csv, .jsonl, .json (each also .gz) or .parquet")
    empty = True
    for place, row in found:
        empty = False
        yield place, row
    if empty:
        raise RecommendError(f"{path} holds no rows; expected one per line")


def pick(row: Row, names: Sequence[str]) -> Any:
    """Return the first value that is there and not empty, None if none is."""
    for name in names:
        value = row.get(name)
        if value is not None and value != "" and value == value:
            return value
    return None


def _lines(path: Path, kind: str) -> Iterator[tuple[str, Row]]:
    with cast(TextIO, (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rt", encoding="utf-8")) as file:
        try:
            if kind == "csv":
                reader = csv.DictReader(file)
                for row in reader:
                    yield f"{path}:{reader.line_num}", row
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _object(line, f"{path}:{number}")
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
            raise RecommendError(f"{path}: {error}; expected a whole file in UTF-8") from None


def _object(line: str, place: str) -> Row:
    try:
        value = json.loads(line)
    except ValueError:
        try:
            value = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise RecommendError(f"{place}: not whole JSON; expected one object per line") from None
    if not isinstance(value, dict):
        raise RecommendError(f"{place}: a {type(value).__name__}; expected one object per line")
    return value


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    parquet = extra("pyarrow.parquet", "reading Parquet")
    path.open("rb").close()  # so that a missing file is told as any other
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", row
    except extra("pyarrow", "reading Parquet").ArrowException as error:
        raise RecommendError(f"{path}: no whole Parquet file ({str(error).partition(chr(10))[0]})") from None


def extra(module: str, what: str, install: str = "demask[recommend]") -> Any:
    """Return an optional module, or say how to get it."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise RecommendError(f"{what} needs {name}; install it: pip install '{install}'") from None
