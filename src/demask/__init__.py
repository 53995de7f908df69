"""Exact, fast parallel decoding for masked diffusion language models.

Names are imported when first used, so that `import demask` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demask import oracles as oracles
    from demask.canvas import Canvas as Canvas
    from demask.canvas import Marginals as Marginals
    from demask.collect import Entropies as Entropies
    from demask.collect import Seconds as Seconds
    from demask.collect import Trace as Trace
    from demask.contracts import Law as Law
    from demask.curve import Curve as Curve
    from demask.curve import Estimate as Estimate
    from demask.denoisers import Cached as Cached
    from demask.denoisers import Causal as Causal
    from demask.denoisers import Delayed as Delayed
    from demask.denoisers import Forbidden as Forbidden
    from demask.denoisers import Guided as Guided
    from demask.denoisers import MinP as MinP
    from demask.denoisers import Nucleus as Nucleus
    from demask.denoisers import Penalised as Penalised
    from demask.denoisers import Permutation as Permutation
    from demask.denoisers import Recomputed as Recomputed
    from demask.denoisers import Tempered as Tempered
    from demask.denoisers import TopK as TopK
    from demask.denoisers import Transformer as Transformer
    from demask.errors import DemaskError as DemaskError
    from demask.generate import Model as Model
    from demask.generate import Recipe as Recipe
    from demask.generate import Result as Result
    from demask.generate import Template as Template
    from demask.generate.load import load as load
    from demask.information.certificate import Certificate as Certificate
    from demask.information.law import law as law
    from demask.information.measure import increments as increments
    from demask.information.measure import measure as measure
    from demask.information.measure import per_block as per_block
    from demask.information.measurement import Measurement as Measurement
    from demask.information.plan import plan as plan
    from demask.loop import Run as Run
    from demask.loop import Status as Status
    from demask.loop import sample as sample
    from demask.oracles import Chain as Chain
    from demask.orders import Blockwise as Blockwise
    from demask.orders import Confidence as Confidence
    from demask.orders import Entropy as Entropy
    from demask.orders import EntropyBudget as EntropyBudget
    from demask.orders import Factor as Factor
    from demask.orders import LeftToRight as LeftToRight
    from demask.orders import Margin as Margin
    from demask.orders import Noisy as Noisy
    from demask.orders import Random as Random
    from demask.orders import Threshold as Threshold
    from demask.registry import build as build
    from demask.registry import cite as cite
    from demask.samplers import SMC as SMC
    from demask.samplers import Adaptive as Adaptive
    from demask.samplers import Ended as Ended
    from demask.samplers import Foresight as Foresight
    from demask.samplers import Lookahead as Lookahead
    from demask.samplers import Parallel as Parallel
    from demask.samplers import Reward as Reward
    from demask.samplers import SelfReward as SelfReward
    from demask.samplers import Speculative as Speculative
    from demask.schedules import Calibration as Calibration
    from demask.schedules import Calibrator as Calibrator
    from demask.schedules import PerBlock as PerBlock
    from demask.schedules import PerRow as PerRow
    from demask.schedules import Plan as Plan
    from demask.schedules import Systematic as Systematic
    from demask.schedules import Unlimited as Unlimited
    from demask.schedules import binomial as binomial
    from demask.schedules import cosine as cosine
    from demask.schedules import fixed as fixed
    from demask.schedules import geometric as geometric
    from demask.schedules import hedged as hedged
    from demask.schedules import minimax as minimax
    from demask.schedules import optimal as optimal
    from demask.schedules import self_calibrating as self_calibrating
    from demask.schedules import sequential as sequential
    from demask.schedules import two_number as two_number
    from demask.schedules import uniform as uniform
    from demask.tokenizer import Tokenizer as Tokenizer

__version__ = "0.1.0"

_HOME = {
    "demask.canvas": ("Canvas", "Marginals"),
    "demask.collect": ("Entropies", "Seconds", "Trace"),
    "demask.contracts": ("Law",),
    "demask.curve": ("Curve", "Estimate"),
    "demask.denoisers": (
        "Cached", "Causal", "Delayed", "Forbidden", "Guided", "MinP", "Nucleus", "Penalised", "Permutation",
        "Recomputed", "Tempered", "TopK", "Transformer",
    ),
    "demask.errors": ("DemaskError",),
    "demask.generate": ("Model", "Recipe", "Result", "Template", "load"),
    "demask.information.certificate": ("Certificate",),
    "demask.information.law": ("law",),
    "demask.information.measure": ("increments", "measure", "per_block"),
    "demask.information.measurement": ("Measurement",),
    "demask.information.plan": ("plan",),
    "demask.oracles": ("Chain",),
    "demask.orders": (
        "Blockwise", "Confidence", "Entropy", "EntropyBudget", "Factor", "LeftToRight", "Margin", "Noisy", "Random",
        "Threshold",
    ),
    "demask.registry": ("build", "cite"),
    "demask.loop": ("Run", "Status", "sample"),
    "demask.samplers": (
        "Adaptive", "Ended", "Foresight", "Lookahead", "Parallel", "Reward", "SMC", "SelfReward", "Speculative",
    ),
    "demask.schedules": (
        "Calibration", "Calibrator", "PerBlock", "PerRow", "Plan", "Systematic", "Unlimited", "binomial", "cosine", "fixed",
        "geometric", "hedged", "minimax", "optimal", "self_calibrating", "sequential", "two_number", "uniform",
    ),
    "demask.tokenizer": ("Tokenizer",),
}  # fmt: skip
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted([*_MODULE, "oracles"])


def __getattr__(name: str) -> Any:
    if name == "oracles":
        return import_module("demask.oracles")
    if name not in _MODULE:
        raise AttributeError(f"module 'demask' has no attribute {name!r}")
    value = getattr(import_module(_MODULE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
