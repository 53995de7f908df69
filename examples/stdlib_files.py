"""Print the interpreter's own library as a list of source files, to train on: its tests, idlelib and encodings left out."""

import sysconfig
from pathlib import Path

LEFT_OUT = {"test", "tests", "idlelib", "encodings", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


def main() -> None:
    """Print one path per line, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(root.rglob("*.py")) if not LEFT_OUT & set(path.relative_to(root).parts[:-1])]
    files = [path for path in files if path.read_bytes().strip()]
    print(*files, sep="\n")


if __name__ == "__main__":
    main()
