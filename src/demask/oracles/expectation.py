"""Exact means over all derivations of a grammar."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from demask.oracles.parts import Branch, Node, Pick, Scope, Switch, Text

Value: TypeAlias = Callable[[Node, Scope], float]  # of a visited node, given what was bound before
_State: TypeAlias = tuple[tuple[str, str], ...]  # some names with their words, sorted
_States: TypeAlias = Mapping[_State, float]  # their law


def entropy(node: Node, scope: Scope) -> float:
    """Return the entropy of the choice that a node makes, nats."""
    if isinstance(node, Pick):
        return math.log(len(node.allowed(scope)))
    return -sum(p * math.log(p) for p in node.shares) if isinstance(node, Branch) else 0.0


def length(node: Node, scope: Scope) -> float:
    """Return how many words a node writes itself."""
    if isinstance(node, (Branch, Switch)):
        return 0.0
    return float(len(node.words)) if isinstance(node, Text) else 1.0


def mean(root: Node, depends: Mapping[str, frozenset[str]], value: Value) -> float:
    """Return E[sum over the visited nodes of value(node, scope)], exactly.

    For every set of names that some node depends on, one pass carries the law of these names alone and counts the nodes
    that depend on just these. Cost: nodes times the number of joint values of the largest such set.

    Parameters:
        root: the linked grammar.
        depends: for every name, the names on which the law of its word depends directly.
        value: of a node, given the names that it reads and those of the cases it stands in.
    """
    needs = set(_needs(root, frozenset(), depends))
    return math.fsum(_Pass(names, depends, value).run(root) for names in needs)


def _needs(node: Node, inside: frozenset[str], depends: Mapping[str, frozenset[str]]) -> Iterable[frozenset[str]]:
    """Yield the names that each node below depends on."""
    if isinstance(node, tuple):
        for part in node:
            yield from _needs(part, inside, depends)
        return
    yield _need(node, inside, depends)
    if isinstance(node, (Branch, Switch)):
        for part in node.parts:
            yield from _needs(part, inside | ({node.name} if isinstance(node, Switch) else set()), depends)


def _need(node: Node, inside: frozenset[str], depends: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The names that a node depends on, inside the cases of some names."""
    names = inside | (node.reads if isinstance(node, Pick) else frozenset())
    while (more := names.union(*(depends[name] for name in names))) != names:
        names = more
    return names


class _Pass:
    """One pass with the law of `names`."""

    def __init__(self, names: frozenset[str], depends: Mapping[str, frozenset[str]], value: Value) -> None:
        self._names, self._depends, self._value = names, depends, value
        self._terms: list[float] = []

    def run(self, root: Node) -> float:
        """Return the mean of what depends on just these names."""
        self._after(root, {(): 1.0}, frozenset())
        return math.fsum(self._terms)

    def _after(self, node: Node, states: _States, inside: frozenset[str]) -> _States:
        """Return the law after a node, given the law before it."""
        if isinstance(node, tuple):
            for part in reversed(node):
                states = self._after(part, states, inside)
            return states
        if _need(node, inside, self._depends) == self._names:
            self._terms += (p * self._value(node, dict(state)) for state, p in states.items())
        name = node.name if isinstance(node, (Pick, Branch, Switch)) and node.name in self._names else None
        if isinstance(node, Pick) and name is not None:
            return _law(
                (_with(state, name, word), p / len(allowed))
                for state, p in states.items()
                for allowed in [node.allowed(dict(state))]
                for word in allowed
            )
        if isinstance(node, Branch):
            return _law(
                after
                for number, part in enumerate(node.parts)
                for after in self._after(part, _told(states, name, number, node.shares[number]), inside).items()
            )
        if isinstance(node, Switch) and name is not None:  # else nothing inside binds or needs these names
            return _law(
                after
                for number, part in enumerate(node.parts)
                for after in self._after(part, _chosen(states, name, number), inside | {name}).items()
            )
        return states


def _told(states: _States, name: str | None, number: int, share: float) -> _States:
    return {state if name is None else _with(state, name, str(number)): p * share for state, p in states.items()}


def _chosen(states: _States, name: str, number: int) -> _States:
    return {state: p for state, p in states.items() if (name, str(number)) in state}


def _with(state: _State, name: str, word: str) -> _State:
    return tuple(sorted((*(pair for pair in state if pair[0] != name), (name, word))))


def _law(states: Iterable[tuple[_State, float]]) -> _States:
    law: dict[_State, float] = defaultdict(float)
    for state, p in states:
        law[state] += p
    return law
