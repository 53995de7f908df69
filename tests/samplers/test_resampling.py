"""Every scheme draws P w_a descendants of particle a in the mean, by enumeration of its draws."""

import pytest
import torch

from demask.chance import Keyed, Scripted, Tape
from demask.samplers.resampling import SCHEMES

WEIGHTS = {
    "uneven": [0.07, 0.53, 0.18, 0.22],
    "a zero first and last": [0.0, 0.7, 0.3, 0.0],
    "equal": [0.25] * 4,
    "one": [0.0, 0.0, 1.0, 0.0],
    "whole shares": [0.5, 0.0, 0.25, 0.25],
    "sums with rounding": [0.1, 0.2, 0.3, 0.4],
    "three": [1 / 3, 1 / 3, 1 / 3],
}


def outcomes(scheme, weights):
    """All ancestor lists with their probabilities."""
    pending, found = [[]], []
    while pending:
        tape = Tape(pending.pop())
        found.append(
            (SCHEMES[scheme](torch.tensor([weights], dtype=torch.float64), Scripted.of([tape]))[0].tolist(), tape.logp)
        )
        for turn in range(len(tape.script), len(tape.taken)):
            pending += [[*tape.taken[:turn], other] for other in range(1, tape.widths[turn])]
    return [ancestors for ancestors, _ in found], torch.tensor([logp for _, logp in found], dtype=torch.float64).exp()


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_descendants_in_the_mean(scheme, weights):
    lists, shares = outcomes(scheme, weights)
    count = len(weights)
    descendants = torch.tensor([[row.count(a) for a in range(count)] for row in lists]).double()
    assert float(shares.sum()) == pytest.approx(1, abs=1e-12)
    mean, wanted = shares @ descendants, count * torch.tensor(weights, dtype=torch.float64)
    assert mean.tolist() == pytest.approx(wanted.tolist(), abs=1e-12)
    if scheme != "multinomial":  # as many as wanted, up to less than one (stratified: up to less than two)
        off = (descendants - wanted).abs().amax()
        assert float(off) < (2 if scheme == "stratified" else 1 if scheme == "systematic" else count) + 1e-9
    if scheme == "residual":
        assert bool((descendants >= (wanted + 1e-9).floor()).all())
    if scheme != "multinomial" and weights == [0.25] * 4:
        assert lists == [[0, 1, 2, 3]]


def test_variance_falls_from_scheme_to_scheme():
    """Of the number of descendants, summed over particles; multinomial is worst, a theorem."""
    variances = []
    for scheme in ("multinomial", "residual", "stratified"):
        lists, shares = outcomes(scheme, WEIGHTS["uneven"])
        counts = torch.tensor([[row.count(a) for a in range(4)] for row in lists]).double()
        variances.append(float((shares @ counts.square() - (shares @ counts).square()).sum()))
    assert variances[0] == pytest.approx(sum(4 * w * (1 - w) for w in WEIGHTS["uneven"]), abs=1e-9)
    assert variances[0] > variances[1] > 0
    assert variances[0] > variances[2] > 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_are_alone(scheme):
    weights = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights /= weights.sum(1, keepdim=True)
    names = torch.arange(5)
    whole = SCHEMES[scheme](weights, Keyed.of(3, names))
    for row in range(5):
        assert torch.equal(SCHEMES[scheme](weights[row : row + 1], Keyed.of(3, names[row : row + 1]))[0], whole[row])
    assert bool((whole.diff(dim=1) >= 0).all()) or scheme in ("multinomial", "residual")


def test_counts_of_many_keys():
    """Chi-square of 20,000 multinomial ancestors against P w, false alarm 1e-6: below 33 at 3 degrees of freedom."""
    weights = torch.tensor(WEIGHTS["uneven"], dtype=torch.float64)
    drawn = SCHEMES["multinomial"](weights.expand(5000, 4), Keyed.of(0, torch.arange(5000)))
    counts, wanted = torch.bincount(drawn.flatten(), minlength=4).double(), 20_000 * weights
    assert float(((counts - wanted) ** 2 / wanted).sum()) < 33
