"""Every strategy that is compared, one line each: to add one, add a line.

A specification may hold {k}, a number of steps of the family; {b}, steps per block of 16 at the same pace; or {x}, one of
the strategy's own settings. What a family knows is filled in where the specification leaves it out: the length, the curve,
TC and DTC, and the family itself as a verifier.

Left out: `Editing`, for networks that were trained to correct (a joint law has nothing to say about visible tokens);
`Learned`, which needs a policy trained for one family (docs/guide/policies.md); `self_calibrating`, whose sizes depend on
the runs before.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Strategy:
    """What is compared.

    Parameters:
        name: in tables and pictures.
        kind: what it goes by; a colour in pictures.
        spec: a sampler's specification, with places to fill.
        settings: what {x} is.
        needs: a method of the denoiser without which it cannot run: along, noised; or curve.
        rows: the share of a family's rows that it can be given in the time there is.
    """

    name: str
    kind: str
    spec: str
    settings: tuple[float, ...] = ()
    needs: str = ""
    rows: float = 1.0


BLIND, SURE, TESTED, MASKED, NOISY, VERIFIED = (
    "blind",
    "confidence",
    "tested",
    "tau-leaping, masked",
    "noise",
    "verified",
)
KINDS = (BLIND, SURE, TESTED, MASKED, NOISY, VERIFIED)

STRATEGIES = (
    Strategy("uniform", BLIND, "Parallel(uniform(steps={k}), Random())"),
    Strategy("cosine", BLIND, "Parallel(cosine(steps={k}), Random())"),
    Strategy("geometric", BLIND, "Parallel(geometric(steps={k}), Random())"),
    Strategy("binomial (MDLM)", BLIND, "Parallel(binomial(steps={k}), Random())"),
    Strategy("sequential", BLIND, "Parallel(sequential(steps={k}), Random())"),
    Strategy("fixed both", BLIND, "Parallel(fixed(steps={k}), Random())"),
    Strategy("minimax tc", BLIND, 'Parallel(minimax(steps={k}, target="tc"), Random())'),
    Strategy("minimax dtc", BLIND, 'Parallel(minimax(steps={k}, target="dtc"), Random())'),
    Strategy("minimax both", BLIND, 'Parallel(minimax(steps={k}, target="both"), Random())'),
    Strategy("two numbers", BLIND, "Parallel(two_number(steps={k}), Random())", needs="curve"),
    Strategy("hedged", BLIND, "Parallel(hedged(steps={k}), Random())", needs="curve"),
    Strategy("optimal", BLIND, "Parallel(optimal(steps={k}), Random())", needs="curve"),
    Strategy("from the left", BLIND, "Parallel(uniform(steps={k}), LeftToRight())"),
    Strategy("dilated (DUS)", BLIND, "Parallel(Unlimited(), Dilated(base=2))"),
    Strategy("ReMDM rescale", BLIND, "Remasking({k}, Rescale(0.015))"),
    Strategy("ReMDM cap", BLIND, "Remasking({k}, Cap(0.008))"),
    Strategy("ReMDM loop", BLIND, "Remasking({k}, Loop())"),
    Strategy("confidence", SURE, "Parallel(uniform(steps={k}), Confidence())"),
    Strategy("LLaDA", SURE, 'Parallel(uniform(steps={k}), Confidence("draft"))'),
    Strategy("LLaDA, blocks", SURE, 'Parallel(PerBlock(uniform(steps={b}), 16), Blockwise(Confidence("draft"), 16))'),
    Strategy("margin (Dream)", SURE, "Parallel(uniform(steps={k}), Margin())"),
    Strategy("entropy (Dream)", SURE, "Parallel(uniform(steps={k}), Entropy())"),
    Strategy("MaskGIT", SURE, 'Parallel(cosine(steps={k}), Noisy(Confidence("draft"), 4.5))'),
    Strategy("threshold", SURE, "Parallel(Unlimited(), Threshold(Confidence(), {x}))", (0.5, 0.7, 0.9)),
    Strategy("Fast-dLLM, threshold", SURE, 'Parallel(Unlimited(), Threshold(Confidence("draft"), {x}))', (0.5, 0.9)),
    Strategy("Fast-dLLM, factor", SURE, "Parallel(Unlimited(), Factor(Confidence(), {x}))", (0.5, 1.0, 2.0)),
    Strategy("hierarchical (dInfer)", SURE, "Parallel(Unlimited(), Hierarchical(Confidence(), 0.9, {x}))", (0.2, 0.4)),
    Strategy("KLASS", SURE, "Stable(Parallel(Unlimited(), Threshold(Confidence(), {x})))", (0.6, 0.9)),
    Strategy("ReMDM conf", SURE, "Remasking({k}, Confident(Rescale(1.0)))"),
    Strategy("entropy budget", TESTED, "Parallel(Unlimited(), EntropyBudget(Entropy(), {x}))", (0.1, 1.0, 4.0, 12.0)),
    Strategy("PUNT", TESTED, "Parallel(Unlimited(), Independent(Confidence(), {x}))", (0.01, 0.04, 0.16)),
    Strategy("tau, constant grid", MASKED, "Absorbing(Constant({k}))"),
    Strategy("tau, exponential grid", MASKED, "Absorbing(ExponentialThenConstant({k}))"),
    Strategy("tau, frozen rate", MASKED, 'Absorbing(Constant({k}), "truncated")'),
    Strategy("leave-one-out", NOISY, "UniformState(ExponentialThenConstant({k}))", needs="noised", rows=0.5),
    Strategy("truncated tau", NOISY, 'UniformState(ExponentialThenConstant({k}), "truncated")', needs="noised", rows=0.5),
    Strategy("tau modulo V", NOISY, 'UniformState(ExponentialThenConstant({k}), "modulo")', needs="noised", rows=0.5),
    Strategy("DiffusionGemma", NOISY, "Renoising({k}, 0.1)", needs="noised", rows=0.5),
    Strategy("DiffusionGemma, bold", NOISY, "Renoising({k}, 8.0)", needs="noised", rows=0.5),
    Strategy("ASSD", VERIFIED, "Speculative({x})", (4, 8, 16), needs="along"),
    Strategy("ASSD, random order", VERIFIED, "Speculative({x}, Random())", (4, 8, 16, 32), needs="along"),
    Strategy("ASSD, context draft", VERIFIED, 'Speculative({x}, draft="context")', (4, 8), needs="along"),
    Strategy("APD", VERIFIED, "Adaptive(ratio={x})", (0.3, 0.7), needs="along", rows=0.125),
    Strategy("one token at a time", BLIND, "Parallel(uniform(steps={n}), Random())"),
)  # fmt: skip
