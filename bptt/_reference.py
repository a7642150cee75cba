"""The recurrence in NumPy: the specification of `_kernels.pyx`, function by function.

It is the oracle of the tests, the fallback where the compiled kernels are absent, and
the baseline of the benchmarks: the shortest text that is right, never optimised.

z has T + 1 entries along time: z[0] is the initial state and z[t] the state after
step t = 1..T. Arrays that have one entry per step count from 0, so x[t - 1] and
dz[t - 1] belong to z[t]. x holds either features (T, B, I) or token ids (T, B); an id
stands for the one-hot row that selects it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import _reference_parts
from bptt._parts import Flow, Layout, Segment
from bptt._reference_tangents import jvp as jvp
from bptt._reference_tangents import lyapunov as lyapunov
from bptt.activations import Activation

Array = NDArray[Any]


@np.errstate(all="ignore")  # NaN and infinity propagate, as in the kernels
def forward(
    x: Any,  # (T, B, I) or ids (T, B)      IN
    W: Array,  # (I, H)                     IN
    V: Array,  # (H, H)                     IN
    b: Array | None,  # (H)                 IN
    z: Array,  # (T + 1, B, H)              IN z[0], OUT z[1..T]
    activation: Activation,
    layout: Layout | None = None,
) -> None:
    """Run the layer: z[t] = sigma(x[t] W + z[t-1] V + b)."""
    if layout is not None:
        _reference_parts.forward(x, W, V, b, z, activation, layout)
        return
    T = len(x)

    # 1. z[t] <- x[t] W + b: a state's place holds its input until the step comes.
    z[1:] = W[x] if x.ndim == 2 else x @ W
    if b is not None:
        z[1:] += b

    # 2. z[t] <- sigma(z[t] + z[t-1] V)
    for t in range(1, T + 1):
        z[t] = activation.sigma(z[t] + z[t - 1] @ V)


def forward_both(
    first: tuple[Any, ...], second: tuple[Any, ...], apart: bool = False
) -> None:
    """Run two layers at once: `forward` with the arguments of each."""
    forward(*first)
    forward(*second)


@np.errstate(all="ignore")
def backward(
    x: Any,  # (T, B, I) or ids (T, B)      IN
    W: Array,  # (I, H)                     IN
    V: Array,  # (H, H)                     IN
    z: Array,  # (T + 1, B, H)              IN
    activation: Activation,
    dz: Any,  # (T, B, H), or None          IN   loss on every state
    dz_last: Array | None,  # (B, H)        IN   loss on the last state
    dW: Array | None,  # (I, H)             OUT, or None with dV
    dV: Array | None,  # (H, H)             OUT, or None
    db: Array | None,  # (H)                OUT
    dz0: Array,  # (B, H)                   OUT
    dx: Array | None,  # (T, B, I)          OUT
    layout: Layout | None = None,
    segment: Segment | None = None,
    flow: Flow | None = None,
) -> None:
    """Run the layer backwards: all gradients, from dz and dz_last."""
    if layout is not None or segment is not None or flow is not None:
        _reference_parts.backward(
            x,
            W,
            V,
            z,
            activation,
            dz,
            dz_last,
            dW,
            dV,
            db,
            dz0,
            dx,
            layout or Layout(),
            segment or Segment(1),
            flow,
        )
        return
    T, H = len(x), len(V)
    da = np.empty_like(z[1:])

    # 2. forward was z[t] <- sigma(a[t]), a[t] = .. + z[t-1] V, so now
    #    e[t] = dz[t] + da[t+1] V^T and da[t] = e[t] sigma'(z[t])
    e = np.zeros_like(z[0]) if dz_last is None else dz_last
    for t in range(T, 0, -1):
        if dz is not None:
            e = e + dz[t - 1]
        da[t - 1] = e * activation.dsigma(z[t])
        e = da[t - 1] @ V.T
    dz0[...] = e
    rows = da.reshape(-1, H)
    if dV is not None:
        dV[...] = z[:-1].reshape(-1, H).T @ rows

    # 1. forward was x[t] W + b, so now
    if db is not None:
        db[...] = rows.sum(axis=0)
    if dW is None:
        pass
    elif x.ndim == 2:
        dW[...] = 0
        np.add.at(dW, x, da)
    else:
        dW[...] = x.reshape(-1, len(W)).T @ rows
    if dx is not None:
        dx[...] = da @ W.T


def backward_both(
    first: tuple[Any, ...], second: tuple[Any, ...], apart: bool = False
) -> None:
    """Run two layers backwards at once: `backward` with the arguments of each."""
    backward(*first)
    backward(*second)


def side_by_side(B: int, H: int, work: float) -> bool:
    """Return whether two runs of so many multiplications are better run at once, on
    half of the threads each, than one after the other.
    """
    return False


def halves(B: int, H: int) -> bool:
    """Return whether gradients are summed up in two halves of a batch, apart."""
    return False


@np.errstate(all="ignore")
def state_backward(
    V: Array,  # (H, H)                     IN
    da: Array,  # (R, H)                    IN
    dz: Array,  # (R, H)                    OUT
) -> None:
    """Run back from steps to the states they start from: dz = da V^T."""
    dz[...] = da @ V.T


def place_cells(
    lengths: Array,  # (S)                  IN
    start: Array,  # (S)                    IN
    row: Array,  # (S)                      IN
    offsets: Array,  # (T + 1)              IN
    first: Array,  # (S)                    IN
    stride: int,
    place: Array,  # (N)                    OUT
    sequence: Array,  # (N)                 OUT
) -> None:
    """Find the cells of sequences that begin at a step, in a row of step 0: entry i of
    sequence s has its place in row first[s] + i * stride.
    """
    for s, length in enumerate(lengths):
        step = start[s] + np.arange(length)
        # Of the rows of step 0 the first ones have ended.
        cell = offsets[step + 1] - offsets[1] + row[s] if length else step
        place[cell] = first[s] + np.arange(length) * stride
        sequence[cell] = s


def halve(
    offsets: Array,  # (T + 1)              IN
    half: int,
    own: Array,  # (T + 1)                  OUT
    cells: Array,  # (N)                    OUT
) -> int:
    """Find the cells of a half of the rows, 0 1 1 0 0 1 1 0 .. from the last row of a
    step; return how many steps it has. Its own offsets and cells may be fewer.
    """
    rows = np.diff(offsets)
    from_last = np.repeat(offsets[1:], rows) - 1 - np.arange(offsets[-1])
    mine = (from_last + 1) // 2 % 2 == half
    own[0], own[1:] = 0, np.cumsum(mine)[offsets[1:] - 1]
    cells[: own[-1]] = np.flatnonzero(mine)
    return int(np.count_nonzero(np.diff(own)))


def clear(
    rows: Array,  # (T, S, K)               OUT
    lengths: Array,  # (S)                  IN
    written: Array,  # (S)                  IN
) -> None:
    """Write zeros into the steps of each sequence from its length on, as far as it is
    written.
    """
    for s, (length, end) in enumerate(zip(lengths, written, strict=True)):
        rows[length:end, s] = 0


def chunk_steps(T: int, B: int, I: int, H: int, itemsize: int) -> int:
    """Return how many steps the chunks of a run have, but for the last one."""
    return max(1, min(T, 256 // max(1, B)))
