"""What can be typed about recommendation: the commands and their options.

Nothing heavy is imported until a command runs, so that help comes at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from demask.cli import options as o
from demask.cli.group import app
from demask.cli.output import working

recommend = typer.Typer(
    help="Recommend the next item by generating its semantic identifier, digit by digit in any order (DiffGRM).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(recommend, name="recommend")

Data = Annotated[Path, typer.Argument(metavar="DATA", help="A folder of demask recommend prepare.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A folder of demask recommend train.")]
User = Annotated[str | None, typer.Option("--user", metavar="COLUMN", help="Of users.")]
Item = Annotated[str | None, typer.Option("--item", metavar="COLUMN", help="Of items.")]
Time = Annotated[str | None, typer.Option("--time", metavar="COLUMN", help="Of times, numbers or ISO dates.")]
Width = Annotated[int, typer.Option("--beam", callback=o.at_least(1), help="Branches of the beam.")]
Improved = Annotated[
    bool, typer.Option("--merged", help="Merge equal branches and try all last digits; the release does neither.")
]
Existing = Annotated[bool, typer.Option("--catalogued", help="Generate identifiers of the catalogue only.")]
Draws = Annotated[int, typer.Option("--draws", callback=o.at_least(1), help="Identifiers drawn per user by --sampler.")]
Device = Annotated[str, typer.Option("--device", help="Where to compute: cpu or cuda.")]


@recommend.command()
def example(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder for interactions.jsonl and items.jsonl.")],
    users: Annotated[int, typer.Option("--users", callback=o.at_least(1), help="Users.")] = 1000,
    items: Annotated[int, typer.Option("--items", callback=o.at_least(2), help="Items.")] = 300,
    values: Annotated[int, typer.Option("--values", callback=o.at_least(2), help="Of each of four attributes.")] = 8,
    key: o.Key = 0,
    json: o.Json = False,
) -> None:
    """Write interactions whose law is known, and say the best that any ranker can reach on them."""
    with working("loading"):
        from demask.cli.recommendations import write_example
    write_example(out, users=users, items=items, values=values, key=key, as_json=json)


@recommend.command()
def prepare(
    interactions: Annotated[
        Path, typer.Argument(metavar="INTERACTIONS", help="user, item, time: .csv, .jsonl, .json (.gz) or .parquet.")
    ],
    items: Annotated[
        Path, typer.Argument(metavar="ITEMS", help="item and text, or title, brand, categories, description.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder.")] = Path("interactions"),
    digits: Annotated[int, typer.Option("--digits", callback=o.at_least(1), help="Of an identifier.")] = 4,
    codes: Annotated[int, typer.Option("--codes", callback=o.at_least(2), help="Per digit, a power of two.")] = 256,
    dimensions: Annotated[
        int, typer.Option("--dimensions", callback=o.at_least(1), help="Kept by the whitening, at most.")
    ] = 256,
    embeddings: Annotated[
        Path | None, typer.Option("--embeddings", metavar="FILE", help="item and embedding, in place of the words.")
    ] = None,
    sentences: Annotated[
        str | None, typer.Option("--sentences", metavar="MODEL", help="A model of sentence-transformers instead.")
    ] = None,
    user: User = None,
    item: Item = None,
    time: Time = None,
    text: Annotated[str | None, typer.Option("--text", metavar="COLUMN", help="Of texts.")] = None,
    core: Annotated[
        int, typer.Option("--core", callback=o.at_least(1), help="Least interactions of every user and item.")
    ] = 1,
    duplicates: Annotated[
        str, typer.Option("--duplicates", help="refuse or drop: equal user, item and time.")
    ] = "refuse",
    without_text: Annotated[
        str, typer.Option("--without-text", help="refuse or drop: items without text, and their interactions.")
    ] = "refuse",
    cold: Annotated[bool, typer.Option("--cold", help="Keep items that nobody took.")] = False,
    key: o.Key = 0,
    json: o.Json = False,
) -> None:
    """Read interactions and items, and give every item its identifier; also the public Amazon reviews as they are."""
    with working("loading"):
        from demask.cli.recommendations import Source, write_prepared
    source = Source(interactions, items, user, item, time, text, core, duplicates, without_text, cold)
    write_prepared(
        source, out=out, digits=digits, codes=codes, dimensions=dimensions, embeddings=embeddings, sentences=sentences,
        key=key, as_json=json,
    )  # fmt: skip


@recommend.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model folder.")] = Path("recommender"),
    epochs: Annotated[int, typer.Option("--epochs", callback=o.at_least(1), help="At most.")] = 200,
    seconds: Annotated[float | None, typer.Option("--seconds", help="At most.")] = None,
    noise: Annotated[
        str, typer.Option("--noise", help="coherent, random, independent; left: an autoregressive decoder.")
    ] = "coherent",
    reduction: Annotated[
        str, typer.Option("--reduction", help="pooled, as released, or views, as the paper has it.")
    ] = "pooled",
    batch: Annotated[int, typer.Option("--batch", callback=o.at_least(1), help="Items per step.")] = 256,
    rate: Annotated[float, typer.Option("--rate", help="Peak learning rate.")] = 3e-3,
    smoothing: Annotated[float, typer.Option("--smoothing", help="Of labels.")] = 0.1,
    patience: Annotated[
        int, typer.Option("--patience", callback=o.at_least(1), help="Evaluations without gain before the end.")
    ] = 15,
    every: Annotated[int, typer.Option("--every", callback=o.at_least(1), help="Epochs between evaluations.")] = 1,
    beam: Width = 32,
    width: Annotated[int, typer.Option("--width", callback=o.at_least(1), help="Of vectors.")] = 256,
    layers: Annotated[int, typer.Option("--layers", callback=o.at_least(1), help="Of the decoder.")] = 4,
    heads: Annotated[int, typer.Option("--heads", callback=o.at_least(1), help="Of attention.")] = 4,
    hidden: Annotated[int, typer.Option("--hidden", callback=o.at_least(1), help="Width inside a layer.")] = 1024,
    history: Annotated[int, typer.Option("--history", callback=o.at_least(1), help="Items looked back.")] = 50,
    dropout: Annotated[float, typer.Option("--dropout", help="Share in [0, 1).")] = 0.1,
    device: Device = "cpu",
    threads: Annotated[int | None, typer.Option("--threads", callback=o.at_least(1), help="CPU threads.")] = None,
    key: o.Key = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Begin with the network in --out.")] = False,
    json: o.Json = False,
) -> None:
    """Train a decoder of identifiers; the validation decides which network is kept, Ctrl-C keeps the best so far."""
    with working("loading"):
        from demask.cli.recommendations import run_training
        from demask.recommend import RecommendRecipe
    recipe = RecommendRecipe(
        epochs, seconds, batch, rate, smoothing=smoothing, noise=noise, reduction=reduction, patience=patience,
        evaluate_every=every, beam=beam, key=key,
    )  # fmt: skip
    size = {
        "width": width, "layers": layers, "heads": heads, "hidden": hidden, "history": history, "dropout": dropout,
    }  # fmt: skip
    run_training(data, recipe, size, out=out, device=device, threads=threads, resume=resume, as_json=json)


@recommend.command()
def predict(
    model: Model,
    histories: Annotated[
        Path | None, typer.Argument(metavar="[HISTORIES]", help="user, item, time; every user in it is answered.")
    ] = None,
    history: Annotated[
        list[str] | None, typer.Option("--history", metavar="ITEMS", help="Items, oldest first, between commas.")
    ] = None,
    k: Annotated[int, typer.Option("--k", callback=o.at_least(1), help="Items to recommend.")] = 10,
    beam: Width = 256,
    merged: Improved = False,
    catalogued: Existing = False,
    sampler: Annotated[
        str | None, typer.Option("--sampler", metavar="SPEC", help="In place of the beam: any sampler.")
    ] = None,
    draws: Draws = 32,
    user: User = None,
    item: Item = None,
    time: Time = None,
    device: Device = "cpu",
    key: o.Key = 0,
    json: o.Json = False,
) -> None:
    """Recommend what comes next. Without any known item the answer is by popularity, and says so."""
    with working("loading"):
        from demask.cli.recommendations import Decoding, tell_predictions
    decoding = Decoding(beam, merged, tuple([sampler] if sampler else []), draws, key, catalogued)
    tell_predictions(
        model, histories, tuple(history or ()), decoding, columns=(user, item, time), k=k, device=device, as_json=json
    )


@recommend.command(name="eval")
def evaluate(
    data: Data,
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="[MODELS]", help="Folders of demask recommend train.")
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("--k", callback=o.at_least_each(1), help="List lengths.  [default: 5 10]")
    ] = None,
    part: Annotated[str, typer.Option("--part", help="test or validation.")] = "test",
    users: Annotated[int | None, typer.Option("--users", callback=o.at_least(1), help="Only the first.")] = None,
    beam: Width = 256,
    merged: Improved = False,
    catalogued: Existing = False,
    sampler: Annotated[
        list[str] | None, typer.Option("--sampler", metavar="SPEC", help="Besides the beam; may be repeated.")
    ] = None,
    draws: Draws = 32,
    device: Device = "cpu",
    key: o.Key = 0,
    json: o.Json = False,
) -> None:
    """Leave one out: Recall@K and NDCG@K of popularity, item-kNN and the models, over the whole catalogue."""
    with working("loading"):
        from demask.cli.recommendations import Decoding, tell_quality
    decoding = Decoding(beam, merged, tuple(sampler or ()), draws, key, catalogued)
    tell_quality(
        data, tuple(models or ()), decoding, k=tuple(k or (5, 10)), part=part, users=users, device=device, as_json=json
    )
