"""Path laws of random-order schedules, straight from a joint array: nothing of the library's samplers is used."""

from itertools import permutations

import numpy as np


def conditionals(joint):
    """p(x_i | x_S) for a set S, broadcast over all sequences."""
    n = joint.ndim

    def given(i, seen):
        hide = tuple(j for j in range(n) if j not in seen and j != i)
        both = joint.sum(axis=hide, keepdims=True)
        base = both.sum(axis=i, keepdims=True)
        return np.divide(both, base, out=np.zeros_like(both + base), where=base > 0)

    return given


def path_laws(joint, mixture):
    """(probability, law of the output given order and sizes) for all orders and plans of a mixture."""
    n, given = joint.ndim, conditionals(joint)
    orders = list(permutations(range(n)))
    for share, plan in mixture:
        for order in orders:
            law, done = np.ones_like(joint), 0
            for size in plan.sizes:
                seen = order[:done]
                for i in order[done : done + size]:
                    law = law * given(i, seen)
                done += size
            yield share / len(orders), law


def kl(p, q):
    here = p > 0
    return float(np.sum(p[here] * np.log(p[here] / q[here])))
