"""Distributions whose conditionals, totals and curves are known exactly: denoisers that make no error."""

from demask.oracles.alphabet import Alphabet
from demask.oracles.base import Oracle
from demask.oracles.chain import Chain
from demask.oracles.codes import LinearCode, parity, reed_solomon, repetition
from demask.oracles.gaussian import Gaussians, points, subspaces
from demask.oracles.graphs import HMM, Tree
from demask.oracles.notes import Notes
from demask.oracles.table import Table
from demask.oracles.tasks import copy, insert, latin_square, remove, replace, reverse, shuffle
from demask.oracles.text import fit

__all__ = [
    "HMM",
    "Alphabet",
    "Chain",
    "Gaussians",
    "LinearCode",
    "Notes",
    "Oracle",
    "Table",
    "Tree",
    "copy",
    "fit",
    "insert",
    "latin_square",
    "parity",
    "points",
    "reed_solomon",
    "remove",
    "repetition",
    "replace",
    "reverse",
    "shuffle",
    "subspaces",
]
