"""Train a decoder of identifiers on the training part of interactions."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from demask.errors import DenoiserError, RecommendError
from demask.recommend.catalogue import Catalogue
from demask.recommend.evaluate import evaluate
from demask.recommend.generative import Generative, released, with_nothing
from demask.recommend.interactions import Interactions
from demask.recommend.network import Dimensions, Network
from demask.recommend.noising import NOISES, REDUCTIONS, loss, views
from demask.training.recipe import warmed
from demask.training.stopping import stoppable
from demask.training.train import Status

_LIST = 10  # items of the ranking that decides when to stop


@dataclass(frozen=True)
class RecommendRecipe:
    """Every choice of a training. Published values in brackets where ours differ.

    Parameters:
        epochs: passes over all training items, at most.
        seconds: to spend at most, or None.
        batch: items per step [1024].
        rate: peak learning rate of AdamW; falls to 0 by a cosine over epochs or seconds, whichever ends first.
        warmup: share of the training in which it rises [10,000 steps].
        smoothing: of labels.
        decay: weight decay.
        norm: largest norm of the gradient.
        noise: "coherent", "random", "independent" or "left" (autoregressive): see `views`.
        reduction: "pooled" or "views": see `loss`.
        patience: evaluations without a gain after which it stops.
        evaluate_every: epochs between evaluations.
        beam: of the evaluations.
        users: of the validation that are evaluated, at most.
        key: of every random choice.

    Raises:
        RecommendError: a number out of its range, another noise or reduction.
    """

    epochs: int = 200
    seconds: float | None = None
    batch: int = 256
    rate: float = 3e-3
    warmup: float = 0.05
    smoothing: float = 0.1
    decay: float = 0.0
    norm: float = 1.0
    noise: str = "coherent"
    reduction: str = "pooled"
    patience: int = 15
    evaluate_every: int = 1
    beam: int = 32
    users: int = 512
    key: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "patience", "evaluate_every", "beam", "users"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise RecommendError(f"{name} = {value!r}; expected an integer >= 1")
        for name in ("seconds", "rate", "norm"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise RecommendError(f"{name} = {value!r}; expected a finite number > 0")
        if not (0 <= self.warmup < 1 and 0 <= self.smoothing < 1 and 0 <= self.decay < float("inf")):
            raise RecommendError(
                f"warmup {self.warmup}, smoothing {self.smoothing}, decay {self.decay}; expected [0, 1), decay >= 0"
            )
        for name, allowed in (("noise", NOISES), ("reduction", REDUCTIONS)):
            if getattr(self, name) not in allowed:
                raise RecommendError(f"{name} {getattr(self, name)!r}; expected one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Epoch:
    """What a human may want to know of a pass over the training items.

    Parameters:
        number: from 1.
        seconds: spent so far.
        loss: mean nats per learned digit, smoothed labels.
        recall, ndcg: of the first 10 on the validation, where it was evaluated just now.
    """

    number: int
    seconds: float
    loss: float
    recall: float | None = None
    ndcg: float | None = None


@dataclass(frozen=True, eq=False)
class TrainedRecommender:
    """The best network of the validation, every epoch, and how the training ended."""

    network: Network
    epochs: tuple[Epoch, ...]
    status: Status
    about: Mapping[str, Any]


def train_recommender(
    log: Interactions,
    catalogue: Catalogue,
    dimensions: Dimensions,
    recipe: RecommendRecipe,
    *,
    start: Network | None = None,
    device: torch.device | str = "cpu",
    watch: Callable[[Epoch], None] = lambda epoch: None,
    keep: Callable[[Network, Mapping[str, Any]], None] = lambda network, about: None,
) -> TrainedRecommender:
    """Train a network to name the next item's digits behind each history.

    Every item but the first of every user's training part is a target once per epoch, in n masked views (`views`). The
    validation decides which network is kept: 0.8 NDCG@10 + 0.2 Recall@10 of a small beam, as published. Ctrl-C and SIGTERM
    end the current step, and the best so far is returned.

    Parameters:
        log: the interactions.
        catalogue: the digits of their items.
        dimensions: of a new network.
        recipe: every choice.
        start: a network to go on with, of these dimensions; its optimiser begins anew, and it is kept (as epoch 0) until
            a better one is found.
        device: where to train.
        watch: called after every epoch.
        keep: called with every network that is the best so far, and facts about it.

    Raises:
        RecommendError: no user has two training items; a loss that is not finite, after the best network was kept.

    Cost: per target n rows of the decoder, forward and back, one history, and with coherent noising one forward row more.
    """
    if start is not None and start.dimensions != dimensions:
        raise RecommendError(f"a network of {start.dimensions} to go on with; expected {dimensions}")
    if (dimensions.digits, dimensions.codes) != (catalogue.digits, catalogue.size):
        raise RecommendError(
            f"dimensions of {dimensions.digits} digits of {dimensions.codes} codes for a catalogue of {catalogue.digits} of "
            f"{catalogue.size}; write Dimensions(digits={catalogue.digits}, codes={catalogue.size}, ..)"
        )
    pairs = Targets.of(log.training, catalogue.codes, dimensions.history)
    network = Network(dimensions, key=recipe.key) if start is None else copy.deepcopy(start)
    network = network.to(device).requires_grad_()
    return _Training(log, catalogue, recipe, pairs, network, watch, keep, resumed=start is not None).run()


@dataclass(frozen=True, eq=False)
class Targets:
    """Every training item that has one before it, as flat arrays.

    Parameters:
        taken: (T,) int64 item numbers, user after user.
        begins: (T,) int64, where the user's items begin.
        targets: (P,) int64, places in `taken`.
        digits: (I + 1, n), the last row -1.
        history: items that are looked back.
    """

    taken: Tensor
    begins: Tensor
    targets: Tensor
    digits: Tensor
    history: int

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], codes: Tensor, history: int) -> "Targets":
        """Return the targets of sequences."""
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        taken = torch.tensor([item for sequence in sequences for item in sequence], dtype=torch.int64)
        begins = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        targets = (torch.arange(len(taken)) > begins).nonzero()[:, 0]
        if not len(targets):
            raise RecommendError("no user has two items to learn from; give longer logs: four interactions and more")
        return cls(taken, begins, targets, with_nothing(codes), history)

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return histories (B, L, n), -1 before the first item, and the digits of what came next (B, n)."""
        at = self.targets[index]
        places = at[:, None] + torch.arange(-self.history, 0)
        items = self.taken[places.clamp_min(0)].masked_fill(places < self.begins[at][:, None], -1)
        longest = int((items >= 0).sum(1).max())
        return self.digits[items[:, -longest:]], self.digits[self.taken[at]]


class _Training:
    """A training under way."""

    def __init__(
        self,
        log: Interactions,
        catalogue: Catalogue,
        recipe: RecommendRecipe,
        pairs: Targets,
        network: Network,
        watch: Callable[[Epoch], None],
        keep: Callable[[Network, Mapping[str, Any]], None],
        *,
        resumed: bool,
    ) -> None:
        self.catalogue, self.recipe, self.pairs, self.network = catalogue, recipe, pairs, network
        self.watch, self.keep, self.resumed = watch, keep, resumed
        self.found = resumed  # whether there is a network to fall back on
        self.validation = log.cases("validation").first(recipe.users)
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
        self.chance = torch.Generator().manual_seed(recipe.key)
        self.begun = time.monotonic()
        self.steps = 0

    def run(self) -> TrainedRecommender:
        """Train until the end, until nothing is gained any more, or until asked to stop."""
        recipe, epochs = self.recipe, list[Epoch]()
        best, waited, about = -1.0, 0, dict[str, Any]()
        kept = copy.deepcopy(self.network)
        if self.resumed:  # what is there is kept until something better is found
            scores = self._evaluate()
            best, about = _gain(*scores), self._about(0, *scores)
        with stoppable() as stop, torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.key)  # of dropout
            while not epochs or not (
                stop.asked or self._spent() or len(epochs) == recipe.epochs or waited == recipe.patience
            ):
                value = self._epoch(len(epochs), lambda: stop.asked or self._spent())
                number, recall, ndcg = len(epochs) + 1, None, None
                ends = stop.asked or self._spent() or number == recipe.epochs
                if ends or number % recipe.evaluate_every == 0:
                    recall, ndcg = self._evaluate()
                    gained = _gain(recall, ndcg)
                    waited += 1
                    if gained > best:
                        best, waited, kept = gained, 0, copy.deepcopy(self.network)
                        about = self._about(number, recall, ndcg)
                        self.keep(kept, about)
                        self.found = True
                epochs.append(Epoch(number, time.monotonic() - self.begun, value, recall, ndcg))
                self.watch(epochs[-1])
        status = Status.INTERRUPTED if stop.asked else Status.FINISHED
        return TrainedRecommender(kept.eval().requires_grad_(False), tuple(epochs), status, about)

    def _about(self, epoch: int, recall: float, ndcg: float) -> dict[str, Any]:
        seconds = round(time.monotonic() - self.begun, 1)
        return {
            "recipe": asdict(self.recipe), "epoch": epoch, "steps": self.steps, "seconds": seconds, "recall": recall,
            "ndcg": ndcg,
        }  # fmt: skip

    @property
    def _saved(self) -> str:
        return "the best network so far is kept" if self.found else "there was no network to keep before"

    def _spent(self) -> bool:
        return self.recipe.seconds is not None and time.monotonic() - self.begun >= self.recipe.seconds

    def _progress(self, epoch: int, share: float) -> float:
        passed = (epoch + share) / self.recipe.epochs
        if self.recipe.seconds is None:
            return passed
        return min(1.0, max(passed, (time.monotonic() - self.begun) / self.recipe.seconds))

    def _epoch(self, epoch: int, ends: Callable[[], bool]) -> float:
        """Go through all targets once, in a random order; return the mean loss."""
        order = torch.randperm(len(self.pairs), generator=self.chance)
        values = []
        for begin in range(0, len(order), self.recipe.batch):
            height = warmed(self._progress(epoch, begin / len(order)), self.recipe.warmup)
            values.append(self._learn(order[begin : begin + self.recipe.batch], max(height, 1e-3)))
            if ends():
                break
        return sum(values) / len(values)

    def _learn(self, index: Tensor, height: float) -> float:
        """Take one step; return the loss."""
        recipe, network, device = self.recipe, self.network, self.network.codes.device
        history, digits = (part.to(device) for part in self.pairs.part(index))
        network.train()
        shown = views(recipe.noise, network, history, self.chance)
        logits = network.decode(network.encode(history), digits[:, None].expand(shown.masked.shape), shown.masked)
        value = loss(logits, digits, shown, smoothing=recipe.smoothing, reduction=recipe.reduction)
        number = float(value.detach())
        if not isfinite(number):
            raise RecommendError(
                f"the loss is {number} at step {self.steps}; lower the rate {recipe.rate}; {self._saved}"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate * height
        self.optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.norm)
        self.optimiser.step()
        self.steps += 1
        return number

    def _evaluate(self) -> tuple[float, float]:
        ranker = Generative(self.network, self.catalogue, released(self.recipe.beam, self.recipe.noise))
        most = min(_LIST, len(self.catalogue.items))
        try:
            found = evaluate(ranker, self.validation, k=[most])
        except DenoiserError:
            raise RecommendError(
                f"the network's answers are not finite after step {self.steps}; lower the rate {self.recipe.rate}; "
                f"{self._saved}"
            ) from None
        return float(found.recall[most]), float(found.ndcg[most])


def _gain(recall: float, ndcg: float) -> float:
    """Return what decides between networks, as published."""
    return 0.8 * ndcg + 0.2 * recall
