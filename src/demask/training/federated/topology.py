"""Who talks to whom, and with what weights: graphs of peers, and the doubly stochastic matrices on them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from demask.errors import TrainingError

_READERS: Final = {
    ".gml": "read_gml",
    ".graphml": "read_graphml",
    ".edgelist": "read_edgelist",
    ".adjlist": "read_adjlist",
}


@dataclass(frozen=True)
class Topology:
    """Peers, and the pairs of them that exchange vectors.

    Messages are mixed with the weights of Metropolis and Hastings, d_i the number of neighbours of peer i:

        W_ij = 1 / (1 + max(d_i, d_j)) for neighbours,   W_ii = 1 - sum_j W_ij,   0 elsewhere.

    W is symmetric and doubly stochastic, so mixing keeps the mean; what the peers disagree about shrinks by
    psi = max(|lambda_2|, |lambda_m|) or more per mixing. A peer needs no more than its neighbours' degrees to know its row.

    Parameters:
        peers: how many, m, called 0 .. m - 1.
        edges: pairs of them, each once.

    Raises:
        TrainingError: an edge to oneself, twice, or to nobody; a graph in more than one part.

    Example:
        >>> four = ring(4)
        >>> four.edges
        ((0, 1), (0, 3), (1, 2), (2, 3))
        >>> [round(w, 4) for w in four.weights()[0].tolist()]
        [0.3333, 0.3333, 0.0, 0.3333]

    Reference: Xiao, Boyd and Kim, Distributed average consensus with least-mean-square deviation, 2007 (Metropolis weights).
    """

    peers: int
    edges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        _count(self.peers)
        for pair in self.edges:
            if len(pair) != 2 or not all(isinstance(end, int) and 0 <= end < self.peers for end in pair):
                raise TrainingError(
                    f"the edge {pair!r} among {self.peers} peers; expected two of 0 .. {self.peers - 1}"
                )
            if pair[0] == pair[1]:
                raise TrainingError(
                    f"peer {pair[0]} has an edge to itself; leave it out: its own weight is what is left"
                )
        plain = sorted({(min(pair), max(pair)) for pair in self.edges})
        if len(plain) != len(self.edges):
            raise TrainingError("an edge is named twice; name every pair once")
        object.__setattr__(self, "edges", tuple(plain))
        groups = self.parts()
        if len(groups) > 1:
            told = " and ".join(str(group) for group in groups[:4])
            raise TrainingError(
                f"the topology falls into {len(groups)} parts that never hear of each other: {told}; join them by an edge, "
                f"such as ({groups[0][0]}, {groups[1][0]})"
            )

    def neighbours(self, peer: int) -> tuple[int, ...]:
        """Return whom a peer talks to, ascending."""
        return self._neighbours[peer]

    @cached_property
    def _known(self) -> dict[frozenset[int], Tensor]:
        return {}

    @cached_property
    def _neighbours(self) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in range(self.peers)]
        for one, other in self.edges:
            found[one].append(other)
            found[other].append(one)
        return tuple(tuple(sorted(each)) for each in found)

    def weights(self, present: Collection[int] | None = None) -> Tensor:
        """Return W, (m, m) float64, among the peers that are present (None: all); the absent keep to themselves."""
        here = frozenset(range(self.peers) if present is None else present)
        if here not in self._known:
            self._known.clear()  # who is there changes rarely
            self._known[here] = self._weights(here)
        return self._known[here].clone()

    def _weights(self, here: frozenset[int]) -> Tensor:
        degree = [len(here.intersection(self.neighbours(peer))) if peer in here else 0 for peer in range(self.peers)]
        matrix = torch.zeros(self.peers, self.peers, dtype=torch.float64)
        for one, other in self.edges:
            if one in here and other in here:
                matrix[one, other] = matrix[other, one] = 1.0 / (1 + max(degree[one], degree[other]))
        return matrix + torch.diag(1.0 - matrix.sum(1))

    def parts(self, present: Collection[int] | None = None) -> list[list[int]]:
        """Return the groups that hear of each other among the peers that are present, None: all."""
        left = set(range(self.peers)) if present is None else set(present)
        groups = []
        while left:
            group, front = set(), {min(left)}
            while front:
                group |= front
                front = {other for peer in front for other in self.neighbours(peer)} & left - group
            left -= group
            groups.append(sorted(group))
        return groups

    @property
    def gap(self) -> float:
        """The spectral gap 1 - psi: 1 where one mixing gives the mean, near 0 where news travel slowly.

        Example:
            >>> [round(make(8).gap, 4) for make in (ring, grid, exponential, full)]
            [0.1953, 0.1464, 0.6667, 1.0]
        """
        values = torch.linalg.eigvalsh(self.weights())
        return 1.0 - float(values.abs().sort().values[-2]) if self.peers > 1 else 1.0


def ring(peers: int) -> Topology:
    """Every peer talks to the one before and the one after it.

    Example:
        >>> ring(3) == full(3), ring(2).edges
        (True, ((0, 1),))
    """
    return _circle(peers, (1,))


def exponential(peers: int) -> Topology:
    """Every peer talks to those at distances 1, 2, 4, 8, .. around a circle, both ways.

    Example:
        >>> exponential(16).neighbours(0)
        (1, 2, 4, 8, 12, 14, 15)
    """
    return _circle(peers, [1 << power for power in range(max(1, peers).bit_length()) if 1 << power < peers])


def full(peers: int) -> Topology:
    """Every peer talks to every other: W is the mean."""
    return Topology(peers, tuple((i, j) for i in range(_count(peers)) for j in range(i + 1, peers)))


def grid(peers: int, rows: int | None = None) -> Topology:
    """Peers on a rectangle talk to those beside, above and below them; the border is a border.

    Parameters:
        peers: m, counted row by row.
        rows: a divisor of m; None: the largest one that is at most sqrt(m).

    Raises:
        TrainingError: rows that do not divide m, or a number of peers that has no rectangle (rows=1 is a path).

    Example:
        >>> grid(6).edges
        ((0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5))
    """
    if rows is None:
        rows = max(count for count in range(1, isqrt(_count(peers)) + 1) if peers % count == 0)
        if rows == 1 and peers > 3:
            raise TrainingError(f"{peers} peers fill no grid of two rows; take another number, or grid(rows=1), a path")
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1 or _count(peers) % rows:
        raise TrainingError(f"rows = {rows!r} for {peers} peers; expected a divisor of {peers}")
    width = peers // rows
    right = [(i, i + 1) for i in range(peers) if (i + 1) % width]
    return Topology(peers, tuple(right + [(i, i + width) for i in range(peers - width)]))


def edges(pairs: Iterable[tuple[int, int]], peers: int | None = None) -> Topology:
    """Peers with exactly the given pairs as neighbours; `peers`, if given, must be how many they are."""
    plain = tuple((int(one), int(other)) for one, other in pairs)
    count = 1 + max((end for pair in plain for end in pair), default=0)
    return Topology(count if peers is None else peers, plain)


def graph(source: Any, peers: int | None = None) -> Topology:
    """Any undirected graph of networkx, or a file that networkx reads; nodes are peers in the graph's own order.

    Parameters:
        source: a networkx.Graph, or the path of a .gml, .graphml, .edgelist or .adjlist file.
        peers: if given, how many nodes it must have.

    Raises:
        TrainingError: a directed or disconnected graph, edges to oneself, a file that cannot be read, another number of
            nodes, or no networkx.

    Example:
        >>> import networkx
        >>> petersen = graph(networkx.petersen_graph())
        >>> petersen.peers, len(petersen.edges), round(petersen.gap, 4)
        (10, 15, 0.5)
    """
    if isinstance(source, str | Path):
        source = _read(Path(source))
    if not all(hasattr(source, name) for name in ("nodes", "edges", "is_directed", "is_multigraph")):
        raise TrainingError(f"{type(source).__name__} is no graph; give a networkx.Graph, or the path of a file")
    if source.is_directed() or source.is_multigraph():
        raise TrainingError(f"a {type(source).__name__}; mixing goes both ways, once: give networkx.Graph(graph)")
    place = {node: index for index, node in enumerate(source.nodes)}
    if peers is not None and peers != len(place):
        raise TrainingError(f"a graph of {len(place)} nodes for {peers} peers; take {len(place)} peers")
    return Topology(len(place), tuple((place[one], place[other]) for one, other in source.edges))


def _read(path: Path) -> Any:
    name = _READERS.get(path.suffix)
    if name is None:
        raise TrainingError(f"{path}: expected a file that ends in {', '.join(_READERS)}")
    try:
        import networkx
    except ModuleNotFoundError:
        raise TrainingError("graphs from files need networkx; pip install 'demask[federated]'") from None
    try:
        return getattr(networkx, name)(path)
    except OSError as error:
        raise TrainingError(f"{path}: {(error.strerror or str(error)).lower()}; check the path") from None
    except Exception as error:  # every format has errors of its own
        raise TrainingError(f"{path} is no {path.suffix} graph ({error}); write it by networkx") from None


def _circle(peers: int, distances: Iterable[int]) -> Topology:
    _count(peers)
    pairs = {(i, (i + distance) % peers) for i in range(peers) for distance in distances}
    return Topology(peers, tuple({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]}))


def _count(peers: int) -> int:
    if isinstance(peers, bool) or not isinstance(peers, int) or peers < 1:
        raise TrainingError(f"peers = {peers!r}; expected an integer >= 1")
    return peers
