"""The exact law of what a sampler puts out, by walking through everything that can happen."""

from typing import TypeVar

import torch
from torch import Tensor

from demask.canvas import Canvas
from demask.chance import Scripted, Tape
from demask.contracts import Denoiser, Sampler
from demask.errors import LawError
from demask.loop import Status, sample
from demask.oracles import Table

S = TypeVar("S")
_BATCH = 4096


def law(
    denoiser: Denoiser,
    sampler: Sampler[S],
    *,
    canvas: Canvas | None = None,
    vocabulary: int | None = None,
    limit: int = 200_000,
    max_steps: int = 4096,
) -> Table:
    """Return the exact distribution of a sampler's output on a small problem.

    Every draw goes through the chance object, so a scripted one can follow each path of choices in turn: the law is the
    sum over paths of the product of their probabilities. Paths are walked in batches.

    Parameters:
        denoiser: an oracle, or anything that behaves as one.
        sampler: any.
        canvas: one row to begin from; all masked by default, where the denoiser has a `length`.
        vocabulary: number of tokens; the denoiser's `vocabulary` by default.
        limit: give up beyond this many paths.
        max_steps: as for `sample`.

    Returns:
        A `Table` over the sequences that can come out; compare with `oracle.to_table().kl(law)` and `.tv(law)`.

    Raises:
        LawError: more than `limit` paths, a path that does not end, or a canvas that is not one row.

    Cost: one row per path; n positions of V tokens in a random order take n! V^n paths and more.

    Example:
        >>> from demask.oracles import parity
        >>> from demask.orders import Random
        >>> from demask.samplers import Parallel
        >>> from demask.schedules import uniform
        >>> pair = parity(2)
        >>> at_once = law(pair, Parallel(uniform(2, 1), Random()))
        >>> round(pair.to_table().kl(at_once), 4), round(pair.to_table().tv(at_once), 4)
        (0.6931, 0.5)
    """
    length, vocabulary = _shape(denoiser, canvas, vocabulary)
    row = Canvas.blank(1, length) if canvas is None else canvas
    if row.shape[0] != 1:
        raise LawError(f"a canvas of {row.shape[0]} rows; expected one: canvas.rows([0])")
    pending: list[list[int]] = [[]]
    outputs: list[Tensor] = []
    logps: list[float] = []
    while pending:
        scripts, pending = pending[-_BATCH:], pending[:-_BATCH]
        tapes = [Tape(script) for script in scripts]
        batch = row.rows(torch.zeros(len(tapes), dtype=torch.int64))
        run = sample(denoiser, sampler, batch, key=Scripted.of(tapes), max_steps=max_steps)
        if run.status is not Status.FINISHED:
            raise LawError(f"a path did not end within {max_steps} steps; pass a larger max_steps")
        outputs.append(run.tokens)
        for tape in tapes:
            logps.append(tape.logp)
            for turn in range(len(tape.script), len(tape.taken)):
                pending += [[*tape.taken[:turn], other] for other in range(1, tape.widths[turn])]
        if len(logps) + len(pending) > limit:
            raise LawError(f"more than {limit} paths; a smaller problem, or a larger limit={10 * limit}")
    return _gather(torch.cat(outputs), torch.tensor(logps, dtype=torch.float64), vocabulary)


def _gather(tokens: Tensor, logps: Tensor, vocabulary: int) -> Table:
    """Add up the paths that end in the same sequence."""
    sequences, index = torch.unique(tokens, dim=0, return_inverse=True)
    shares = torch.zeros(len(sequences), dtype=torch.float64).index_add_(0, index, logps.exp())
    return Table(sequences, shares.log(), vocabulary)


def _shape(denoiser: Denoiser, canvas: Canvas | None, vocabulary: int | None) -> tuple[int, int]:
    length = canvas.shape[1] if canvas is not None else getattr(denoiser, "length", None)
    vocabulary = getattr(denoiser, "vocabulary", None) if vocabulary is None else vocabulary
    if length is None or vocabulary is None:
        raise LawError(
            "this denoiser has no length or no vocabulary of its own; pass canvas=Canvas.blank(1, length), vocabulary=V"
        )
    return int(length), int(vocabulary)
