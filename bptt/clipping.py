"""Gradient clipping, by norm and by value, with non-finite gradients told of.

A gradient is a collection of leaves: a `Gradients` or any other tuple, a list, a dict,
or one array. A leaf may be None, and stays None.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from bptt._validation import as_flag, as_positive, as_real, check_choice

Array = NDArray[Any]
Leaves = dict[Any, Array]
G = TypeVar("G")

NONFINITE = ("raise", "zero", "pass")


class NonFiniteGradientError(ValueError):
    """A gradient holds a NaN or an infinity."""


class NonFiniteGradientWarning(RuntimeWarning):
    """A gradient that holds a NaN or an infinity was set to zero."""


def clip_norm(
    grads: G, h: float, *, per_leaf: bool = False, nonfinite: str = "raise"
) -> tuple[G, Any]:
    """Scale a gradient down to norm h where its norm is larger.

    The rule is ``if ||g|| > h: g <- h / ||g|| * g`` with the Euclidean norm, over all
    leaves together.

    Parameters
    ----------
    grads : Gradients, tuple, list, dict or ndarray
        The gradient; never written to.
    h : float
        The threshold, above 0; infinity clips nothing and measures the norm.
    per_leaf : bool, default False
        Whether each leaf is clipped by its own norm instead.
    nonfinite : {"raise", "zero", "pass"}, default "raise"
        What a NaN or an infinity in the gradient gets: an error that says where the
        first one is; all leaves set to zero, with a warning that says where; or the
        gradient as it came.

    Returns
    -------
    grads : of the type of the argument
        The clipped gradient; the argument itself where there was nothing to do.
    norm : float, or a dict of float by the names of the leaves with ``per_leaf``
        The norm before clipping: infinity where float64 cannot hold it, which does not
        keep the gradient from being clipped to the right vector.

    Raises
    ------
    NonFiniteGradientError
        A leaf holds a NaN or an infinity, and nonfinite is "raise".
    TypeError
        grads is no collection of float32 or float64 arrays, or h no number.
    ValueError
        h is NaN, zero or negative: the last would turn the gradient around.

    References
    ----------
    R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent
    neural networks", ICML 2013, algorithm 1.

    Examples
    --------
    >>> clip_norm([np.array([3.0, 0.0]), np.array([4.0])], 1.0)
    ([array([0.6, 0. ]), array([0.8])], 5.0)
    """
    h = as_positive("h", h)
    check_choice("nonfinite", nonfinite, NONFINITE)
    leaves = _leaves(grads)
    per_leaf = as_flag("per_leaf", per_leaf)
    groups = [[name] for name in leaves] if per_leaf else [list(leaves)]
    clipped, norms = dict(leaves), []
    for names in groups:
        norm = _norm([leaves[name] for name in names])
        norms.append(norm.value)
        if norm.value > h and not math.isnan(norm.mantissa):
            clipped |= {name: _scaled(leaves[name], h, norm) for name in names}
    report: Any = dict(zip(leaves, norms, strict=True)) if per_leaf else norms[0]
    if not all(map(math.isfinite, norms)) and not _all_finite(leaves):
        return _refused(grads, leaves, nonfinite), report
    changed = any(clipped[name] is not leaves[name] for name in leaves)
    return _rebuild(grads, clipped) if changed else grads, report


def clip_value(grads: G, h: float, *, nonfinite: str = "raise") -> G:
    """Limit each entry of a gradient to -h <= g <= h.

    Parameters
    ----------
    grads : Gradients, tuple, list, dict or ndarray
        The gradient; never written to.
    h : float
        The threshold, above 0.
    nonfinite : {"raise", "zero", "pass"}, default "raise"
        As in `clip_norm`; with "pass" an infinity becomes h and a NaN stays.

    Returns
    -------
    grads : of the type of the argument

    Raises
    ------
    NonFiniteGradientError, TypeError, ValueError
        As in `clip_norm`.

    Examples
    --------
    >>> clip_value(np.array([-3.0, 0.5]), 1.0)
    array([-1. ,  0.5])
    """
    h = as_positive("h", h)
    check_choice("nonfinite", nonfinite, NONFINITE)
    leaves = _leaves(grads)
    if not _all_finite(leaves) and nonfinite != "pass":
        return _refused(grads, leaves, nonfinite)
    if math.isinf(h):
        return grads
    return _rebuild(grads, {k: _limited(g, h) for k, g in leaves.items()})


def _leaves(grads: Any) -> Leaves:
    """Return the arrays of a gradient by name: field, key, or position."""
    items: Iterable[tuple[Any, Any]]
    if hasattr(grads, "_fields"):
        items = zip(grads._fields, grads, strict=True)
    elif isinstance(grads, dict):
        items = grads.items()
    elif isinstance(grads, (tuple, list)):
        items = zip(map(str, range(len(grads))), grads, strict=True)
    elif isinstance(grads, np.ndarray):
        items = [("gradient", grads)]
    else:
        raise TypeError(
            "grads must be Gradients, a tuple, a list, a dict or an array, "
            f"got {type(grads).__name__}"
        )
    return {
        name: as_real(f"grads[{name!r}]", leaf)
        for name, leaf in items
        if leaf is not None
    }


def _rebuild(grads: G, leaves: Leaves) -> G:
    """Return a gradient like grads with other leaves."""
    new: Any = leaves.get("gradient")
    if hasattr(grads, "_fields"):
        new = type(grads)(*map(leaves.get, grads._fields))
    elif isinstance(grads, dict):
        new = {name: leaves.get(name) for name in grads}
    elif isinstance(grads, (tuple, list)):
        new = type(grads)(leaves.get(str(i)) for i in range(len(grads)))
    return cast(G, new)


class _Norm(NamedTuple):
    """A norm as mantissa 2^exponent: one that float64 cannot hold has a mantissa."""

    mantissa: float
    exponent: int

    @property
    def value(self) -> float:
        try:
            return math.ldexp(self.mantissa, self.exponent)
        except OverflowError:
            return math.inf


def _norm(leaves: list[Array]) -> _Norm:
    """Return the Euclidean norm of all entries; NaN where one is not finite."""
    # The square of any float32 is a normal float64. For a float64 it may not be; then
    # a power of two, which rounds nothing, brings the largest entry near 1.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total = sum(float(np.square(g, dtype=np.float64).sum()) for g in leaves)
        if 1e-280 < total < math.inf or total == 0 == _largest(leaves):
            return _Norm(math.sqrt(total), 0)
        largest = _largest(leaves)
        if not math.isfinite(largest):
            return _Norm(math.nan, 0)
        exponent = math.frexp(largest)[1]
        shrunk = (np.ldexp(g.astype(np.float64), -exponent) for g in leaves)
        return _Norm(
            math.sqrt(sum(float(np.square(g).sum()) for g in shrunk)), exponent
        )


def _largest(leaves: list[Array]) -> float:
    # Not max(): it may step over a NaN.
    return float(np.max([np.abs(g).max(initial=0.0) for g in leaves], initial=0.0))


def _scaled(leaf: Array, h: float, norm: _Norm) -> Array:
    """Return h / norm * leaf, where h / norm itself might overflow or underflow."""
    factor = h / norm.mantissa
    small = float(np.finfo(leaf.dtype).smallest_normal)
    if norm.exponent == 0 and factor >= small:
        scaled: Array = leaf * leaf.dtype.type(factor)
        return scaled
    unit: Array = np.ldexp(leaf.astype(np.float64), -norm.exponent) / norm.mantissa
    with np.errstate(under="ignore"):
        return (unit * h).astype(leaf.dtype)


def _limited(leaf: Array, h: float) -> Array:
    # A float32 cannot reach a threshold that float32 cannot hold.
    limit = leaf.dtype.type(min(h, float(np.finfo(leaf.dtype).max)))
    return np.clip(leaf, -limit, limit)


def _all_finite(leaves: Leaves) -> bool:
    return all(bool(np.isfinite(leaf).all()) for leaf in leaves.values())


def _refused(grads: G, leaves: Leaves, nonfinite: str) -> G:
    """Return what a gradient that is not finite gets instead."""
    if nonfinite == "pass":
        return grads
    where = _first_nonfinite(leaves)
    if nonfinite == "raise":
        raise NonFiniteGradientError(f"the gradient is not finite: {where}")
    warnings.warn(
        f"a gradient that is not finite was set to zero: {where}",
        NonFiniteGradientWarning,
        stacklevel=3,
    )
    return _rebuild(grads, {k: np.zeros_like(g) for k, g in leaves.items()})


def _first_nonfinite(leaves: Leaves) -> str:
    for name, leaf in leaves.items():
        wrong = np.flatnonzero(~np.isfinite(leaf))
        if wrong.size:
            index = tuple(map(int, np.unravel_index(wrong[0], leaf.shape)))
            return f"leaf {name!r} holds {leaf[index]} at index {index}"
    raise AssertionError("called for a gradient that is finite")
