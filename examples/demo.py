"""See a small diffusion language model write, and what parallel steps cost it, as a user would: `make demo`.

The model comes with the package and writes short notes full of constraints that a program checks. The chain that follows is
fitted to the Python manual's own topics, which every Python brings along. Everything is written to out/.
"""

import shlex
import sys
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter

from demask.cli.app import app
from demask.files import write

OUT = Path("out")
TEXT = OUT / "english.txt"
LIST = "please bring two apples and three pears ,"  # whose sum, names and items the rest of the note must know
COMMANDS = (
    ["generate", "dear anna ,", "--key", "2"],
    ["fill", f"hello max , [MASK:2] julia . [MASK:10] {LIST} [MASK:3] . [MASK:8] until then [MASK:6]", "--key", "1"],
    [  # honest draws: what schedules are made for. In confidence order anything but one token each is wrong.
        *("compare", "--model", "demask/notes", "--order", "Random()", "--temperature", "1", "--steps", "32,64"),
        *("--schedules", 'uniform;minimax(target="both");optimal', "--texts", "32", "--plot", f"{OUT / 'notes.png'}"),
    ],
    ["sample", "--text", f"{TEXT}", "--length", "256", "--steps", "32", "--plot", f"{OUT / 'sample.png'}"],
    ["schedule", "--length", "256", "--steps", "32", "--plot", f"{OUT / 'schedule.png'}"],
    [
        *("compare", "--text", f"{TEXT}", "--length", "256", "--steps", "4,8,16,32,64"),
        *("--csv", f"{OUT / 'compare.csv'}", "--plot", f"{OUT / 'compare.png'}"),
    ],
)


def main() -> int:
    """Write the text, run the commands, say where everything is."""
    began = perf_counter()
    OUT.mkdir(exist_ok=True)
    write(TEXT, "\n".join(topics[name] for name in sorted(topics)).encode())
    for command in COMMANDS:
        print(f"\n$ demask {shlex.join(command)}", flush=True)
        try:
            app(command)
        except SystemExit as end:
            if end.code:
                return int(end.code)
    print(f"\n{perf_counter() - began:.0f} seconds; see:")
    for name in ("notes.png", "sample.png", "schedule.png", "compare.png", "compare.csv"):
        print(f"  {OUT / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
