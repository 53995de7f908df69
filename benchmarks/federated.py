"""What decentralised training costs against central training, for the same number of gradients.

A small network learns Python's own library, dealt to 8 peers by file in uneven shares; the mean model is scored on files
that none of them has. Central training is one peer that has all files and takes all gradients one after another, or few
large ones: a batch 8 times as large for each step that the peers take side by side.

Run: python benchmarks/federated.py [GRADIENTS] [WORD ..]; a table of all cases, or of those with one of the words in them.
"""

import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import torch

from demask.denoisers.transformer import Network, Shape
from demask.registry import build
from demask.tokenizer import Tokenizer
from demask.training import HeldOut, Masks, corpus, read, split
from demask.training.federated import FederatedRecipe, deal, federate

PEERS, BATCH = 8, 8
LEFT_OUT = {"test", "tests", "idlelib", "encodings", "site-packages", "dist-packages", "__pycache__", "lib2to3"}
CASES = (  # peers, rows of a batch, topology, method
    (1, BATCH, "full", "dfedavg(5, sgd(1.0))"),
    (1, BATCH, "full", "dfedavg(5, adam(0.003))"),
    (1, BATCH * PEERS, "full", "dfedavg(5, sgd(1.0))"),
    (PEERS, BATCH, "ring", "dpsgd(sgd(1.0))"),
    (PEERS, BATCH, "ring", "dfedavg(5, sgd(1.0))"),
    (PEERS, BATCH, "ring", "dfedadmm(5, 5.0, sgd(1.0))"),
    (PEERS, BATCH, "full", "dfedadmm(5, 5.0, sgd(1.0))"),
    (PEERS, BATCH, "ring", "dfedavg(5, adam(0.003))"),
    (PEERS, BATCH, "ring", "dfedavgm(5, 0.3, 0.7)"),
    (PEERS, BATCH, "ring", "dfedsam(5, 1.0, 0.05)"),
    (PEERS, BATCH, "ring", "dfedadmm_sam(5, 5.0, sgd(1.0), 0.05)"),
    (PEERS, BATCH, "ring", "dfedadmm(5, 1.0, sgd(1.0))"),
    (PEERS, BATCH, "exponential", "dfedadmm(5, 5.0, sgd(1.0))"),
    (PEERS, BATCH, "ring", "dfedavg(20, sgd(1.0))"),
    (PEERS, BATCH, "ring", "dfedadmm(20, 5.0, sgd(1.0))"),
)


def texts():
    """Return the library's files of up to 60 kB, in order."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(root.rglob("*.py")) if not LEFT_OUT & set(path.relative_to(root).parts[:-1])]
    return read([path for path in files if path.stat().st_size < 60_000 and path.read_bytes().strip()])


def main(gradients: str = "1600", *words: str) -> None:
    torch.set_num_threads(1)
    kept, aside = split(texts(), 0.05)
    tokenizer = Tokenizer.train((text.content for text in kept), size=512)
    shape = Shape(tokenizer.size, 64, 64, 2, 4, 176)
    held = HeldOut.of((text.content for text in aside), tokenizer, context=64, fill="packed")
    dealt = deal(kept, PEERS)
    rows = [corpus(part, tokenizer, context=64, fill="packed") for part in dealt]
    pooled = corpus(kept, tokenizer, context=64, fill="packed")
    sizes = [sum(len(text.content) for text in part) for part in dealt]
    print(f"{shape.parameters} parameters, {len(kept)} files, {len(aside)} held out; characters of each peer: {sizes}")
    print("| peers | topology | method | rows | gradients | bits per byte | apart | MB sent |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for peers, batch, topology, method in CASES:
        name = f"{'central' if peers == 1 else peers} {topology} {method}"
        if words and not any(word in name for word in words):
            continue
        begun, spec = time.monotonic(), build(method, "method")
        asked = spec.steps * (2 if getattr(spec, "radius", 0) else 1)  # gradients of a peer in a round
        rounds = int(gradients) * BATCH // (batch * peers * asked)
        recipe = FederatedRecipe(
            rounds, spec, batch, masks=Masks(early=0.0), evaluate_every=rounds, save_every=rounds, windows=512
        )
        with tempfile.TemporaryDirectory() as out:
            found = federate(
                Network(shape, key=0), rows if peers > 1 else [pooled], held, tokenizer, out=out, recipe=recipe,
                topology=build(topology, "topology", peers=peers),
            )  # fmt: skip
        score = found.score.bits_per_byte
        cells = (
            peers, topology if peers > 1 else "central", f"`{method}`", batch, found.gradients,
            f"{float(score):.3f} +- {1.96 * score.error:.3f}", f"{found.apart:.3f}", f"{found.sent / 1e6:.0f}",
        )  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        print(f"{time.monotonic() - begun:.0f} seconds", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
