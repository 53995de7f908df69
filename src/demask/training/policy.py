"""Train an unmasking policy by what its runs are worth: right, and soon done.

A group is several runs from one canvas. A run is worth correct * speed, its advantage is that less the mean of its group,
and every decision of the run is made more or less probable by it (group relative policy optimisation).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.contracts import Sampler
from demask.denoisers.folder import CONFIG
from demask.errors import CheckpointError, TrainingError
from demask.policies import Bernoulli, Choice, Learned, Network, PlackettLuce, Policy
from demask.policies import read as read_policy
from demask.policies import write as write_policy
from demask.training.groups import Batch, Decisions, advantages, objective, speed, steered
from demask.training.recipe import warmed
from demask.training.stopping import stoppable
from demask.training.task import Task
from demask.training.train import Status

_CHUNK: Final = 1 << 15  # positions of decisions that are differentiated at once
_BETAS: Final = (0.9, 0.99)


@dataclass(frozen=True)
class PolicyRecipe:
    """Every choice of a policy's training. Published values in brackets where ours differ: they trained on 15,000 prompts.

    Parameters:
        iterations: batches of runs, or None.
        seconds: to spend, or None; exactly one of the two.
        law: "bernoulli" or "plackett_luce".
        alpha: >= 0, weight of speed; a run of s steps over n positions is worth correct * ((n - s + 1) / n)^alpha.
        prompts: canvases per iteration.
        rollouts: runs per canvas, G.
        experts: runs per canvas of an expert sampler, E; 0 without one.
        clip: how far a decision's probability may move, as a ratio [0.2 with experts].
        passes: gradient steps per batch of runs.
        rate: peak learning rate of AdamW [3e-5]; falls to 0 by a cosine.
        warmup: share of the training in which it rises.
        decay: weight decay.
        norm: largest norm of the gradient.
        size: block in which positions are chosen, or None.
        key: of every random choice.
        save_every: seconds between saves.

    Raises:
        TrainingError: a number out of its range, neither or both of iterations and seconds.
    """

    iterations: int | None = None
    seconds: float | None = None
    law: str = "bernoulli"
    alpha: float = 1.0
    prompts: int = 16
    rollouts: int = 8
    experts: int = 0
    clip: float = 0.5
    passes: int = 2
    rate: float = 1e-3
    warmup: float = 0.02
    decay: float = 0.1
    norm: float = 0.2
    size: int | None = None
    key: int = 0
    save_every: float = 30.0

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.seconds is None):
            raise TrainingError(
                f"iterations = {self.iterations} and seconds = {self.seconds}; give exactly one: seconds=600"
            )
        for name, least in (("iterations", 1), ("prompts", 1), ("rollouts", 1), ("experts", 0), ("passes", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise TrainingError(f"{name} = {value!r}; expected an integer >= {least}")
        if self.rollouts + self.experts < 2:
            raise TrainingError(f"groups of {self.rollouts + self.experts} run; expected 2 or more, to compare them")
        for name in ("seconds", "clip", "rate", "norm", "save_every"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise TrainingError(f"{name} = {value!r}; expected a finite number > 0")
        for name in ("alpha", "decay"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise TrainingError(f"{name} = {getattr(self, name)!r}; expected a finite number >= 0")
        if not 0 <= self.warmup < 1:
            raise TrainingError(f"warmup = {self.warmup}; expected a share in [0, 1)")


@dataclass(frozen=True)
class Round:
    """What a human may want to know of an iteration.

    Parameters:
        iteration: how many are done.
        progress: share of the training that has passed.
        seconds: spent.
        worth: mean of correct * speed of the policy's runs.
        correct: mean share that is right.
        steps: mean steps.
    """

    iteration: int
    progress: float
    seconds: float
    worth: float
    correct: float
    steps: float


@dataclass(frozen=True, eq=False)
class TrainedPolicy:
    """What came out, every iteration of it, and how the training ended."""

    policy: Policy
    rounds: tuple[Round, ...]
    status: Status


def train_policy(
    task: Task,
    recipe: PolicyRecipe,
    *,
    out: str | Path | None = None,
    expert: Sampler[Any] | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    watch: Callable[[Round], None] = lambda moment: None,
) -> TrainedPolicy:
    """Train a policy on a task, and keep it as a folder that `Learned` reads.

    Per iteration: G runs from each of the canvases, by the policy as it stands (a coin that never shows costs a step), and E
    by the expert; then `passes` gradient steps on

        - mean over runs of (1 / T) sum_t min(rho_t A, clip(rho_t, 1 - clip, 1 + clip) A),   A = worth - mean of the group,

    T the run's steps, without division by a standard deviation and without a KL term. Ctrl-C and SIGTERM end the current
    iteration, save, and return.

    Parameters:
        task: the denoiser, where to begin, and what is right.
        recipe: every choice.
        out: the folder; None keeps nothing.
        expert: a sampler to learn from, such as a threshold on the confidence, with `recipe.experts` > 0.
        resume: begin with the network in `out` instead of a new one; the optimiser and the rates begin anew.
        about: facts to keep in the folder.
        watch: called after every iteration.

    Raises:
        TrainingError: an expert without runs or runs without an expert, a reward that is no number in [0, 1], a loss that is
            not finite.
        CheckpointError, DemaskError: a folder that cannot be used, or holds a policy that would be lost; resume without one,
            or from one of another law.

    Cost: G + E runs per canvas and iteration; the policy's own passes are small beside those of a large denoiser.

    Reference: Jazbec et al., Learning unmasking policies for diffusion language models, 2025, arXiv 2512.09106; Shao et al.,
    DeepSeekMath, 2024, arXiv 2402.03300 (groups).
    """
    if (expert is None) != (recipe.experts == 0):
        raise TrainingError(
            f"experts = {recipe.experts} and expert = {expert!r}; give both: PolicyRecipe(experts=1, ..) and a sampler"
        )
    policy = _begin(recipe, out, resume)
    network = policy.network.requires_grad_()
    learner = _Learner(task, recipe, expert, policy)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, betas=_BETAS, weight_decay=recipe.decay)
    rounds: list[Round] = []
    begun, seconds, saved = time.monotonic(), 0.0, 0.0

    def keep() -> Policy:
        facts = {"task": task.name, "recipe": asdict(recipe), "iterations": len(rounds), "seconds": round(seconds, 1)}
        if rounds:
            facts |= {"worth": rounds[-1].worth, "correct": rounds[-1].correct, "steps": rounds[-1].steps}
        kept = replace(policy, about={**(about or {}), **facts})
        if out is not None:
            write_policy(out, kept)
        return kept

    keep()
    with stoppable() as stop:
        while True:
            seconds = time.monotonic() - begun
            progress = len(rounds) / recipe.iterations if recipe.iterations else seconds / (recipe.seconds or 1.0)
            if stop.asked or progress >= 1:
                break
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * warmed(progress, recipe.warmup)
            worth, correct, steps = learner.improve(len(rounds), optimiser)
            rounds.append(Round(len(rounds) + 1, progress, seconds, worth, correct, steps))
            watch(rounds[-1])
            if seconds - saved >= recipe.save_every:
                keep()
                saved = seconds
        kept = keep()
    network.requires_grad_(False)
    return TrainedPolicy(kept, tuple(rounds), Status.FINISHED if progress >= 1 else Status.INTERRUPTED)


def _begin(recipe: PolicyRecipe, out: str | Path | None, resume: bool) -> Policy:
    """Return a new policy, or the one in the folder."""
    if not resume:
        fresh = Policy(Network(key=recipe.key), recipe.law)
        if out is not None and (Path(out) / CONFIG).exists():
            raise CheckpointError(f"{out} holds a policy; begin with it by --resume, or choose another --out")
        return fresh
    if out is None:
        raise TrainingError("resume without a folder; name the one that holds the policy: out='DIR'")
    kept = read_policy(out)
    if kept.law != recipe.law:
        raise CheckpointError(f"{out} holds a policy of law {kept.law}; resume with that one, or choose another --out")
    return kept


@dataclass(frozen=True, eq=False)
class _Learner:
    """What turns runs into gradient steps."""

    task: Task
    recipe: PolicyRecipe
    expert: Sampler[Any] | None
    policy: Policy

    @property
    def choice(self) -> Choice:
        return Bernoulli(empty="wait") if self.recipe.law == "bernoulli" else PlackettLuce()

    def improve(self, iteration: int, optimiser: torch.optim.Optimizer) -> tuple[float, float, float]:
        """Make runs and learn from them; return mean worth, share right and mean steps of the policy's own."""
        recipe = self.recipe
        canvas = self.task.canvas(recipe.prompts, recipe.key * 1_000_003 + iteration)
        batch, worth, correct, steps = self.runs(canvas, iteration)
        advantage = advantages(worth, recipe.prompts)
        mine = (torch.arange(len(worth)) % (recipe.rollouts + recipe.experts)) < recipe.rollouts
        told = float(worth[mine].mean()), float(correct[mine].mean()), float(steps[mine].double().mean())
        counted = torch.bincount(batch.row, minlength=len(worth))
        live = (advantage != 0)[batch.row]
        if bool(live.any()):
            batch = batch.part(live)
            weight = advantage[batch.row] / counted[batch.row] / len(worth)
            old: Tensor | None = None
            for _ in range(recipe.passes):
                old = self.learn(batch, weight.float(), ~mine[batch.row], old)
                norm = torch.nn.utils.clip_grad_norm_(self.policy.network.parameters(), recipe.norm)
                if not bool(norm.isfinite()):
                    raise TrainingError(f"the gradient is {float(norm)} at iteration {iteration}; lower the rate")
                optimiser.step()
                optimiser.zero_grad()
        return told

    def runs(self, canvas: Canvas, iteration: int) -> tuple[Batch, Tensor, Tensor, Tensor]:
        """Return the decisions of a group of runs per canvas, and each run's worth, correctness and steps."""
        recipe, group = self.recipe, self.recipe.rollouts + self.recipe.experts
        empty = {"empty": "wait"} if recipe.law == "bernoulli" else {}
        parts = [(Learned(self.policy, recipe.size, **empty), 0, recipe.rollouts)]  # type: ignore[arg-type]
        samplers: list[tuple[Sampler[Any], int, int]] = [*parts]
        if self.expert is not None:
            samplers.append((self.expert, recipe.rollouts, recipe.experts))
        total = canvas.shape[0] * group
        correct, steps = torch.zeros(total, dtype=torch.float64), torch.zeros(total, dtype=torch.int64)
        batches = []
        for sampler, first, count in samplers:
            names = (torch.arange(canvas.shape[0])[:, None] * group + first + torch.arange(count)).flatten()
            rows = canvas.rows(names.to(canvas.device) // group)
            chance = Keyed.of(recipe.key, names.to(canvas.device)).fork("runs", iteration)
            decisions = Decisions()
            run = self.task.run(sampler, rows, chance, decisions=decisions)
            found = decisions.result()
            batches.append(replace(found, row=names[found.row.cpu()]))
            correct[names], steps[names] = self.task.judge(run).cpu(), run.steps.cpu()
        positions = canvas.masked.sum(1).cpu().repeat_interleave(group)
        return Batch.join(batches), correct * speed(steps, positions, recipe.alpha), correct, steps

    def learn(self, batch: Batch, weight: Tensor, expert: Tensor, old: Tensor | None) -> Tensor:
        """Add up the gradient, and return the log-probabilities before the first step."""
        recipe, logps = self.recipe, []
        size = max(1, _CHUNK // batch.where.shape[1])
        for start in range(0, len(batch.row), size):
            rows = torch.arange(start, min(start + size, len(batch.row)))
            part = batch.part(rows)
            logits = self.policy.network(part.features)
            logp = self.choice.logp(part.where, logits, part.ranks)
            logp = steered(logp, expert[rows], recipe.rollouts, recipe.experts)
            before = logp.detach() if old is None else old[rows]
            loss = -objective(logp, before, weight[rows], recipe.clip).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            logps.append(before)
        return torch.cat(logps)
