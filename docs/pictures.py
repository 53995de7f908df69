"""Draw the pictures of the README and the guide: `make pictures`."""

import re
from pathlib import Path
from pydoc_data.topics import topics

from demask import Canvas, Parallel, Random, measure, minimax, oracles, plots, sample
from demask.cli.compare import measured
from demask.cli.sample import cells_of

HERE = Path(__file__).parent / "pictures"
STEPS = (4, 8, 16, 32, 64)


def main() -> None:
    """Draw a canvas unmasked in 12 steps, path KL against steps, and a measured curve, for English of 256 characters."""
    HERE.mkdir(exist_ok=True)
    text = "\n".join(topics[name] for name in sorted(topics))
    words = " ".join(re.findall("[a-z]+", text.lower()))
    row = oracles.fit(words, length=72, order=3, smoothing=1e-4)
    run = sample(row, Parallel(minimax(72, 12), Random()), Canvas.blank(1, 72), key=1)
    cells = cells_of(row)
    plots.save(plots.canvas(run, [cells[token] for token in run.tokens[0].tolist()]), HERE / "canvas.png")
    english = oracles.fit(text, length=256)
    plots.save(plots.compare(measured(english, STEPS)), HERE / "compare.png")
    assert english.alphabet is not None
    windows = english.alphabet.encode(text)[: len(text) // 256 * 256].view(-1, 256)
    plots.save(
        plots.curve([measure(english, windows, passes=2048, name="a character chain on English")]), HERE / "curve.png"
    )


if __name__ == "__main__":
    main()
