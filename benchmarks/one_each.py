"""Which notes are right at one token per pass: orders and laws that `demask/notes` may be sampled by, and what they break.

Run: python benchmarks/one_each.py [COUNT] [NAME ...]; about half a minute for 48 notes on one idle core, for all samplers or
those named. Beside the share of notes that satisfy every constraint, with its exact 95 % interval: different pairs of
neighbouring words per note (few mean that all notes are alike), words per note, and how many notes break which constraint.
"""

import sys
from itertools import pairwise
from typing import Any

import torch

from demask.generate import load
from demask.oracles import Notes

BATCH = 16
SAMPLERS: dict[str, dict[str, Any]] = {
    "confidence, temperature 0.3": {"order": "Confidence()", "temperature": 0.3},
    "confidence, temperature 0.5 (the default)": {"order": "Confidence()", "temperature": 0.5},
    "confidence, temperature 0.7": {"order": "Confidence()", "temperature": 0.7},
    "confidence, min-p 0.3": {"order": "Confidence()", "temperature": 1.0, "min_p": 0.3},
    "confidence, min-p 0.5": {"order": "Confidence()", "temperature": 1.0, "min_p": 0.5},
    "confidence, temperature 0.3, repetition penalty 1.1": {
        "order": "Confidence()", "temperature": 0.3, "repetition_penalty": 1.1,
    },
    "confidence, temperature 0.5, repetition penalty 1.1": {
        "order": "Confidence()", "temperature": 0.5, "repetition_penalty": 1.1,
    },
    "confidence, min-p 0.5, repetition penalty 1.2": {
        "order": "Confidence()", "temperature": 1.0, "min_p": 0.5, "repetition_penalty": 1.2,
    },
    "confidence, min-p 0.5, repetition penalty 1.3": {
        "order": "Confidence()", "temperature": 1.0, "min_p": 0.5, "repetition_penalty": 1.3,
    },
    "from the left, temperature 0.3": {"order": "LeftToRight()", "temperature": 0.3},
    "random, temperature 0.3": {"order": "Random()", "temperature": 0.3},
}  # fmt: skip


def main(count: str = "48", *names: str) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    model, notes = load(), Notes()
    print("| sampler | notes right | 95 % | passes | pairs per note | words | broken |\n|---|---|---|---|---|---|---|")
    for name in names or SAMPLERS:
        results = [
            result
            for turn in range(0, int(count), BATCH)
            for result in model.generate(
                "", n=BATCH, key=1000 + turn, batch=BATCH, steps=model.context, schedule="uniform", **SAMPLERS[name]
            )
        ]
        texts = [result.text for result in results]
        shares = notes.satisfied(texts)
        share = shares.pop("all")
        low, high = share.interval()
        broken = sorted(
            ((one.count - one.held, what) for what, one in shares.items() if one.held < one.count), reverse=True
        )
        pairs = {pair for text in texts for pair in pairwise(text.split())}
        print(
            f"| {name} | {share.held} of {share.count} | {low:.0%} to {high:.0%} | "
            f"{sum(result.nfe for result in results) / len(texts):.0f} | {len(pairs) / len(texts):.1f} | "
            f"{sum(len(text.split()) for text in texts) / len(texts):.0f} | "
            f"{', '.join(f'{what} {times}' for times, what in broken)} |",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
