"""List and puzzle tasks whose valid answers are all known.

Each is the uniform distribution over the valid answers to one input, the list 0 .. n-1, one symbol per item. TC and DTC
are in nats; accuracy is the chance that one draw from the product of the marginals is a valid answer.

Reference: ParallelBench, 2025, arXiv 2510.04767.
"""

from itertools import permutations, product
from math import factorial

import torch

from demask.errors import OracleError
from demask.oracles.table import Table

_LARGEST_SHUFFLE = 9


def copy(n: int) -> Table:
    """Return the list itself: TC = DTC = 0, accuracy 1.

    Example:
        >>> copy(3).sequences.tolist()
        [[0, 1, 2]]
    """
    _check(n, 1)
    return Table.uniform(torch.arange(n)[None], n)


def reverse(n: int) -> Table:
    """Return the list backwards: TC = DTC = 0, accuracy 1.

    Example:
        >>> reverse(3).sequences.tolist()
        [[2, 1, 0]]
    """
    _check(n, 1)
    return Table.uniform(torch.arange(n).flip(0)[None], n)


def shuffle(n: int) -> Table:
    """Return all permutations of the list: TC = n ln n - ln n!, DTC = ln n! (n >= 2), accuracy n! / n^n.

    Example:
        >>> round(shuffle(4).tc(), 3), round(shuffle(4).dtc(), 3)
        (2.367, 3.178)
    """
    _check(n, 1)
    if n > _LARGEST_SHUFFLE:
        raise OracleError(f"shuffle({n}) has {factorial(n)} answers; expected n <= {_LARGEST_SHUFFLE}")
    return Table.uniform(torch.tensor(list(permutations(range(n)))), n)


def replace(n: int) -> Table:
    """Return the list with one item replaced by the symbol n: DTC = ln n (n >= 2), TC = -(n-1) ln(1 - 1/n).

    Accuracy is (1 - 1/n)^(n-1).

    Example:
        >>> replace(2).sequences.tolist()
        [[2, 1], [0, 2]]
    """
    _check(n, 1)
    return Table.uniform(torch.arange(n).repeat(n, 1).fill_diagonal_(n), n + 1)


def insert(n: int) -> Table:
    """Return the list with the symbol n inserted anywhere: n + 1 answers, DTC = ln(n + 1).

    Example:
        >>> insert(2).sequences.tolist()
        [[2, 0, 1], [0, 2, 1], [0, 1, 2]]
    """
    _check(n, 1)
    items = list(range(n))
    return Table.uniform(torch.tensor([[*items[:i], n, *items[i:]] for i in range(n + 1)]), n + 1)


def remove(n: int) -> Table:
    """Return the list with one item removed: n answers of length n - 1.

    Example:
        >>> remove(3).sequences.tolist()
        [[1, 2], [0, 2], [0, 1]]
    """
    _check(n, 2)
    items = list(range(n))
    return Table.uniform(torch.tensor([items[:i] + items[i + 1 :] for i in range(n)]), n)


def latin_square() -> Table:
    """Return all 576 squares of 4 x 4 cells, read row by row, with each symbol once in every row and column.

    TC = 15.825, DTC = ln 576, accuracy 1.3e-7.

    Example:
        >>> latin_square()
        Table(length=16, vocabulary=4)
    """
    rows = list(permutations(range(4)))
    squares = [
        sum(square, ())
        for square in product(rows, repeat=4)
        if all(len(set(column)) == 4 for column in zip(*square, strict=True))
    ]
    return Table.uniform(torch.tensor(squares), 4)


def _check(n: int, least: int) -> None:
    if n < least:
        raise OracleError(f"a list of {n} items; expected {least} or more")
