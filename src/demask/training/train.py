"""The one training loop."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from pathlib import Path

import torch

from demask.chance import Keyed
from demask.denoisers import folder as folders
from demask.denoisers.permutation import Permutation
from demask.denoisers.transformer import Network, Transformer
from demask.errors import CheckpointError, TrainingError
from demask.tokenizer import Tokenizer
from demask.training.checkpoint import FILE, Checkpoint
from demask.training.data import Data, Fresh, HeldOut
from demask.training.evaluate import Score, evaluate
from demask.training.lesson import Lesson
from demask.training.processes import Processes
from demask.training.recipe import Optimisers, Recipe
from demask.training.stopping import stoppable


class Status(Enum):
    """How a training ended."""

    FINISHED = "its steps or seconds are spent"
    INTERRUPTED = "it was asked to stop; resume goes on from there"


@dataclass(frozen=True)
class Moment:
    """What a human may want to know while it runs.

    Parameters:
        step: steps done.
        progress: share of the training that has passed, 0 to 1.
        seconds: spent, over all sittings.
        rate: tokens per second of this sitting, evaluation and saving left out.
        loss: mean nats per masked token of the last step, under the masks of the training.
        score: of an evaluation, if one was just made.
    """

    step: int
    progress: float
    seconds: float
    rate: float
    loss: float
    score: Score | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """What came out: the averaged network, its last score, and how the training ended."""

    denoiser: Transformer | Permutation
    score: Score
    status: Status
    steps: int
    seconds: float


def train(
    network: Network,
    data: Data,
    held: HeldOut,
    tokenizer: Tokenizer,
    *,
    out: str | Path,
    recipe: Recipe,
    resume: bool = False,
    about: Mapping[str, object] | None = None,
    watch: Callable[[Moment], None] = lambda moment: None,
) -> Trained:
    """Train a network to predict masked tokens, and keep it as a model folder.

    Minimises n E[mean loss of the masked tokens] (see `training.masked`) over the rows of `data`. The folder `out` holds a
    usable model, that of the averaged weights, from the first evaluation on, and the state of the training beside it.
    Ctrl-C and SIGTERM end the current step, save, and return; a second one does not wait. Under torchrun every process
    calls this with the same arguments; the first one writes.

    Parameters:
        network: trained in place.
        data: rows, drawn by key and step.
        held: evaluated on, never trained on.
        tokenizer: kept in the folder.
        out: the folder.
        recipe: every choice.
        resume: go on from the state in `out`.
        about: facts to keep in the folder.
        watch: called after every step.

    Raises:
        CheckpointError: no state to resume, one of another training, or one that would be lost.
        TrainingError: a loss that is not finite.

    Cost: 3 times a forward pass per step, and one pass per held-out window per evaluation.
    """
    return _Training(network, data, held, tokenizer, Path(out), recipe, about or {}, watch).run(resume)


class _Training:
    """A training under way."""

    def __init__(
        self,
        network: Network,
        data: Data,
        held: HeldOut,
        tokenizer: Tokenizer,
        out: Path,
        recipe: Recipe,
        about: Mapping[str, object],
        watch: Callable[[Moment], None],
    ) -> None:
        if tokenizer.size != network.shape.vocabulary or data.context > network.shape.context:
            raise TrainingError(
                f"a network of {network.shape.vocabulary} tokens and {network.shape.context} positions for a tokenizer of "
                f"{tokenizer.size} and rows of {data.context}; build it with "
                f"Shape.of(size, {tokenizer.size}, {data.context})"
            )
        self.network, self.data, self.held, self.tokenizer = network, data, held, tokenizer
        self.out, self.recipe, self.about, self.watch = out, recipe, about, watch
        self.processes = Processes.join()
        self.device = network.embedding.weight.device
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.optimisers = Optimisers(network, recipe)
        self.names = torch.arange(recipe.batch)
        self.step, self.seconds = 0, 0.0
        self.scores: list[list[float]] = []
        self.loss = float("nan")

    def run(self, resume: bool) -> Trained:
        """Train until the end, or until asked to stop."""
        self._begin(resume)
        recipe = self.recipe
        begun, before, busy, tokens = time.monotonic(), self.seconds, 0.0, 0
        evaluated = saved = self.seconds
        score: Score | None = None
        if recipe.compiled:
            self.network.compile(dynamic=True)
        with stoppable() as asked:
            while True:
                self.seconds = before + time.monotonic() - begun
                self.seconds, stop = self.processes.agree(self.seconds, asked.asked, device=self.device)
                progress = self._progress()
                if stop or progress >= 1:
                    break
                started = time.monotonic()
                self.loss = self._learn(progress)
                busy += time.monotonic() - started
                tokens += recipe.batch * self.data.context
                self.step += 1
                score = None
                if self.seconds - evaluated >= recipe.evaluate_every:
                    score, evaluated = self._evaluate(), self.seconds
                if self.seconds - saved >= recipe.save_every:
                    self._save()
                    saved = self.seconds
                self.watch(
                    Moment(self.step, self._progress(), self.seconds, tokens / max(busy, 1e-9), self.loss, score)
                )
            last = score or self._evaluate()
            self._save()
        self.watch(Moment(self.step, self._progress(), self.seconds, tokens / max(busy, 1e-9), self.loss, last))
        status = Status.INTERRUPTED if stop and self._progress() < 1 else Status.FINISHED
        return Trained(self._denoiser(), last, status, self.step, self.seconds)

    def _begin(self, resume: bool) -> None:
        there = (self.out / FILE).exists()
        if there and not resume:
            raise CheckpointError(f"{self.out} holds a training; go on with it by --resume, or choose another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        if not resume:
            return
        kept = Checkpoint.load(self.out, self.network.shape, self.recipe, self._digest)
        self.step, self.seconds, self.scores = kept.step, kept.seconds, kept.scores
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                value.copy_(kept.weights[name])
                self.average[name].copy_(kept.average[name])
        self.optimisers.load(kept.optimisers)

    def _progress(self) -> float:
        if self.recipe.steps is not None:
            return self.step / self.recipe.steps
        return min(1.0, self.seconds / (self.recipe.seconds or 1.0))

    def _learn(self, progress: float) -> float:
        """Take one step; return the loss."""
        recipe, processes = self.recipe, self.processes
        chance = Keyed.of(recipe.key, self.names).fork("train", self.step)
        lesson = Lesson.draw(self.data, chance, shares=recipe.masks.range(progress), network=recipe.network)
        mine = processes.part(recipe.batch)
        size = max(1, -(-(mine.stop - mine.start) // recipe.accumulate))
        total = torch.zeros((), device=self.device)
        for start in range(mine.start, mine.stop, size):
            rows = slice(start, min(start + size, mine.stop))
            loss = lesson.loss(self.network, rows, precision=recipe.precision)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        processes.add(self.network.parameters())
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        value = float(processes.sum(total))
        if value != value or value in (float("inf"), float("-inf")):
            raise TrainingError(
                f"the loss is {value} at step {self.step}; lower the rate (now {recipe.rate}, muon {recipe.muon_rate}) and "
                f"resume from the last checkpoint in {self.out}"
            )
        self.optimisers.step(recipe.height(progress))
        decay = min(recipe.average, (1 + self.step) / (10 + self.step))  # young averages forget faster
        present = self.network.state_dict()
        torch._foreach_lerp_([*self.average.values()], [present[name] for name in self.average], 1 - decay)
        return value

    def _denoiser(self) -> Transformer | Permutation:
        """Return the averaged network."""
        copied = {name: value.clone() for name, value in self.average.items()}
        network = folders.fill(self.network.shape, copied, "the averaged network").requires_grad_(False)
        return folders.NETWORKS[self.recipe.network](network)

    def _evaluate(self) -> Score:
        score = evaluate(self._denoiser(), self.held, windows=self.recipe.windows, key=self.recipe.key)
        self.scores.append([self.step, self.seconds, float(score.bits_per_byte), score.bits_per_byte.error])
        return score

    def _save(self) -> None:
        """Write the model folder and the state, from process 0."""
        if not self.processes.writes:
            return
        about = {**self.about, "steps": self.step, "seconds": round(self.seconds, 1), "scores": self.scores}
        folders.write(self.out, self._denoiser(), self.tokenizer, card=self._card(), about=about)
        state = self.network.state_dict(), self.average, self.optimisers.tensors()
        Checkpoint(self.step, self.seconds, self.scores, *state).save(
            self.out, self.network.shape, self.recipe, self._digest
        )

    def _card(self) -> str:
        shape = self.network.shape
        lines = [
            f"# {self.out.resolve().name}", "",
            f"A masked diffusion language model trained by demask: {shape.parameters:,} parameters, "
            f"{shape.vocabulary} tokens, context {shape.context}.", "",
            f"{self.step} steps, {self.seconds:.0f} seconds, {self.recipe!r}.",
        ]  # fmt: skip
        if self.scores:
            _, _, value, error = self.scores[-1]
            lines += ["", f"Held-out NELBO: {value:.4f} +- {1.96 * error:.4f} bits per byte (95 %)."]
        return "\n".join(lines) + "\n"

    @property
    def _digest(self) -> str:
        """A hash of what is held out and of the tokenizer: enough to notice other data."""
        hashed = blake2b(self.tokenizer.source.encode(), digest_size=8)
        hashed.update(self.held.tokens.numpy().tobytes())
        if isinstance(self.data, Fresh) and self.data.focus:
            hashed.update(repr((self.data.focus, self.data.share)).encode())
        return hashed.hexdigest()
