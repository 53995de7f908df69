"""What is learned from a group of runs: the decisions they took, their worth, and the objective of one gradient step."""

from dataclasses import dataclass, field
from math import log

import torch
from torch import Tensor

from demask.contracts import Info
from demask.policies import Decision, Features


@dataclass
class Decisions:
    """A collector of what was seen and chosen, for the runs of a policy or of any other sampler.

    Of another sampler the positions that it unmasked count as chosen, the more confident ones first.
    """

    taken: int = 0
    row: list[Tensor] = field(default_factory=list)
    features: list[Features] = field(default_factory=list)
    where: list[Tensor] = field(default_factory=list)
    ranks: list[Tensor] = field(default_factory=list)
    name: str = "decisions"

    def see(self, info: Info) -> None:
        """Keep the decisions of the rows that were not done."""
        if isinstance(info, Decision):
            features, where, ranks = info.features, info.where, info.ranks
        else:
            features, where = Features.of(info.step, self.taken), info.step.open
            surest = features.confidence.masked_fill(~info.kept, -torch.inf).argsort(
                dim=1, descending=True, stable=True
            )
            ranks = (surest.argsort(1) + 1) * info.kept
        live = where.any(1).nonzero()[:, 0]
        self.row.append(live)
        self.features.append(features.rows(live))
        self.where.append(where[live])
        self.ranks.append(ranks[live])
        self.taken += 1

    def result(self) -> "Batch":
        """Return all of them."""
        parts = zip(self.row, self.features, self.where, self.ranks, strict=True)
        return Batch.join([Batch(*part) for part in parts])


@dataclass(frozen=True, eq=False)
class Batch:
    """Decisions of many runs, A in all.

    Parameters:
        row: (A,) int64, whose they are.
        features, where, ranks: as `Decision` has them, (A, N).
    """

    row: Tensor
    features: Features
    where: Tensor
    ranks: Tensor

    @classmethod
    def join(cls, parts: "list[Batch]") -> "Batch":
        """Return the decisions of all parts, one after the other."""
        row, where, ranks = (torch.cat([getattr(part, name) for part in parts]) for name in ("row", "where", "ranks"))
        return cls(row, Features.join([part.features for part in parts]), where, ranks)

    def part(self, keep: Tensor) -> "Batch":
        """Keep some decisions."""
        return Batch(self.row[keep], self.features.rows(keep), self.where[keep], self.ranks[keep])


def speed(steps: Tensor, positions: Tensor, alpha: float) -> Tensor:
    """Return ((n - min(s, n) + 1) / n)^alpha, (R,) float64: 1 for one step, 1 / n^alpha for one position at each.

    Example:
        >>> speed(torch.tensor([1, 2, 4, 9]), torch.tensor([4, 4, 4, 4]), 1.0)
        tensor([1.0000, 0.7500, 0.2500, 0.2500], dtype=torch.float64)
    """
    n = positions.double().clamp(min=1)
    return ((n - steps.minimum(positions) + 1) / n) ** alpha


def advantages(worth: Tensor, groups: int) -> Tensor:
    """Return each run's worth less the mean of its group, (R,); runs of a group stand side by side.

    Example:
        >>> advantages(torch.tensor([1.0, 0.0, 0.5, 0.5]), 2)
        tensor([ 0.5000, -0.5000,  0.0000,  0.0000])
    """
    by_group = worth.view(groups, -1)
    return (by_group - by_group.mean(1, keepdim=True)).flatten()


def objective(logp: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return min(rho A, clip(rho, 1 - clip, 1 + clip) A), rho = exp(logp - old), per decision.

    Example:
        >>> objective(torch.tensor([0.0, 2.0]), torch.zeros(2), torch.tensor([1.0, 1.0]), 0.5)
        tensor([1.0000, 1.5000])
    """
    ratio = (logp - old).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def steered(logp: Tensor, expert: Tensor, rollouts: int, experts: int) -> Tensor:
    """Return the log-probability of decisions under the mixture that runs were drawn from.

    G / (G + E) of the policy, E / (G + E) of the expert, who does what it did with certainty. Decisions of the policy keep
    their own, of which the factor G / (G + E) cancels in ratios.

    Example:
        >>> steered(torch.tensor([-100.0, -1.0]), torch.tensor([True, False]), 7, 1).exp()
        tensor([0.1250, 0.3679])

    Reference: Jazbec et al., 2025, arXiv 2512.09106, with weights of all E experts together.
    """
    if not experts:
        return logp
    total = rollouts + experts
    mixed = torch.logaddexp(logp + log(rollouts / total), torch.full_like(logp, log(experts / total)))
    return torch.where(expert, mixed, logp)
