"""What parallelism costs: exact output laws, measured curves, plans and their certificates."""

from demask.information.certificate import Certificate
from demask.information.law import law
from demask.information.measure import fingerprint, increments, measure, per_block
from demask.information.measurement import Measurement
from demask.information.plan import Candidate, Planned, best_of, path_nll, plan
from demask.information.totals import effective_tc, fixed_cardinality_mass

__all__ = [
    "Candidate",
    "Certificate",
    "Measurement",
    "Planned",
    "best_of",
    "effective_tc",
    "fingerprint",
    "fixed_cardinality_mass",
    "increments",
    "law",
    "measure",
    "path_nll",
    "per_block",
    "plan",
]
