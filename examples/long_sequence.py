"""Exact gradients of a million steps, of which only a few states are kept.

A symbol of four comes at each step, and the next one is to be predicted. All states
would be 256 MB, and dz as much again; with a budget only those at the borders of
segments are kept, and the loss is asked for dz segment by segment, on the way back.

    python examples/long_sequence.py [steps]
"""

import resource
import sys

import numpy as np

import bptt

T = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
I, H = 4, 64


def peak():
    """Return the largest resident size so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


rng = np.random.default_rng(0)
ids = (np.cumsum(rng.integers(0, 2, T + 1)) % I)[:, None]  # goes on, or stays
W, V, U = (
    rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(H))
    for shape in [(I, H), (H, H), (H, I)]
)
dU = np.zeros_like(U)
total = 0.0


def loss(start, z):
    """Return dL/dz of the mean cross entropy of the next symbols."""
    global total, dU
    target = ids[start + 1 : start + 1 + len(z)]
    value, df = bptt.losses.cross_entropy(z @ U, target)
    part = len(z) / T
    total += value * part
    df *= np.float32(part)
    dU += z[:, 0].T @ df[:, 0]
    return df @ U.T


# Threads and first touches, so that what is measured is the run.
bptt.backward(bptt.forward(ids[:99], W, V)[1], np.zeros((99, 1, H), np.float32))
before = peak()
z_last, tape = bptt.forward(ids[:T], W, V, memory="32MB")
grads = bptt.backward(tape, loss)
extra = peak() - before

_, norm = bptt.clip_norm(grads, 1.0)
schedule = tape.schedule
print(f"{T:,} steps in {schedule.leaves} segments of {schedule.steps}")
print(f"loss {total:.4f}, ||gradient|| {norm:.4f}, ||dU|| {np.linalg.norm(dU):.4f}")
print(f"extra memory {extra / 1e6:.0f} MB; all states are {T * H * 4 / 1e6:,.0f} MB")
