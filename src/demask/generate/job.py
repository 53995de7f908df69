"""From rows to results: batches of similar length, each row as if alone."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from typing import Any, Final

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas
from demask.chance import Keyed
from demask.contracts import Denoiser, Sampler
from demask.denoisers.wrap import Continued, Restricted
from demask.errors import GenerateError
from demask.generate.recipe import Recipe
from demask.generate.result import Call, Frame, Result, frame
from demask.generate.stop import Stops
from demask.generate.template import Layout, Tokens, ends, spaced
from demask.information.measurement import Measurement
from demask.loop import Run, Status, steps
from demask.samplers import Stopped, inside

UNSEEN: Final = -2  # the step of a token that is still masked
MOST: Final = 4096  # steps of a row


@dataclass(frozen=True)
class Row:
    """One row of a batch: what stands, what it is called (number of the prompt, of the sample), and what makes it."""

    layout: Layout
    name: tuple[int, int]
    call: Call


@dataclass(frozen=True, eq=False)
class Job:
    """All that rows have in common.

    Parameters:
        denoiser: of the model, continued to its window.
        tokenizer: of the model.
        window: that end tokens fill up behind a text that ends, or None.
        device: of the denoiser.
        recipe: what shapes the laws, and where texts stop, is taken from it.
        sampler: that the loop turns.
        key: of all draws.
        ends: whether an end token may be drawn.
        curve: of the model, or None.
    """

    denoiser: Denoiser
    tokenizer: Tokens
    window: int | None
    device: torch.device
    recipe: Recipe
    sampler: Sampler[Any]
    key: int
    ends: bool
    curve: Measurement | None

    @torch.inference_mode()
    def results(self, rows: Sequence[Row], batch: int) -> list[Result]:
        """Generate rows in batches of similar length, and return the results in the order of the rows."""
        out: dict[int, Result] = {}

        def shape(index: int) -> tuple[Any, int]:
            return self._alike(rows[index]), len(rows[index].layout.tokens)

        for _, group in groupby(sorted(range(len(rows)), key=shape), key=lambda index: shape(index)[0]):
            members = list(group)
            for start in range(0, len(members), batch):
                chosen = members[start : start + batch]
                part = [rows[index] for index in chosen]
                passes: list[Tensor] = []
                for run in self.turns(part):
                    passes.append(run.nfe)
                out.update(zip(chosen, self.tell(part, run, torch.stack(passes)), strict=True))
        return [out[index] for index in range(len(rows))]

    @torch.inference_mode()
    def stream(self, row: Row) -> Iterator[Frame | Result]:
        """Show the canvas of one row before the first step and after every one, then the result."""
        passes: list[Tensor] = []
        for run in self.turns([row]):
            passes.append(run.nfe)
            yield self.show(row, run, len(passes) - 2)
        yield from self.tell([row], run, torch.stack(passes))

    def kind(self, row: Row) -> Hashable:
        """Return what rows of one model must have in common to be turned together, also those of other jobs."""
        return self.recipe, self.ends, row.layout.template.ends, self._alike(row)

    def _alike(self, row: Row) -> tuple[Any, ...]:
        """Return what the rows of one batch of a job have in common: where they are healed, and given if that matters."""
        return (row.layout.healed, row.layout.masked) if self.recipe.guidance else (row.layout.healed,)

    def show(self, row: Row, run: Run, step: int) -> Frame:
        """Return the canvas of the only row of a run after a step, -1 before the first."""
        tokens, when = self.shown(row, run)
        masked = [turn == UNSEEN for turn in when]
        cells = row.layout.cells(tokens)
        return frame(step, cells, masked, (turn == step > -1 for turn in when), int(run.nfe[0]))

    def shown(self, row: Row, run: Run) -> tuple[list[int], list[int]]:
        """Return the tokens of the only row of a run, the end token where masked, and the step of each, `UNSEEN` there."""
        size = len(row.layout.tokens)
        when = run.when[0, :size]
        return run.tokens[0, :size].masked_fill(when == UNSEEN, self.tokenizer.end).tolist(), when.tolist()

    def turns(self, rows: Sequence[Row]) -> Iterator[Run]:
        """Turn the loop on rows of one `kind`."""
        denoiser, sampler, canvas, chance = self.prepared(rows)
        denoiser = denoiser.on(canvas) if isinstance(denoiser, Continued) else denoiser
        return steps(denoiser, sampler, canvas, key=chance, max_steps=MOST)

    def prepared(self, rows: Sequence[Row]) -> tuple[Denoiser, Sampler[Any], Canvas, Keyed]:
        """Return what the loop takes for rows of one `kind`: denoiser, sampler, canvas and chance."""
        width = max(len(row.layout.tokens) for row in rows)
        rest = [width - len(row.layout.tokens) for row in rows]
        padded = [[*row.layout.tokens, *[ABSENT] * more] for row, more in zip(rows, rest, strict=True)]
        hidden = [[*row.layout.masked, *[False] * more] for row, more in zip(rows, rest, strict=True)]
        tokens, masked = torch.tensor(padded, dtype=torch.int64), torch.tensor(hidden, dtype=torch.bool)
        if rows[0].layout.template.ends:
            more = torch.full((len(rows), ending(width, self.window)), self.tokenizer.end)
            tokens, masked = torch.cat((tokens, more), 1), torch.cat((masked, torch.zeros_like(more).bool()), 1)
        device, denoiser = self.device, self.denoiser
        canvas = Canvas(tokens.to(device), masked.to(device))
        if rows[0].layout.healed:
            allowed = torch.tensor(spaced(self.tokenizer), device=device)
            denoiser = Restricted(denoiser, allowed, rows[0].layout.healed)
        if not self.ends:
            allowed = torch.ones(self.tokenizer.size, dtype=torch.bool, device=device)
            allowed[list(ends(self.tokenizer))] = False
            denoiser = Restricted(denoiser, allowed)
        prompts, samples = torch.tensor([row.name for row in rows], device=device).unbind(1)
        chance = Keyed.of(self.key, samples).fork("prompt", prompts)
        given = [place for place, masked in enumerate(rows[0].layout.masked) if not masked]
        denoiser = self.recipe.wrap(denoiser, ends=ends(self.tokenizer), given=given)
        stops = self._stops(rows[0])
        sampler = self.sampler if stops is None else inside(self.sampler, Stopped, self.tokenizer.end, stops.found)
        return denoiser, sampler, canvas, chance

    def _stops(self, row: Row) -> Stops | None:
        """Return where the texts of a batch stop; gaps have their sizes and never do."""
        others = tuple(token for token in ends(self.tokenizer) if token != self.tokenizer.end)
        if not self.ends or not (self.recipe.stop or others):
            return None
        return Stops(self.recipe.stop, self.tokenizer, row.layout.gaps[0].healed, others)

    def tell(self, rows: Sequence[Row], run: Run, passes: Tensor) -> Iterator[Result]:
        """Tell of every row; `passes` are (1 + steps, B), those before the first step in front."""
        if run.status is not Status.FINISHED:
            raise GenerateError(
                f"the rows are not finished after {MOST} steps; use a schedule that unmasks more at a time"
            )
        end, stops = self.tokenizer.end, self._stops(rows[0])
        certificate = cache(partial(self.recipe.certificate, self.curve))
        columns = (run.tokens, run.when, passes.T, run.steps)
        for row, tokens, when, nfe, count in zip(rows, *(column.tolist() for column in columns), strict=True):
            layout, length = row.layout, len(row.layout.tokens)
            tokens, when = tokens[:length], when[:length]
            gaps = layout.texts(tokens)
            new = [token for token, step in zip(tokens, when, strict=True) if step >= 0]
            size = new.index(end) + 1 if end in new else len(new)
            if stops is not None:
                gaps, size = tuple(map(stops.cut, gaps)), stops.found(new) or size
            yield Result(
                text=layout.write(gaps),
                gaps=gaps,
                tokens=tuple(tokens),
                when=tuple(when),
                cells=layout.cells(tokens),
                new=size,
                passes=tuple(nfe[1 : count + 1]),
                law=run.law,
                certificate=certificate(sum(step >= 0 for step in when)),
                call=row.call,
            )


def ending(length: int, window: int | None) -> int:
    """Return how many end tokens stand behind a text that ends after `length` tokens."""
    return 1 if window is None else max(0, window - length)
