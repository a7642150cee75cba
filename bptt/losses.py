"""Losses on the readout f, each with its derivative.

One row of `TABLE` is one loss. A loss takes the readout ``f`` and a target and returns
``(value, df)``: the mean loss as a float, and ``df = dvalue/df`` with the shape and
dtype of ``f``. The last axis of ``f`` counts the outputs, all axes before it count
independent terms, so that one function serves the loss on every step, ``f (T, B, O)``,
the loss on the last step, ``f (B, O)``, and a single sequence, ``f (T, O)``.

Adding a loss: one row here, one row in the test table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._validation import as_array, as_real, check_choice, check_shape

Array = NDArray[Any]
Loss = Callable[[ArrayLike, ArrayLike], tuple[float, Array]]


def squared_error(f: ArrayLike, target: ArrayLike) -> tuple[float, Array]:
    """Mean squared error over all elements.

    ``value = mean((f - target)**2)``, hence ``df = 2 (f - target) / f.size``.

    Parameters
    ----------
    f : ndarray of shape (T, B, O) or (B, O)
        Predictions, float32 or float64.
    target : array_like of shape (T, B, O) or (B, O)
        Real numbers, of the shape of f; converted to its dtype.

    Returns
    -------
    value : float
        The mean; 0 when there is no element.
    df : ndarray of the shape and dtype of f
        Its derivative with respect to f.

    Raises
    ------
    TypeError, ValueError
        A dtype that is no real number, or a target of another shape than f.

    Examples
    --------
    >>> value, df = squared_error(np.array([[1.0, 2.0]]), [[0.0, 0.0]])
    >>> value
    2.5
    >>> df
    array([[1., 2.]])
    """
    f, target = _real_pair(f, target)
    df = f - target
    value = _mean(np.square(df))
    df *= _weight(df.size, 2.0)
    return value, df


def binary_cross_entropy(f: ArrayLike, target: ArrayLike) -> tuple[float, Array]:
    """Mean cross entropy of independent yes/no outputs, from logits, in nats.

    With ``p = 1 / (1 + exp(-f))`` the mean over all elements of
    ``-target log(p) - (1 - target) log(1 - p)``, computed as
    ``max(f, 0) - f target + log(1 + exp(-|f|))``, which no logit overflows; hence
    ``df = (p - target) / f.size``.

    Parameters
    ----------
    f : ndarray of shape (T, B, O) or (B, O)
        Logits, float32 or float64.
    target : array_like of shape (T, B, O) or (B, O)
        Probabilities of "yes", from 0 to 1; bool and integers are taken as 0 and 1.

    Returns
    -------
    value : float
        The mean in nats; 0 when there is no element.
    df : ndarray of the shape and dtype of f
        Its derivative with respect to f.

    Raises
    ------
    TypeError, ValueError
        A dtype that is no real number, a target of another shape than f or with a
        value outside 0..1.

    Examples
    --------
    >>> value, df = binary_cross_entropy(np.array([[0.0, 1000.0]]), [[1, 1]])
    >>> round(value, 6)  # half of ln 2: the second logit is sure and right
    0.346574
    >>> df
    array([[-0.25,  0.  ]])
    """
    f, target = _real_pair(f, target)
    if target.size and not (target.min() >= 0 and target.max() <= 1):
        raise ValueError(
            "target must be from 0 to 1 for binary_cross_entropy, got values from "
            f"{target.min():g} to {target.max():g}"
        )
    with np.errstate(invalid="ignore", under="ignore"):
        # e <= 1 serves both signs: p is 1 / (1 + e) or e / (1 + e).
        e = np.exp(-np.abs(f))
        value = _mean(np.maximum(f, 0) - f * target + np.log1p(e))
        df = np.where(f < 0, e, 1).astype(f.dtype, copy=False)
        df /= 1 + e
        df -= target
        df *= _weight(df.size)
    return value, df


def cross_entropy(f: ArrayLike, target: ArrayLike) -> tuple[float, Array]:
    """Mean cross entropy of one class out of O, from logits, in nats.

    ``value = -mean(log p[target])`` with ``p = softmax(f)`` over the last axis; the
    largest logit is subtracted first, so that none overflows. With N targets,
    ``df = (p - onehot(target)) / N``.

    Parameters
    ----------
    f : ndarray of shape (T, B, O) or (B, O)
        Logits, float32 or float64.
    target : array_like of int, of shape (T, B) or (B)
        Class ids from 0 to O - 1.

    Returns
    -------
    value : float
        The mean over all targets in nats (divide by ln 2 for bits); 0 without targets.
    df : ndarray of the shape and dtype of f
        Its derivative with respect to f.

    Raises
    ------
    TypeError, ValueError
        Targets that are no integers, ids out of range, or shapes that do not agree.

    Examples
    --------
    >>> value, df = cross_entropy(np.zeros((1, 4)), [2])
    >>> round(value, 6)  # ln 4: four classes, none preferred
    1.386294
    >>> df
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """
    f = _readout(f)
    ids = _class_ids(target, f)
    O = f.shape[-1]
    rows, count = np.arange(ids.size), ids.size
    with np.errstate(invalid="ignore", under="ignore"):
        logits = f.reshape(-1, O)
        df = logits - logits.max(axis=1, keepdims=True)
        chosen = df[rows, ids]
        np.exp(df, out=df)
        total = df.sum(axis=1)
        value = _mean(np.log(total) - chosen)
        df *= (_weight(count) / total)[:, None]
        df[rows, ids] -= _weight(count)
    return value, df.reshape(f.shape)


def _real_pair(f: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    f = _readout(f)
    target = as_array("target", target)
    if target.dtype.kind not in "biuf":
        raise TypeError(f"target must hold real numbers, got dtype {target.dtype}")
    if f.ndim and not len(f) and target.shape == (0,):  # an empty list
        target = target.reshape(f.shape)
    check_shape("target", target, "f.shape", f.shape)
    return f, target.astype(f.dtype, copy=False)


def _readout(f: ArrayLike) -> Array:
    f = as_real("f", f)
    if f.ndim == 0 or f.shape[-1] == 0:
        raise ValueError(f"f must have shape (..., O) with O >= 1, got {f.shape}")
    return f


def _class_ids(target: ArrayLike, f: Array) -> Array:
    ids = as_array("target", target)
    if ids.dtype.kind not in "iu" and ids.size:
        raise TypeError(
            f"target must hold integer class ids for cross_entropy, got {ids.dtype}"
        )
    check_shape("target", ids, "f.shape[:-1]", f.shape[:-1])
    if ids.size:
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= f.shape[-1]:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(
                "target must hold class ids from 0 to O - 1 = "
                f"{f.shape[-1] - 1}, got {wrong}"
            )
    return ids.astype(np.intp, copy=False).reshape(-1)


def _mean(terms: Array) -> float:
    # float64: a float32 sum over millions of steps would lose the last digits.
    return float(terms.mean(dtype=np.float64)) if terms.size else 0.0


def _weight(count: int, factor: float = 1.0) -> float:
    return factor / count if count else 0.0


TABLE: dict[str, Loss] = {
    "squared_error": squared_error,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


def get(name: str) -> Loss:
    """Return the loss of this name.

    Parameters
    ----------
    name : str
        One of squared_error, cross_entropy, binary_cross_entropy.

    Raises
    ------
    ValueError
        The name is unknown; the message lists the known ones.

    Examples
    --------
    >>> get("cross_entropy") is cross_entropy
    True
    """
    check_choice("loss", name, tuple(TABLE))
    return TABLE[name]
