"""What decentralised training costs against central training, for the same number of gradients.

A small network learns Python's own library, dealt to 8 peers by file in uneven shares; the mean model is scored on files
that none of them has.

Run: python benchmarks/federated.py [ROUNDS] [NAME ..]; a table of all cases, or of those whose name contains a NAME.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

from demask.denoisers.transformer import Network, Shape
from demask.registry import build
from demask.tokenizer import Tokenizer
from demask.training import HeldOut, Masks, corpus, read, split
from demask.training.federated import FederatedRecipe, deal, federate

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from stdlib_files import LEFT_OUT

PEERS, CONTEXT, VOCABULARY, BATCH, LOCAL = 8, 64, 512, 8, 5
CASES = (
    ("central", "full", 1),
    ("full", "full", PEERS),
    ("exponential", "exponential", PEERS),
    ("grid", "grid", PEERS),
    ("ring", "ring", PEERS),
)


def texts():
    """Return the library's files of up to 60 kB, in order."""
    import sysconfig

    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(root.rglob("*.py")) if not LEFT_OUT & set(path.relative_to(root).parts[:-1])]
    return read([path for path in files if 0 < path.stat().st_size < 60_000 and path.read_bytes().strip()])


def main(rounds: str = "100", *wanted: str) -> None:
    torch.set_num_threads(1)
    kept, aside = split(texts(), 0.05)
    tokenizer = Tokenizer.train((text.content for text in kept), size=VOCABULARY)
    held = HeldOut.of((text.content for text in aside), tokenizer, context=CONTEXT, fill="packed")
    shape = Shape(VOCABULARY, CONTEXT, 64, 2, 4, 176)
    dealt = deal(kept, PEERS)
    rows = [corpus(part, tokenizer, context=CONTEXT, fill="packed") for part in dealt]
    pooled = corpus(kept, tokenizer, context=CONTEXT, fill="packed")
    print(f"{shape.parameters} parameters, {len(kept)} files; characters per peer "
          f"{[sum(len(text.content) for text in part) for part in dealt]}", flush=True)  # fmt: skip
    for case in wanted:
        name, topology, method = case.split("|")
        peers = 1 if name == "central" else PEERS
        spec = build(method, "method")
        count = int(rounds) * PEERS // peers * LOCAL // spec.steps
        recipe = FederatedRecipe(
            count, spec, BATCH, masks=Masks(early=0.0), evaluate_every=10**6, save_every=10**6, windows=512
        )
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as out:
            found = federate(
                Network(shape, key=0), [pooled] if peers == 1 else rows, held, tokenizer, out=out, recipe=recipe,
                topology=build(topology, "topology", peers=peers),
            )  # fmt: skip
        score = found.score.bits_per_byte
        print(
            f"| {name} | {topology} | {method} | {float(score):.3f} +- {1.96 * score.error:.3f} | "
            f"{found.apart:.3f} | {found.sent / 1e6:.0f} | {found.gradients} | {time.monotonic() - begun:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
