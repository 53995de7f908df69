"""What a policy is to be good at: where its runs begin, and which of them end well."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.contracts import Denoiser, Sampler
from demask.denoisers.wrap import Tempered
from demask.errors import TrainingError
from demask.loop import Run, sample
from demask.oracles import Oracle
from demask.samplers import Ended
from demask.tokenizer import Tokenizer
from demask.training.groups import Decisions


@dataclass(frozen=True)
class Task:
    """What a policy is to be good at.

    Parameters:
        denoiser: never trained.
        canvas: (count, key) -> that many canvases to begin with, (count, N); equal keys give equal ones.
        correct: finished tokens (R, N) -> (R,) numbers in [0, 1], 1 for a right answer.
        end: the token at which a text ends, if one does.
        name: what it is called in a policy's folder.
    """

    denoiser: Denoiser
    canvas: Callable[[int, int], Canvas]
    correct: Callable[[Tensor], Tensor]
    end: int | None = None
    name: str = ""

    def run(self, sampler: Sampler[Any], canvas: Canvas, chance: Keyed, *, decisions: "Decisions | None" = None) -> Run:
        """Turn a sampler on the canvases, for as many steps as positions at most; unfinished rows stay so."""
        whole = sampler if self.end is None else Ended(sampler, self.end)
        most = max(1, int(canvas.masked.sum(1).max()))
        collect = () if decisions is None else (decisions,)
        return sample(self.denoiser, whole, canvas, key=chance, collect=collect, max_steps=most)

    def score(self, sampler: Sampler[Any], count: int, *, key: int, rows: int = 64) -> tuple[float, float]:
        """Return the mean correctness and the mean steps of `count` runs from different canvases, `rows` at a time."""
        canvas = self.canvas(count, key)
        correct, steps = [], []
        for first in range(0, count, rows):
            names = torch.arange(first, min(first + rows, count))
            run = self.run(sampler, canvas.rows(names), Keyed.of(key, names))
            correct.append(self.judge(run))
            steps.append(run.steps.double())
        return float(torch.cat(correct).mean()), float(torch.cat(steps).mean())

    def judge(self, run: Run) -> Tensor:
        """Return how correct each row is, (R,) float64; 0 where it is unfinished.

        Raises:
            TrainingError: a judgement that is no number in [0, 1], or not one per row.
        """
        finished = (run.when != -2).all(1)
        out = torch.zeros(len(finished), dtype=torch.float64, device=finished.device)
        if bool(finished.any()):
            given = torch.as_tensor(self.correct(run.tokens[finished]))
            if given.shape != (int(finished.sum()),):
                raise TrainingError(
                    f"the reward answered shape {tuple(given.shape)} for {int(finished.sum())} rows; expected one each"
                )
            given = given.to(out)
            wrong = ~((given >= 0) & (given <= 1))
            if bool(wrong.any()):
                raise TrainingError(
                    f"the reward of a row is {float(given[wrong][0])}; expected a number in [0, 1], 1 where it is right"
                )
            out[finished] = given
        return out


class Checked(Protocol):
    """A language whose texts can be checked, such as `oracles.Notes`."""

    def sample(self, count: int, *, key: int) -> list[str]:
        """Return texts."""
        ...

    def check(self, text: str) -> dict[str, bool]:
        """Return which constraints hold."""
        ...


def possible(oracle: Oracle, *, shown: int = 0, temperature: float = 1.0) -> Task:
    """Return the task to end in a sequence that the oracle can produce, with its first `shown` tokens given.

    Raises:
        TrainingError: nothing left to unmask.

    Example:
        >>> from demask.oracles import latin_square
        >>> task = possible(latin_square(), shown=4)
        >>> int(task.canvas(1, 0).masked.sum()), float(task.correct(torch.zeros(1, 16, dtype=torch.int64)))
        (12, 0.0)
    """
    _leaves(shown, oracle.length)
    hidden = torch.arange(oracle.length) >= shown

    def canvas(count: int, key: int) -> Canvas:
        return Canvas(oracle.sample(count, key=key), hidden.repeat(count, 1))

    def correct(tokens: Tensor) -> Tensor:
        return oracle.log_prob(tokens).isfinite().double()

    denoiser: Denoiser = oracle if temperature == 1 else Tempered(oracle, temperature)
    return Task(denoiser, canvas, correct, name=repr(oracle))


def texts(
    denoiser: Denoiser,
    tokenizer: Tokenizer,
    language: Checked,
    *,
    context: int,
    shown: int = 3,
    temperature: float = 1.0,
    name: str = "",
) -> Task:
    """Return the task to continue the beginning of a text so that every constraint of its language holds.

    Parameters:
        denoiser: of rows of `context` tokens that end tokens fill up.
        tokenizer: of its tokens.
        language: whose texts are begun.
        context: positions.
        shown: tokens of the beginning.
        temperature: at which tokens are drawn.
        name: of the task.

    Raises:
        TrainingError: nothing left to unmask.
    """
    _leaves(shown, context)

    def canvas(count: int, key: int) -> Canvas:
        begun = [tokenizer.encode(text)[:shown] for text in language.sample(count, key=key)]
        tokens = torch.zeros(count, context, dtype=torch.int64)
        tokens[:, :shown] = torch.tensor(begun, dtype=torch.int64).view(count, shown)
        return Canvas(tokens, (torch.arange(context) >= shown).repeat(count, 1))

    def correct(tokens: Tensor) -> Tensor:
        verdicts = []
        for row in tokens.tolist():
            text = row[: row.index(tokenizer.end)] if tokenizer.end in row else row
            verdicts.append(float(all(language.check(tokenizer.decode(text)).values())))
        return torch.tensor(verdicts, dtype=torch.float64)

    drawn = denoiser if temperature == 1 else Tempered(denoiser, temperature)
    return Task(drawn, canvas, correct, tokenizer.end, name)


def _leaves(shown: int, length: int) -> None:
    if not 0 <= shown < length:
        raise TrainingError(f"{shown} tokens shown of {length}; expected 0 to {length - 1}, so that something is left")
