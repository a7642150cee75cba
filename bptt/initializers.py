"""Initial values of parameters, each from a seed.

One row of `TABLE` is one initializer: a function of a shape that returns a new array.
All draw in float64 and round once, so that a float32 network starts at the rounded
values of the float64 one with the same seed. A seed may be an int, a sequence of ints,
None (fresh entropy) or a `numpy.random.Generator`, which is advanced.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bptt._validation import FLOATS, as_positive, as_size, check_choice

Array = NDArray[Any]
Seed = int | Sequence[int] | np.random.Generator | None
Initializer = Callable[..., Array]


def zeros(
    shape: Sequence[int], *, seed: Seed = None, dtype: DTypeLike = np.float32
) -> Array:
    """Return zeros, whatever the seed; the default of biases.

    Examples
    --------
    >>> zeros((2,))
    array([0., 0.], dtype=float32)
    """
    return np.zeros(_shape(shape), as_float(dtype))


def uniform(
    shape: Sequence[int],
    *,
    seed: Seed = None,
    dtype: DTypeLike = np.float32,
    limit: float | None = None,
) -> Array:
    """Draw from U(-limit, limit).

    Parameters
    ----------
    shape : sequence of int
        Shape of the result.
    seed : int or numpy.random.Generator, optional
        Where the numbers come from.
    dtype : float32 or float64
        Type of the result.
    limit : float, optional
        Half the width; the default is ``1 / sqrt(H)`` with H the last size of shape,
        as in PyTorch's ``nn.RNN``.

    Returns
    -------
    ndarray of the given shape

    Raises
    ------
    TypeError, ValueError
        A size below 1, another dtype, or a limit that is not positive and finite.

    Examples
    --------
    >>> V = uniform((16, 16), seed=0)
    >>> bool(abs(V).max() < 1 / 4)
    True
    """
    shape = _shape(shape)
    half = 1 / math.sqrt(shape[-1]) if limit is None else _finite("limit", limit)
    return (
        as_generator(seed)
        .uniform(-half, half, shape)
        .astype(as_float(dtype), copy=False)
    )


def normal(
    shape: Sequence[int],
    *,
    seed: Seed = None,
    dtype: DTypeLike = np.float32,
    std: float = 0.01,
) -> Array:
    """Draw from N(0, std^2).

    Parameters
    ----------
    shape : sequence of int
        Shape of the result.
    seed : int or numpy.random.Generator, optional
        Where the numbers come from.
    dtype : float32 or float64
        Type of the result.
    std : float
        Standard deviation.

    Returns
    -------
    ndarray of the given shape

    Raises
    ------
    TypeError, ValueError
        A size below 1, another dtype, or a std that is not positive and finite.

    Examples
    --------
    >>> normal((2, 3), seed=0, std=1e-3).shape
    (2, 3)
    """
    draw = as_generator(seed).normal(0.0, _finite("std", std), _shape(shape))
    return draw.astype(as_float(dtype), copy=False)


def glorot_uniform(
    shape: Sequence[int], *, seed: Seed = None, dtype: DTypeLike = np.float32
) -> Array:
    """Draw from U(-r, r), ``r = sqrt(6 / (rows + columns))``.

    The variance ``2 / (rows + columns)`` keeps that of signals and of gradients alike
    through a linear map (Glorot and Bengio 2010, equation 16).

    Parameters
    ----------
    shape : (int, int)
        Rows (inputs) and columns (outputs).
    seed : int or numpy.random.Generator, optional
        Where the numbers come from.
    dtype : float32 or float64
        Type of the result.

    Returns
    -------
    ndarray of shape (rows, columns)

    Raises
    ------
    TypeError, ValueError
        A shape that is no matrix, a size below 1, or another dtype.

    Examples
    --------
    >>> W = glorot_uniform((3, 9), seed=0)
    >>> bool(abs(W).max() < 0.5 ** 0.5)
    True
    """
    rows, columns = _matrix(shape)
    return uniform(shape, seed=seed, dtype=dtype, limit=math.sqrt(6 / (rows + columns)))


def orthogonal(
    shape: Sequence[int],
    *,
    seed: Seed = None,
    dtype: DTypeLike = np.float32,
    gain: float = 1.0,
) -> Array:
    """Draw a matrix with orthonormal rows or columns, times gain.

    Q of the QR decomposition of a normal matrix, with the signs of R's diagonal so
    that the distribution is uniform (Haar; Mezzadri 2007, "How to generate random
    matrices from the classical compact groups"). A square V keeps every norm:
    linear gradients neither vanish nor explode (Saxe et al. 2014).

    Parameters
    ----------
    shape : (int, int)
        Rows and columns; of the two kinds of vectors the shorter list is orthonormal.
    seed : int or numpy.random.Generator, optional
        Where the numbers come from.
    dtype : float32 or float64
        Type of the result.
    gain : float
        Every singular value of the result.

    Returns
    -------
    ndarray of shape (rows, columns)

    Raises
    ------
    TypeError, ValueError
        A shape that is no matrix, a size below 1, another dtype, or a gain that is not
        positive and finite.

    Examples
    --------
    >>> V = orthogonal((4, 4), seed=0, dtype=np.float64)
    >>> np.linalg.svd(V)[1].round(12)
    array([1., 1., 1., 1.])
    """
    rows, columns = _matrix(shape)
    tall = max(rows, columns), min(rows, columns)
    Q, R = np.linalg.qr(as_generator(seed).normal(size=tall))
    Q *= np.copysign(_finite("gain", gain), np.diagonal(R))
    if rows < columns:
        Q = Q.T
    return np.ascontiguousarray(Q, as_float(dtype))


def identity(
    shape: Sequence[int],
    *,
    seed: Seed = None,
    dtype: DTypeLike = np.float32,
    scale: float = 1.0,
) -> Array:
    """Return scale times the identity matrix, whatever the seed.

    With ReLU this is the IRNN (Le, Jaitly and Hinton 2015).

    Parameters
    ----------
    shape : (int, int)
        Rows and columns, which must be equal.
    seed : int or numpy.random.Generator, optional
        Not used; here so that all initializers are called alike.
    dtype : float32 or float64
        Type of the result.
    scale : float
        The diagonal.

    Returns
    -------
    ndarray of shape (H, H)

    Raises
    ------
    TypeError, ValueError
        A shape that is not square, another dtype, or a scale that is not positive and
        finite.

    Examples
    --------
    >>> identity((2, 2), scale=0.5)
    array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    H = _square(shape)
    V: Array = np.eye(H, dtype=as_float(dtype))
    V *= _finite("scale", scale)
    return V


def spectral_radius(
    shape: Sequence[int],
    *,
    seed: Seed = None,
    dtype: DTypeLike = np.float32,
    rho: float = 0.9,
) -> Array:
    """Draw a normal matrix and scale it so that its spectral radius is rho.

    The largest ``|eigenvalue|`` says how a linear recurrence grows in the long run, not
    over a few steps: the matrix is not normal, so that it may grow first.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns, which must be equal.
    seed : int or numpy.random.Generator, optional
        Where the numbers come from.
    dtype : float32 or float64
        Type of the result.
    rho : float
        Spectral radius.

    Returns
    -------
    ndarray of shape (H, H)

    Raises
    ------
    TypeError, ValueError
        A shape that is not square, another dtype, or a rho that is not positive and
        finite.

    Examples
    --------
    >>> V = spectral_radius((8, 8), seed=0, dtype=np.float64, rho=1.25)
    >>> round(float(abs(np.linalg.eigvals(V)).max()), 12)
    1.25
    """
    H = _square(shape)
    V = as_generator(seed).normal(size=(H, H))
    V *= _finite("rho", rho) / np.abs(np.linalg.eigvals(V)).max()
    return V.astype(as_float(dtype), copy=False)


TABLE: dict[str, Initializer] = {
    "zeros": zeros,
    "uniform": uniform,
    "normal": normal,
    "glorot_uniform": glorot_uniform,
    "orthogonal": orthogonal,
    "identity": identity,
    "spectral_radius": spectral_radius,
}


def get(initializer: str | Initializer, **parameters: float) -> Initializer:
    """Return an initializer by name, with its parameters bound.

    Parameters
    ----------
    initializer : str or callable
        One of zeros, uniform, normal, glorot_uniform, orthogonal, identity,
        spectral_radius, or a function called like them.
    **parameters : float
        Keyword arguments of that initializer: limit, std, gain, scale or rho.

    Returns
    -------
    callable
        A function of ``(shape, *, seed, dtype)``.

    Raises
    ------
    TypeError, ValueError
        The name is unknown, or has no such parameter.

    Examples
    --------
    >>> get("identity", scale=2.0)((1, 1))
    array([[2.]], dtype=float32)
    """
    if callable(initializer):
        return functools.partial(initializer, **parameters)
    check_choice("initializer", initializer, tuple(TABLE))
    function = TABLE[initializer]
    known = set(inspect.signature(function).parameters) - {"shape", "seed", "dtype"}
    for name in parameters:
        if name not in known:
            raise TypeError(f"initializer {initializer!r} has no parameter {name!r}")
    return functools.partial(function, **parameters)


def as_generator(seed: Seed) -> np.random.Generator:
    """Return the generator of a seed; a generator stays what it is."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise TypeError(
            "seed must be a non-negative integer, a sequence of them, a "
            f"numpy.random.Generator or None, got {seed!r}"
        ) from None


def as_float(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype float32 or float64."""
    try:
        # NumPy would take None for float64.
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in FLOATS:
        came = repr(dtype) if found is None else found
        raise TypeError(f"dtype must be float32 or float64, got {came}")
    return found


def _finite(name: str, value: float) -> float:
    number = as_positive(name, value)
    if math.isinf(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(shape)
    except TypeError:
        raise TypeError(f"shape must be a tuple of sizes, got {shape!r}") from None
    if not sizes:
        raise ValueError("shape must have at least one size, got ()")
    return tuple(as_size("a size of shape", size) for size in sizes)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    sizes = _shape(shape)
    if len(sizes) != 2:
        raise ValueError(f"shape must be (rows, columns), got {sizes}")
    return sizes[0], sizes[1]


def _square(shape: Sequence[int]) -> int:
    rows, columns = _matrix(shape)
    if rows != columns:
        raise ValueError(f"shape must be square, got {(rows, columns)}")
    return rows
