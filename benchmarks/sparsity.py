"""What keeping 2 of every 4 weights costs the model inside the package, by rule and learned.

Run: python benchmarks/sparsity.py table [SECONDS] [RATE] [SCALE] [BATCH] [GLOB]; the NELBO of dense, magnitude, Wanda and
    learned masks on new notes, with paired differences, and the speed of the learning. RATE 0: fitted to the noise.
Run: python benchmarks/sparsity.py small [STEPS] [RATE] [SCALE]; of a network with fewer blocks than steps.
Run: python benchmarks/sparsity.py cost [BATCH]; where the time of a step goes, and the memory.
"""

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.denoisers import Shape, Transformer
from demask.denoisers.sparse import Pattern, linear_layers, masked
from demask.denoisers.transformer import Network
from demask.generate import load
from demask.oracles import Notes, Table
from demask.tokenizer import Tokenizer
from demask.training import (
    Batch,
    Calibration,
    HeldOut,
    Recipe,
    SparsityRecipe,
    draw,
    learn_masks,
    magnitude,
    train,
    wanda,
)
from demask.training.sparsity import MaskLearner

PATTERN = Pattern(2, 4)
SAMPLES, NEW = 512, 1024


def windows(model, count, key):
    """Return new notes, a window each."""
    held = HeldOut.of(Notes().sample(count, key=key), model.tokenizer, context=model.context, fill="windows")
    return held.tokens


@torch.no_grad()
def nelbos(denoiser, tokens, rows=64):
    """Return an unbiased estimate of every note's NELBO, in nats; equal questions at every call."""
    hidden = draw(torch.ones_like(tokens, dtype=torch.bool), Keyed.of(7, torch.arange(len(tokens))))
    parts = []
    for start in range(0, len(tokens), rows):
        part = hidden.rows(slice(start, start + rows))
        asked = tokens[start : start + rows]
        answer = denoiser(Canvas(asked.masked_fill(part.where, 0), part.where), part.where)
        losses = torch.zeros(part.where.shape).masked_scatter_(part.where, -answer.logp(asked[part.where]))
        parts.append(losses.sum(1) * part.weights * tokens.shape[1])
    return torch.cat(parts).double()


@dataclass(frozen=True, eq=False)
class Case:
    """A network, its layers, what to learn from, new rows, and the masks by rule."""

    denoiser: Transformer
    layers: dict
    losses: Calibration
    new: torch.Tensor
    masks: dict

    @classmethod
    def of(cls, denoiser, given, new, *, batch, glob="*"):
        """Make the masks."""
        layers = linear_layers(denoiser.network, PATTERN, only=(glob,))
        losses = Calibration.of(denoiser, given, batch=batch)
        return cls(
            denoiser, layers, losses, new,
            {"magnitude": magnitude(layers, PATTERN), "Wanda": wanda(layers, PATTERN, losses)},
        )  # fmt: skip

    @classmethod
    def notes(cls, glob, batch):
        """Return the model inside the package, on notes."""
        model = load()
        given, new = windows(model, SAMPLES, 3 << 40), windows(model, NEW, 1 << 41)
        return cls.of(model.denoiser, given, new, batch=batch, glob=glob)

    def calibrated(self, masks=None):
        """Return the mean loss where it is learned from, in nats per row."""
        with masked(self.layers, masks) if masks else nullcontext():
            return self.new.shape[1] * sum(map(self.losses, range(len(self.losses)))) / len(self.losses)

    def nelbos(self, masks=None):
        """Return the NELBO of new rows."""
        with masked(self.layers, masks) if masks else nullcontext():
            return nelbos(self.denoiser, self.new)


def table(seconds="600", rate="0", scale="3", batch="8", glob="*"):
    """Print the table of the model inside the package."""
    print(f"{glob}, batch {batch}")
    recipe = SparsityRecipe(seconds=float(seconds), rate=float(rate) or None, scale=float(scale))
    show(Case.notes(glob, int(batch)), recipe)


def small(steps="15000", rate="0", scale="2"):
    """Print the table of a network of a few hundred blocks, trained on a random table."""
    oracle = Table.random(6, 4, key=1, concentration=0.1)
    network = Network(Shape(vocabulary=4, context=6, width=16, layers=2, heads=2, hidden=24))
    held = HeldOut(oracle.sample(64, key=5), torch.arange(64), 64, 64 * 6)
    words = Tokenizer.words(["a", "b", "c"])
    with TemporaryDirectory() as out:
        recipe = Recipe(steps=2000, batch=64, optimiser="adamw", rate=3e-3, evaluate_every=1e9, save_every=1e9)
        trained = train(network, Drawn(oracle), held, words, out=out, recipe=recipe)
    case = Case.of(trained.denoiser, oracle.sample(16384, key=6), oracle.sample(8192, key=7), batch=128)
    print(f"entropy {float(-oracle.log_prob(case.new).mean()):.3f} nats")
    show(case, SparsityRecipe(steps=int(steps), rate=float(rate) or None, scale=float(scale)))


@dataclass(frozen=True)
class Drawn:
    """Rows of an oracle, to train on."""

    oracle: Table
    context: int = 6

    def batch(self, chance):
        """Return one row per name."""
        return Batch(self.oracle.sample(len(chance.names), key=chance.path & 0xFFFFFFFF))


def show(case, recipe):
    """Learn, and print the table."""
    layers, masks = case.layers, dict(case.masks)
    learned_from = {"dense": case.calibrated(), **{name: case.calibrated(each) for name, each in masks.items()}}
    begun = min(masks, key=learned_from.get)
    tracked = []
    found = learn_masks(layers, masks[begun], case.losses, recipe, watch=tracked.append)
    masks["learned"] = found.masks
    learned_from["learned"] = case.calibrated(found.masks)
    weights = sum(layer.weight.numel() for layer in layers.values())
    print(f"{len(layers)} layers, {weights:,} weights; {found.steps} steps in {found.seconds:.0f} s from {begun}, "
          f"rate {tracked[-1].rate:.3g}, scale {recipe.scale:g}")  # fmt: skip
    places = [int((len(tracked) - 1) * share / 8) for share in range(9)]
    print(
        "drawn less first masks, running mean, nats per token:", *(f"{tracked[place].tracker:+.5f}" for place in places)
    )
    kept = {"dense": case.nelbos(), **{name: case.nelbos(each) for name, each in masks.items()}}

    def told(values):
        return f"{float(values.mean()):.2f} +- {1.96 * float(values.std()) / len(values) ** 0.5:.2f}"

    print(
        f"| weights kept | nats per row | above dense | less than {begun} | where it learned |\n|---|---|---|---|---|"
    )
    for name, values in kept.items():
        above, gained = told(values - kept["dense"]), told(kept[begun] - values)
        print(f"| {name} | {told(values)} | {above} | {gained} | {learned_from[name]:.2f} |")
    pairs = [(found.masks[name], masks[begun][name]) for name in layers]
    moved = sum(int((one != other).view(-1, PATTERN.of).any(1).sum()) for one, other in pairs)
    print(f"blocks that differ from {begun}: {moved:,} of {weights // PATTERN.of:,}", flush=True)


def cost(batch="32"):
    """Print what a step takes, and holds."""
    case = Case.notes("*", int(batch))
    layers, losses = case.layers, case.losses
    learner = MaskLearner(case.masks["Wanda"], losses, SparsityRecipe(steps=1))
    weights = sum(layer.weight.numel() for layer in layers.values())
    held = {name: sum(x.nbytes for x in getattr(learner, name).values()) / weights for name in ("logits", "kept")}
    print(f"bytes per weight: {held}")
    times = {"dense pass": [], "masked pass": [], "logits and masks": []}
    for _ in range(9):
        begin = perf_counter()
        losses(0)
        times["dense pass"].append(perf_counter() - begin)
        with masked(layers, learner.kept):
            begin = perf_counter()
            losses(0)
            times["masked pass"].append(perf_counter() - begin)
        begin = perf_counter()
        learner.move(1e-3)
        times["logits and masks"].append(perf_counter() - begin)
    print({name: f"{1000 * sorted(seen)[4]:.0f} ms" for name, seen in times.items()})


if __name__ == "__main__":
    {"table": table, "small": small, "cost": cost}[sys.argv[1]](*sys.argv[2:])
