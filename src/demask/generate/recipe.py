"""The default sampler of a model, in one place, and what a caller changes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil, isfinite
from typing import Any, Final, Literal, TypedDict, get_args

from torch import Tensor

from demask.contracts import Denoiser, Order, Over, Sampler, Schedule, Step, check_blocks
from demask.curve import Curve
from demask.denoisers import Delayed, Forbidden, Guided, MinP, Nucleus, Penalised, Tempered, TopK
from demask.errors import GenerateError, OrderError
from demask.information.certificate import Certificate
from demask.information.measurement import Measurement
from demask.information.plan import Planned, plan
from demask.orders import Blockwise, Random
from demask.registry import build
from demask.samplers import Parallel
from demask.schedules import PerBlock, PerRow, Sizes, minimax

_EXCLUSIVE: Final = (
    ("steps", "excess"), ("steps", "pace"), ("excess", "pace"), ("excess", "schedule"), ("sampler", "schedule"),
    ("sampler", "order"), ("sampler", "steps"), ("sampler", "excess"), ("sampler", "pace"), ("sampler", "block"),
)  # fmt: skip
End = Literal["anywhere", "reached", "never"]
# What changes the laws that are drawn from; a certificate speaks of a recipe that leaves them alone.
_SHAPING: Final = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "forbid", "end", "guidance",
)  # fmt: skip


class Settings(TypedDict, total=False):
    """What a caller may change of a recipe; None leaves it as it is."""

    schedule: str | Schedule | None
    order: str | Order | None
    steps: int | None
    excess: float | None
    pace: float | None
    block: int | None
    over: Over | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    forbid: Sequence[int] | None
    end: End | None
    guidance: float | None
    stop: str | Sequence[str] | None
    sampler: str | Sampler[Any] | None


@dataclass(frozen=True)
class Recipe:
    """How a model is sampled where nothing else is asked: the one place in which these defaults stand.

    The number of steps comes from `steps`; else from the schedule's specification; else from `excess`, if no schedule is
    named and the model has a measured curve; else from `pace`. With blocks, all of it is said of each block.

    Parameters:
        schedule: a specification, or a schedule. None: the sizes of least cost on the model's curve, or minimax for both
            TC and DTC where it has none.
        order: a specification, or an order. What a curve or minimax promises, holds for random positions.
        steps: of every row; a row of fewer masked positions takes one per position.
        excess: path negative log-likelihood above the NELBO that may be spent, nats per token.
        pace: tokens per step where nothing says more; None where that is not wanted.
        block: finish so many positions before the next ones; None: the whole row at once. A sampler says it itself.
        over: how blocks are counted: "masked", over what is to be generated; "row", over the row with its prompt.
        temperature: at which tokens are drawn; 0 is the mode.
        top_k: how many tokens of every law are kept; None for all.
        top_p: probability that is kept of every law, in (0, 1].
        min_p: what a token needs at least, as a share of the mode's probability, in [0, 1].
        repetition_penalty: for the tokens that are visible in the row; 1 is none.
        forbid: ids of tokens that are never drawn.
        end: where the end token may be drawn: "anywhere"; "reached", only where everything before it is unmasked; "never".
        guidance: scale of classifier-free guidance by what is given; 0 is none, anything else doubles the NFE.
        stop: texts before the first of which a generated text stops.
        sampler: a specification, or a sampler, in place of schedule, order and steps.

    Example:
        >>> Recipe().open()
        Parallel(Paced(minimax, 2.0), Random())
        >>> Recipe().changed({"schedule": "uniform", "steps": 8}).open()
        Parallel(uniform(steps=8), Random())
    """

    schedule: str | Schedule | None = None
    order: str | Order = "Random()"
    steps: int | None = None
    excess: float | None = 0.02
    pace: float | None = 2.0
    block: int | None = None
    over: Over = "masked"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    forbid: tuple[int, ...] = ()
    end: End = "anywhere"
    guidance: float = 0.0
    stop: tuple[str, ...] = ()
    sampler: str | Sampler[Any] | None = None

    def changed(self, settings: Settings) -> "Recipe":
        """Return the recipe with what a caller asks for.

        Raises:
            GenerateError: an unknown setting, a number out of range, or settings that contradict each other.
        """
        unknown = [name for name in settings if name not in Settings.__annotations__]
        if unknown:
            raise GenerateError(
                f"no setting is called {unknown[0]!r}; there are: {', '.join(Settings.__annotations__)}"
            )
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        for one, other in _EXCLUSIVE:
            if one in given and other in given:
                raise GenerateError(f"{one}={given[one]!r} and {other}={given[other]!r}: give one of them")
        excess, pace, steps = given.get("excess", 1.0), given.get("pace", 1.0), given.get("steps", 1)
        if not (excess > 0 and isfinite(excess)):
            raise GenerateError(f"excess = {excess}; expected nats per token > 0, such as 0.02")
        if not (pace >= 1 and isfinite(pace)):
            raise GenerateError(f"pace = {pace}; expected tokens per step >= 1, such as 2")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise GenerateError(f"steps = {steps!r}; expected an integer >= 1")
        try:
            check_blocks(given.get("block", 1), given.get("over", "masked"))
        except OrderError as error:
            raise GenerateError(str(error)) from None
        if given.get("end", "anywhere") not in get_args(End):
            raise GenerateError(f"end = {given['end']!r}; expected one of {', '.join(map(repr, get_args(End)))}")
        if "stop" in given:
            given["stop"] = _texts(given["stop"])
        if "forbid" in given:
            given["forbid"] = _ids(given["forbid"])
        if {"pace", "excess"} & given.keys():
            given = {"steps": None, "excess": None, "pace": None} | given
        return replace(self, **given)

    def open(self, curve: Measurement | None = None) -> Sampler[Any]:
        """Return the sampler, for a model with this curve.

        Raises:
            GenerateError: an excess without a curve, a number of steps that is said twice.
            SpecError: a specification that names nothing known.
        """
        if self.sampler is not None:
            return build(self.sampler, "sampler") if isinstance(self.sampler, str) else self.sampler
        order = _ordered(self.order) if isinstance(self.order, str) else self.order
        if self.block is None:
            return Parallel(self._schedule(curve), order)
        schedule = PerBlock(self._schedule(None), self.block, self.over)  # a curve is of whole rows
        return Parallel(schedule, Blockwise(order, self.block, self.over))

    def certificate(self, curve: Measurement | None, length: int) -> Certificate | None:
        """Return what a row of `length` masked positions is certified to cost, where the curve can tell.

        It can for rows as they were measured, all masked, decoded at temperature 1 in random order by sizes from the curve.
        """
        if curve is None or length != curve.length or any(getattr(self, x) != getattr(Recipe, x) for x in _SHAPING):
            return None
        sampler = self.open(curve)
        if not (isinstance(sampler, Parallel) and sampler == Parallel(sampler.schedule, Random())):
            return None
        return sampler.schedule.planned(length).certificate if isinstance(sampler.schedule, Fitted) else None

    def wrap(self, denoiser: Denoiser, *, ends: tuple[int, ...], given: Sequence[int] = ()) -> Denoiser:
        """Return the denoiser whose laws are drawn from.

        In the order of transformers' logits processors: guidance, repetition penalty, forbidden tokens, delayed end,
        temperature, top-k, top-p, min-p. Each sees what the one before it left.

        Parameters:
            denoiser: of the model.
            ends: the end tokens.
            given: the positions that were given, the same in every row.
        """
        if self.guidance != 0:
            denoiser = Guided(denoiser, tuple(given), self.guidance)
        if self.repetition_penalty != 1:
            denoiser = Penalised(denoiser, self.repetition_penalty)
        if self.forbid or self.end == "never":
            denoiser = Forbidden(denoiser, (*self.forbid, *(ends if self.end == "never" else ())))
        if self.end == "reached":
            denoiser = Delayed(denoiser, ends)
        if self.temperature != 1:
            denoiser = Tempered(denoiser, self.temperature)
        if self.top_k is not None:
            denoiser = TopK(denoiser, self.top_k)
        if self.top_p != 1:
            denoiser = Nucleus(denoiser, self.top_p)
        return denoiser if self.min_p == 0 else MinP(denoiser, self.min_p)

    def _schedule(self, curve: Measurement | None) -> Schedule:
        if self.schedule is None:
            if curve is not None and (self.steps is not None or self.excess is not None):
                return Fitted(curve, self.steps, None if self.steps is not None else self.excess)
            return self._paced(minimax) if self.steps is None else PerRow(minimax, self.steps)
        if not isinstance(self.schedule, str):
            if self.steps is not None:
                raise GenerateError(f"steps={self.steps} and the schedule {self.schedule!r}, which has its own")
            return self.schedule
        two = build(self.schedule, "schedule", steps=2)
        if says_steps(self.schedule):
            if self.steps is not None:
                raise GenerateError(
                    f"steps={self.steps} and schedule={self.schedule!r}, which says its steps itself: give one of them"
                )
            return two  # type: ignore[no-any-return]
        if self.steps is not None:
            return build(self.schedule, "schedule", steps=self.steps)  # type: ignore[no-any-return]
        if isinstance(two, PerRow):
            return self._paced(partial(two.family, **dict(two.options)) if two.options else two.family)
        raise GenerateError(f"schedule={self.schedule!r} leaves its steps open; say how many: steps=8")

    def _paced(self, family: Callable[..., Sizes]) -> "Paced":
        if self.pace is None:
            raise GenerateError(
                f"excess = {self.excess} nats per token, but this model has no measured curve, or is decoded in blocks, "
                "which have none; write steps=16, or measure it and keep curve.json in its folder"
            )
        return Paced(family, self.pace)


def in_steps(schedule: str | Schedule, order: str | Order, steps: int) -> Parallel:
    """Return the sampler of a schedule, in so many steps unless it says its steps itself, and an order.

    Example:
        >>> in_steps("minimax", "Random()", 8), in_steps("uniform(steps=4)", "Entropy", 8)
        (Parallel(minimax(steps=8), Random()), Parallel(uniform(steps=4), Entropy()))
    """
    given: Settings = {} if says_steps(schedule) else {"steps": steps}
    sampler = Recipe(schedule=schedule, order=order).changed(given).open()
    assert isinstance(sampler, Parallel)
    return sampler


def says_steps(schedule: str | Schedule) -> bool:
    """Return whether a schedule, or its specification, says itself how many steps it takes.

    Example:
        >>> says_steps("uniform(steps=8)"), says_steps("Unlimited"), says_steps("uniform")
        (True, True, False)
    """
    if not isinstance(schedule, str):
        return True
    two, three = (build(schedule, "schedule", steps=steps) for steps in (2, 3))
    return repr(two) == repr(three)


def _texts(stop: Any) -> tuple[str, ...]:
    several = (stop,) if isinstance(stop, str) else stop
    if not isinstance(several, list | tuple) or not all(isinstance(text, str) and text for text in several):
        raise GenerateError(f"stop = {stop!r}; expected a text, or a list of texts, none of them empty")
    return tuple(several)


def _ids(forbid: Any) -> tuple[int, ...]:
    if not isinstance(forbid, list | tuple) or any(
        isinstance(x, bool) or not isinstance(x, int) or x < 0 for x in forbid
    ):
        raise GenerateError(
            f"forbid = {forbid!r}; expected a list of token ids >= 0: model.tokenizer.encode(text) has them"
        )
    return tuple(forbid)


@dataclass(frozen=True, eq=False)
class Paced:
    """Plan each row for its own number of masked positions, with `pace` tokens per step on average.

    Example:
        >>> from demask.schedules import uniform
        >>> Paced(uniform, 2.5).plan(6)
        Plan(sizes=(2, 2, 2))
    """

    family: Callable[..., Sizes]
    pace: float

    def plan(self, length: int, steps: int | None = None) -> Sizes:
        """Return the sizes for a row with `length` masked positions."""
        return self.family(length, ceil(length / self.pace))

    def count(self, step: Step, scores: Tensor) -> Tensor:
        """Return how many tokens bring each row to its next boundary, (B,) int64."""
        return PerRow(self.plan, 1).count(step, scores)

    def __repr__(self) -> str:
        family, options = self.family, ""
        if isinstance(family, partial):
            options = ", ".join(f"{name}={value!r}" for name, value in family.keywords.items())
            family, options = family.func, f"({options})"
        return f"Paced({family.__name__}{options}, {self.pace})"


@dataclass(frozen=True, eq=False)
class Fitted:
    """Plan each row by the model's curve: the best sizes for a number of steps, or the fewest steps for an excess.

    A row of m masked positions is planned on the last m points of the curve: its prompt counts as tokens already
    visible. That is what the curve says of a prompt at random positions, and an approximation for one at the start.

    Parameters:
        curve: as measured, of n positions.
        steps: K, or None.
        excess: nats per token above the NELBO, or None.
    """

    curve: Measurement
    steps: int | None
    excess: float | None

    def planned(self, length: int) -> Planned:
        """Return the sizes for a row with `length` masked positions, and what they cost on the curve's last points.

        Raises:
            GenerateError: more positions than the curve has.

        Cost: one solve per curve, length and request of this kind, remembered.
        """
        if length > self.curve.length:
            raise GenerateError(
                f"{length} masked positions, but the model's curve was measured on {self.curve.length}; "
                "write schedule='minimax', or measure again"
            )
        return _fitted(self.curve, self.steps, self.excess, length)

    def plan(self, length: int, steps: int | None = None) -> Sizes:
        """Return the sizes for a row with `length` masked positions."""
        return self.planned(length).schedule

    def count(self, step: Step, scores: Tensor) -> Tensor:
        """Return how many tokens bring each row to its next boundary, (B,) int64."""
        return PerRow(self.plan, 1).count(step, scores)

    def __repr__(self) -> str:
        return f"Fitted({self.curve!r}, steps={self.steps}, excess={self.excess})"


@lru_cache(maxsize=256)
def _ordered(text: str) -> Order:
    """Return the order of a specification: a value, so that one is enough for all runs."""
    order: Order = build(text, "order")
    return order


@lru_cache(maxsize=1024)
def _fitted(curve: Measurement, steps: int | None, excess: float | None, length: int) -> Planned:
    known = curve if length == curve.length else Curve(curve.curve().values[-length:])
    return plan(known, steps=steps, excess=None if excess is None else excess * length)
