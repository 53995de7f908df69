"""A hidden Markov model fitted to a text, by expectation maximisation."""

import numpy as np
import torch

from demask.oracles import HMM

WINDOW, ROUNDS = 128, 60


def fit(tokens: torch.Tensor, vocabulary: int, states: int, length: int, *, seed: int = 0) -> HMM:
    """Return the model after `ROUNDS` rounds of Baum and Welch on windows of the text, begun at random.

    Every emission keeps 1e-5 of its mass for tokens that the state never wrote.
    """
    text = tokens[: len(tokens) // WINDOW * WINDOW].view(-1, WINDOW).numpy()
    rng = np.random.default_rng(seed)
    first, move = rng.dirichlet(np.ones(states)), rng.dirichlet(np.ones(states), states)
    write = rng.dirichlet(np.ones(vocabulary), states)
    once = np.eye(vocabulary)[text]  # (windows, WINDOW, V)
    for _ in range(ROUNDS):
        seen = write.T[text]  # (windows, WINDOW, states): p(token | state)
        forward, scale = np.empty_like(seen), np.empty(seen.shape[:2])
        for t in range(WINDOW):
            step = seen[:, t] * (first if t == 0 else forward[:, t - 1] @ move)
            scale[:, t] = step.sum(1)
            forward[:, t] = step / scale[:, t, None]
        backward, pairs = np.ones_like(seen), np.zeros_like(move)
        for t in range(WINDOW - 2, -1, -1):
            later = seen[:, t + 1] * backward[:, t + 1] / scale[:, t + 1, None]
            backward[:, t] = later @ move.T
            pairs += move * (forward[:, t].T @ later)
        belief = forward * backward
        first = belief.mean((0, 1))  # as if the window began anywhere
        move = pairs / pairs.sum(1, keepdims=True)
        counts = np.einsum("wth,wtv->hv", belief, once, optimize=True)
        write = (1 - 1e-5) * counts / counts.sum(1, keepdims=True) + 1e-5 / vocabulary
    for _ in range(1000):
        first = first @ move  # stationary
    return HMM(first / first.sum(), move, write, length)
