"""Unmask what a trained policy chooses."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from torch import Tensor

from demask.canvas import Canvas
from demask.contracts import Chance, Denoiser, Info, Law, Over, Step, check_blocks
from demask.errors import OrderError
from demask.masks import empty
from demask.policies.choice import Bernoulli, Choice, PlackettLuce
from demask.policies.folder import Policy, read
from demask.policies.network import Features
from demask.verifiers import AcceptAll


@dataclass(frozen=True, eq=False)
class Counted:
    """What the next step of `Learned` needs.

    Parameters:
        canvas, start, origin: those of `Parallel`.
        taken: steps so far.
    """

    canvas: Canvas
    start: Tensor
    origin: Chance
    taken: int = 0


@dataclass(frozen=True)
class Decision(Info):
    """What a policy saw and did at a step.

    Parameters:
        features: what it saw.
        where: (B, N) bool, what it could choose from; empty in rows that were done.
        ranks: (B, N) int64, what it chose: 0 for nothing, else 1, 2, .. in the order drawn.
    """

    features: Features
    where: Tensor
    ranks: Tensor


@dataclass(frozen=True)
class Learned:
    """Unmask the positions that a trained policy chooses from the confidences.

    A small network turns (confidence, mask bit, steps taken over length) of every position into a logit, and the law of
    choice it was trained for, coins (`Bernoulli`) or draws up to a stop (`PlackettLuce`), into a set.

    Law: FACTORISED. The policy sees probabilities of modes and no draw, so the chosen tokens come from their honest
    conditionals, and a policy that chose one position at a time would leave the law exact, whatever it was trained for.
    A reward changes only which tokens are drawn together, and so what is lost to drawing them independently.

    Cost: one NFE per step with every masked position asked, and the policy's own pass.

    Parameters:
        policy: a folder that `demask train-policy` wrote, or a `Policy`.
        size: finish one block of so many positions before the next; None: the whole row at once.
        over: how blocks are counted, "masked" or "row"; see `Blockwise`.
        temperature: of the choice, > 0; below 1 more decided.
        boldness: of coins, > 0; above 1 more tokens per step than trained for.
        empty: where no coin shows, "best": the best position goes; "wait": none, and the step is spent.

    Raises:
        CheckpointError: a folder that is not a policy of these features and this mask convention.
        OrderError: numbers out of range; boldness or empty for draws up to a stop, which know neither.

    Example:
        >>> from demask import oracles, sample
        >>> from demask.policies import Network
        >>> sampler = Learned(Policy(Network(), "plackett_luce"))
        >>> run = sample(oracles.parity(6), sampler, Canvas.blank(1, 6), key=0)
        >>> run.law.name, bool(run.steps <= 6)
        ('FACTORISED', True)

    Reference: Jazbec et al., Learning unmasking policies for diffusion language models, 2025, arXiv 2512.09106.
    """

    policy: Policy | str | Path
    size: int | None = None
    temperature: float = field(default=1.0, kw_only=True)
    boldness: float = field(default=1.0, kw_only=True)
    empty: Literal["best", "wait"] = field(default="best", kw_only=True)
    over: Over = field(default="masked", kw_only=True)

    def __post_init__(self) -> None:
        check_blocks(1 if self.size is None else self.size, self.over)
        self.choice  # noqa: B018 -- what cannot be used is refused before a run begins

    @property
    def law(self) -> Law:
        """FACTORISED."""
        return Law.FACTORISED

    @cached_property
    def loaded(self) -> Policy:
        """The policy itself."""
        return self.policy if isinstance(self.policy, Policy) else read(self.policy)

    @cached_property
    def choice(self) -> Choice:
        """How a set is drawn from logits."""
        if self.loaded.law == "bernoulli":
            return Bernoulli(self.temperature, self.boldness, self.empty)
        if (self.boldness, self.empty) != (1.0, "best"):
            raise OrderError(
                f"boldness={self.boldness}, empty={self.empty!r}, but this policy draws up to a stop and is never empty; "
                "leave both out"
            )
        return PlackettLuce(self.temperature)

    def init(self, canvas: Canvas, chance: Chance) -> Counted:
        """Return the state of a run that begins with `canvas`."""
        return Counted(canvas, canvas.masked, chance)

    def step(self, state: Counted, denoiser: Denoiser, chance: Chance) -> tuple[Counted, Decision]:
        """Return the state after one step, and what the policy saw and did."""
        step = Step(state.canvas, state.start, state.start, denoiser, chance, state.origin)
        features = Features.of(step, state.taken)
        logits = self.loaded(features).double()  # (B, N): small, and its laws sum to 1
        where = step.open if self.size is None else step.block(self.size, self.over).open
        ranks = self.choice.draw(chance.fork("policy"), where, logits)
        kept, tokens = AcceptAll().verify(step, ranks > 0, logits)
        canvas = state.canvas.unmask(kept, tokens)
        after = replace(state, canvas=canvas, taken=state.taken + 1)
        return after, Decision(step, kept, canvas, features, where, ranks)

    def done(self, state: Counted) -> Tensor:
        """Return the rows with nothing masked, (B,) bool."""
        return empty(state.canvas.masked)

    def __repr__(self) -> str:
        policy = self.policy if isinstance(self.policy, Policy) else str(self.policy)
        plain = {"size": None, "temperature": 1.0, "boldness": 1.0, "empty": "best", "over": "masked"}
        named = [f"{name}={getattr(self, name)!r}" for name, usual in plain.items() if getattr(self, name) != usual]
        return f"Learned({', '.join([repr(policy), *named])})"
