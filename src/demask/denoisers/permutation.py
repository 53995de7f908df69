"""A permutation transformer: two streams through one network, so that any order of filling has an exact joint law.

Every position stands twice in the input. The *content* stream knows the token; the *query* stream knows only the place, and
what it finds is the law of its token. Ranks say who sees whom: content sees content of smaller or equal rank, a query
sees content of smaller rank, and itself; nobody sees a query of another. One *anchor* at the first place is seen by all:
distances alone would not tell the first query, which sees nothing else, where in the row it is.

So all laws p(x_i | x_j, rank_j < rank_i) of a filling come out of one pass, and their product is a joint law. The network is
that of `transformer.py`, its rows twice as long.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from demask.canvas import Canvas, Marginals
from demask.denoisers.transformer import Network, read, spots


def streams(
    network: Network, ids: Tensor, ranks: Tensor, *, documents: Tensor | None = None, present: Tensor | None = None
) -> Tensor:
    """Return the features of every position's query, (B, N, D), each given the tokens of smaller rank alone.

    Parameters:
        network: its embedding's row V is the query, row 0 the anchor.
        ids: (B, N) int64, V where nothing is written.
        ranks: (B, N) integers; equal ranks see each other as content, never as queries.
        documents: (B, N), as for the network.
        present: (B, N) bool, the positions that are seen. None: all of them.

    Cost: a pass over 2 N + 1 positions.
    """
    nothing = torch.full_like(ids, network.shape.vocabulary)
    written = ids != nothing if present is None else (ids != nothing) & present
    later, earlier = ranks[:, :, None], ranks[:, None, :]
    offered = written[:, None, :]  # (B, 1, N), of the content
    if documents is not None:
        offered = offered & (documents[:, :, None] == documents[:, None, :])  # (B, N, N)
    own = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device).expand(later.shape[0], -1, -1)
    content = torch.cat((offered & (earlier <= later) | own, torch.zeros_like(own)), 2)  # (B, N, 2N)
    query = torch.cat((offered & (earlier < later), own), 2)  # (B, N, 2N)
    seen = functional.pad(torch.cat((content, query), 1), (0, 0, 0, 1))  # (B, 2N + 1, 2N), the anchor sees itself alone
    seen = functional.pad(seen, (0, 1), value=True)[:, None]  # (B, 1, 2N + 1, 2N + 1)
    places = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape) if documents is None else spots(documents)
    places = functional.pad(places.repeat(1, 2), (0, 1))  # (B, 2N + 1)
    # The anchor's vector must not be the query's: a mean of equal vectors does not tell distances. Token 0's will do.
    anchor = torch.zeros_like(ids[:, :1])
    features: Tensor = network(torch.cat((ids, nothing, anchor), 1), places=places, seen=seen)
    return features[:, ids.shape[1] : -1]


@dataclass(frozen=True, eq=False)
class Permutation:
    """A denoiser that knows the joint law of any filling in any order: the network, asked through two streams.

    Asked as any denoiser, it gives the law of each masked token given the visible ones, which see each other. It knows where
    a row begins, and not where it ends: what follows the last visible token may be any number of masked ones. The laws of
    different orders agree only as far as the training has made them: the joint law is one per order.

    Raises:
        DenoiserError: a canvas longer than the context, or visible tokens outside 0 .. V - 1.

    Cost: one pass over 2 N + 1 positions; M V D more for the logits of M asked positions.

    Example:
        >>> from demask.denoisers import Shape
        >>> model = Permutation(Network(Shape.of("tiny", 3, 2)))
        >>> pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
        >>> order = torch.tensor([2, 1]).expand(9, 2)
        >>> round(float(model.log_prob(pairs, order).exp().sum()), 4)
        1.0

    Reference: Yang et al., XLNet, 2019, arXiv 1906.08237; as any-subset models in Guo and Ermon, Reviving any-subset
    autoregressive models, 2025, arXiv 2504.20456.
    """

    network: Network

    @property
    def context(self) -> int:
        """The most positions that a canvas may have."""
        return self.network.shape.context

    @property
    def vocabulary(self) -> int:
        """How many tokens can be written, V."""
        return self.network.shape.vocabulary

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.network.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """In what precision it computes, and answers."""
        return self.network.embedding.weight.dtype

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer for the positions `where` (B, N) bool, all masked, given everything visible."""
        return self.along(canvas, where, canvas.masked.long())

    @torch.no_grad()
    def along(self, canvas: Canvas, where: Tensor, ranks: Tensor) -> Marginals:
        """Answer for the positions `where` (B, N), each given the visible tokens of smaller rank (B, N) alone."""
        ids, present = read(canvas, self.network.shape)
        features = streams(self.network, ids, ranks, present=present)  # (B, N, D)
        return Marginals(where, self.network.logits(features[where]))  # (M, V)

    def log_prob(self, tokens: Tensor, ranks: Tensor) -> Tensor:
        """Return log p of full rows (B, N) along ranks (B, N), given what has rank 0: (B,) nats, in one pass."""
        where = ranks > 0
        answer = self.along(Canvas(tokens, torch.zeros_like(where)), where, ranks)
        return answer.spread(answer.logp(tokens[where])).sum(1)

    def compiled(self) -> "Permutation":
        """Return a copy whose network is compiled for speed: a minute at the first call, for any shape of canvas."""
        network = copy.deepcopy(self.network)
        network.compile(dynamic=True)
        return Permutation(network)
