"""The command line, whole: every module of commands adds its own to the group."""

from demask.cli import curves, models, recommend
from demask.cli.group import app

__all__ = ["app", "curves", "models", "recommend"]
