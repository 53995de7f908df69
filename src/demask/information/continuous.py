"""What T steps of noise removal cost, exactly: the twin of the information curve is the curve of least squared errors.

Let M(g) = E |X_0 - E[X_0 | X_t]|^2 at the ratio of signal to noise g, and g_1 > .. > g_T those of a forward schedule. With
`LowDimensional` coefficients and exact scores

    path KL = KL(X_T || N(0, I)) + 1/2 sum_{t=2}^{T} (g_{t-1} - g_t) M(g_t) - 1/2 int_{g_T}^{g_1} M(g) dg,

the error of a sum of rectangles under one falling curve, since 1/2 int M = I(X_0; X_1) - I(X_0; X_T) (Guo, Shamai and Verdu,
2005). On masks it is sum_k s_k Z(t_{k-1}) - sum_j Z_j. A direction without data adds nothing to M, so d does not occur.
"""

from math import log, pi
from typing import Final

import numpy as np
import torch
from torch import Tensor

from demask.chance import Keyed
from demask.curve import Estimate, Floats
from demask.errors import OracleError
from demask.oracles.gaussian import Gaussians
from demask.samplers.gaussian import Backward, Score

_EXACT: Final = 1e-9  # ratios of variances this near to 1 count as 1 in a total variation


def variance(sampler: Backward, data: Floats | float) -> Floats:
    """Return Var(Y_1) in directions in which Gaussian data of mean 0 have the variances `data`; X_1 has beta_1 more noise.

    V_T = 1 and V_{t-1} = (1 - beta_t / ((1 - v_t) data + v_t))^2 V_t / alpha_t + Var(Y_{t-1} | Y_t), v_t the noise.

    Example:
        >>> from demask.samplers.gaussian import Forward, General
        >>> forward = Forward(50)
        >>> (variance(Backward(forward, General()), [0.0]) / forward.beta[0] - 1).round(3)
        array([0.371])
        >>> bool(abs(variance(Backward(forward), [0.0]) / forward.beta[0] - 1) < 1e-10)
        True
    """
    forward, data = sampler.forward, np.asarray(data, dtype=np.float64)
    out = np.ones_like(data)
    for beta, noise, added in zip(forward.beta[:0:-1], forward.noise[:0:-1], sampler.variance[:0:-1], strict=True):
        total = (1.0 - noise) * data + noise
        out = ((total - beta) / total) ** 2 * out / (1.0 - beta) + added
    return out


def path_kl(
    target: Gaussians, sampler: Backward, *, score: Score | None = None, rows: int = 512, key: int = 0
) -> Estimate:
    """Return KL from the law of X_T .. X_1 to that of Y_T .. Y_1, nats; that of the outputs is at most this.

    = KL(X_T || N(0, I)) + sum_t E KL(p(x_{t-1} | x_t) || N(mean_t, Var_t)). In closed form for one Gaussian of mean 0
    and its own score; otherwise the mean of log p(path) / q(path) over `rows` forward paths, without bias.

    Parameters:
        target: the law of X_0.
        sampler: with its coefficients and steps.
        score: a learned one; the target's own by default.
        rows: paths to draw, 2 or more.
        key: of the paths.

    Raises:
        OracleError: fewer than two rows.

    Cost: in closed form O(T k); otherwise T scores of all rows.

    Example:
        >>> from demask.oracles import subspaces
        >>> from demask.samplers.gaussian import Forward, General, LowDimensional
        >>> for d in (8, 512):
        ...     kl = [path_kl(subspaces(d, 4), Backward(Forward(200), rule)) for rule in (General(), LowDimensional())]
        ...     print(d, [round(value, 3) for value in kl])
        8 [3.796, 0.877]
        512 [308.891, 0.877]

    Reference: the identity of this module's head is this library's, from Guo, Shamai and Verdu, 2005, and Tweedie's formula.
    """
    if target.centred and score is None:
        return Estimate(float(_steps(target, sampler).sum() + _start(target, sampler)))
    if rows < 2:
        raise OracleError(f"{rows} paths; a standard error needs 2 or more")
    ratio = _log_ratio(target, sampler, target if score is None else score, rows, key)
    return Estimate(float(ratio.mean()), error=float(ratio.std()) / rows**0.5)


def output_kl(target: Gaussians, sampler: Backward) -> float:
    """Return KL(X_1 || Y_1), nats: exact, and at most the path KL.

    Raises:
        OracleError: another target than one Gaussian of mean 0.
    """
    ratio, count = _ratios(target, sampler)
    return float(count @ (1.0 / ratio - 1.0 + np.log(ratio))) / 2


def total_variation(target: Gaussians, sampler: Backward) -> float:
    """Return TV(X_1, Y_1) = P_X(L > 0) - P_Y(L > 0), L the log-ratio of the densities: one integral over a chi-square.

    Ratios of variances within 1e-9 of 1 count as 1, an error below 1e-9 sqrt(d).

    Raises:
        OracleError: another target than one Gaussian of mean 0, or more than two different ratios of variances, as one
            variance along the subspace and one across it have.

    Example:
        >>> from demask.oracles import subspaces
        >>> from demask.samplers.gaussian import Forward, General, LowDimensional
        >>> target, forward = subspaces(32, 4), Forward(200)
        >>> [round(total_variation(target, Backward(forward, rule)), 3) for rule in (General(), LowDimensional())]
        [0.161, 0.03]
    """
    ratio, count = _ratios(target, sampler)
    kept = np.abs(ratio - 1.0) > _EXACT
    ratio, count = ratio[kept], count[kept]
    if len(ratio) > 2:
        raise OracleError(
            f"{len(ratio)} different ratios of variances; expected at most 2: output_kl has no such limit"
        )
    if not len(ratio):
        return 0.0
    threshold = float(count @ np.log(ratio))
    return _above(threshold, 1.0 - 1.0 / ratio, count) - _above(threshold, ratio - 1.0, count)


def guarantee(target: Gaussians, sampler: Backward) -> float:
    """Return a bound of the path KL that knows of the data only what they are worth in nats, and d only where it matters.

        path KL <= KL_T + kappa (I + g_T M_T / 2) + d/2 sum_t (r_t - 1 - log r_t),   kappa = max_t g_{t-1} / g_t - 1,

    r_t = bridge_t / Var_t, which is 1 for `LowDimensional`, so that d drops out; KL_T is that of the start, in d of the
    order d abar_T^2. I = H(m) + E sum_j log(1 + g_1 lambda_mj) / 2 >= I(X_0; X_1): log(count) for points,
    k/2 log(1 + g_1 lambda) on a subspace. Should r_t exceed 1, max_t (r_t - 1)_+ ((1 + kappa) I + kappa g_T M_T / 2)
    is added.

    The first part is the error of rectangles under a falling curve, with g - g' <= kappa g' in each: the twin of
    E KL <= kappa D on masks.

    Reference: derived here; Dmitriev, Huang and Wei, 2026, arXiv 2602.15008, for masks.
    """
    forward = sampler.forward
    g, signal = forward.snr, 1.0 - float(forward.noise[-1])
    weights, variances = target.weights.numpy(), target.variances.numpy()
    second = float(weights @ (target.means.square().sum(1).numpy() + variances.sum(1)))
    spread = second - float((target.weights @ target.means).square().sum())
    live = weights[weights > 0]
    known = float(-live @ np.log(live)) + float(weights @ np.log1p(g[0] * variances).sum(1)) / 2
    start = (signal * second - target.dimension * (signal + np.log1p(-signal))) / 2
    kappa = float(np.max(g[:-1] / g[1:])) - 1.0
    ratio = forward.bridge[1:] / sampler.variance[1:]
    rectangles = kappa * (known + g[-1] * spread / 2)
    excess = max(0.0, float(np.max(ratio)) - 1.0)
    off = target.dimension * float(np.sum(ratio - 1.0 - np.log(ratio))) / 2
    return float(start + rectangles + off + excess * (known + rectangles))


def _directions(target: Gaussians) -> tuple[Floats, Floats]:
    """Return the different variances of a centred Gaussian, and in how many directions each occurs."""
    if not target.centred:
        raise OracleError(f"{target!r} is not one Gaussian of mean 0; ask for path_kl, which draws paths")
    everywhere = np.concatenate((target.variances[0].numpy(), np.zeros(target.dimension - target.rank)))
    values, count = np.unique(everywhere, return_counts=True)
    return values, count.astype(np.float64)


def _ratios(target: Gaussians, sampler: Backward) -> tuple[Floats, Floats]:
    """Return Var(Y_1) / Var(X_1) and the number of directions of each."""
    values, count = _directions(target)
    noise = float(sampler.forward.noise[0])
    return variance(sampler, values) / ((1.0 - noise) * values + noise), count


def _steps(target: Gaussians, sampler: Backward) -> Floats:
    """Return E KL(p(x_{t-1} | x_t) || N(mean_t, Var_t)) for t = 2 .. T."""
    values, count = _directions(target)
    forward = sampler.forward
    noise, before = forward.noise[1:, None], forward.noise[:-1, None]
    pull = (1.0 - before) * (forward.beta[1:, None] / noise) ** 2  # how far X_{t-1} follows X_0, squared
    left = values * noise / ((1.0 - noise) * values + noise)
    excess = (forward.bridge[1:, None] + pull * left) / sampler.variance[1:, None] - 1.0
    costs: Floats = (excess - np.log1p(excess)) @ count / 2
    return costs


def _start(target: Gaussians, sampler: Backward) -> float:
    values, count = _directions(target)
    excess = (1.0 - float(sampler.forward.noise[-1])) * (values - 1.0)
    return float(count @ (excess - np.log1p(excess))) / 2


def _log_ratio(target: Gaussians, sampler: Backward, score: Score, rows: int, key: int) -> Tensor:
    """Return log p(x_1 .. x_T) / q(x_1 .. x_T) of forward paths, (rows,)."""
    forward, d = sampler.forward, target.dimension
    chance = Keyed.of(key, torch.arange(rows))
    x = target.sample(rows, key=key, noise=float(forward.noise[0]))
    ratio = target.log_prob(x, float(forward.noise[0]))
    for t in range(2, forward.steps + 1):
        beta, noise, added = (float(series[t - 1]) for series in (forward.beta, forward.noise, sampler.variance))
        fresh = chance.fork("forward", t).normal(d)
        after = (1.0 - beta) ** 0.5 * x + beta**0.5 * fresh
        mean = (after + beta * score(after, noise)) / (1.0 - beta) ** 0.5
        back = (x - mean).square().sum(1) / added
        ratio += (back - fresh.square().sum(1) + d * log(added / beta)) / 2
        x = after
    return ratio + (x.square().sum(1) + d * log(2 * pi)) / 2


def _above(threshold: float, slopes: Floats, count: Floats) -> float:
    """Return P(sum_i slopes_i C_i < threshold), C_i chi-square of count_i degrees, for one or two of them."""
    from scipy.integrate import quad
    from scipy.stats import chi2  # scipy is imported where it is used: `import demask` stays light

    def below(level: float, slope: float, degrees: float) -> float:
        return float(chi2.cdf(level / slope, degrees) if slope > 0 else chi2.sf(level / slope, degrees))

    if len(slopes) == 1:
        return below(threshold, slopes[0], count[0])
    inner, outer = (0, 1) if count[0] >= count[1] else (1, 0)

    def rest(share: float) -> float:
        return below(threshold - slopes[outer] * float(chi2.ppf(share, count[outer])), slopes[inner], count[inner])

    kink = float(chi2.cdf(threshold / slopes[outer], count[outer]))  # where the rest changes its sign
    return float(quad(rest, 0.0, 1.0, points=[kink] if 0 < kink < 1 else None, epsabs=1e-10, limit=400)[0])
