"""A known law over few tokens, as data to train on."""

import torch

from demask.oracles import Table
from demask.tokenizer import Tokenizer
from demask.training import Batch, HeldOut


class Drawn:
    """Rows drawn from an oracle."""

    def __init__(self, oracle):
        self.oracle = oracle
        self.context = oracle.length

    def batch(self, chance):
        return Batch(self.oracle.sample(len(chance.names), key=chance.path & 0xFFFFFFFF))


def skewed(length=4, vocabulary=2, key=3):
    return Table.random(length, vocabulary, key=key)


def held(oracle, count=64):
    return HeldOut(oracle.sample(count, key=10**6), torch.arange(count), count, count * oracle.length)


def tokenizer(vocabulary):
    return Tokenizer.words([f"w{i}" for i in range(vocabulary - 1)])
