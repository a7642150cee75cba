"""Ragged and reset batches, and their parts alone, for the tests of the flow."""

import itertools

import numpy as np
import pytest
from ragged import Batch

import bptt
from bptt.activations import Activation

FORMS = pytest.mark.parametrize("form", ["list", "padded", "values"])
RESETS = pytest.mark.parametrize("resets", [False, True, "from a state of their own"])
LENGTHS = [7, 0, 12, 12, 3, 1, 9]


def a_batch(seed, dtype=np.float64, lengths=LENGTHS, resets=True, **options):
    rng = np.random.default_rng(seed)
    batch = Batch(rng, lengths, 3, 5, Activation("tanh"), dtype, **options)
    batch.V *= 3
    batch.reset_state = None
    if resets not in (False, True):
        batch.reset_state = rng.standard_normal(batch.z0.shape).astype(dtype)
        batch.resets[2][0] = True
    return batch


def as_form(batch, form, items):
    if form == "list":
        return items
    if form == "values":
        return np.concatenate(items)
    return batch.pad(items, items[0].dtype.type(-7))


def a_tape(batch, form, resets=True, **options):
    """Return a batch's tape."""
    if form == "padded":
        options["lengths"] = batch.lengths
    if form == "values":
        options["offsets"] = np.concatenate([[0], np.cumsum(batch.lengths)])
    if resets:
        options["resets"] = as_form(batch, form, batch.resets)
        options["reset_state"] = batch.reset_state
    x = as_form(batch, form, batch.x)
    return bptt.forward(x, batch.W, batch.V, batch.b, batch.z0, **options)[1]


def pieces(batch, s, resets=True):
    """Return (t0, t1, anew, plain tape) of each part of a sequence that starts anew."""
    n = batch.lengths[s]
    cuts = [0, *(np.flatnonzero(batch.resets[s][1:]) + 1 if resets else []), n]
    parts = []
    for t0, t1 in itertools.pairwise(map(int, cuts)):
        start, anew = batch.z0[s], t0 > 0
        flagged = resets and batch.resets[s][t0:t1][:1].any()
        if flagged and batch.reset_state is not None:
            start, anew = batch.reset_state[s], True
        _, tape = bptt.forward(batch.x[s][t0:t1], batch.W, batch.V, batch.b, start)
        parts.append((t0, t1, anew, tape))
    return parts
