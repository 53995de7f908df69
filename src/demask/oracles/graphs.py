"""Sum-product on rooted trees of hidden nodes, and the distributions that are one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from demask.canvas import Canvas
from demask.curve import Estimate
from demask.errors import OracleError
from demask.oracles.base import Noise, Oracle, distributions, draw
from demask.oracles.semiring import LogMatrix

_NEIGHBOURHOOD: Final = 1 << 22  # states of a node and its neighbours that an exact DTC enumerates

Evidence = Callable[[int], Tensor]
"""Node -> (B, states) log-likelihoods of what is visible."""


class Edge:
    """A conditional law of a child state given a parent state, as logarithms.

    The parent state is a pair (a, shared), the child state a pair (shared, c), and `logs[a, shared, c]` is
    log p(c | a, shared). A dense (P, C) matrix shares nothing: its shape is (P, 1, C). A window of m tokens that moves by
    one shares m - 1 of them.
    """

    def __init__(self, logs: Tensor) -> None:
        self._down = LogMatrix(logs.transpose(0, 1))
        self._up = LogMatrix(logs.permute(1, 2, 0))
        self._shared = logs.shape[1]

    def down(self, message: Tensor) -> Tensor:
        """Sum over parent states: (B, A * shared) -> (B, shared * C)."""
        split = torch.unflatten(message, 1, (-1, self._shared)).permute(2, 0, 1)
        return self._down.after(split).transpose(0, 1).flatten(1)

    def up(self, message: Tensor) -> Tensor:
        """Sum over child states: (B, shared * C) -> (B, A * shared)."""
        split = torch.unflatten(message, 1, (self._shared, -1)).transpose(0, 1)
        return self._up.after(split).permute(1, 2, 0).flatten(1)


class Forest:
    """A rooted tree of hidden nodes with one law for the root and one edge law for every other node.

    Messages are logarithms, (B, states), one row per row of evidence. Nodes are visited one at a time in topological
    order.  Cost: two edge products per node.
    """

    def __init__(self, parents: Sequence[int], prior: Tensor, edges: Sequence[Edge | None]) -> None:
        self.order, self.children = topology(parents)
        self.parents, self.prior, self.edges = parents, prior, edges

    def upward(self, evidence: Evidence) -> tuple[list[Tensor], list[Tensor]]:
        """Return, per node, the log-likelihood of what is visible at and below it, and its message to the parent."""
        inbox, message = [torch.empty(0)] * len(self.order), [torch.empty(0)] * len(self.order)
        for node in reversed(self.order):
            inbox[node] = evidence(node)
            for child in self.children[node]:
                inbox[node] = inbox[node] + message[child]
            if (edge := self.edges[node]) is not None:
                message[node] = edge.up(inbox[node])
        return inbox, message

    def evidence(self, evidence: Evidence) -> Tensor:
        """Return the log-probability of what is visible, (B,)."""
        inbox, _ = self.upward(evidence)
        return torch.logsumexp(inbox[self.order[0]] + self.prior, -1)

    def beliefs(self, evidence: Evidence) -> tuple[Tensor, list[Tensor]]:
        """Return the log-probability of what is visible, and log p(state, visible) of every node, each (B, states)."""
        inbox, message = self.upward(evidence)
        total = torch.logsumexp(inbox[self.order[0]] + self.prior, -1)
        above = [torch.empty(0)] * len(self.order)
        above[self.order[0]] = self.prior
        for node in self.order:
            children = self.children[node]
            before = [above[node] + evidence(node)]  # all that reaches the node, less the messages of later children
            for child in children[:-1]:
                before.append(before[-1] + message[child])
            after: Tensor | float = 0.0
            for child, reached in zip(reversed(children), reversed(before), strict=False):
                edge = self.edges[child]
                assert edge is not None
                above[child] = edge.down(reached + after)
                after = after + message[child]
            inbox[node] = inbox[node] + above[node]
        return total, inbox


def topology(parents: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Return the nodes with every parent before its children, and the children of every node."""
    children: list[list[int]] = [[] for _ in parents]
    order = []
    for node, parent in enumerate(parents):
        if not -1 <= parent < len(parents):
            raise OracleError(f"the parent of node {node} is {parent}; expected -1 (the root) to {len(parents) - 1}")
        if parent < 0:
            order.append(node)
        else:
            children[parent].append(node)
    if len(order) != 1:
        raise OracleError(f"{len(order)} roots at {order}; expected exactly one parent of -1")
    for node in order:
        order.extend(children[node])
    if len(order) < len(parents):
        lost = sorted(set(range(len(parents))) - set(order))
        raise OracleError(f"nodes {lost} do not descend from the root; expected a tree without cycles")
    return order, children


def gather_beliefs(
    beliefs: Sequence[Tensor], where: Tensor, vocabulary: int, read: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Return the packed logits (M, V) of the asked positions: `read(belief, position)` makes the law of a token."""
    out = torch.empty(int(where.sum()), vocabulary, dtype=torch.float64)
    slot = where.flatten().cumsum(0).view(where.shape) - 1
    for position in where.any(0).nonzero()[:, 0].tolist():
        rows = where[:, position]
        out[slot[rows, position]] = read(beliefs[position][rows], position)
    return out.log_softmax(-1)


def shown(canvas: Canvas, position: int, likelihood: Tensor, noise: Noise | None = None) -> Tensor:
    """Return (B, states) log-likelihoods of the token at a position, noisy or not, 0 if masked.

    Parameters:
        canvas, position: what stands where.
        likelihood: (V, states) of the right token.
        noise: which tokens may be noise.
    """
    masked = canvas.masked[:, position]
    right = likelihood[canvas.tokens[:, position].masked_fill(masked, 0)]
    if noise is not None:
        right = noise.likelihood(right, position, len(likelihood))
    return torch.where(masked[:, None], 0.0, right)


@dataclass(frozen=True, eq=False, repr=False)
class HMM(Oracle):
    """Tokens are emitted by a hidden Markov chain.

    p(x) = sum_h initial[h_0] prod_t transition[h_{t-1}, h_t] prod_t emission[h_t, x_t].
    Cost: O(B n (H^2 + H V)), by forward and backward messages in logarithms. Curve, entropy, TC and DTC are exact where
    `V**n <= 2**16` (enumeration), otherwise Monte Carlo.

    Parameters:
        initial: (H,) probabilities.
        transition: (H, H), rows sum to 1.
        emission: (H, V), rows sum to 1.
        length: positions, n >= 1.

    Raises:
        OracleError: shapes that do not fit, or rows that are not distributions.

    Example:
        >>> hmm = HMM([1.0, 0.0], [[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], length=3)
        >>> hmm.log_prob(torch.tensor([[0, 0, 1], [0, 1, 0]])).exp().tolist()
        [0.25, 0.0]
        >>> hmm.to_table().logp.exp().tolist()
        [0.25, 0.25, 0.5]

    Reference: Rabiner, 1989, Proceedings of the IEEE 77, equations 18 to 25.
    """

    initial: Tensor
    transition: Tensor
    emission: Tensor
    length: int
    vocabulary: int = field(init=False)

    def __post_init__(self) -> None:
        check_length(self.length)
        states = np.shape(self.initial)[0] if np.ndim(self.initial) else 0
        tokens = np.shape(self.emission)[-1] if np.ndim(self.emission) else 0
        object.__setattr__(self, "initial", distributions("initial", self.initial, (states,)))
        object.__setattr__(self, "transition", distributions("transition", self.transition, (states, states)))
        object.__setattr__(self, "emission", distributions("emission", self.emission, (states, tokens)))
        object.__setattr__(self, "vocabulary", tokens)

    @cached_property
    def _forest(self) -> Forest:
        edge = Edge(self.transition.log()[:, None])
        parents = range(-1, self.length - 1)
        return Forest(parents, self.initial.log(), [None, *[edge] * (self.length - 1)])

    @cached_property
    def _emission(self) -> LogMatrix:
        return LogMatrix(self.emission.log())

    def _logits(self, canvas: Canvas, where: Tensor) -> Tensor:
        likelihood = self.emission.log().T
        total, beliefs = self._forest.beliefs(lambda node: shown(canvas, node, likelihood))
        self._refuse(total == -torch.inf)
        return gather_beliefs(beliefs, where, self.vocabulary, lambda belief, _: self._emission.after(belief))

    def _noised(self, canvas: Canvas, noise: Noise) -> Tensor:
        likelihood, exactly = self.emission.log().T, torch.eye(self.vocabulary, dtype=torch.float64).log()
        total, beliefs = self._forest.beliefs(lambda node: shown(canvas, node, likelihood, noise))
        self._refuse(total == -torch.inf)
        others = []  # what is known of a state from all other tokens; -inf where its own token rules it out
        for node, belief in enumerate(beliefs):
            own = shown(canvas, node, likelihood, noise)
            others.append(torch.where(own > -torch.inf, belief - own, -torch.inf))

        def read(known: Tensor, position: int) -> Tensor:
            here = noise.where[:, position]
            part = Noise(noise.where[here], noise.keep[here])
            return self._emission.after(known) + shown(canvas.rows(here), position, exactly, part)

        return gather_beliefs(others, noise.where, self.vocabulary, read)

    def _log_prob(self, tokens: Tensor) -> Tensor:
        likelihood = self.emission.log().T
        return self._forest.evidence(lambda node: likelihood[tokens[:, node]])

    def _sample(self, count: int, generator: torch.Generator) -> Tensor:
        law = self.initial.expand(count, -1)
        tokens = torch.empty(count, self.length, dtype=torch.int64)
        for t in range(self.length):
            state = draw(law, generator)
            tokens[:, t] = draw(self.emission[state], generator)
            law = self.transition[state]
        return tokens


@dataclass(frozen=True, eq=False, repr=False)
class Tree(Oracle):
    """Every token depends on the token at its parent.

    p(x) = root[x_r] prod_i transition_i[x_parent(i), x_i].
    Cost: O(B n V^2), by messages in logarithms. Entropy and TC are exact: TC is the sum of the mutual informations of the
    edges. DTC is exact from the laws H(X_i | neighbours) where a neighbourhood has at most 2**22 states. The curve is
    exact where `V**n <= 2**16` (enumeration), otherwise Monte Carlo.

    Parameters:
        parents: of every position; -1 for the root, in any order.
        root: (V,) probabilities of the root's token.
        transitions: (V, V) shared by all edges, or (n, V, V) with one per position (that of the root is not read).

    Raises:
        OracleError: parents that are not a tree, shapes that do not fit, or rows that are not distributions.

    Example:
        >>> tree = Tree([-1, 0, 0], [0.5, 0.5], [[0.9, 0.1], [0.1, 0.9]])
        >>> canvas = Canvas(torch.tensor([[0, 1, 0]]), torch.tensor([[True, False, True]]))
        >>> tree(canvas, canvas.masked).logits.exp().round(decimals=4).tolist()
        [[0.1, 0.9], [0.18, 0.82]]
        >>> round(tree.tc(), 4)
        0.7361

    Reference: Pearl, 1988, Probabilistic Reasoning in Intelligent Systems, section 4.2.
    """

    parents: Sequence[int]
    root: Tensor
    transitions: Tensor
    length: int = field(init=False)
    vocabulary: int = field(init=False)

    def __post_init__(self) -> None:
        topology(self.parents)
        n = len(self.parents)
        tokens = np.shape(self.root)[0] if np.ndim(self.root) else 0
        shape = (n, tokens, tokens) if np.ndim(self.transitions) == 3 else (tokens, tokens)
        law = distributions("transitions", self.transitions, shape)
        object.__setattr__(self, "parents", tuple(self.parents))
        object.__setattr__(self, "root", distributions("root", self.root, (tokens,)))
        object.__setattr__(self, "transitions", law.expand(n, tokens, tokens))
        object.__setattr__(self, "length", n)
        object.__setattr__(self, "vocabulary", tokens)

    def entropy(self, *, samples: int = 0, key: int = 0) -> Estimate:
        """Return H(X) = H(root) + sum over edges of H(child | parent), nats, exact."""
        return Estimate(float(self._own_entropy.sum() - self._edge_information.sum()))

    def tc(self, *, samples: int = 0, key: int = 0) -> Estimate:
        """Return the sum over edges of I(parent; child), nats, exact."""
        return Estimate(float(self._edge_information.sum()))

    def dtc(self, *, samples: int = 1024, key: int = 0) -> Estimate:
        """Return H(X) - sum_i H(X_i | neighbours), nats; Monte Carlo where a neighbourhood has over 2**22 states."""
        _, children = self._topology
        largest = max(len(below) + 1 + (parent >= 0) for below, parent in zip(children, self.parents, strict=True))
        if self.vocabulary**largest > _NEIGHBOURHOOD:
            return super().dtc(samples=samples, key=key)
        return Estimate(float(self.entropy()) - sum(self._entropy_given_neighbours(i) for i in range(self.length)))

    def _entropy_given_neighbours(self, node: int) -> float:
        """H(X_i | parent and children), from their joint law, one row per state of the neighbours."""
        parent = self.parents[node]
        joint = self.root[None] if parent < 0 else self._laws[parent][:, None] * self.transitions[node]
        for child in self._topology[1][node]:
            joint = (joint[:, None, :] * self.transitions[child].T[None]).flatten(0, 1)
        return float(torch.special.entr(joint).sum() - torch.special.entr(joint.sum(-1)).sum())

    @cached_property
    def _topology(self) -> tuple[list[int], list[list[int]]]:
        return topology(self.parents)

    @cached_property
    def _laws(self) -> Tensor:
        """The law of every token, (n, V)."""
        laws = torch.empty(self.length, self.vocabulary, dtype=torch.float64)
        for node in self._topology[0]:
            parent = self.parents[node]
            laws[node] = self.root if parent < 0 else laws[parent] @ self.transitions[node]
        return laws

    @cached_property
    def _own_entropy(self) -> Tensor:
        own: Tensor = torch.special.entr(self._laws).sum(-1)
        return own

    @cached_property
    def _edge_information(self) -> Tensor:
        """I(X_parent; X_i) of every node, 0 for the root, (n,)."""
        parents = torch.tensor(self.parents)
        given: Tensor = (self._laws[parents] * torch.special.entr(self.transitions).sum(-1)).sum(-1)
        return (self._own_entropy - given).masked_fill(parents < 0, 0.0).clamp(min=0.0)

    @cached_property
    def _forest(self) -> Forest:
        edges = [None if parent < 0 else Edge(self._logs[i][:, None]) for i, parent in enumerate(self.parents)]
        return Forest(self.parents, self.root.log(), edges)

    @cached_property
    def _logs(self) -> Tensor:
        return self.transitions.log()

    def _logits(self, canvas: Canvas, where: Tensor) -> Tensor:
        return self._by_messages(canvas, where, None)

    def _noised(self, canvas: Canvas, noise: Noise) -> Tensor:
        return self._by_messages(canvas, noise.where, noise)

    def _by_messages(self, canvas: Canvas, where: Tensor, noise: Noise | None) -> Tensor:
        exactly = torch.eye(self.vocabulary, dtype=torch.float64).log()
        total, beliefs = self._forest.beliefs(lambda node: shown(canvas, node, exactly, noise))
        self._refuse(total == -torch.inf)
        return gather_beliefs(beliefs, where, self.vocabulary, lambda belief, _: belief)

    def _log_prob(self, tokens: Tensor) -> Tensor:
        root = self._topology[0][0]
        steps = self._logs[torch.arange(self.length), tokens[:, list(self.parents)], tokens]
        steps[:, root] = self.root.log()[tokens[:, root]]
        return steps.sum(1)

    def _sample(self, count: int, generator: torch.Generator) -> Tensor:
        tokens = torch.empty(count, self.length, dtype=torch.int64)
        for node in self._topology[0]:
            parent = self.parents[node]
            law = self.root.expand(count, -1) if parent < 0 else self.transitions[node][tokens[:, parent]]
            tokens[:, node] = draw(law, generator)
        return tokens


def check_length(length: Any) -> None:
    """Refuse a length below 1."""
    if length < 1:
        raise OracleError(f"a length of {length}; expected 1 or more")
