"""What a model of the notes adds to their entropy: NELBO minus -log p, on the same new notes.

    python benchmarks/kl.py [MODEL] [NOTES] [PASSES]

The truth is known, so the difference is the model's own KL, without the noise of which notes were drawn. About a minute.
"""

import sys
from math import sqrt
from statistics import mean, stdev

from demask import load
from demask.oracles import Notes

KEY = 1 << 41  # neither trained on nor held out


def main(name: str = "demask/notes", count: int = 200, passes: int = 64) -> None:
    """Print the mean difference with its 95 % interval."""
    model, notes = load(name), Notes()
    texts = notes.sample(count, key=KEY)
    gaps = [
        float(model.score(text, passes=passes, key=i, batch=64).nelbo) + notes.logp(text)
        for i, text in enumerate(texts)
    ]
    print(
        f"{mean(gaps):.2f} +- {1.96 * stdev(gaps) / sqrt(count):.2f} nats per note ({count} notes, {passes} passes each)"
    )


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:4]))
