"""What parallelism costs: exact output laws, and what can be said of a model's dependence."""

from demask.information.law import law

__all__ = ["law"]
