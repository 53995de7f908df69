"""Decentralised training: peers that never share data train one denoiser by gossip."""

from demask.training.federated.denoising import Bench, Denoising, deal
from demask.training.federated.descent import SGD, Adam, Descent
from demask.training.federated.federate import Federated, FederatedMoment, Federation, federate
from demask.training.federated.gossip import Objective, Peer, Turn, apart, gossip, mean, mixed
from demask.training.federated.methods import DPSGD, DFedADMM, DFedAvg, Method, dfedadmm_sam, dfedavgm, dfedsam
from demask.training.federated.recipe import FederatedRecipe
from demask.training.federated.states import States
from demask.training.federated.topology import Topology, edges, exponential, full, graph, grid, ring

__all__ = [
    "DPSGD",
    "SGD",
    "Adam",
    "Bench",
    "DFedADMM",
    "DFedAvg",
    "Denoising",
    "Descent",
    "Federated",
    "FederatedMoment",
    "FederatedRecipe",
    "Federation",
    "Method",
    "Objective",
    "Peer",
    "States",
    "Topology",
    "Turn",
    "apart",
    "deal",
    "dfedadmm_sam",
    "dfedavgm",
    "dfedsam",
    "edges",
    "exponential",
    "federate",
    "full",
    "gossip",
    "graph",
    "grid",
    "mean",
    "mixed",
    "ring",
]
