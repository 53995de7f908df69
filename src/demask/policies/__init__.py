"""Learned unmasking policies: a small network that says which positions go now."""

from demask.policies.choice import Bernoulli, Choice, PlackettLuce
from demask.policies.folder import LAWS, Policy, check, read, write
from demask.policies.learned import Decision, Learned
from demask.policies.network import Features, Network

__all__ = [
    "LAWS",
    "Bernoulli",
    "Choice",
    "Decision",
    "Features",
    "Learned",
    "Network",
    "PlackettLuce",
    "Policy",
    "check",
    "read",
    "write",
]
