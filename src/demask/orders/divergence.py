"""How far apart two laws of the same token are."""

from typing import Final

import torch
from torch import Tensor

_CHUNK: Final = 1 << 20  # numbers handled at once, so that temporaries stay small beside the logits


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Return KL(p || q) = sum_v p_v (log p_v - log q_v) of every row, nats.

    0 log 0 is 0, and the divergence is inf where q excludes a token that p allows. Rounding may leave a number of the
    order of 1e-7 (1e-16 in float64), of either sign, where the laws are equal.

    Parameters:
        logits: (M, V), of p; any constant may be added to a row.
        others: (M, V), of q.

    Returns:
        (M,), float32 unless the logits are float64.

    Cost: O(M V) time, in chunks of rows; no copy of the logits as a whole.

    Example:
        >>> p, q = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
        >>> divergence(p.log(), q.log()), divergence(q.log(), p.log())
        (tensor([0.0000, 0.6931]), tensor([0., inf]))
    """
    dtype = torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype
    rows = max(1, _CHUNK // max(1, logits.shape[-1]))
    parts = [
        _divergence(p.to(dtype), q.to(dtype))
        for p, q in zip(torch.split(logits, rows), torch.split(others, rows), strict=True)
    ]
    return torch.cat(parts)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    logp = p.log_softmax(-1)
    weight = logp.exp()
    excluded = weight == 0
    return logp.sub_(q.log_softmax(-1)).mul_(weight).masked_fill_(excluded, 0.0).sum(-1)
