"""Activation functions sigma, and what BPTT needs to know of each.

One row of `TABLE` is one activation: its code in C, its default parameters, sigma,
sigma' as a function of the state z = sigma(a), the Lipschitz bound gamma and the range.
sigma' is taken from z so that a tape need not keep a.

Adding an activation: one row here, one case in ``csrc/``, one row in the test table.
Names, formulas and default parameters follow the ONNX operator RNN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Every sigma also takes complex a: complex-step differentiation proves the reference
# with it. A comparison then looks at the real part, so that the branch is the real one.


def _identity(a: Array, alpha: float, beta: float) -> Array:
    return a


def _sigmoid(a: Array, alpha: float, beta: float) -> Array:
    # e = exp(-|a|) never overflows, and one formula serves both signs.
    e = np.exp(np.where(a.real < 0, a, -a))
    s: Array = np.where(a.real < 0, e, 1) / (1 + e)
    return s


def _tanh(a: Array, alpha: float, beta: float) -> Array:
    s: Array = np.tanh(a)
    return s


def _relu(a: Array, alpha: float, beta: float) -> Array:
    return np.where(a.real <= 0, np.zeros_like(a), a)


def _leaky_relu(a: Array, alpha: float, beta: float) -> Array:
    return np.where(a.real < 0, alpha * a, a)


def _elu(a: Array, alpha: float, beta: float) -> Array:
    return np.where(a.real < 0, alpha * np.expm1(_at_most_zero(a)), a)


def _softplus(a: Array, alpha: float, beta: float) -> Array:
    below = _at_most_zero(np.where(a.real < 0, a, -a))
    s: Array = np.where(a.real < 0, np.zeros_like(a), a) + np.log1p(np.exp(below))
    return s


def _softsign(a: Array, alpha: float, beta: float) -> Array:
    # Infinity over infinity is 1 here: the bounds of the range are reached at the ends.
    s: Array = a / (1 + np.where(a.real < 0, -a, a))
    s[np.isinf(a.real)] = np.sign(a.real[np.isinf(a.real)])
    return s


def _hard_sigmoid(a: Array, alpha: float, beta: float) -> Array:
    line = alpha * a + beta
    line = np.where(line.real <= 0, np.zeros_like(line), line)
    return np.where(line.real >= 1, np.ones_like(line), line)


def _scaled_tanh(a: Array, alpha: float, beta: float) -> Array:
    return alpha * np.tanh(beta * a)


def _thresholded_relu(a: Array, alpha: float, beta: float) -> Array:
    return np.where(a.real < alpha, np.zeros_like(a), a)


def _affine(a: Array, alpha: float, beta: float) -> Array:
    return alpha * a + beta


def _at_most_zero(a: Array) -> Array:
    return np.where(a.real > 0, np.zeros_like(a), a)


def _constant(z: Array, value: float) -> Array:
    return np.full_like(z, value)


def _step(z: Array, above: float, below: float | Array) -> Array:
    # A NaN state is neither above nor below: it stays NaN.
    slope = np.where(z > 0, above, below)
    return np.where(np.isnan(z), z, slope).astype(z.dtype, copy=False)


def _inside_unit(z: Array, slope: float) -> Array:
    inside = np.where((z > 0) & (z < 1), slope, 0.0)
    return np.where(np.isnan(z), z, inside).astype(z.dtype, copy=False)


def _flat(z: Array, alpha: float, beta: float) -> Array:
    return np.zeros_like(z)


Function = Callable[[Array, float, float], Array]
Bound = Callable[[float, float], float]
Range = Callable[[float, float], tuple[float, float]]

INF = math.inf


class Row(NamedTuple):
    """One activation: everything that is known of it."""

    code: int  # the case in csrc/
    parameters: tuple[float, ...]  # default (alpha, beta), as many as it has
    sigma: Function
    dsigma: Function  # sigma' as a function of z
    gamma: Bound  # the least upper bound of |sigma'|
    range: Range
    alpha_below_zero: bool = True  # False: z would not determine sigma'
    curvature: Function = _flat  # the derivative of dsigma by z


TABLE: dict[str, Row] = {
    "identity": Row(
        code=0,
        parameters=(),
        sigma=_identity,
        dsigma=lambda z, alpha, beta: _constant(z, 1.0),
        gamma=lambda alpha, beta: 1.0,
        range=lambda alpha, beta: (-INF, INF),
    ),
    "sigmoid": Row(
        code=1,
        parameters=(),
        sigma=_sigmoid,
        dsigma=lambda z, alpha, beta: z * (1 - z),
        gamma=lambda alpha, beta: 0.25,
        range=lambda alpha, beta: (0.0, 1.0),
        curvature=lambda z, alpha, beta: 1 - 2 * z,
    ),
    "tanh": Row(
        code=2,
        parameters=(),
        sigma=_tanh,
        dsigma=lambda z, alpha, beta: 1 - z * z,
        curvature=lambda z, alpha, beta: -2 * z,
        gamma=lambda alpha, beta: 1.0,
        range=lambda alpha, beta: (-1.0, 1.0),
    ),
    "relu": Row(
        code=3,
        parameters=(),
        sigma=_relu,
        dsigma=lambda z, alpha, beta: _step(z, 1.0, 0.0),
        gamma=lambda alpha, beta: 1.0,
        range=lambda alpha, beta: (0.0, INF),
    ),
    "leaky_relu": Row(
        code=4,
        parameters=(0.01,),
        sigma=_leaky_relu,
        dsigma=lambda z, alpha, beta: _step(z, 1.0, alpha),
        gamma=lambda alpha, beta: max(1.0, alpha),
        range=lambda alpha, beta: (-INF if alpha else 0.0, INF),
        alpha_below_zero=False,
    ),
    "elu": Row(
        code=5,
        parameters=(1.0,),
        sigma=_elu,
        dsigma=lambda z, alpha, beta: _step(z, 1.0, z + z.dtype.type(alpha)),
        curvature=lambda z, alpha, beta: _step(z, 0.0, 1.0),
        gamma=lambda alpha, beta: max(1.0, alpha),
        range=lambda alpha, beta: (-alpha, INF),
        alpha_below_zero=False,
    ),
    "softplus": Row(
        code=6,
        parameters=(),
        sigma=_softplus,
        dsigma=lambda z, alpha, beta: -np.expm1(-z),
        curvature=lambda z, alpha, beta: np.exp(-z),
        gamma=lambda alpha, beta: 1.0,
        range=lambda alpha, beta: (0.0, INF),
    ),
    "softsign": Row(
        code=7,
        parameters=(),
        sigma=_softsign,
        dsigma=lambda z, alpha, beta: np.square(1 - np.abs(z)),
        curvature=lambda z, alpha, beta: 2 * (z - np.sign(z)),
        gamma=lambda alpha, beta: 1.0,
        range=lambda alpha, beta: (-1.0, 1.0),
    ),
    "hard_sigmoid": Row(
        code=8,
        parameters=(0.2, 0.5),
        sigma=_hard_sigmoid,
        dsigma=lambda z, alpha, beta: _inside_unit(z, alpha),
        gamma=lambda alpha, beta: abs(alpha),
        range=lambda alpha, beta: (0.0, 1.0),
    ),
    "scaled_tanh": Row(
        code=9,
        parameters=(1.0, 1.0),
        sigma=_scaled_tanh,
        dsigma=lambda z, alpha, beta: beta * (alpha - z * z / alpha),
        curvature=lambda z, alpha, beta: -2 * beta * z / alpha,
        gamma=lambda alpha, beta: abs(alpha * beta),
        range=lambda alpha, beta: (-abs(alpha), abs(alpha)),
    ),
    # Its jump at alpha has no derivative; gamma bounds the slope on either side.
    "thresholded_relu": Row(
        code=10,
        parameters=(1.0,),
        sigma=_thresholded_relu,
        dsigma=lambda z, alpha, beta: _step(z, 1.0, 0.0),
        gamma=lambda alpha, beta: 1.0,
        range=lambda alpha, beta: (0.0, INF),
        alpha_below_zero=False,
    ),
    "affine": Row(
        code=11,
        parameters=(1.0, 0.0),
        sigma=_affine,
        dsigma=lambda z, alpha, beta: _constant(z, alpha),
        gamma=lambda alpha, beta: abs(alpha),
        range=lambda alpha, beta: (-INF, INF) if alpha else (beta, beta),
    ),
}


class Activation:
    """An activation function with its parameters.

    Parameters
    ----------
    name : str
        One of identity, sigmoid, tanh, relu, leaky_relu, elu, softplus, softsign,
        hard_sigmoid, scaled_tanh, thresholded_relu, affine.
    alpha, beta : float, optional
        Parameters of those that have any; the defaults are those of ONNX:
        leaky_relu alpha = 0.01, elu alpha = 1, hard_sigmoid alpha = 0.2 and
        beta = 0.5, scaled_tanh alpha = beta = 1, thresholded_relu alpha = 1,
        affine alpha = 1 and beta = 0.

    Attributes
    ----------
    gamma : float
        The least upper bound of ``|sigma'|``, so that a step back through time
        multiplies a gradient by at most ``gamma * ||V||``.
    range : tuple of float
        Infimum and supremum of sigma.

    Raises
    ------
    ValueError
        The name is unknown, or a parameter is not one of this activation, not
        finite, or such that sigma' could not be told from the state.

    Notes
    -----
    The table is that of the ONNX operator RNN: https://onnx.ai/onnx/operators/.

    Examples
    --------
    >>> Activation("leaky_relu", alpha=0.2)
    Activation('leaky_relu', alpha=0.2)
    >>> Activation("sigmoid").gamma
    0.25
    """

    __slots__ = ("alpha", "beta", "code", "gamma", "name", "range", "row")

    name: str
    row: Row
    code: int
    alpha: float
    beta: float
    gamma: float
    range: tuple[float, float]

    def __init__(
        self, name: str, alpha: float | None = None, beta: float | None = None
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(
                f"activation must be a name or a bptt.Activation, got {name!r}"
            )
        if name not in TABLE:
            raise ValueError(
                f"activation must be one of {', '.join(TABLE)}; got {name!r}"
            )
        row = TABLE[name]
        count = len(row.parameters)
        if (beta is not None and count < 2) or (alpha is not None and count < 1):
            extra = "beta" if count == 1 else "alpha or beta"
            raise ValueError(f"activation {name!r} has no parameter {extra}")
        defaults = row.parameters + (0.0, 0.0)[count:]
        a = _parameter(name, "alpha", alpha, defaults[0])
        b = _parameter(name, "beta", beta, defaults[1])
        attributes = {
            "name": name,
            "row": row,
            "code": row.code,
            "alpha": a,
            "beta": b,
            "gamma": row.gamma(a, b),
            "range": row.range(a, b),
        }
        for key, value in attributes.items():
            object.__setattr__(self, key, value)
        if self.alpha < 0 and not row.alpha_below_zero:
            raise ValueError(
                f"alpha of {name} must be >= 0, for the state must tell sigma'; "
                f"got {alpha!r}"
            )
        if self.alpha == 0 and name == "scaled_tanh":
            raise ValueError("alpha of scaled_tanh must not be 0, got 0")

    def __setattr__(self, name: str, value: object) -> None:
        # One object stands for a name in the whole process.
        raise AttributeError(f"an Activation does not change: cannot set {name!r}")

    def sigma(self, a: Array) -> Array:
        """Return sigma(a), elementwise."""
        return self.row.sigma(a, self.alpha, self.beta)

    def dsigma(self, z: Array) -> Array:
        """Return sigma'(a) as a function of the state z = sigma(a), elementwise."""
        return self.row.dsigma(z, self.alpha, self.beta)

    def curvature(self, z: Array) -> Array:
        """Return the derivative of `dsigma` with respect to z, elementwise."""
        return self.row.curvature(z, self.alpha, self.beta)

    def __repr__(self) -> str:
        names = ("alpha", "beta")[: len(self.row.parameters)]
        given = "".join(f", {n}={getattr(self, n)!r}" for n in names)
        return f"Activation({self.name!r}{given})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Activation) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[type[Activation], tuple[Any, ...]]:
        values = (self.alpha, self.beta)[: len(self.row.parameters)]
        return Activation, (self.name, *values)

    def _key(self) -> tuple[str, float, float]:
        return self.name, self.alpha, self.beta


def _parameter(name: str, which: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{which} of {name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{which} of {name} must be finite, got {value!r}")
    return number


_NAMED = {name: Activation(name) for name in TABLE}


def as_activation(activation: str | Activation) -> Activation:
    """Return the activation that a name, or an activation itself, stands for."""
    if isinstance(activation, Activation):
        return activation
    named = _NAMED.get(activation) if isinstance(activation, str) else None
    return named or Activation(activation)
