"""The cliff: the smallest network whose gradient explodes, and what clipping does.

One sigmoid unit without input, z[t] = sigma(w z[t-1] + b) for 50 steps, and the loss
(z[T] - 0.7)^2 as a function of w and b (Pascanu et al. 2013, figure 6; Goodfellow et
al. 2016, figure 10.17). Where the unit begins to have two resting states the loss has a
wall; a step of gradient descent that meets it lands far away, unless it is clipped.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._validation import as_array, as_positive, as_size, check_shape
from bptt.clipping import clip_norm
from bptt.recurrence import backward, forward

Array = NDArray[Any]

STEPS, START, TARGET = 50, 0.5, 0.7


def loss_surface(w: ArrayLike, b: ArrayLike) -> Array:
    """Return the loss of each w and b, which are broadcast against each other.

    Examples
    --------
    >>> loss_surface([5.0], [-2.5]).round(3)
    array([0.04])
    """
    w, b = np.broadcast_arrays(np.asarray(w, np.float64), np.asarray(b, np.float64))
    z = np.full(w.shape, START)
    for _ in range(STEPS):
        z = 1 / (1 + np.exp(-(w * z + b)))
    loss: Array = np.square(z - TARGET)
    return loss


def descend(
    start: tuple[float, float] = (4.5, -3.2),
    *,
    rate: float = 0.2,
    steps: int = 150,
    clip: float | None = None,
) -> Array:
    """Return the path of gradient descent from (w, b), with the gradients of BPTT.

    Parameters
    ----------
    start : tuple of float, default (4.5, -3.2)
        w and b.
    rate : float, default 0.2
        The learning rate.
    steps : int, default 150
        How many.
    clip : float, optional
        Threshold h of the gradient's norm.

    Returns
    -------
    ndarray of shape (steps + 1, 4)
        w, b, the loss there and the norm of its gradient before clipping.

    Examples
    --------
    >>> descend(steps=9, clip=0.1).shape
    (10, 4)
    """
    rate, steps = as_positive("rate", rate), as_size("steps", steps)
    h = math.inf if clip is None else as_positive("clip", clip)
    first = as_array("start", start).astype(np.float64)
    check_shape("start", first, "(2,)", (2,))
    V, b = first[:1].reshape(1, 1).copy(), first[1:].copy()
    x, W, z0 = np.zeros((STEPS, 1)), np.zeros((1, 1)), np.array([START])
    path = np.empty((steps + 1, 4))
    for n in range(steps + 1):
        z, tape = forward(x, W, V, b, z0, activation="sigmoid")
        grads = backward(tape, dz_last=2 * (z[-1] - TARGET))
        clipped, norm = clip_norm({"V": grads.V, "b": np.asarray(grads.b)}, h)
        path[n] = V[0, 0], b[0], (z[-1, 0] - TARGET) ** 2, norm
        V = V - rate * clipped["V"]
        b = b - rate * clipped["b"]
    return path
