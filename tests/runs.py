"""Small runs of training for the tests."""

import numpy as np

from bptt.data import TokenStreams
from bptt.network import Network

STEPS = 25


def make(**options):
    return Network(4, 6, 4, seed=0, stateful=True, **options)


def make_streams():
    ids = np.random.default_rng(0).integers(0, 4, 400)
    return TokenStreams(ids, length=8, batch_size=5, seed=2)


def same_bits(network, other):
    assert network.params.keys() == other.params.keys()
    for name, p in network.params.items():
        assert p.tobytes() == other.params[name].tobytes(), name
