"""Many prompts from a file: in shards, in parallel, and safe to restart."""

from demask.batch.run import Done, Run, prepare, run
from demask.batch.work import Line, Output, Work

__all__ = ["Done", "Line", "Output", "Run", "Work", "prepare", "run"]
