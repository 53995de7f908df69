import networkx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demask.errors import SpecError, TrainingError
from demask.registry import build
from demask.training.federated import Topology, edges, exponential, full, graph, grid, ring

FAMILIES = [ring, grid, exponential, full]


@pytest.mark.parametrize("make", FAMILIES)
@pytest.mark.parametrize("peers", [1, 2, 3, 4, 6, 8, 12, 16])
def test_weights_are_symmetric_and_doubly_stochastic(make, peers):
    check(make(peers).weights())


def check(weights):
    one = torch.ones(len(weights), dtype=torch.float64)
    assert torch.equal(weights, weights.T)
    assert torch.allclose(weights @ one, one, atol=1e-15)
    assert (weights >= 0).all()
    assert (weights.diagonal() > 0).all()  # so the chain has no period, and mixing converges


@given(st.integers(2, 12), st.integers(0, 10**6))
def test_any_graph_any_absence(peers, seed):
    drawn = networkx.compose(networkx.path_graph(peers), networkx.gnp_random_graph(peers, 0.3, seed=seed))
    made = graph(drawn if seed % 2 else networkx.random_labeled_tree(peers, seed=seed))
    present = [i for i in range(peers) if (seed >> i) & 1]
    weights = made.weights(present)
    check(weights)
    absent = [i for i in range(peers) if i not in present]
    assert torch.equal(weights[absent], torch.eye(peers, dtype=torch.float64)[absent])
    assert sorted(i for part in made.parts(present) for i in part) == present


def test_known_spectra():
    """A ring has eigenvalues (1 + 2 cos(2 pi k / m)) / 3; a full graph is the mean."""
    k = torch.arange(8, dtype=torch.float64)
    expected = ((1 + 2 * (2 * torch.pi * k / 8).cos()) / 3).sort().values
    assert torch.allclose(torch.linalg.eigvalsh(ring(8).weights()), expected, atol=1e-14)
    assert ring(8).gap == pytest.approx((2 - 2**0.5) / 3, abs=1e-14)
    assert torch.allclose(full(8).weights(), torch.full((8, 8), 1 / 8, dtype=torch.float64), atol=1e-16)
    assert ring(16).gap < grid(16).gap < exponential(16).gap < full(16).gap


def test_neighbours():
    assert ring(5).neighbours(0) == (1, 4)
    assert grid(6).neighbours(4) == (1, 3, 5)
    assert grid(8, rows=2).neighbours(0) == (1, 4)
    assert exponential(8).neighbours(0) == (1, 2, 4, 6, 7)
    assert full(4).neighbours(2) == (0, 1, 3)
    assert Topology(1, ()).neighbours(0) == ()


def test_weights_follow_the_degrees_of_those_who_are_there():
    star = edges([(0, 1), (0, 2), (0, 3)])
    assert star.weights()[0].tolist() == [0.25, 0.25, 0.25, 0.25]
    assert star.weights({0, 1}).tolist()[0] == [0.5, 0.5, 0.0, 0.0]
    assert star.parts({1, 2, 3}) == [[1], [2], [3]]


def test_graphs_of_networkx(tmp_path):
    square = networkx.Graph([("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")])
    assert graph(square) == ring(4)
    for suffix, write in (("gml", networkx.write_gml), ("graphml", networkx.write_graphml),
                          ("edgelist", networkx.write_edgelist), ("adjlist", networkx.write_adjlist)):  # fmt: skip
        path = tmp_path / f"square.{suffix}"
        write(square, path)
        assert build(f"graph({str(path)!r})", "topology", peers=4).gap == pytest.approx(ring(4).gap)
    assert graph(networkx.Graph([(0, 1)])).gap == pytest.approx(1.0)


def test_specifications():
    assert build("ring", "topology", peers=8) == ring(8)
    assert build("grid(rows=2)", "topology", peers=8) == grid(8, rows=2)
    assert build("edges(((0, 1), (1, 2)))", "topology", peers=3) == grid(3)
    assert build(repr(exponential(6)), "topology") == exponential(6)
    with pytest.raises(SpecError, match="no topology is called 'star'; there are: edges, exponential, full"):
        build("star", "topology", peers=3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: edges([(0, 1), (2, 3)]), r"2 parts that never hear of each other: \[0, 1\] and \[2, 3\].*\(0, 2\)"),
        (lambda: Topology(3, ((0, 1),)), "2 parts"),
        (lambda: edges([(0, 0)]), "peer 0 has an edge to itself"),
        (lambda: edges([(0, 1), (1, 0)]), "named twice"),
        (lambda: Topology(2, ((0, 2),)), r"\(0, 2\) among 2 peers"),
        (lambda: ring(0), "peers = 0"),
        (lambda: full(True), "peers = True"),
        (lambda: grid(7), "7 peers fill no grid"),
        (lambda: grid(8, rows=3), "a divisor of 8"),
        (lambda: graph(networkx.DiGraph([(0, 1)])), "DiGraph"),
        (lambda: graph(networkx.Graph([(0, 1), (2, 3)])), "2 parts"),
        (lambda: graph(networkx.path_graph(3), 4), "3 nodes for 4 peers"),
        (lambda: graph(7), "int is no graph"),
        (lambda: graph("peers.txt"), r"ends in \.gml"),
        (lambda: graph("none.gml"), r"none\.gml: no such file"),
    ],
)
def test_bad_topologies(make, words):
    with pytest.raises(TrainingError, match=words):
        make()


def test_a_broken_file(tmp_path):
    (tmp_path / "x.gml").write_text("graph [ node [")
    with pytest.raises(TrainingError, match=r"is no \.gml graph"):
        graph(tmp_path / "x.gml")
