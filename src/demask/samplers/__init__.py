"""Samplers: what the one loop turns."""

from demask.samplers.adaptive import Adaptive, VerifierPasses
from demask.samplers.beam import Beam, Logp
from demask.samplers.credited import Credited
from demask.samplers.ctmc import Absorbing, UniformState
from demask.samplers.editing import Editing
from demask.samplers.ended import Ended
from demask.samplers.gaussian import Backward, Coefficients, Forward, General, LowDimensional, Score, draw
from demask.samplers.grids import Constant, ExponentialThenConstant, Grid, Linear
from demask.samplers.lookahead import Lookahead
from demask.samplers.parallel import Asked, Parallel, State, largest
from demask.samplers.particles import inside
from demask.samplers.potentials import Foresight, Potential, Reward, SelfReward
from demask.samplers.remasking import Cap, Confident, Loop, Remasking, Rescale
from demask.samplers.renoising import Renoising
from demask.samplers.smc import SMC, Normaliser
from demask.samplers.speculative import Speculative
from demask.samplers.stable import Stable
from demask.samplers.stopped import Stopped

__all__ = [
    "SMC",
    "Absorbing",
    "Adaptive",
    "Asked",
    "Backward",
    "Beam",
    "Cap",
    "Coefficients",
    "Confident",
    "Constant",
    "Credited",
    "Editing",
    "Ended",
    "ExponentialThenConstant",
    "Foresight",
    "Forward",
    "General",
    "Grid",
    "Linear",
    "Logp",
    "Lookahead",
    "Loop",
    "LowDimensional",
    "Normaliser",
    "Parallel",
    "Potential",
    "Remasking",
    "Renoising",
    "Rescale",
    "Reward",
    "Score",
    "SelfReward",
    "Speculative",
    "Stable",
    "State",
    "Stopped",
    "UniformState",
    "VerifierPasses",
    "draw",
    "inside",
    "largest",
]
