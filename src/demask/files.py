"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from demask.errors import DemaskError


def check_folder(path: str | Path) -> None:
    """Raise DemaskError if no file can be put at `path`: the folder is missing or locked, or it is a folder."""
    path = Path(path)
    folder = path.resolve().parent
    if path.is_dir():
        raise DemaskError(f"{path} is a folder; name a file inside it")
    if not folder.is_dir():
        raise DemaskError(f"{path}: there is no folder {folder}; make it first: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DemaskError(f"{path}: the folder {folder} is not writable; choose another place")


def write(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary file beside it, which then takes its name.

    Symbolic links are followed, an existing file keeps its permissions, and a device or pipe is written to as it is.

    Raises:
        DemaskError: no such folder.
        OSError: the device refuses; what was there before is untouched.
    """
    write_all({path: content})


def write_all(contents: Mapping[str | Path, bytes]) -> None:
    """Write files that belong together, as `write` does; none takes its name before all are on the disk.

    Raises:
        DemaskError: no such folder.
        OSError: the device refuses; what was there before is untouched.
    """
    waiting: list[tuple[str, Path]] = []
    try:
        for each, content in contents.items():
            check_folder(each)
            path = Path(each).resolve()
            if path.exists() and not path.is_file():
                path.write_bytes(content)
                continue
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:32]}.", suffix=".part")
            waiting.append((name, path))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask())
        for name, path in waiting:
            os.replace(name, path)
    except BaseException as error:
        for name, _ in waiting:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the temporary name means nothing to the user
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
