"""Decentralised training: peers that never share data train one denoiser by gossip."""

from demask.training.federated.descent import SGD, Adam, Descent
from demask.training.federated.gossip import Objective, Peer, Turn, apart, gossip, mean, mixed
from demask.training.federated.methods import DPSGD, DFedADMM, DFedAvg, Method, dfedadmm_sam, dfedavgm, dfedsam
from demask.training.federated.topology import Topology, edges, exponential, full, graph, grid, ring

__all__ = [
    "DPSGD",
    "SGD",
    "Adam",
    "DFedADMM",
    "DFedAvg",
    "Descent",
    "Method",
    "Objective",
    "Peer",
    "Topology",
    "Turn",
    "apart",
    "dfedadmm_sam",
    "dfedavgm",
    "dfedsam",
    "edges",
    "exponential",
    "full",
    "gossip",
    "graph",
    "grid",
    "mean",
    "mixed",
    "ring",
]
