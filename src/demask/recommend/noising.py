"""What is masked while a decoder of identifiers is trained, and the loss of it."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from demask.errors import RecommendError
from demask.recommend.network import Network

NOISES: Final = ("coherent", "random", "independent", "left")
REDUCTIONS: Final = ("pooled", "views")


@dataclass(frozen=True, eq=False)
class Views:
    """Several maskings of each identifier.

    Parameters:
        masked: (B, Q, n) bool.
        learned: (B, Q, n) bool, the masked digits whose loss counts.
    """

    masked: Tensor
    learned: Tensor


@torch.no_grad()
def confidence(network: Network, history: Tensor) -> Tensor:
    """Return how sure the network is of each digit while all are masked: max_c p_d(c), (B, n), without dropout or gradient.

    Cost: one forward pass per history.
    """
    training = network.training
    network.eval()
    masked = torch.ones(len(history), 1, network.dimensions.digits, dtype=torch.bool, device=history.device)
    logits = network.decode(network.encode(history), masked.long(), masked)
    network.train(training)
    return logits[:, 0].softmax(-1).amax(-1)


def nested(scores: Tensor) -> Views:
    """Return n views of which view v masks the v + 1 digits of least score: (B, n) -> (B, n, n).

    So every view lies in the next one, the first asks for the hardest digit alone and the last for all of them.

    Example:
        >>> nested(torch.tensor([[0.9, 0.2, 0.5]])).masked.int().tolist()
        [[[0, 1, 0], [0, 1, 1], [1, 1, 1]]]
    """
    rank = scores.argsort(dim=1, stable=True).argsort(1)
    masked = rank[:, None, :] <= torch.arange(scores.shape[1], device=scores.device)[None, :, None]
    return Views(masked, masked)


def views(noise: str, network: Network, history: Tensor, chance: torch.Generator) -> Views:
    """Return n maskings per identifier.

    Parameters:
        noise: "coherent", on-policy: nested from the digit that the network is least sure of, asked once per sample;
            "random": nested along a random order; "independent": a uniform number of digits at random places, as masked
            diffusion is trained elsewhere; "left": all from digit v on, of which digit v is learned: so the same network
            is an autoregressive decoder.
        network: asked by "coherent" alone.
        history: (B, L, n) digits.
        chance: of the draws.

    Raises:
        RecommendError: another noise.

    Reference: Liu et al., DiffGRM, 2025, arXiv 2510.21805 (on-policy coherent noising).
    """
    rows, count = len(history), network.dimensions.digits
    if noise == "coherent":
        return nested(confidence(network, history))
    if noise == "random":
        return nested(torch.rand(rows, count, generator=chance).to(history.device))
    if noise == "independent":
        rank = torch.rand(rows, count, count, generator=chance).argsort(2)
        masked = (rank <= torch.randint(count, (rows, count, 1), generator=chance)).to(history.device)
        return Views(masked, masked)
    if noise == "left":
        place = torch.arange(count, device=history.device)
        masked = (place[None, :] >= place[:, None]).expand(rows, count, count)
        return Views(masked, (place[None, :] == place[:, None]).expand(rows, count, count))
    raise RecommendError(f"noise {noise!r}; expected one of {', '.join(NOISES)}")


def loss(logits: Tensor, targets: Tensor, shown: Views, *, smoothing: float = 0.1, reduction: str = "pooled") -> Tensor:
    """Return the cross-entropy of the learned digits, nats, with label smoothing.

    Parameters:
        logits: (B, Q, n, C).
        targets: (B, n) true digits.
        shown: the views that the logits answer.
        smoothing: share of the label that is spread over all codes.
        reduction: "pooled", as released: the mean over all learned digits of all views; or "views", as the paper has it:
            the mean within each view, then over views.
    """
    batch, row, digit = shown.learned.nonzero(as_tuple=True)
    losses = functional.cross_entropy(
        logits[batch, row, digit], targets[batch, digit], reduction="none", label_smoothing=smoothing
    )
    if reduction == "pooled":
        return losses.mean()
    if reduction != "views":
        raise RecommendError(f"reduction {reduction!r}; expected one of {', '.join(REDUCTIONS)}")
    shares = 1.0 / shown.learned.sum(2)[batch, row]
    return (losses * shares).sum() / shown.learned[..., 0].numel()
