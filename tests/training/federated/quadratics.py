"""Heterogeneous quadratics f_i(x) = (x - b_i)' A_i (x - b_i) / 2, whose every fixed point is a linear system."""

import torch

from demask.training.federated import Peer

M, D = 8, 5


class Quadratic:
    def __init__(self, number, key=0):
        chance = torch.Generator().manual_seed(1000 * key + number)
        root = torch.randn(D, D, dtype=torch.float64, generator=chance)
        self.matrix = 0.2 * root @ root.T / D + 0.8 * torch.eye(D, dtype=torch.float64)  # eigenvalues of 0.8 to 1.6
        self.centre = 2 * torch.randn(D, dtype=torch.float64, generator=chance)

    def __call__(self, point, turn, step):
        gap = point - self.centre
        gradient = self.matrix @ gap
        return float(gap @ gradient) / 2, gradient


def peers(count=M, key=0):
    return [Peer(i, Quadratic(i, key), torch.zeros(D, dtype=torch.float64)) for i in range(count)]


def optimum(group):
    matrices = torch.stack([peer.objective.matrix for peer in group])
    pulls = torch.stack([peer.objective.matrix @ peer.objective.centre for peer in group])
    return torch.linalg.solve(matrices.sum(0), pulls.sum(0))


def points(group):
    return torch.stack([peer.point for peer in group])


def fixed(group, outer, inner, length):
    """Solve x = outer x - inner (length grad f(x)), outer and inner being (m, m) matrices: (m, D)."""
    count = len(group)
    eye = torch.eye(D, dtype=torch.float64)
    blocks = torch.block_diag(*[peer.objective.matrix for peer in group])
    centres = torch.cat([peer.objective.centre for peer in group])
    push = length * torch.kron(inner, eye) @ blocks
    system = torch.eye(count * D, dtype=torch.float64) - torch.kron(outer, eye) + push
    return torch.linalg.solve(system, push @ centres).view(count, D)
