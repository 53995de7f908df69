"""Markov chains of any order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demask.canvas import Canvas
from demask.curve import Curve, Estimate
from demask.errors import OracleError
from demask.oracles.alphabet import Alphabet
from demask.oracles.base import Noise, Oracle, distributions, draw
from demask.oracles.graphs import Edge, Forest, check_length, gather_beliefs, shown
from demask.oracles.semiring import LogMatrix

Floats = NDArray[np.float64]
_ENTRIES: Final = 1 << 26  # numbers that the cached powers of a transition matrix may take
_TRANSITION: Final = 1 << 24  # numbers in the largest transition array
_CHUNK: Final = 1 << 16  # numbers gathered at once, so that they stay in the cache
_SETTLED: Final = 1e-14  # nats by which powers of a transition matrix may differ when they no longer change


@dataclass(frozen=True, eq=False, repr=False)
class Chain(Oracle):
    """Every token depends on the `order` tokens before it.

    Order 1: p(x_i | visible) = T^d[x_l, x_i] T^e[x_i, x_r] / T^(d+e)[x_l, x_r] for the nearest visible tokens x_l, d
    places before i, and x_r, e places after; the law of X_i stands for T^d[x_l, .] where no token before i is visible.
    Cost: O(M V) given the powers of T, which are built once for the distances that occur, O(V^3) each; where they would
    take more than 2**26 numbers, O(B n V^2) by messages. Curve, entropy, TC and DTC are exact.
    Order m >= 2: O(B n V^(m+1)), by messages between windows of m tokens. Curve, entropy, TC and DTC are exact where
    `V**n <= 2**16` (enumeration), otherwise Monte Carlo.

    Parameters:
        initial: joint law of the first `order` tokens, (V,) * order; need not be stationary.
        transition: law of a token given the `order` tokens before it, oldest first, (V,) * (order + 1).
        length: positions, n >= order.
        order: m >= 1.
        alphabet: what the tokens stand for.

    Raises:
        OracleError: shapes that do not fit, rows that are not distributions, or `V**(order + 1) > 2**24`.

    Example:
        >>> chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=5)
        >>> canvas = Canvas(torch.tensor([[0, 0, 0, 1, 0]]), torch.tensor([[False, True, False, False, True]]))
        >>> chain(canvas, canvas.masked).logits.exp().round(decimals=4).tolist()
        [[0.9143, 0.0857], [0.3, 0.7]]
        >>> round(chain.entropy(), 6), round(chain.tc(), 6), round(chain.dtc(), 6)
        (2.85136, 0.513698, 0.419985)

    Reference: Cover and Thomas, 2006, Elements of Information Theory, section 4.2; as a denoiser without error in
    "Is Your Diffusion Sampler Actually Correct?", 2026, arXiv 2602.19619.
    """

    initial: Tensor
    transition: Tensor
    length: int
    order: int = 1
    alphabet: Alphabet | None = None
    vocabulary: int = field(init=False)

    def __post_init__(self) -> None:
        check_length(self.length)
        if self.order < 1 or self.length < self.order:
            raise OracleError(f"order {self.order} at length {self.length}; expected 1 <= order <= length")
        tokens = np.shape(self.transition)[-1] if np.ndim(self.transition) else 0
        check_size(tokens, self.order)
        shape = (tokens,) * (self.order + 1)
        if self.alphabet is not None and len(self.alphabet) != tokens:
            raise OracleError(f"an alphabet of {len(self.alphabet)} symbols for {tokens} tokens; expected as many")
        initial = distributions("initial", self.initial, shape[1:], over=self.order)
        object.__setattr__(self, "initial", initial)
        object.__setattr__(self, "transition", distributions("transition", self.transition, shape))
        object.__setattr__(self, "vocabulary", tokens)

    @classmethod
    def markov(cls, initial: Any, transition: Any, length: int) -> "Chain":
        """Return the chain of order 1 with first law `initial` (V,) and steps `transition` (V, V)."""
        return cls(initial, transition, length)

    @classmethod
    def random(cls, length: int, vocabulary: int = 2, *, key: int = 0, concentration: float = 1.0) -> "Chain":
        """Return a chain of order 1 whose first law and rows are drawn from a symmetric Dirichlet law."""
        if vocabulary < 1 or concentration <= 0:
            raise OracleError(f"vocabulary {vocabulary}, concentration {concentration}; expected positive numbers")
        rows = np.random.default_rng(key).gamma(concentration, size=(vocabulary + 1, vocabulary))
        rows /= rows.sum(1, keepdims=True)
        return cls(torch.from_numpy(rows[0]), torch.from_numpy(rows[1:]), length)

    def entropy(self, *, samples: int = 1024, key: int = 0) -> Estimate:
        """Return H(X), nats; order 1: H(X_0) + sum_i H(X_i | X_{i-1}), exact."""
        if self.order > 1:
            return super().entropy(samples=samples, key=key)
        return Estimate(self._own_entropy[0] + self._step_entropies(1)[1].sum())

    def dtc(self, *, samples: int = 1024, key: int = 0) -> Estimate:
        """Return H(X) - sum_i H(X_i | others), nats; order 1: exact, the others being the neighbours."""
        if self.order > 1:
            return super().dtc(samples=samples, key=key)
        if self.length == 1:
            return Estimate(0.0)
        _, one, two = self._step_entropies(2)
        own = self._own_entropy
        inner = one[:-1].sum() + one[1:].sum() - two.sum()
        return Estimate(float(self.entropy()) - inner - (own[0] + one[0] - own[1]) - one[-1])

    @cached_property
    def _marginal_entropy(self) -> float:
        return float(self._own_entropy.sum()) if self.order == 1 else super()._marginal_entropy

    # --- order 1: powers of the transition matrix ---------------------------------------------------------------------

    @cached_property
    def _powers(self) -> "_Powers | None":
        small = self.order == 1 and 2 * self.length * self.vocabulary**2 <= _ENTRIES
        return _Powers(self.initial.log(), self.transition.log(), self.length) if small else None

    def _logits(self, canvas: Canvas, where: Tensor) -> Tensor:
        if self._powers is None:
            return self._by_messages(canvas, where, None)
        return self._powers.conditionals(canvas, where, self._refuse)

    @cached_property
    def _laws(self) -> Tensor:
        """The law of every token, (n, V); order 1."""
        laws = [self.initial]
        for _ in range(1, self.length):
            laws.append(laws[-1] @ self.transition)
        return torch.stack(laws)

    @cached_property
    def _own_entropy(self) -> Floats:
        return np.asarray(torch.special.entr(self._laws).sum(-1))

    def _row_entropies(self, reach: int) -> Tensor:
        """Entropy of every row of T^1 .. T^reach, (reach, V)."""
        rows, power = torch.empty(reach, self.vocabulary, dtype=torch.float64), self.transition
        for d in range(reach):
            rows[d:] = torch.special.entr(power).sum(-1)
            last, power = power, power @ self.transition
            if (power - last).abs().max() <= 1e-15:
                break  # the powers have converged, and the rest is as it is now
        return rows

    def _step_entropies(self, reach: int) -> list[Floats]:
        """H(X_i | X_{i-d}) for i = d .. n-1, for d = 0 .. reach."""
        rows = self._row_entropies(reach)
        return [
            np.zeros(self.length),
            *[(self._laws[: max(0, self.length - d)] @ rows[d - 1]).numpy() for d in range(1, reach + 1)],
        ]

    @cached_property
    def _exact_curve(self) -> Curve | None:
        """Average H(X_i | nearest visible tokens) over the places where these can be.

        Among j of the n - 1 other positions, chosen at random, two positions at distance g are visible and all between
        them hidden but for i with probability C(n-1-g, j-2) / C(n-1, j); one at s, and all after it hidden, with
        probability C(s, j-1) / C(n-1, j). With c(s, t) = H(X_t | X_s), H(X_i | X_s, X_t) = c(s, i) + c(i, t) - c(s, t).
        """
        if self.order > 1:
            return super()._exact_curve
        n = self.length
        steps = self._step_entropies(n - 1)
        given = np.zeros((n, n))  # c(s, t) for s < t
        for distance in range(1, n):
            s = np.arange(n - distance)
            given[s, s + distance] = steps[distance]
        after = given.cumsum(1)  # at (s, t), the sum of c(s, i) over i <= t
        before = given[::-1].cumsum(0)[::-1]  # at (s, t), the sum of c(i, t) over i >= s
        inner = np.zeros(n)  # by distance: the sum over s < i < t of H(X_i | X_s, X_t)
        for distance in range(2, n):
            s = np.arange(n - distance)
            t = s + distance
            inner[distance] = np.sum(after[s, t - 1] + before[s + 1, t] - (distance - 1) * given[s, t])
        own = self._own_entropy
        earlier = given.sum(1)  # by s: the sum over i > s of H(X_i | X_s)
        later = np.array([np.sum(own[:t] + given[:t, t]) - t * own[t] for t in range(n)])  # by t: i < t
        room = np.arange(n)
        two = _share(n - 1, room[:, None], n - 1 - room[None, :], 2) @ inner
        one = _share(n - 1, room[:, None], room[None, :], 1) @ earlier
        one += _share(n - 1, room[:, None], n - 1 - room[None, :], 1) @ later
        none = np.where(room == 0, own.sum(), 0.0)
        return Curve((two + one + none) / n)

    # --- any order: messages between windows --------------------------------------------------------------------------

    @cached_property
    def _forest(self) -> Forest:
        logs = self.transition.log().reshape(self.vocabulary, -1, self.vocabulary)
        nodes = self.length - self.order + 1
        return Forest(range(-1, nodes - 1), self.initial.log().flatten(), [None, *[Edge(logs)] * (nodes - 1)])

    def _noised(self, canvas: Canvas, noise: Noise) -> Tensor:
        return self._by_messages(canvas, noise.where, noise)

    def _by_messages(self, canvas: Canvas, where: Tensor, noise: Noise | None) -> Tensor:
        m, tokens = self.order, self.vocabulary
        exactly = torch.eye(tokens, dtype=torch.float64).log()
        digit = [exactly.repeat_interleave(tokens ** (m - 1 - k), 1).tile(tokens**k) for k in range(m)]

        def evidence(node: int) -> Tensor:
            last = shown(canvas, node + m - 1, digit[-1], noise)
            return last if node else last + sum(shown(canvas, k, digit[k], noise) for k in range(m - 1))

        def read(belief: Tensor, position: int) -> Tensor:
            windows = torch.unflatten(belief, 1, (tokens,) * m).movedim(1 + min(position, m - 1), 1)
            return windows.flatten(2).logsumexp(-1) if m > 1 else windows

        total, beliefs = self._forest.beliefs(evidence)
        self._refuse(total == -torch.inf)
        return gather_beliefs([beliefs[0]] * (m - 1) + beliefs, where, tokens, read)

    def _log_prob(self, tokens: Tensor) -> Tensor:
        m, n = self.order, self.length
        total = self.initial.log()[tuple(tokens[:, k] for k in range(m))]
        steps = self.transition.log()[tuple(tokens[:, k : n - m + k] for k in range(m + 1))]
        return total + steps.sum(1)

    def _sample(self, count: int, generator: torch.Generator) -> Tensor:
        m, vocabulary = self.order, self.vocabulary
        tokens = torch.empty(count, self.length, dtype=torch.int64)
        window = draw(self.initial.flatten().expand(count, -1), generator)
        for k in range(m):
            tokens[:, k] = window // vocabulary ** (m - 1 - k) % vocabulary
        law = self.transition.reshape(-1, vocabulary)
        for t in range(m, self.length):
            tokens[:, t] = draw(law[window], generator)
            window = window % vocabulary ** (m - 1) * vocabulary + tokens[:, t]
        return tokens


class _Powers:
    """The logarithms of the powers of a transition matrix, as far as they were asked for.

    `_left` has the row log p(X_i = .) at i, then the rows log T^d[x, .] at n + (d - 1) V + x; `_right` has a row of zeros,
    then the rows log T^d[., x] at 1 + (d - 1) V + x. Both grow by doubling d, and stop growing once T^d no longer changes.
    """

    def __init__(self, initial: Tensor, transition: Tensor, length: int) -> None:
        self._length, self._vocabulary = length, len(initial)
        step = LogMatrix(transition)
        laws = [initial[None]]
        for _ in range(1, length):
            laws.append(step.after(laws[-1]))
        self._laws = torch.cat(laws)
        self._settled = False
        self._keep(transition[None])

    def conditionals(self, canvas: Canvas, where: Tensor, refuse: Callable[[Tensor], None]) -> Tensor:
        """Return the packed log-probabilities (M, V); `refuse` gets the rows (B,) that show the impossible."""
        n, position = self._length, torch.arange(self._length)
        visible, tokens = ~canvas.masked, canvas.tokens.masked_fill(canvas.masked, 0)
        left = torch.where(visible, position, -1).cummax(1).values
        right = torch.where(visible, position, n).flip(1).cummin(1).values.flip(1)
        previous = torch.nn.functional.pad(left, (1, 0), value=-1)[:, :-1]  # of visible tokens

        row, here = visible.nonzero(as_tuple=True)
        before = previous[row, here]
        asked_row, asked = where.nonzero(as_tuple=True)
        asked_left, asked_right = left[asked_row, asked], right[asked_row, asked]
        bounded = asked_right < n
        self._grow(_largest((here - before)[before >= 0]))
        self._grow(_largest((asked - asked_left)[asked_left >= 0]))
        self._grow(_largest((asked_right - asked)[bounded]))

        impossible = self._log_step(tokens, row, before, here) == -torch.inf
        refuse(torch.zeros(canvas.shape[0], dtype=torch.bool).index_fill(0, row[impossible], True))

        row, end = asked_row, asked_right.clamp(max=n - 1)
        normaliser = torch.where(bounded, self._log_step(tokens, row, asked_left, end), 0.0)
        rows = self._left_row(tokens, row, asked_left, asked)
        columns = torch.where(bounded, 1 + self._index(asked_right - asked, tokens[row, end]), 0)
        out = torch.empty(len(row), self._vocabulary, dtype=torch.float64)
        for start in range(0, len(row), step := max(1, _CHUNK // self._vocabulary)):
            part = slice(start, start + step)
            torch.index_select(self._left, 0, rows[part], out=out[part])
            out[part] += self._right.index_select(0, columns[part])
            out[part] -= normaliser[part, None]
        return out

    def _log_step(self, tokens: Tensor, row: Tensor, before: Tensor, here: Tensor) -> Tensor:
        """Log p(the visible token at `here` | that at `before`, or none where it is -1)."""
        return self._left[self._left_row(tokens, row, before, here), tokens[row, here]]

    def _left_row(self, tokens: Tensor, row: Tensor, before: Tensor, here: Tensor) -> Tensor:
        state = tokens[row, before.clamp(min=0)]
        return torch.where(before < 0, here, self._length + self._index(here - before, state))

    def _index(self, distance: Tensor, state: Tensor) -> Tensor:
        return (distance.clamp(1, self._reach) - 1) * self._vocabulary + state

    def _grow(self, distance: int) -> None:
        powers = self._left[self._length :].view(-1, self._vocabulary, self._vocabulary)
        if self._settled or len(powers) >= distance:
            return
        while len(powers) < distance and not self._settled:
            more = LogMatrix(powers[-1]).after(powers[: self._length - len(powers)]).log_softmax(-1)
            doubled = len(more) == len(powers) and len(more) > 1
            self._settled = doubled and _equal(more[-1], more[-2]) and _equal(more[-1], powers[-1])
            powers = torch.cat([powers, more])
        self._keep(powers)

    def _keep(self, powers: Tensor) -> None:
        self._left = torch.cat([self._laws, powers.flatten(0, 1)])
        none = torch.zeros(1, self._vocabulary, dtype=torch.float64)
        self._right = torch.cat([none, powers.mT.flatten(0, 1)])
        self._reach = len(powers)


def check_size(vocabulary: int, order: int) -> None:
    """Refuse transition arrays of more than 2**24 numbers."""
    if vocabulary ** (order + 1) > _TRANSITION:
        raise OracleError(
            f"order {order} over {vocabulary} tokens needs {vocabulary}**{order + 1} = {vocabulary ** (order + 1)} "
            f"transition probabilities; expected at most {_TRANSITION}: lower the order"
        )


def _largest(distances: Tensor) -> int:
    return int(distances.max()) if len(distances) else 1


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two matrices of logarithms agree, with the same zeros."""
    return torch.equal(a == -torch.inf, b == -torch.inf) and bool(((a - b).nan_to_num(0.0).abs() <= _SETTLED).all())


def _share(total: int, chosen: NDArray[np.int64], room: NDArray[np.int64], fixed: int) -> Floats:
    """C(room, chosen - fixed) / C(total, chosen), 0 where that is no subset."""
    from scipy.special import gammaln

    rest = chosen - fixed
    valid = (rest >= 0) & (rest <= room)
    rest, left = np.where(valid, rest, 0), np.where(valid, room, 0)

    def log_binomial(n: NDArray[np.int64] | int, k: NDArray[np.int64]) -> Floats:
        return np.asarray(gammaln(np.add(n, 1)) - gammaln(k + 1) - gammaln(np.subtract(n, k) + 1))

    return np.where(valid, np.exp(log_binomial(left, rest) - log_binomial(total, chosen)), 0.0)
