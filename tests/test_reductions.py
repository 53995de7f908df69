"""Reductions in groups of rows."""

import pytest
import torch

from demask import reductions as module
from demask.canvas import Marginals
from demask.inverse import BELOW_ONE
from demask.reductions import by_group


def marginals(logits):
    return Marginals(torch.ones(1, len(logits), dtype=torch.bool), logits)


@pytest.mark.parametrize("rows", [0, 1, 5, 12])
def test_groups_of_rows_join_to_the_whole(monkeypatch, rows):
    generator = torch.Generator().manual_seed(1)
    logits, tokens = torch.randn(rows, 7, generator=generator), torch.randint(7, (rows,), generator=generator)
    sizes = []

    def shifted(group, own):
        sizes.append(len(group))
        return group.log_softmax(-1) + own[:, None]

    whole = by_group(shifted, logits, tokens)
    assert sizes == [rows]
    monkeypatch.setattr(module, "_CHUNK", 3 * 7 + 2)
    sizes.clear()
    assert torch.equal(by_group(shifted, logits, tokens), whole)
    assert sizes == ([3] * (rows // 3) + [rows % 3] * (rows % 3 > 0) if rows > 3 else [rows])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [2_500, 40_000, 100_001])  # many rows a group, a few, and one
def test_a_large_row_answers_alike_in_every_batch(threads, width):
    """Groups of rows differ with their number, and rows in where they lie; a large one does not notice, to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        logits = 3 * torch.randn(5, width, generator=torch.Generator().manual_seed(0))
        logits[:, 7] = -torch.inf
        level = torch.tensor([0.0, 0.2, 0.5, 0.9, BELOW_ONE], dtype=torch.float64)
        whole = marginals(logits)
        logs = logits.double().log_softmax(-1)
        exact = -(logs.exp() * logs.clamp(min=-1e3)).sum(-1)
        for row in range(5):
            alone = marginals(logits[row : row + 1])
            assert torch.equal(alone.entropy[0], whole.entropy[row])
            assert torch.equal(alone.peak[0], whole.peak[row])
            elsewhere = torch.empty(row + 1 + logits[row].numel())[row + 1 :].copy_(logits[row])[None]
            assert torch.equal(marginals(elsewhere).entropy[0], whole.entropy[row])
        drawn = marginals(logits).draw(level)
        for row in range(5):
            assert torch.equal(marginals(logits[row : row + 1]).draw(level[row : row + 1])[0], drawn[row])
        assert (whole.entropy - exact).abs().max() < 2e-5
    finally:
        torch.set_num_threads(before)
