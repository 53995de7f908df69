"""What generative recommendation reaches where the best is known, and what each forward pass buys.

Run: python benchmarks/recommend.py train [EPOCHS] [KIND ..]; trains these kinds of decoder, or all, into out/recommend.
Run: python benchmarks/recommend.py table; all rankers on the test items, with the law itself as the limit.
Run: python benchmarks/recommend.py passes; NDCG@10 against NFE of beams and samplers, and the guide's picture.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from demask.orders import Confidence, LeftToRight, Random
from demask.recommend import (
    Catalogue,
    Dimensions,
    Generative,
    ItemKNN,
    Known,
    Popularity,
    Quantiser,
    Recommender,
    RecommendRecipe,
    Words,
    evaluate,
    read_model,
    released,
    train_recommender,
    write_model,
)  # fmt: skip
from demask.samplers import Beam, Parallel
from demask.schedules import PerRow, uniform
from demask.training.train import Status

HERE = Path(__file__).parents[1]
OUT, PICTURE = HERE / "out" / "recommend", HERE / "docs" / "pictures" / "recommend.png"
SIZE = {"width": 32, "layers": 2, "heads": 2, "hidden": 64, "history": 10, "dropout": 0.0}
CODES, USERS, TESTED = 8, 800, 800
WORLD = Known.random(items=200, values=6, concentration=0.3, key=1)
LOG = WORLD.sample(USERS, key=2)
CASES = LOG.cases("test").first(TESTED)
KINDS = {
    "coherent": ("coherent", "pooled", "text"),
    "coherent, mean over views": ("coherent", "views", "text"),
    "random path": ("random", "pooled", "text"),
    "independent masks": ("independent", "pooled", "text"),
    "autoregressive": ("left", "pooled", "text"),
    "coherent, true attributes as digits": ("coherent", "pooled", "attributes"),
}


def shelves():
    """Return the identifiers made of texts, and the true attributes."""
    vectors = Words()(LOG.texts)
    quantiser = Quantiser.fit(vectors, digits=4, codes=CODES)
    made = Catalogue(LOG.items, quantiser.encode(vectors), CODES, torch.tensor(LOG.counts))
    return {"text": made, "attributes": WORLD.catalogue(LOG)}


def train(epochs: str = "20", *only: str) -> None:
    """Train each kind and keep it."""
    OUT.mkdir(parents=True, exist_ok=True)
    known = shelves()
    print(f"identifiers from texts: {known['text'].shared} items of {len(LOG.items)} share one", flush=True)
    for name, (noise, reduction, shelf) in KINDS.items():
        if only and name not in only:
            continue
        catalogue = known[shelf]
        size = Dimensions(catalogue.digits, catalogue.size, **SIZE)
        recipe = RecommendRecipe(
            epochs=int(epochs), batch=128, noise=noise, reduction=reduction, users=200, evaluate_every=5, beam=16
        )
        trained = train_recommender(LOG, catalogue, size, recipe)
        write_model(
            OUT / name.replace(", ", "-").replace(" ", "-"), Recommender(trained.network, catalogue, trained.about)
        )
        last = trained.epochs[-1]
        print(
            f"{name}: epoch {trained.about['epoch']} of {last.number}, {last.seconds:.0f} s, loss {last.loss:.3f}",
            flush=True,
        )
        if trained.status is Status.INTERRUPTED:
            return


def model(name: str) -> Recommender:
    """Return a network that was trained."""
    return read_model(OUT / name.replace(", ", "-").replace(" ", "-"))


def table() -> None:
    """Print what every ranker is worth."""
    shelf = WORLD.catalogue(LOG)
    best = {most: WORLD.best(CASES.histories, most) for most in (5, 10)}
    print("| ranker | Recall@5 | NDCG@5 | Recall@10 | NDCG@10 | NFE | short lists |\n|---|---|---|---|---|---|---|")
    cells = " | ".join(f"{value:.4f}" for most in (5, 10) for value in best[most])
    print(f"| the most that can be expected | {cells} | | |")
    rankers = [WORLD, Popularity(shelf), ItemKNN(LOG, shelf)]
    for name, (noise, _, _) in KINDS.items():
        known = model(name)
        order = LeftToRight() if noise == "left" else None
        improved = Beam(64, copies="merged", last="all", order=order)
        rankers += [
            Generative(known.network, known.catalogue, released(64, noise), label=f"{name}, beam 64"),
            Generative(known.network, known.catalogue, improved, label=f"{name}, beam 64, merged"),
            Generative(
                known.network, known.catalogue, improved, label=f"{name}, beam 64, merged, catalogued", catalogued=True
            ),
        ]
    for ranker in rankers:
        found = evaluate(ranker, CASES)
        cells = " | ".join(f"{value[most]:.4f}" for most in (5, 10) for value in (found.recall, found.ndcg))
        print(f"| {found.name} | {cells} | {found.nfe:.0f} | {found.short} |", flush=True)
    print(f"{len(CASES)} users; standard error of NDCG@10 {found.ndcg[10].error:.4f}")


def passes() -> None:
    """Print and draw NDCG@10 against NFE."""
    known, left = model("coherent"), model("autoregressive")
    widths, draws = (4, 8, 16, 32, 64, 128), (4, 16, 64, 256)
    lines = {
        "beam, as released": [(known, Beam(width), 1, False) for width in widths],
        "beam, merged": [(known, Beam(width, copies="merged", last="all"), 1, False) for width in widths],
        "beam, merged, catalogued": [(known, Beam(width, copies="merged", last="all"), 1, True) for width in widths],
        "autoregressive beam": [(left, released(width, "left"), 1, False) for width in widths],
        "autoregressive beam, catalogued": [(left, released(width, "left"), 1, True) for width in widths],
    }
    orders = {"random": Random(), "confidence": Confidence()}
    for steps, order in ((1, "random"), (2, "random"), (2, "confidence"), (4, "random")):
        sampler = Parallel(PerRow(uniform, steps=steps), orders[order])
        name = f"draws, {steps} step{'s' * (steps > 1)}, {order}"
        lines[name] = [(known, sampler, count, False) for count in draws]
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    print("| decoding | NFE | NDCG@10 |\n|---|---|---|")
    for name, cases in lines.items():
        points = []
        for each, sampler, count, only in cases:
            ranker = Generative(each.network, each.catalogue, sampler, count, catalogued=only)
            found = evaluate(ranker, CASES.first(500), k=[10])
            points.append((found.nfe, float(found.ndcg[10])))
            print(
                f"| {name}, {getattr(sampler, 'width', count)} | {found.nfe:.0f} | {found.ndcg[10]:.4f} |", flush=True
            )
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=name,
                  linestyle="--" if "draws" in name else "-")  # fmt: skip
    best = WORLD.best(CASES.first(500).histories, 10)[1]
    axes.axhline(best, color="0.5", linewidth=0.8, linestyle=":")
    axes.annotate("the most that can be expected", (4, best), xytext=(2, 3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="forward passes of the decoder per user (NFE)", ylabel="NDCG@10", xscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    figure.savefig(PICTURE, dpi=150)
    print(f"wrote {PICTURE}; the most that can be expected is {best:.4f}")


if __name__ == "__main__":
    {"train": train, "table": table, "passes": passes}[sys.argv[1]](*sys.argv[2:])
