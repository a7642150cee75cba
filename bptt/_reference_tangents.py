"""Tangents along a trajectory in NumPy: the specification of `_kernels_tangents.pxi`.

What `_reference.py` is for the recurrence, with the same letters and counts of time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.activations import Activation

Array = NDArray[Any]

# Of Gram-Schmidt. What as many have left next to nothing of lies in the span of others.
PASSES = 8


@np.errstate(all="ignore")
def jvp(
    x: Array,  # (T, B, I) or ids (T, B)    IN
    W: Array,  # (I, H)                     IN
    V: Array,  # (H, H)                     IN
    z: Array,  # (T + 1, B, H)              IN
    activation: Activation,
    dx: Array | None,  # (T, B, I)          IN
    dW: Array | None,  # (I, H)             IN
    dV: Array | None,  # (H, H)             IN
    db: Array | None,  # (H)                IN
    dz: Array,  # (T + 1, B, H)             IN dz[0], OUT dz[1..T]
) -> None:
    """Carry the tangent dz[0] through the layer, with those of x and the parameters."""
    # 1. z[t] <- x[t] W + b, so dz[t] <- dx[t] W + x[t] dW + z[t-1] dV + db
    dz[1:] = 0
    if dx is not None:
        dz[1:] += dx @ W
    if dW is not None:
        dz[1:] += dW[x] if x.ndim == 2 else x @ dW
    if dV is not None:
        dz[1:] += z[:-1] @ dV
    if db is not None:
        dz[1:] += db

    # 2. z[t] <- sigma(z[t] + z[t-1] V), so dz[t] <- sigma'(z[t]) (dz[t] + dz[t-1] V)
    for t in range(1, len(z)):
        dz[t] = activation.dsigma(z[t]) * (dz[t] + dz[t - 1] @ V)


@np.errstate(all="ignore")
def lyapunov(
    V: Array,  # (H, H)                     IN
    z: Array,  # (T + 1, B, H)              IN
    activation: Activation,
    Q: Array,  # (B, k, H)                  IN OUT   orthonormal rows
    logs: Array,  # (B, k) of float64       IN OUT   what their lengths grew by
) -> None:
    """Carry orthonormal rows along a trajectory, and sum up what they grow by."""
    for t in range(1, len(z)):
        Q[...] = activation.dsigma(z[t])[:, np.newaxis] * (Q @ V)
        for frame, sums in zip(Q, logs, strict=True):
            for r, row in enumerate(frame):
                row -= (frame[:r] @ row) @ frame[:r]
                for _ in range(PASSES - 1):  # against rounding, maybe all that is left
                    parts = frame[:r] @ row
                    row -= parts @ frame[:r]
                    scale = np.abs(row).max()  # for squares overflow or vanish
                    sums[r] += np.log(scale)
                    row /= scale or 1
                    if not np.linalg.norm(row) * scale < np.abs(parts).max(initial=0):
                        break
                else:
                    row[...] = 0
                length = np.linalg.norm(row)
                sums[r] += np.log(length)
                row /= length or 1
