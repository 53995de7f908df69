"""What a caller can fix, by name.

Every message says what was given, what was expected, and the call that fixes it. All errors are `DemaskError`, which is
a `ValueError`, so code that guards a call with `except ValueError` keeps working.
"""


class DemaskError(ValueError):
    """Base of every error that demask raises on purpose."""


class CanvasError(DemaskError):
    """Tokens, masks or rows whose shapes, types or values do not fit together."""


class PlanError(DemaskError):
    """Sizes, steps, weights or lengths from which no schedule can be built."""


class OrderError(DemaskError):
    """Orders and rules that do not compose."""


class ParticleError(DemaskError):
    """Particles, weights or rewards with which trajectories cannot be weighed against each other."""


class CurveError(DemaskError):
    """Numbers that are not an information curve."""


class OracleError(DemaskError):
    """Distributions, texts or visible tokens that an oracle cannot represent."""


class DenoiserError(DemaskError):
    """A denoiser whose answer is not a set of distributions, or a score whose answer is no finite vector."""


class LawError(DemaskError):
    """A sampler whose output law cannot be enumerated within the limit given."""


class SpecError(DemaskError):
    """A specification such as `minimax(target="both")` that names nothing known."""


class TokenizerError(DemaskError):
    """Texts, words, token ids or files that a tokenizer cannot represent."""


class CheckpointError(DemaskError):
    """A model folder or a training checkpoint that is missing, corrupt, foreign or of another shape."""


class TrainingError(DemaskError):
    """Texts or settings with which nothing can be trained."""


class GenerateError(DemaskError):
    """Prompts, templates, settings and saved runs from which nothing can be generated or shown."""


class RecommendError(DemaskError):
    """Interactions, items, identifiers and settings from which nothing can be recommended."""
