"""What it costs never to pay more than (1 + h) times minimax on any curve: the best that is then left on a text.

A flow program over all laws of sizes (layers of steps, an edge per block), n = 64, K = 8: the least cost on the curve of a
character chain fitted to the Python manual, subject to R(i) <= (1 + h) c min(i, n - i) for all i. Run as a script; half a
minute. `self_calibrating` cannot keep both of "near the optimum on text" and "never above (1 + h) minimax, not even in the
batch in which the data change": this table is the price of the second.
"""

from pydoc_data.topics import topics

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

from demask import minimax, optimal, oracles

LENGTH, STEPS = 64, 8
SHARES = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)


def main() -> None:
    """Print a table."""
    curve = oracles.fit("".join(topics.values()), length=LENGTH, smoothing=0.01).curve()
    best, safe = optimal(curve, STEPS).cost(curve), minimax(LENGTH, STEPS)
    edges = [
        (k, start, end)
        for k in range(STEPS)
        for start in range(LENGTH)
        for end in range(start + 1, LENGTH + 1)
        if (k == 0) == (start == 0) and (k == STEPS - 1) == (end == LENGTH)
    ]
    nodes = {node: row for row, node in enumerate({(k, t) for k, t, _ in edges} | {(k + 1, e) for k, _, e in edges})}
    leave = [nodes[k, start] for k, start, _ in edges]
    enter = [nodes[k + 1, end] for k, _, end in edges]
    columns = np.arange(len(edges))
    flow = csr_matrix((np.ones(len(edges)), (leave, columns)), (len(nodes), len(edges))) - csr_matrix(
        (np.ones(len(edges)), (enter, columns)), (len(nodes), len(edges))
    )
    source = np.zeros(len(nodes))
    source[nodes[0, 0]], source[nodes[STEPS, LENGTH]] = 1, -1
    inside = [(i, column, end - i) for column, (_, start, end) in enumerate(edges) for i in range(start + 1, end)]
    row, column, distance = np.array(inside).T
    residual = csr_matrix((distance, (row - 1, column)), (LENGTH - 1, len(edges)))
    i = np.arange(1, LENGTH)
    limit = safe.constant("both") * np.minimum(i, LENGTH - i)
    print("| h | least cost on the text, nats | above the optimum |\n|---|---|---|")
    for share in SHARES:
        answer = linprog(
            residual.T @ curve.increments, A_ub=residual, b_ub=(1 + share) * limit, A_eq=flow, b_eq=source,
            bounds=(0, None), method="highs",
        )  # fmt: skip
        print(f"| {share:g} | {answer.fun:.2f} | {answer.fun / best - 1:.1%} |", flush=True)
    print(f"\nminimax itself costs {safe.cost(curve):.2f} nats, the optimum {best:.2f}.")


if __name__ == "__main__":
    main()
