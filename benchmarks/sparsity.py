"""What keeping 2 of every 4 weights costs the model inside the package, by rule and learned.

Run: python benchmarks/sparsity.py table [SECONDS] [RATE] [SCALE] [BATCH] [GLOB]; the NELBO of dense, magnitude, Wanda and
    learned masks on new notes, with paired differences, and the memory and the speed of the learning.
Run: python benchmarks/sparsity.py fitting [GLOB] [SECONDS] [SCALE] [BATCH]; the same, at a rate that fits the noise.
Run: python benchmarks/sparsity.py cost; where the time of a step goes.
"""

import sys
from time import perf_counter

import torch

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.denoisers.sparse import Pattern, linear_layers, masked
from demask.generate import load
from demask.oracles import Notes
from demask.training import Calibration, HeldOut, SparsityRecipe, draw, learn_masks, magnitude, wanda
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


def prepared(glob, batch):
    """Return the model, its layers, what to learn from, and the masks by rule."""
    model = load()
    layers = linear_layers(model.denoiser.network, PATTERN, only=(glob,))
    losses = Calibration.of(model.denoiser, windows(model, SAMPLES, 3 << 40), batch=batch)
    return model, layers, losses, {"magnitude": magnitude(layers, PATTERN), "Wanda": wanda(layers, PATTERN, losses)}


def on_average(layers, masks, losses):
    """Return the mean loss of masks on the windows that are learned from, in nats per note."""
    with masked(layers, masks):
        return 100 * sum(map(losses, range(len(losses)))) / len(losses)


def fitting(glob="*", seconds="300", scale="3", batch="8"):
    """Learn at the rate at which noise alone would move logits by half their first distance, as measured in 24 steps."""
    _, layers, losses, masks = prepared(glob, int(batch))
    few = SparsityRecipe(steps=24, rate=1e-12, scale=float(scale))
    turns = []
    found = learn_masks(layers, masks["magnitude"], losses, few, watch=turns.append)
    residuals = torch.tensor([turn.residual for turn in turns[1:]])
    steps = float(seconds) * found.steps / found.seconds
    flipped = float(torch.tensor(-float(scale)).exp())
    rate = float(scale) / (2 * (steps * flipped) ** 0.5 * float(residuals.std()))
    print(
        f"residuals {float(residuals.mean()):.2e} +- {float(residuals.std()):.2e}, {found.steps / found.seconds:.1f} steps/s"
    )
    table(seconds, f"{rate:.3g}", scale, batch, glob)


def table(seconds="600", rate="50", scale="10", batch="32", glob="*"):
    """Print the table."""
    model, layers, losses, masks = prepared(glob, int(batch))
    calibrated = {name: on_average(layers, each, losses) for name, each in masks.items()}
    begun = min(calibrated, key=calibrated.get)
    recipe = SparsityRecipe(seconds=float(seconds), rate=float(rate), scale=float(scale))
    tracked = []
    found = learn_masks(layers, masks[begun], losses, recipe, watch=lambda turn: tracked.append(turn.tracker))
    masks["learned"] = found.masks
    calibrated["learned"] = on_average(layers, found.masks, losses)
    weights = sum(layer.weight.numel() for layer in layers.values())
    print(f"{glob}: {len(layers)} layers, {weights:,} weights; {found.steps} steps in {found.seconds:.0f} s from {begun}, "
          f"rate {rate}, scale {scale}, batch {batch}")  # fmt: skip
    places = [int((len(tracked) - 1) * share / 8) for share in range(9)]
    print("drawn less first masks, running mean, nats per token:", *(f"{tracked[place]:+.5f}" for place in places))
    new = windows(model, NEW, 1 << 41)
    kept = {"dense": nelbos(model.denoiser, new)}
    for name, each in masks.items():
        with masked(layers, each):
            kept[name] = nelbos(model.denoiser, new)

    def told(values):
        return f"{float(values.mean()):.2f} +- {1.96 * float(values.std()) / len(values) ** 0.5:.2f}"

    print(f"| weights kept | nats per note | above dense | less than {begun} | where it learned |")
    print("|---|---|---|---|---|")
    calibrated["dense"] = 100 * sum(map(losses, range(len(losses)))) / len(losses)
    for name, values in kept.items():
        above, gained = told(values - kept["dense"]), told(kept[begun] - values)
        print(f"| {name} | {told(values)} | {above} | {gained} | {calibrated[name]:.2f} |")
    moved = sum(
        int((masks["learned"][name] != masks[begun][name]).view(-1, PATTERN.of).any(1).sum()) for name in layers
    )
    print(f"blocks that differ from {begun}: {moved:,} of {weights // PATTERN.of:,}", flush=True)


def cost(batch="32"):
    """Print what a step takes, and holds."""
    model = load()
    layers = linear_layers(model.denoiser.network, PATTERN)
    losses = Calibration.of(model.denoiser, windows(model, int(batch), 3 << 40), batch=int(batch))
    learner = MaskLearner(wanda(layers, PATTERN, losses), losses, SparsityRecipe(steps=1))
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
    {"table": table, "fitting": fitting, "cost": cost}[sys.argv[1]](*sys.argv[2:])
