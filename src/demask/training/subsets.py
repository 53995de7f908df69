"""The law of N of M that are drawn one after another without replacement, and its gradient.

With logits z of a block and p = softmax(z), a set S of N is drawn with probability

    P(S) = sum over the orders a of S of prod_j p_{a_j} / (1 - p_{a_1} - .. - p_{a_{j-1}}).

The sum over N! orders is one over the 2^N sets T that an order has drawn so far. With D(T) the log of the sum of exp z
outside T, the log-probability of the next draw k is z_k - D(T), so nothing is ever divided by a vanishing 1 - p. If w(T) is
the probability, given S, that an order passes through T,

    d log P(S) / d z_k = 1[k in S] - sum over T < S, k not in T, of w(T) exp(z_k - D(T)).

For N = 2, S = {i, j}: w({i}) = sigmoid(D({j}) - D({i})), and the gradient is 1[S] - softmax(z) - w({i}) softmax(z without i)
- w({j}) softmax(z without j).

Reference: Sun et al., MaskPro, 2025, arXiv 2506.12876 (2:4; the sum over sets for general N:M is ours).
"""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from demask.contracts import Chance

_SPACE: Final = 1 << 22  # numbers that a sum over sets may hold at once


def top(scores: Tensor, kept: int) -> Tensor:
    """Return the `kept` largest of each block: (K, M) -> (K, M) bool, with exactly `kept` True in every row.

    Example:
        >>> top(torch.tensor([[3.0, 1.0, 2.0, 2.0]]), 1)
        tensor([[ True, False, False, False]])
    """
    out = torch.zeros_like(scores, dtype=torch.bool)
    return out.scatter_(1, scores.topk(kept, 1).indices, True)


def draw(logits: Tensor, kept: int, chance: Chance) -> Tensor:
    """Draw `kept` of each block one after another without replacement: logits (K, M) -> (K, M) bool.

    The `kept` largest of logits plus Gumbel noise have this law.
    """
    everything = torch.ones_like(logits, dtype=torch.bool)
    return top(chance.permutation(everything, logits), kept)


def log_prob(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return log P(S) of each block: logits (K, M), sets (K, M) bool of equal size -> (K,).

    Example:
        >>> logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
        >>> pair = torch.tensor([[True, True, False, False]])
        >>> round(float(log_prob(logits, pair).exp()), 6)  # p q (1 / (1 - p) + 1 / (1 - q))
        0.416667
    """
    inside = _inside(chosen)
    if inside.shape[1] == 1:
        return logits.log_softmax(1).gather(1, inside)[:, 0]
    if inside.shape[1] == 2:
        (_, first), (_, second) = _pair(logits, inside)
        return logits.gather(1, inside).sum(1) - logits.logsumexp(1) + torch.logaddexp(-first, -second)
    return _by_chunk(logits, inside, gradient=False)


def gradient(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return d log P(S) / d logits of each block: (K, M) and (K, M) bool -> (K, M).

    Cost: O(M) per block for N <= 2, else O(2^N M) in parts of bounded size.

    Example:
        >>> gradient(torch.zeros(1, 4), torch.tensor([[True, True, False, False]]))
        tensor([[ 0.5833,  0.5833, -0.5833, -0.5833]])
    """
    inside = _inside(chosen)
    if inside.shape[1] == 1:
        return chosen.to(logits) - logits.softmax(1)
    if inside.shape[1] == 2:
        (after_first, first), (after_second, second) = _pair(logits, inside)
        weight = (second - first).sigmoid()  # (K,), how likely the first of the pair came first
        expected = logits.t().contiguous().softmax(0) + weight * after_first + (1 - weight) * after_second  # (M, K)
        return chosen.to(logits) - expected.t()
    return _by_chunk(logits, inside, gradient=True)


def _inside(chosen: Tensor) -> Tensor:
    """Return the places of each set, (K, N)."""
    return chosen.nonzero()[:, 1].view(len(chosen), -1)


def _pair(logits: Tensor, inside: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for either of a pair (K, 2), the law once it is gone, (M, K), and the log of what is left, (K,).

    Blocks stand side by side: sums over rows of four numbers are several times slower.
    """
    aside = logits.t().contiguous()
    for place in inside.t():
        rest = aside.scatter(0, place[None], -torch.inf)
        yield rest.softmax(0), rest.logsumexp(0)


def _by_chunk(logits: Tensor, inside: Tensor, *, gradient: bool) -> Tensor:
    size = max(1, _SPACE // (logits.shape[1] << inside.shape[1]))
    parts = zip(torch.split(logits, size), torch.split(inside, size), strict=True)
    return torch.cat([_over_sets(z, places, gradient=gradient) for z, places in parts])


def _over_sets(logits: Tensor, inside: Tensor, *, gradient: bool) -> Tensor:
    """Return log P, (K,), or its gradient, (K, M), by the sum over the sets T within S; set number t holds the bits of t."""
    blocks, count = inside.shape
    sets = 1 << count
    member = (torch.arange(sets, device=logits.device)[:, None] >> torch.arange(count, device=logits.device)) & 1 == 1
    own = logits.gather(1, inside)  # (K, N)
    outside = logits.scatter(1, inside, -torch.inf).logsumexp(1)  # (K,)
    open_ones = own[:, None, :].expand(-1, sets, -1).masked_fill(member, -torch.inf)  # (K, 2^N, N)
    left = torch.cat((open_ones, outside[:, None, None].expand(-1, sets, 1)), 2).logsumexp(2)  # (K, 2^N), D(T)
    reached = [logits.new_zeros(blocks)]  # log of the probability that the draws so far are T
    for t in range(1, sets):
        last = [k for k in range(count) if t >> k & 1]
        ways = [reached[t ^ (1 << k)] - left[:, t ^ (1 << k)] + own[:, k] for k in last]
        reached.append(torch.stack(ways).logsumexp(0))
    if not gradient:
        return reached[-1]
    onward = [logits.new_zeros(blocks)] * sets  # log of the probability to end at S from T
    for t in range(sets - 2, -1, -1):
        following = [k for k in range(count) if not t >> k & 1]
        ways = [own[:, k] - left[:, t] + onward[t | (1 << k)] for k in following]
        onward[t] = torch.stack(ways).logsumexp(0)
    passing = (torch.stack(reached[:-1], 1) + torch.stack(onward[:-1], 1) - reached[-1][:, None]).exp()  # (K, 2^N - 1)
    wide = (blocks, sets - 1, logits.shape[1])
    taken = torch.zeros(wide, dtype=torch.bool, device=logits.device)
    taken.scatter_(2, inside[:, None, :].expand(-1, sets - 1, -1), member[:-1].expand(blocks, -1, -1))
    shares = (logits[:, None, :] - left[:, :-1, None]).masked_fill(taken, -torch.inf).exp()  # (K, 2^N - 1, M)
    chosen = torch.zeros_like(logits).scatter_(1, inside, 1.0)
    return chosen - torch.einsum("kt,ktm->km", passing, shares)
