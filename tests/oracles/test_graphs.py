import numpy as np
import pytest
import torch

from demask.canvas import Canvas
from demask.errors import OracleError
from demask.oracles import HMM, Chain, Tree
from demask.oracles import graphs as module
from demask.oracles.semiring import LogMatrix

RNG = np.random.default_rng(99)


def simplex(*shape):
    weights = RNG.gamma(0.4, size=shape)
    return weights / weights.sum(-1, keepdims=True)


def test_hmm_log_prob_from_the_definition():
    hmm = HMM(simplex(3), simplex(3, 3), simplex(3, 4), 3)
    a, t, e = hmm.initial.numpy(), hmm.transition.numpy(), hmm.emission.numpy()
    joint = np.einsum("a,ab,bc,ax,by,cz->xyz", a, t, t, e, e, e)
    tokens = hmm.sample(30, key=0)
    np.testing.assert_allclose(hmm.log_prob(tokens).exp().numpy(), joint[tuple(tokens.T.numpy())], rtol=1e-12)


def test_tree_log_prob_from_the_definition():
    """The root is in the middle of the list and a child comes before its parent."""
    tree = Tree([2, 0, -1, 2], simplex(3), simplex(4, 3, 3))
    r, t = tree.root.numpy(), tree.transitions.numpy()
    joint = np.einsum("c,ca,ab,cd->abcd", r, t[0], t[1], t[3])
    tokens = tree.sample(30, key=0)
    np.testing.assert_allclose(tree.log_prob(tokens).exp().numpy(), joint[tuple(tokens.T.numpy())], rtol=1e-12)


def test_order_two_log_prob_from_the_definition():
    start, step = simplex(3, 3) / 3, simplex(3, 3, 3)
    chain = Chain(start, step, 4, order=2)
    joint = np.einsum("ab,abc,bcd->abcd", start, step, step)
    tokens = chain.sample(30, key=0)
    np.testing.assert_allclose(chain.log_prob(tokens).exp().numpy(), joint[tuple(tokens.T.numpy())], rtol=1e-12)


def test_a_path_is_a_chain():
    chain = Chain.markov(simplex(3), simplex(3, 3), 50)
    tree = Tree(range(-1, 49), chain.initial, chain.transition)
    tokens = chain.sample(4, key=1)
    masked = torch.rand(4, 50, generator=torch.Generator().manual_seed(1)) < 0.8
    canvas = Canvas(tokens, masked)
    torch.testing.assert_close(tree(canvas, masked).logits, chain(canvas, masked).logits, rtol=0, atol=1e-10)
    for name in ("entropy", "tc", "dtc"):
        assert getattr(tree, name)() == pytest.approx(getattr(chain, name)(), abs=1e-9)
        assert getattr(tree, name)().exact


def test_a_star_with_many_leaves(monkeypatch):
    """A node with 300 children: its messages are combined from both ends, and its DTC is sampled."""
    flip = [[0.7, 0.3], [0.2, 0.8]]
    star = Tree([-1, *[0] * 300], [0.4, 0.6], flip)
    tokens = star.sample(3, key=0)
    masked = torch.ones(3, 301, dtype=torch.bool)
    masked[:, 1:201] = False
    canvas = Canvas(tokens, masked)
    got = star(canvas, masked).logits.view(3, 101, 2)
    step = np.array(flip)
    for row in range(3):
        hub = np.log([0.4, 0.6]) + np.log(step)[:, tokens[row, 1:201].numpy()].sum(1)
        hub -= np.logaddexp(*hub)
        np.testing.assert_allclose(got[row, 0].numpy(), hub, rtol=1e-10)
        np.testing.assert_allclose(got[row, 100].exp().numpy(), np.exp(hub) @ step, rtol=1e-10)
    assert not star.dtc(samples=50).exact
    small = Tree([-1, 0, 0, 0, 1], [0.4, 0.6], flip)
    exact = small.dtc()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_NEIGHBOURHOOD", 1)
        assert small.dtc() == pytest.approx(exact, abs=1e-12)  # by enumeration of all sequences instead


def test_totals_of_a_large_tree_are_exact():
    parents = [-1, *[(i - 1) // 2 for i in range(1, 63)]]
    tree = Tree(parents, [0.3, 0.7], [[0.9, 0.1], [0.4, 0.6]])
    for estimate, mean in [
        (tree.entropy(), -tree.log_prob(tree.sample(20_000, key=4)).mean()),
        (tree.tc(), None),
        (tree.dtc(), None),
    ]:
        assert estimate.exact
        assert mean is None or float(mean) == pytest.approx(estimate, rel=0.005)
    sampled = super(Tree, tree).dtc(samples=2000, key=1)
    assert abs(sampled - tree.dtc()) < 5 * sampled.error
    curve = tree.curve(samples=4, key=0)
    assert curve.tc + curve.dtc == pytest.approx(63 * (curve.values[0] - curve.values[-1]))


def test_an_hmm_with_nearly_impossible_states():
    """Both ways to explain the tokens have probabilities below the least double; their ratio is 2."""
    n, tiny = 300, 1e-3
    hmm = HMM([1 / 3, 2 / 3], np.eye(2), [[tiny, 1 - tiny, 0.0], [tiny, 0.0, 1 - tiny]], n)
    canvas = Canvas(torch.zeros(1, n, dtype=torch.int64), torch.arange(n)[None] == 7)
    assert hmm(canvas, canvas.masked).logits.exp()[0].tolist() == pytest.approx(
        [tiny, (1 - tiny) / 3, 2 * (1 - tiny) / 3]
    )
    assert float(hmm.log_prob(canvas.tokens)) == pytest.approx(n * np.log(tiny))


def test_products_of_logarithms_are_exact_where_probabilities_vanish():
    left = torch.tensor([[0.0, -1e4, -torch.inf], [-torch.inf] * 3]).double()
    right = torch.tensor([[-torch.inf, -3e4], [-5.0, -1e4], [0.0, 0.0]]).double()
    assert LogMatrix(right).after(left).tolist() == [[-10005.0, -20000.0], [-torch.inf, -torch.inf]]
    rng = np.random.default_rng(1)
    a, b = torch.from_numpy(rng.normal(size=(4, 5, 6)) * 900), torch.from_numpy(rng.normal(size=(6, 7)) * 900)
    expected = torch.logsumexp(a[..., None] + b, -2)
    torch.testing.assert_close(LogMatrix(b).after(a), expected, rtol=1e-12, atol=0)
    assert LogMatrix(b).after(a[:0]).shape == (0, 5, 7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Tree([0, 0], [0.5, 0.5], np.eye(2)), r"0 roots at \[\]; expected exactly one parent of -1"),
        (lambda: Tree([-1, -1], [0.5, 0.5], np.eye(2)), r"2 roots at \[0, 1\]"),
        (lambda: Tree([-1, 2, 1], [0.5, 0.5], np.eye(2)), r"nodes \[1, 2\] do not descend from the root"),
        (lambda: Tree([-1, 5], [0.5, 0.5], np.eye(2)), "the parent of node 1 is 5; expected -1 .* to 1"),
        (lambda: Tree([-1, 0], [0.5, 0.5], np.eye(3)), r"transitions has shape \(3, 3\); expected \(2, 2\)"),
        (lambda: Tree([-1, 0], [0.5, 0.5], np.ones((2, 2, 2))), r"transitions\[0, 0\] sums to 2"),
        (lambda: Tree([-1, 0], [0.5, 0.6], np.eye(2)), "root sums to 1.1"),
        (lambda: HMM([0.5, 0.5], np.eye(2), np.eye(2), 0), "a length of 0"),
        (lambda: HMM([0.5, 0.5], np.eye(3), np.eye(2), 4), r"transition has shape \(3, 3\); expected \(2, 2\)"),
        (lambda: HMM([0.5, 0.5], np.eye(2), np.ones((2, 3)), 4), r"emission\[0\] sums to 3"),
        (lambda: HMM(0.5, np.eye(2), np.eye(2), 4), "initial has shape"),
    ],
)
def test_errors(build, message):
    with pytest.raises(OracleError, match=message):
        build()
