"""The friendly surface: load a model, generate, fill, stream, score."""

from demask.generate.load import load
from demask.generate.model import Model
from demask.generate.recipe import Recipe
from demask.generate.result import Call, Frame, Result
from demask.generate.score import Score
from demask.generate.template import Template

__all__ = ["Call", "Frame", "Model", "Recipe", "Result", "Score", "Template", "load"]
