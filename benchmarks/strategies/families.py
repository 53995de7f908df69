"""What strategies are compared on: laws whose truth is known, and how far a sample is from it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from math import log, sqrt
from pydoc_data.topics import topics
from typing import Any

import torch
from hidden import fit as fit_hidden
from torch import Tensor

from demask import Canvas, load, oracles
from demask.oracles import HMM, Chain, Notes, Oracle
from demask.samplers import Ended

SMOOTHING = 0.5  # of a pair of letters that the text never has, in counts
STATES = 12
LISTS = ("insert(5)", "remove(7)", "replace(6)", "shuffle(6)")


@dataclass(frozen=True)
class Value:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Tensor) -> "Value":
        """Return a mean."""
        mean, half = float(values.mean()), 1.96 * float(values.std()) / sqrt(len(values))
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Family:
    """One thing to sample from.

    Parameters:
        name: of rows, files and pictures.
        title: in words.
        steps: what {k} is.
        rows: sampled for each point.
        tasks: denoisers with what is known of them; each point is the mean over these.
        metrics: column -> (words, best value).
        judge: a task, its tokens (B, n) and what was collected -> the value of each metric.
        length: positions.
        context: of a task, for specifications.
        around: what is put around a sampler.
        collect: what is looked at.
        limit: steps beyond which a strategy is left out.
    """

    name: str
    title: str
    steps: tuple[int, ...]
    rows: int
    tasks: Sequence[Any]
    metrics: dict[str, tuple[str, float]]
    judge: Callable[[Any, Tensor, Any], dict[str, Value]]
    length: int
    context: Callable[[Any], dict[str, Any]] = lambda task: {}
    around: Callable[[Any], Any] = lambda sampler: sampler
    collect: Callable[[], list[Any]] = field(default=lambda: [])
    limit: int = 4096


def text() -> str:
    """Return the Python manual's topics in 26 letters and spaces."""
    return " ".join(re.findall("[a-z]+", "\n".join(topics[name] for name in sorted(topics)).lower()))


@cache
def hidden(length: int) -> HMM:
    """Return the hidden Markov model of the text."""
    fitted = _fitted()
    return HMM(fitted.initial, fitted.transition, fitted.emission, length)


@cache
def _fitted() -> HMM:
    chain = oracles.fit(text(), length=1)
    assert chain.alphabet is not None
    return fit_hidden(chain.alphabet.encode(text())[:200_000], chain.vocabulary, STATES, 1)


def pairs_of(oracle: Oracle) -> Tensor:
    """Return the law of two neighbours, (V, V); both laws are stationary."""
    if isinstance(oracle, HMM):
        return oracle.emission.T @ (oracle.initial[:, None] * oracle.transition) @ oracle.emission
    assert isinstance(oracle, Chain)
    return oracle.initial[:, None] * oracle.transition


def grams(tokens: Tensor, size: int) -> float:
    """Return distinct n-grams over all n-grams."""
    windows = tokens.unfold(1, size, 1).reshape(-1, size)
    return len(torch.unique(windows, dim=0)) / len(windows)


@cache
def _truth(oracle: Oracle, rows: int) -> tuple[float, float]:
    """Return bits per token of the law, and the distinct 4-grams of as many rows of its own."""
    bits = float(oracle.entropy(samples=8192, key=99)) / oracle.length / log(2)
    return bits, grams(oracle.sample(rows, key=98), 4)


def judge_text(oracle: Oracle, tokens: Tensor, _: Any) -> dict[str, Value]:
    """Return bits per token above the truth, TV of neighbours, and distinct 4-grams over those of the truth."""
    bits, own = _truth(oracle, len(tokens))
    excess = Value.of(-oracle.log_prob(tokens) / oracle.length / log(2) - bits)
    V = oracle.vocabulary
    codes = tokens[:, :-1] * V + tokens[:, 1:]
    counts = torch.zeros(len(tokens), V * V, dtype=torch.float64).scatter_add_(
        1, codes, torch.ones_like(codes).double()
    )
    truth = pairs_of(oracle).flatten()
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(tokens), (200, len(tokens)), generator=generator)
    weights = torch.zeros(200, len(tokens), dtype=torch.float64).scatter_add_(1, picks, torch.ones_like(picks).double())
    again = weights @ counts
    spread = float(((again / again.sum(1, keepdim=True)) - truth).abs().sum(1).div(2).std())
    tv = float((counts.sum(0) / counts.sum() - truth).abs().sum() / 2)
    distinct = grams(tokens, 4) / own
    return {
        "excess": excess,
        "tv": Value(tv, tv - 1.96 * spread, tv + 1.96 * spread),
        "distinct": Value(distinct, distinct, distinct),
    }


def judge_task(oracle: Oracle, tokens: Tensor, _: Any) -> dict[str, Value]:
    """Return the share of valid answers, and how many different ones over how many fair draws would find."""
    valid = oracle.log_prob(tokens).isfinite()
    answers = len(oracle.to_table().sequences)
    expected = answers * (1 - (1 - 1 / answers) ** len(tokens))
    found = len(torch.unique(tokens[valid], dim=0)) / expected
    return {"right": Value.of(valid.double()), "coverage": Value(found, found, found)}


class PathLoss:
    """-log p of every token when it was written, summed over the tokens that stand, (B,) nats."""

    name = "loss"

    def __init__(self) -> None:
        self.losses: Tensor | None = None

    def see(self, info: Any) -> None:
        """Add what was written at this step."""
        if self.losses is None:
            self.losses = torch.zeros(info.kept.shape)
        if bool(info.kept.any()):
            marginals = info.step.marginals(info.kept)
            losses = marginals.spread(-marginals.logp(info.canvas.tokens[info.kept])).float()
            self.losses = torch.where(info.kept, losses, self.losses)

    def result(self) -> Tensor | None:
        """Return the sums."""
        return None if self.losses is None else self.losses.sum(1)


@cache
def notes_model() -> Any:
    """Return the model inside the package."""
    return load("demask/notes")


def judge_notes(model: Any, tokens: Tensor, collected: Any) -> dict[str, Value]:
    """Return the share of right notes, path loss above the true entropy per token, and distinct pairs over the truth's."""
    notes, end = Notes(), model.tokenizer.end
    rows = [row[: row.index(end)] if end in row else row for row in tokens.tolist()]
    texts = [model.tokenizer.decode(row) for row in rows]
    share = notes.satisfied(texts)["all"]
    low, high = share.interval()
    own = distinct_pairs(notes.sample(len(texts), key=97))
    ratio = distinct_pairs(texts) / own
    loss = Value.of((collected["loss"] - float(notes.entropy)) / float(notes.length))
    return {"right": Value(share.value, low, high), "loss": loss, "distinct": Value(ratio, ratio, ratio)}


def distinct_pairs(texts: Sequence[str]) -> float:
    """Return distinct pairs of words over all pairs."""
    pairs = [pair for words in map(str.split, texts) for pair in pairwise(words)]
    return len(set(pairs)) / max(1, len(pairs))


def _known(oracle: Oracle, *, samples: int) -> dict[str, Any]:
    """Return what a specification may be filled in with."""
    return {"length": oracle.length, "verifier": oracle, **_curve(oracle, samples)}


@cache
def _curve(oracle: Oracle, samples: int) -> dict[str, Any]:
    curve = oracle.curve(samples=samples)
    curve = curve if curve.exact else curve.projected()
    return {"curve": curve, "tc": float(curve.tc), "dtc": float(curve.dtc)}


def families(*, quick: bool) -> dict[str, Callable[[], Family]]:
    """Return how to make each family, by name."""
    less = 8 if quick else 1
    known = partial(_known, samples=8 if quick else 64)  # of a hidden Markov model, whose curve takes the most time
    few = (lambda steps: steps[1:2]) if quick else (lambda steps: steps)
    texts = {"excess": ("bits per token above the truth", 0.0), "tv": ("TV of neighbouring letters", 0.0),
             "distinct": ("distinct 4-grams, truth = 1", 1.0)}  # fmt: skip
    answers = {"right": ("valid answers", 1.0), "coverage": ("different valid answers, fair draws = 1", 1.0)}
    words = {"right": ("notes that satisfy every constraint", 1.0),
             "loss": ("path loss above the entropy, nats per word", 0.0),
             "distinct": ("distinct pairs of words, truth = 1", 1.0)}  # fmt: skip

    def chain(n: int, rows: int, steps: tuple[int, ...]) -> Family:
        oracle = oracles.fit(text(), length=n, smoothing=SMOOTHING)
        title = f"Letters of English as a Markov chain, n = {n}"
        return Family(f"chain{n}", title, few(steps), rows // less, [oracle], texts, judge_text, n, known)

    def hmm(n: int, rows: int, steps: tuple[int, ...], limit: int) -> Family:
        title = f"Letters of English as a hidden Markov model of {STATES} states, n = {n}"
        made = few(steps) or steps
        return Family(f"hmm{n}", title, made, rows // less, [hidden(n)], texts, judge_text, n, known, limit=limit)

    def lists() -> Family:
        tasks = [getattr(oracles, spec.split("(")[0])(int(spec[-2])) for spec in LISTS]
        title = f"Lists: mean over {', '.join(LISTS)}"
        return Family("lists", title, few((2, 3, 4)), 512 // less, tasks, answers, judge_task, 6, known)

    def latin() -> Family:
        tasks = [oracles.latin_square()]
        return Family(
            "latin", "Latin squares, 4 x 4", few((2, 4, 8, 12)), 1024 // less, tasks, answers, judge_task, 16, known
        )

    def notes() -> Family:
        model = notes_model()
        n = model.context
        return Family(
            "notes", "The model inside, notes of up to 96 words, temperature 1", few((16, 32)), 24 // min(less, 3), [model],
            words, judge_notes, n, lambda task: {"length": n, **({} if task.curve is None else _measured(task))},
            lambda sampler: Ended(sampler, model.tokenizer.end), lambda: [PathLoss()],
        )  # fmt: skip

    made = {
        "chain64": lambda: chain(64, 256, (4, 8, 16, 32)),
        "chain256": lambda: chain(256, 64, (16, 32, 64)),
        "hmm64": lambda: hmm(64, 64, (8, 16, 32), 64),
        "hmm256": lambda: hmm(256, 32, (24,), 32),
        "lists": lists,
        "latin": latin,
        "notes": notes,
    }
    return {name: family for name, family in made.items() if not (quick and name == "hmm256")}


def _measured(model: Any) -> dict[str, Any]:
    curve = model.curve.curve().projected()
    return {"curve": curve, "tc": float(curve.tc), "dtc": float(curve.dtc)}


def blank(family: Family, rows: int) -> Canvas:
    """Return a canvas of the family."""
    return Canvas.blank(rows, family.length)


def denoiser_of(task: Any) -> Any:
    """Return what is sampled from: an oracle, or a model's network."""
    return getattr(task, "denoiser", task)
