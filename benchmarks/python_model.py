"""What a small masked diffusion model of Python source is worth, beside cheap baselines on the same held-out files.

Run: python benchmarks/python_model.py MODEL_FOLDER [FILES ...]; at most four minutes on one core. FILES are those the model
was trained on, `examples/stdlib_files.py` by default, and the files that `demask train` set aside of them by default are
scored. The model's figure is the NELBO, a bound from above, on windows that know nothing of each other; the n-gram and xz
see whole files. Then come samples, drawn by fixed keys and shown as they are.
"""

import lzma
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demask.cli.train import Material
from demask.curve import Estimate
from demask.generate import Model, load
from demask.tokenizer import Tokenizer
from demask.training import HeldOut, evaluate, read, split
from demask.training.evaluate import ratio

FILES = Path(__file__).parents[1] / "examples" / "stdlib_files.py"
ORDER = 5  # bytes of context; with the byte they predict they fit into 64 bits
END = b"\xff"  # closes a file, as the end token does for the model; no UTF-8 text has this byte
ROUNDS = 2  # masks per held-out window
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 64 << 20}]
TEMPLATE = 'def read(self, size):\n    if [MASK:12]:\n        raise ValueError("size must be positive")\n'
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("generate", {"temperature": 1.0}),
    ("fill", {"temperature": 1.0}),
    ("fill", {"temperature": 0.7}),
    ("fill", {"temperature": 0.3, "order": "Confidence()"}),
    ("generate", {"temperature": 0.3, "order": "Confidence()"}),
)

Codes = NDArray[np.uint64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Level:
    """What follows each context of one length: sorted codes, and their counts."""

    grams: Codes
    counts: Floats
    contexts: Codes
    totals: Floats
    kinds: Floats  # different bytes seen after a context
    discount: float

    @classmethod
    def of(cls, codes: Codes) -> "Level":
        """Count codes, each a context and the byte after it."""
        grams, counts = np.unique(codes, return_counts=True)
        contexts, index, kinds = np.unique(grams >> np.uint64(8), return_inverse=True, return_counts=True)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        discount = once / (once + 2 * twice) if once else 0.0
        totals = np.bincount(index, counts).astype(float)
        return cls(grams, counts.astype(float), contexts, totals, kinds.astype(float), discount)

    def mixed(self, codes: Codes, lower: Floats) -> Floats:
        """Return the probability of each code's last byte after its context, given that after a shorter context."""
        count = _found(self.grams, self.counts, codes)
        total, kinds = (_found(self.contexts, values, codes >> np.uint64(8)) for values in (self.totals, self.kinds))
        kept = np.maximum(count - self.discount, 0.0) + self.discount * kinds * lower
        return np.where(total > 0, kept / np.maximum(total, 1.0), lower)


class Grams:
    """An n-gram of bytes by interpolated Kneser-Ney: absolute discounting, lower orders counted by different contexts."""

    def __init__(self, texts: list[bytes]) -> None:
        codes = np.concatenate([coded(text) for text in texts])
        levels = [Level.of(codes)]
        for length in range(ORDER - 1, -1, -1):
            levels.append(Level.of(levels[-1].grams & _mask(length)))
        self.levels = levels[::-1]

    def __call__(self, codes: Codes) -> Floats:
        """Return the probability of the last byte of each code after the others."""
        out = np.full(len(codes), 1 / 256)
        for length, level in enumerate(self.levels):
            out = level.mixed(codes & _mask(length), out)
        return out

    def check(self, codes: Codes) -> None:
        """Assert that the probabilities of all bytes sum to 1 after the contexts of these codes."""
        every = (codes[:, None] >> np.uint64(8) << np.uint64(8)) | np.arange(256, dtype=np.uint64)
        sums = self(every.ravel()).reshape(every.shape).sum(1)
        assert np.abs(sums - 1).max() < 1e-9, f"probabilities sum to {sums.min()} .. {sums.max()}"


def coded(text: bytes) -> Codes:
    """Return every byte of a text and its end, each behind the `ORDER` bytes before it: (len(text) + 1,)."""
    raw = np.frombuffer(END * ORDER + text + END, dtype=np.uint8).astype(np.uint64)
    count = len(text) + 1
    out = np.zeros(count, dtype=np.uint64)
    for place in range(ORDER + 1):
        out = out << np.uint64(8) | raw[place : place + count]
    return out


def _mask(length: int) -> np.uint64:
    return np.uint64((1 << 8 * (length + 1)) - 1)


def _found(names: Codes, values: Floats, asked: Codes) -> Floats:
    place = np.minimum(np.searchsorted(names, asked), len(names) - 1)
    return np.where(names[place] == asked, values[place], 0.0)


def by_grams(train: list[bytes], held: list[bytes]) -> Estimate:
    """Return the bits per byte of an n-gram trained on `train`."""
    grams = Grams(train)
    own = [coded(text) for text in held]
    strange = np.random.default_rng(0).integers(0, 1 << 48, size=50, dtype=np.uint64)
    grams.check(np.concatenate([*(codes[:: max(1, len(codes) // 5)] for codes in own), strange]))
    bits = np.array([-np.log2(grams(codes)).sum() for codes in own])
    return ratio(bits, np.array([float(len(text)) for text in held]), np.arange(len(held)))


def by_xz(train: list[bytes], held: list[bytes]) -> tuple[float, float]:
    """Return the bits per byte of the held-out files alone, and of what they add behind the others."""
    known, new = b"".join(train), b"".join(held)
    alone, before, after = (
        len(lzma.compress(text, format=lzma.FORMAT_XZ, filters=FILTERS)) for text in (new, known, known + new)
    )
    return 8 * alone / len(new), 8 * (after - before) / len(new)


def by_model(model: Model, held: list[str]) -> Estimate:
    """Return the model's NELBO in bits per byte."""
    assert isinstance(model.tokenizer, Tokenizer)
    windows = HeldOut.of(held, model.tokenizer, context=model.context, fill=model.about.get("documents", "packed"))
    return evaluate(model.denoiser, windows, rounds=ROUNDS).bits_per_byte


def show(model: Model) -> None:
    """Print the samples, one token per pass."""
    for method, settings in CASES:
        said = ", ".join(f"{name} {value}" for name, value in ({"order": "Random()"} | settings).items())
        if method == "fill":
            result = model.fill(TEMPLATE, steps=12, **settings)
        else:
            result = model.generate("def ", 64, steps=64, **settings)
        print(f"\n`{method}`, {said}, {result.nfe} passes:\n\n~~~~python\n{result.text.rstrip()}\n~~~~", flush=True)


def listed() -> list[str]:
    """Return the paths that the example prints."""
    with redirect_stdout(StringIO()) as out:
        run_path(str(FILES))["main"]()
    return out.getvalue().splitlines()


def main(folder: str, *files: str) -> None:
    """Print the table and the samples."""
    model = load(folder)
    train, held = split(read(files or listed()), Material.share)
    known, new = ([text.content.encode() for text in texts] for texts in (train, held))
    print(
        f"{len(held)} held-out files of {sum(map(len, new)):,} bytes; {len(train)} others of {sum(map(len, known)):,}. "
        f"The model has seen {model.about.get('steps', 0):,} steps in {model.about.get('seconds', 0):,.0f} s.\n"
    )
    print("| | bits per byte | 95 %, over files |\n|---|---|---|")
    print("| uniform bytes | 8.000 | |")
    alone, added = by_xz(known, new)
    print(f"| xz -9e, the held-out files alone | {alone:.3f} | |")
    print(f"| xz -9e, what they add behind the training files | {added:.3f} | |", flush=True)
    named = (
        (f"{ORDER}-byte context n-gram, Kneser-Ney", by_grams(known, new)),
        ("the model, NELBO (a bound from above)", by_model(model, [text.content for text in held])),
    )
    for name, value in named:
        low, high = value.interval()
        print(f"| {name} | {value:.3f} | {low:.3f} to {high:.3f} |", flush=True)
    show(model)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("which model? python benchmarks/python_model.py MODEL_FOLDER [FILES ...]")
    main(*sys.argv[1:])
