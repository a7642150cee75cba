"""The readout f = z U + c with a loss on it, and its mirror."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import losses

Array = NDArray[Any]

# Of a single layer. The names of those of several are in `RNN.params`.
PARAMETERS = ("W", "V", "b", "U", "c")


class NetworkGradients(NamedTuple):
    """Gradients of the loss, each of the shape of what it belongs to.

    Attributes
    ----------
    W : ndarray of shape (I, H)
    V : ndarray of shape (H, H)
    b : ndarray of shape (H,)
    U : ndarray of shape (H, O)
    c : ndarray of shape (O,)
    z0 : ndarray of shape (B, H) or (H,)
    x : ndarray of shape (T, B, I) or (T, I), or None
        None where it was not wanted, or where x holds token ids.
    """

    W: Array
    V: Array
    b: Array
    U: Array
    c: Array
    z0: Array
    x: Array | None

    @property
    def params(self) -> dict[str, Array]:
        """The gradients of the parameters alone, by name, for an optimizer."""
        return {name: getattr(self, name) for name in PARAMETERS}


@np.errstate(over="ignore", invalid="ignore")  # as in the layer
def read(params: Mapping[str, Array], rows: Array) -> Array:
    """Return f of states (..., D H)."""
    U, c = params["U"], params["c"]
    # One matrix product: NumPy would make one of each step of a 3-D array.
    f = rows.reshape(-1, len(U)) @ U
    f += c
    shaped: Array = f.reshape(*rows.shape[:-1], len(c))
    return shaped


def read_back(
    params: Mapping[str, Array], rows: Array, loss: str, target: ArrayLike
) -> tuple[float, Array, Array, Array]:
    """Return the loss on states (..., D H), and its gradients dU, dc and drows."""
    U = params["U"]
    # 1. f = z U + c
    f = read(params, rows)
    # 2. L(f, target)
    value, df = losses.TABLE[loss](f, target)

    # 2. forward was L(f, target), which gave df; 1. forward was f = z U + c, so now
    df_rows = df.reshape(-1, U.shape[1])
    dU = rows.reshape(-1, len(U)).T @ df_rows
    dc = df_rows.sum(axis=0)
    return value, dU, dc, (df_rows @ U.T).reshape(rows.shape)
