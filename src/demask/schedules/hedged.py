"""The curve-optimal plan, insured against a curve that is wrong."""

from collections.abc import Sequence

from demask.curve import Curve
from demask.errors import PlanError
from demask.schedules.fitted import optimal
from demask.schedules.minimax import minimax
from demask.schedules.plan import Plan, Target, check
from demask.schedules.systematic import Systematic


def hedged(
    curve: Curve | Sequence[float] | Plan, steps: int, *, share: float = 0.1, target: Target = "both"
) -> Systematic:
    """Draw sizes between the best ones for a curve and the best ones for no knowledge at all.

    u = (1 - share) u_optimal + share u_minimax, drawn systematically. R is convex in u, so at every i

        R(i) <= (1 - share) R_optimal(i) + share R_minimax(i),

    and whatever the true curve is, E KL <= (1 - share) E KL of the optimal plan + share * c * min(TC, DTC), with c the
    minimax constant. Every draw has exactly K steps.

    Parameters:
        curve: Z_0 .. Z_(n-1), nats, non-increasing; or the plan itself that is to be hedged.
        steps: K >= 1; with K >= n every step unmasks one token.
        share: weight of minimax, from 0 (trust the curve) to 1 (trust nothing).
        target: what minimax is safe against.

    Raises:
        CurveError: a curve that rises.
        PlanError: a share outside [0, 1], a plan of other than `steps` steps.

    Cost: one `optimal` and one `minimax`.

    Example:
        >>> schedule = hedged([1.0, 0.5, 0.25, 0.25, 0.25, 0.25], 3, share=0.2)
        >>> schedule
        hedged(curve=Plan(sizes=(1, 1, 4)), steps=3, share=0.2, target='both')
        >>> [round(s.constant("both"), 3) for s in (Plan((1, 1, 4)), schedule, minimax(6, 3))]
        [1.0, 0.893, 0.464]

    Reference: docs/guide/theory.md, section 6.
    """
    if not 0 <= share <= 1:
        raise PlanError(
            f"share = {share}; expected a number from 0 (the curve alone) to 1 (minimax alone), such as 0.1"
        )
    if isinstance(curve, Plan):
        plan = curve
        check(plan.length, steps)
        if plan.steps != min(steps, plan.length):
            raise PlanError(f"a plan of {plan.steps} steps to be hedged at {steps}; write hedged(plan, {plan.steps})")
    else:
        plan = optimal(curve, steps)
    safe = minimax(plan.length, plan.steps, target=target)
    inclusion = share * safe.inclusion
    inclusion[[end - 1 for end in plan.boundaries[:-1]]] += 1.0 - share
    named = target if isinstance(target, str) else tuple(float(w) for w in target)
    spec = f"hedged(curve={plan!r}, steps={plan.steps}, share={float(share)!r}, target={named!r})"
    return Systematic(inclusion.clip(0.0, 1.0), spec)
