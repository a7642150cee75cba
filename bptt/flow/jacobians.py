"""Jacobians of the states: of a step, of a gap, and how large they are."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt import _backend
from bptt._validation import as_flag, as_real, as_size, check_shape
from bptt.flow._arguments import as_count, as_gap, as_step
from bptt.flow._path import Path
from bptt.recurrence import Tape

Array = NDArray[Any]

LN2 = math.log(2)

# Products are scaled by a power of 2 where their entries leave this range.
SMALL, LARGE = 1e-100, 1e100

# Logarithms: of directions that are turned together, and of those with digits left.
_ALIKE, _RESOLVED = 3.0, 20.0


def jacobian(tape: Tape, t: int, *, diagonal: bool = False) -> Array:
    """Return dz[t]/dz[t-1] = D[t] V^T, or D[t] alone.

    It is 0 past the end of a sequence, and where one starts anew with step t.

    Parameters
    ----------
    tape : Tape
        From `bptt.forward`. Where states are recomputed, a leaf or more is run again.
    t : int
        The step, from 1 to T.
    diagonal : bool, default False
        Whether to return the diagonal of D[t], sigma' of each unit, alone.

    Returns
    -------
    ndarray of shape (B, H, H), or (H, H) for one sequence
        Element (h, k) is the derivative of unit h at t by unit k at t - 1. With
        ``diagonal``, of shape (B, H) or (H,).

    Raises
    ------
    TypeError, ValueError
        tape is none, or t is no step of it.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> _, tape = bptt.forward(np.zeros((5, 1)), np.ones((1, 2)), 0.5 * np.eye(2))
    >>> jacobian(tape, 3)
    array([[0.5, 0. ],
           [0. , 0.5]])
    """
    path, diagonal = Path(tape), as_flag("diagonal", diagonal)
    t = as_step("t", t, 1, path.T)
    D = np.zeros((path.B, path.H), tape.W.dtype)
    for stretch in path.forward(t - 1, t):
        D[: stretch.z.shape[1]] = tape.activation.dsigma(stretch.z[1])
    if diagonal:
        return path.put(D)
    D[path.cuts(t)] = 0
    return path.put(D[:, :, np.newaxis] * tape.V.T)


class ScaledProduct(NamedTuple):
    """A matrix times a power of 2, so that none of it is lost to overflow.

    Attributes
    ----------
    matrix : ndarray of shape (B, H, H) or (H, H), float64
    exponent : ndarray of int of shape (B,) or ()
        The product is ``matrix * 2.0**exponent``.
    """

    matrix: Array
    exponent: Array

    @property
    def log_scale(self) -> Array:
        """The natural logarithm of the scale: the product is matrix e^log_scale."""
        scale: Array = self.exponent * LN2
        return scale

    @property
    def log10_norm(self) -> Array:
        """log10 of the largest singular value of the product; NaN where it has none."""
        # The decomposition would refuse all where one is not finite.
        finite = np.isfinite(self.matrix).all(axis=(-2, -1))
        matrix = np.where(np.expand_dims(finite, (-2, -1)), self.matrix, 0)
        with np.errstate(divide="ignore"):
            norm = np.log10(np.linalg.norm(matrix, 2, axis=(-2, -1)))
        norm = np.where(finite, norm, np.nan)
        log: Array = norm + self.exponent * math.log10(2)
        return log

    def dense(self) -> Array:
        """Return the product itself, which may overflow or vanish."""
        with np.errstate(over="ignore", under="ignore"):
            product: Array = np.ldexp(
                self.matrix, np.asarray(self.exponent)[..., np.newaxis, np.newaxis]
            )
        return product


def jacobian_product(tape: Tape, t: int, i: int) -> ScaledProduct:
    """Return dz[t]/dz[i] = D[t] V^T D[t-1] V^T ... D[i+1] V^T, with its scale apart.

    It is 0 past the end of a sequence, and where one starts anew within the gap.

    Parameters
    ----------
    tape : Tape
        From `bptt.forward`.
    t, i : int
        The ends of the gap, 0 <= i <= t <= T. z[0] is the initial state.

    Returns
    -------
    ScaledProduct
        matrix and exponent; computed in float64 whatever the type of the tape. Of a
        product of 1e-3000 nothing is lost, nor of one of 1e+3000.

    Raises
    ------
    TypeError, ValueError
        tape is none, t or i is no step of it, or the gap runs backwards.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> x, W, V = np.zeros((9000, 1)), np.ones((1, 2)), 0.5 * np.eye(2)
    >>> _, tape = bptt.forward(x, W, V, activation="identity")
    >>> product = jacobian_product(tape, 9000, 0)
    >>> float(product.log10_norm.round(6)), float((9000 * np.log10(0.5)).round(6))
    (-2709.269961, -2709.269961)
    """
    path = Path(tape)
    t, i = as_gap(t, i, path.T)
    n, H = path.rows(t), path.H
    V = tape.V.astype(np.float64)
    # Row r of a frame is the tangent of unit r at i: the transpose of the Jacobian.
    rows = np.zeros((path.B, H, H))
    rows[:n] = np.eye(H)
    exponent = np.zeros(path.B, np.int64)
    with np.errstate(all="ignore"):
        for stretch in path.forward(i, t):
            rows[stretch.cut] = 0
            for slope in tape.activation.dsigma(stretch.z[1:, :n]):
                carried = (rows[:n].reshape(-1, H) @ V).reshape(n, H, H)
                np.multiply(carried, slope[:, np.newaxis], out=rows[:n])
                rescale(rows[:n], exponent[:n])
    matrix = np.ascontiguousarray(rows.swapaxes(1, 2))
    return ScaledProduct(path.put(matrix), path.put(exponent))


def rescale(rows: Array, exponent: Array) -> None:
    """Move a power of 2 from rows (B, ...) to exponent (B,), where they need it."""
    largest = np.abs(rows).max(axis=tuple(range(1, rows.ndim)), initial=0)
    off = (largest != 0) & np.isfinite(largest)
    off &= (largest < SMALL) | (largest > LARGE)
    if off.any():
        shift = np.where(off, np.frexp(largest)[1], 0)
        rows[...] = np.ldexp(rows, -shift.reshape(-1, *[1] * (rows.ndim - 1)))
        exponent += shift


def log_singular_values(
    tape: Tape, t: int, i: int, k: int = 1, *, iterations: int = 500
) -> Array:
    """Return the natural logarithms of the k largest singular values of dz[t]/dz[i].

    Without the matrix: orthonormal directions go through the gap and back, and are made
    orthonormal after each step (block power iteration on the product's factors). Their
    growth is summed up as logarithms, so that no singular value is lost beside a larger
    one.

    Parameters
    ----------
    tape : Tape
        From `bptt.forward`.
    t, i : int
        The ends of the gap, 0 <= i <= t <= T.
    k : int, default 1
        How many, at most H.
    iterations : int, default 500
        Of the power method, at most; it stops when an iteration changes no logarithm by
        more than its rounding.

    Returns
    -------
    ndarray of shape (B, k), or (k,) for one sequence
        Descending. Minus infinity stands for 0, as past the end of a sequence, or where
        one starts anew within the gap.

    Raises
    ------
    TypeError, ValueError
        As in `jacobian_product`, or k is above H.

    Notes
    -----
    The error falls by (s[k+9] / s[k])^2 or faster with each iteration; directions of
    nearly equal singular values are told apart by a small decomposition now and then.
    What has not settled after the last iteration is off by less than the distance of
    neighbouring values.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> Q = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    >>> x, W = np.zeros((100, 1)), np.ones((1, 8))
    >>> _, tape = bptt.forward(x, W, 0.9 * Q, activation="identity")
    >>> values = np.exp(log_singular_values(tape, 100, 0, 3))
    >>> np.allclose(values, 0.9**100)
    True
    """
    path = Path(tape)
    t, i = as_gap(t, i, path.T)
    H = path.H
    k = as_count("k", k, H, "H")
    iterations = as_size("iterations", iterations)
    rows, z = path.gap(i, t)
    B = len(rows)
    V = tape.V.astype(np.float64)
    # Backwards D comes first: the steps between are those of another walk.
    back = np.ascontiguousarray(z[:0:-1])
    width = min(H, k + 8)
    start = np.random.default_rng(0).standard_normal((B, H, width))
    Q = np.ascontiguousarray(np.linalg.qr(start)[0].swapaxes(1, 2))
    logs = np.zeros((B, width))
    for n in range(1, 1 + (iterations if t > i else 0)):
        before, logs = logs, np.zeros((B, width))
        _backend.kernels.lyapunov(V, z, tape.activation, Q, logs)
        if width == H == 1:
            break
        Q *= tape.activation.dsigma(back[0])[:, np.newaxis]
        _backend.kernels.lyapunov(V.T, back, tape.activation, Q, np.zeros((B, width)))
        Q = _orthonormal_rows(Q @ V.T)
        if n & (n - 1) == 0:
            _separate(Q, logs, V, z, tape)
        with np.errstate(invalid="ignore"):
            change = np.abs(logs - before)[:, :k]
        # Minus infinity less itself is no change.
        settled = change <= 4 * np.finfo(float).eps * (t - i + np.abs(logs[:, :k]))
        if (settled | np.isinf(logs[:, :k])).all():
            break
    found = np.full((path.B, k), -np.inf)
    found[rows] = -np.sort(-logs, axis=1)[:, :k]
    return path.put(found)


def _separate(Q: Array, logs: Array, V: Array, z: Array, tape: Tape) -> None:
    """Turn directions that grow nearly alike to where the product has them orthogonal.

    This only speeds up the iteration: an error here is one it corrects. Of directions
    far below the largest the image has no digits, and they are left alone.
    """
    images = Q.copy()
    exponent = np.zeros(len(Q), np.int64)
    for state in z[1:]:
        images = (images.reshape(-1, len(V)) @ V).reshape(images.shape)
        images *= tape.activation.dsigma(state)[:, np.newaxis]
        rescale(images, exponent)
    for frame, image, log in zip(Q, images, logs, strict=True):
        first = 0
        while first < len(log) and log[first] > log[0] - _RESOLVED:
            end = first + int((log[first:] > log[first] - _ALIKE).sum())
            if np.isfinite(image[first:end]).all():
                turn = np.linalg.svd(image[first:end], full_matrices=False)[0].T
                frame[first:end] = turn @ frame[first:end]
            first = max(end, first + 1)


def _orthonormal_rows(rows: Array) -> Array:
    Q, _ = np.linalg.qr(rows.swapaxes(1, 2))
    return np.ascontiguousarray(Q.swapaxes(1, 2))


class Growth(NamedTuple):
    """Which factor of a product made a direction grow or shrink, step by step.

    Each of shape (steps, B) or (steps,), natural logarithms; their sum over the steps
    is the logarithm of what the direction's length was multiplied by. NaN past the end
    of a sequence, and from where one starts anew.

    Attributes
    ----------
    V : ndarray
        By V^T: ``log |V^T u| - log |u|``.
    D : ndarray
        By D[t], after it.
    """

    V: Array
    D: Array


def split_growth(tape: Tape, t: int, i: int, direction: Array | None = None) -> Growth:
    """Split what dz[t]/dz[i] does to a direction into the parts of V^T and of the D's.

    Parameters
    ----------
    tape : Tape
        From `bptt.forward`.
    t, i : int
        The ends of the gap, 0 <= i <= t <= T.
    direction : array_like of shape (B, H) or (H,), optional
        A tangent of z[i]; by default random, so that it soon is the direction that
        grows most.

    Returns
    -------
    Growth
        V and D, one entry for each step of the gap.

    Raises
    ------
    TypeError, ValueError
        As in `jacobian_product`, or the direction is of another shape, or 0.

    Examples
    --------
    The states are 0, where tanh' is 1, so that all is due to V:

    >>> import numpy as np, bptt
    >>> _, tape = bptt.forward(np.zeros((5, 1)), np.ones((1, 2)), 0.5 * np.eye(2))
    >>> growth = split_growth(tape, 5, 0)
    >>> float(np.exp(growth.V.sum())), float(np.exp(growth.D.sum()))
    (0.03125, 1.0)
    """
    path = Path(tape)
    t, i = as_gap(t, i, path.T)
    B, H = path.B, path.H
    if direction is None:
        u = np.random.default_rng(0).standard_normal((B, H))
    else:
        u = as_real("direction", direction).astype(np.float64)
        letters, shape = ("(B, H)", (B, H)) if tape.batched else ("(H,)", (H,))
        check_shape("direction", u, letters, shape)
        u = u.reshape(B, H)
        if not u.any(axis=1).all():
            raise ValueError("direction must not be 0: it has no length to grow")
    u = u[path.order]
    V = tape.V.astype(np.float64)
    by_V, by_D = np.full((t - i, B), np.nan), np.full((t - i, B), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        for stretch in path.forward(i, t):
            u[stretch.cut] = np.nan
            u = u[: stretch.z.shape[1]]
            for s, state in enumerate(stretch.z[1:], stretch.t0 - i):
                u = u / _lengths(u) @ V
                through_V = _lengths(u)
                u *= tape.activation.dsigma(state)
                by_V[s, : len(u)] = np.log(through_V[:, 0])
                by_D[s, : len(u)] = np.log(_lengths(u)[:, 0]) - by_V[s, : len(u)]
    return Growth(path.put(by_V, 1), path.put(by_D, 1))


def _lengths(u: Array) -> Array:
    """Return the length of each row, (B, 1)."""
    lengths: Array = np.linalg.norm(u, axis=1, keepdims=True)
    return lengths
