"""`demask serve`: a model behind HTTP."""

import logging
import os
import sys
from pathlib import Path

from demask.errors import SpecError
from demask.generate import load
from demask.serve.limits import Limits


def go(model: str, *, host: str, port: int, keys: Path | None, limits: Limits) -> None:
    """Load, say where, and answer until asked to stop.

    Raises:
        SpecError: the packages of the server are missing, or a file of keys has none.
    """
    try:
        from demask.serve.server import serve
    except ModuleNotFoundError as error:
        raise SpecError(f"the server needs {error.name}; install it by: pip install 'demask[serve]'") from None
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("demask.serve").setLevel(logging.INFO)
    known = read_keys(keys)
    if host not in ("127.0.0.1", "localhost", "::1") and not known:
        sys.stderr.write(f"anybody who reaches {host} may ask: give keys by --api-keys FILE or DEMASK_API_KEYS\n")
    loaded = load(model)
    sys.stderr.write(f"serving {model} on http://{host}:{port}\n")
    serve(loaded, host=host, port=port, keys=known, limits=limits)


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
