"""`demask recommend`: from interactions to identifiers, to a model, to lists of items and what they are worth."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from demask.cli.output import console, counted, say, say_json, say_pairs, working
from demask.errors import RecommendError
from demask.recommend import (
    Dimensions,
    Epoch,
    Generative,
    Interactions,
    ItemKNN,
    Known,
    Network,
    Popularity,
    Prepared,
    Quality,
    Quantiser,
    Ranker,
    Ranking,
    Recommender,
    RecommendRecipe,
    Sentences,
    Words,
    evaluate,
    read_data,
    read_embeddings,
    read_events,
    read_model,
    read_texts,
    released,
    train_recommender,
    write_data,
    write_model,
)  # fmt: skip
from demask.recommend.catalogue import Catalogue
from demask.recommend.folder import DATA, MODEL, check
from demask.registry import build
from demask.samplers import Beam


@dataclass(frozen=True)
class Source:
    """Where interactions and items are read from, and what is left out of them."""

    interactions: Path
    items: Path
    user: str | None = None
    item: str | None = None
    time: str | None = None
    text: str | None = None
    core: int = 1
    duplicates: str = "refuse"
    without_text: str = "refuse"
    cold: bool = False

    def read(self) -> Interactions:
        """Return what the files say."""
        events = read_events(self.interactions, user=self.user, item=self.item, time=self.time)
        texts = read_texts(self.items, item=self.item, text=self.text)
        return Interactions.of(
            events, texts, core=self.core, duplicates=self.duplicates, without_text=self.without_text, cold=self.cold
        )


@dataclass(frozen=True)
class Decoding:
    """How identifiers are found: by a beam, and by samplers where some are asked for."""

    width: int = 256
    merged: bool = False
    samplers: tuple[str, ...] = ()
    draws: int = 32
    key: int = 0
    catalogued: bool = False

    def beam(self, noise: str) -> Beam:
        """Return the beam for a network trained with this noise."""
        plain = released(self.width, noise)
        return Beam(self.width, copies="merged", last="all", order=plain.order) if self.merged else plain

    def rankers(self, model: Recommender, name: str) -> Iterator[Generative]:
        """Yield the model driven by the beam, then by every sampler."""
        how: list[tuple[Any, str]] = [(self.beam(model.noise), f"beam {self.width}{', merged' if self.merged else ''}")]
        how += [(build(spec, "sampler"), f"{spec} x{self.draws}") for spec in self.samplers]
        for sampler, words in how:
            yield Generative(
                model.network, model.catalogue, sampler, self.draws, key=self.key, catalogued=self.catalogued,
                label=f"{name}, {words}{', catalogued' if self.catalogued else ''}",
            )  # fmt: skip


def write_example(out: Path, *, users: int, items: int, values: int, key: int, as_json: bool) -> None:
    """Write interactions of a known law, and tell what is the best that can be reached."""
    world = Known.random(items=items, values=values, key=key)
    log = world.sample(users, key=key + 1)
    world.write(out, log)
    histories = log.cases("test").histories
    best = {most: world.best(histories, most) for most in (5, 10) if most <= items}
    if as_json:
        say_json({"out": str(out), "users": users, "items": items, "best": {
            str(most): {"recall": recall, "ndcg": ndcg} for most, (recall, ndcg) in best.items()
        }})  # fmt: skip
        return
    say(f"wrote {out}/interactions.jsonl and {out}/items.jsonl: {counted(users, 'user')}, {counted(items, 'item')}")
    for most, (recall, ndcg) in best.items():
        say(f"no ranker can expect more than Recall@{most} {recall:.4f} and NDCG@{most} {ndcg:.4f} on the test items")


def write_prepared(
    source: Source,
    *,
    out: Path,
    digits: int,
    codes: int,
    dimensions: int,
    embeddings: Path | None,
    sentences: str | None,
    key: int,
    as_json: bool,
) -> None:
    """Give every item its identifier, keep it all in a folder, and tell."""
    if embeddings is not None and sentences is not None:
        raise RecommendError("--embeddings and --sentences; give one of them, or neither for the words of the texts")
    check(out, DATA)
    with working("reading"):
        log = source.read()
    with working("embedding"):
        if embeddings is not None:
            vectors, embedded = read_embeddings(embeddings, log.items, item=source.item), str(embeddings)
        elif sentences is not None:
            vectors, embedded = Sentences(sentences)(log.texts), sentences
        else:
            vectors, embedded = Words(dimensions, key)(log.texts), "words"
    with working("making identifiers"):
        counts = log.counts
        quantiser = Quantiser.fit(
            vectors, digits=digits, codes=codes, dimensions=dimensions, fitted=[count > 0 for count in counts], key=key
        )
        catalogue = Catalogue(log.items, quantiser.encode(vectors), codes, torch.tensor(counts))
    about = {
        "source": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(source).items()},
        "embedding": embedded, "key": key,
    }  # fmt: skip
    write_data(out, Prepared(log, catalogue, about), quantiser)
    facts = {
        "users": len(log.users), "items": len(log.items), "interactions": sum(map(len, log.sequences)),
        "held out": sum(len(sequence) >= 3 for sequence in log.sequences), "digits": digits, "codes": codes,
        "dimensions": quantiser.whitening.shape[0], "items that share an identifier": catalogue.shared,
        **{f"dropped: {reason}": count for reason, count in log.dropped.items()},
    }  # fmt: skip
    if as_json:
        say_json({"out": str(out), **facts})
        return
    say_pairs({name: f"{value:,}" for name, value in facts.items()})
    say(f"wrote {out}; train by demask recommend train {out} --out DIR")


def run_training(
    data: Path,
    recipe: RecommendRecipe,
    size: Mapping[str, Any],
    *,
    out: Path,
    device: str,
    threads: int | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train and tell."""
    import typer

    from demask.training.train import Status

    if threads is not None:
        torch.set_num_threads(threads)
    check(out, MODEL)
    with working("loading"):
        prepared = read_data(data)
        start = _begun(out, prepared.catalogue) if resume else None
    if not resume and (out / "config.json").exists():
        raise RecommendError(f"{out} holds a model; begin with it by --resume, or choose another --out")
    dimensions = Dimensions(prepared.catalogue.digits, prepared.catalogue.size, **size)

    def keep(network: Network, about: Mapping[str, Any]) -> None:
        write_model(out, Recommender(network, prepared.catalogue, {"data": str(data), **about}))

    trained = train_recommender(
        prepared.log, prepared.catalogue, dimensions, recipe, start=start, device=_device(device), keep=keep,
        watch=lambda epoch: None if as_json else _line(epoch),
    )  # fmt: skip
    if as_json:
        status = trained.status.name.lower()
        say_json(
            {"out": str(out), "status": status, **trained.about, "epochs": [asdict(each) for each in trained.epochs]}
        )
    else:
        best = trained.about
        say(f"epoch {best['epoch']}: validation Recall@10 {best['recall']:.4f}, NDCG@10 {best['ndcg']:.4f}")
        say(f"wrote {out}; test it by demask recommend eval {data} {out}")
    if trained.status is Status.INTERRUPTED:
        raise typer.Exit(130)


def tell_predictions(
    model: Path,
    histories: Path | None,
    given: tuple[str, ...],
    decoding: Decoding,
    *,
    columns: tuple[str | None, str | None, str | None],
    k: int,
    device: str,
    as_json: bool,
) -> None:
    """Recommend to every user, and tell."""
    if histories is None and not given:
        raise RecommendError("no history; give a file of interactions, or --history item,item (empty for a new user)")
    with working("loading"):
        known = read_model(model, device=_device(device))
        ranker = list(decoding.rankers(known, model.name))[-1]
    asked: dict[str, list[str]] = {}
    if histories is not None:
        user, item, time = columns
        for event in sorted(read_events(histories, user=user, item=item, time=time), key=lambda event: event.time):
            asked.setdefault(event.user, []).append(event.item)
    for number, line in enumerate(given):
        asked[f"history {number + 1}" if len(given) > 1 else "history"] = [name for name in line.split(",") if name]
    found = {user: known.catalogue.numbers(names) for user, names in asked.items()}
    with working("generating"):
        rankings = ranker.rank([numbers for numbers, _ in found.values()], k)
    answers = [
        _answer(user, ranking, skipped, known.catalogue)
        for (user, (_, skipped)), ranking in zip(found.items(), rankings, strict=True)
    ]
    if as_json:
        say_json({"answers": answers})
        return
    for answer in answers:
        note = "" if answer["source"] == "model" else f", by {answer['source']}: no known item in the history"
        if answer["skipped"]:
            note += f"; not in the catalogue: {', '.join(answer['skipped'])}"
        if len(answer["items"]) < k:
            note += f"; only {len(answer['items'])} found: a wider --beam finds more"
        say(f"{answer['user']}{note}")
        for rank, entry in enumerate(answer["items"], 1):
            say(f"{rank:>4}  {entry['item']}  {entry['score']:.4g}")


def tell_quality(
    data: Path,
    models: tuple[Path, ...],
    decoding: Decoding,
    *,
    k: tuple[int, ...],
    part: str,
    users: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Evaluate the baselines and the models, and tell."""
    with working("loading"):
        prepared = read_data(data)
        cases = prepared.log.cases(part)
        cases = cases if users is None else cases.first(users)
        rankers: list[Ranker] = [Popularity(prepared.catalogue), ItemKNN(prepared.log, prepared.catalogue)]
        for folder in models:
            known = read_model(folder, device=_device(device))
            _same(known.catalogue, prepared.catalogue, folder, data)
            rankers += decoding.rankers(known, folder.name)
    found = []
    for ranker in rankers:
        with working(f"evaluating {ranker.name}"):
            found.append(evaluate(ranker, cases, k=k))
    if as_json:
        say_json({"part": part, "cases": len(cases), "rankers": [_quality(each) for each in found]})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("ranker")
    for most in k:
        for name in ("Recall", "NDCG"):
            table.add_column(f"{name}@{most}", justify="right")
    table.add_column("NFE", justify="right")
    table.add_column("short lists", justify="right")
    for each in found:
        cells = [f"{value[most]:.4f}" for most in k for value in (each.recall, each.ndcg)]
        table.add_row(each.name, *cells, f"{each.nfe:.0f}", str(each.short))
    console().print(table)
    worst = max(each.ndcg[max(k)].error for each in found)
    say(f"{counted(len(cases), 'user')}, {part}; standard errors of NDCG@{max(k)} up to {worst:.4f}")


def _line(epoch: Epoch) -> None:
    score = "" if epoch.ndcg is None else f", Recall@10 {epoch.recall:.4f}, NDCG@10 {epoch.ndcg:.4f}"
    sys.stderr.write(f"{epoch.seconds:.0f} s, epoch {epoch.number}, loss {epoch.loss:.4f}{score}\n")
    sys.stderr.flush()


def _begun(out: Path, catalogue: Catalogue) -> Network:
    known = read_model(out)
    _same(known.catalogue, catalogue, out, out)
    return known.network


def _same(one: Catalogue, other: Catalogue, model: Path, data: Path) -> None:
    if one.items != other.items or not torch.equal(one.codes, other.codes):
        raise RecommendError(
            f"{model} was trained with other items or identifiers than {data} holds; give its own data"
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecommendError(f"device {name!r}: {str(error).partition(chr(10))[0]}; cpu is always there") from None
    return device


def _answer(user: str, ranking: Ranking, skipped: tuple[str, ...], catalogue: Catalogue) -> dict[str, Any]:
    pairs = zip(ranking.items, ranking.scores, strict=True)
    return {
        "user": user, "source": ranking.source, "skipped": list(skipped), "nfe": ranking.nfe,
        "items": [{"item": catalogue.items[item], "score": score} for item, score in pairs],
    }  # fmt: skip


def _quality(found: Quality) -> dict[str, Any]:
    return {
        "name": found.name, "nfe": found.nfe, "seconds": found.seconds, "short": found.short,
        **{
            name: {str(most): {"value": float(value), "error": value.error} for most, value in values.items()}
            for name, values in (("recall", found.recall), ("ndcg", found.ndcg))
        },
    }  # fmt: skip
