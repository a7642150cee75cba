"""Forward and backward of one recurrent layer: the functional core of the package.

The functions here check and allocate; the loop over time is in the backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend
from bptt._validation import (
    as_array,
    as_ids,
    as_real,
    check_ndim,
    check_not_empty,
    check_shape,
)
from bptt.activations import Activation, as_activation

Array = NDArray[Any]


class Gradients(NamedTuple):
    """Gradients of the loss, each of the shape of what it belongs to.

    Attributes
    ----------
    W : ndarray of shape (I, H)
    V : ndarray of shape (H, H)
    b : ndarray of shape (H,) or None
        None where the layer has no bias.
    z0 : ndarray of shape (B, H) or (H,)
    x : ndarray of shape (T, B, I) or (T, I), or None
        None where it was not wanted, or where x holds token ids.
    """

    W: Array
    V: Array
    b: Array | None
    z0: Array
    x: Array | None


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Tape:
    """What `forward` leaves for `backward`: the arguments, and every state.

    A tape refers to the arrays that were passed to `forward` and copies none that it
    could use as it was: leave x, W and V unchanged until `backward` has run.

    Attributes
    ----------
    x : ndarray of shape (T, B, I), or of token ids of shape (T, B)
    W : ndarray of shape (I, H)
    V : ndarray of shape (H, H)
    b : ndarray of shape (H,) or None
    z : ndarray of shape (T + 1, B, H)
        The states, read-only; ``z[0]`` is the initial one.
    activation : Activation
    batched : bool
        False where x was one sequence, without the axis B.
    """

    x: Array
    W: Array
    V: Array
    b: Array | None
    z: Array
    activation: Activation
    batched: bool

    def __post_init__(self) -> None:
        # The kernels trust a tape, and anyone can call this class.
        (T, B), (I, H) = self.x.shape[:2], self.W.shape
        ids = self.x.ndim == 2
        if (
            self.z.shape != (T + 1, B, H)
            or self.V.shape != (H, H)
            or self.x.shape != ((T, B) if ids else (T, B, I))
            or not (self.z.flags.c_contiguous and self.x.flags.c_contiguous)
            or not (self.W.dtype == self.V.dtype == self.z.dtype)
            or (ids and self.x.flags.writeable)
            or (not ids and self.x.dtype != self.z.dtype)
        ):
            raise ValueError(
                "a Tape comes from forward; these parts are of no one call"
            )

    def __repr__(self) -> str:
        (T, B), (I, H) = self.x.shape[:2], self.W.shape
        return (
            f"Tape(T={T}, B={B}, I={I}, H={H}, {self.z.dtype}, {self.activation.name})"
        )


def forward(
    x: ArrayLike,
    W: ArrayLike,
    V: ArrayLike,
    b: ArrayLike | None = None,
    z0: ArrayLike | None = None,
    *,
    activation: str | Activation = "tanh",
    out: Tape | None = None,
) -> tuple[Array, Tape]:
    """Run the recurrent layer z[t] = sigma(x[t] W + z[t-1] V + b) for t = 1..T.

    Parameters
    ----------
    x : array_like of shape (T, B, I) or (T, I), or of integers of shape (T, B) or (T,)
        The input, time first. Integers are token ids from 0 to I - 1, each of which
        stands for the one-hot row that selects a row of W.
    W : array_like of shape (I, H)
        Input weights, float32 or float64; all other arrays have the same dtype.
    V : array_like of shape (H, H)
        Recurrent weights.
    b : array_like of shape (H,), optional
        Bias.
    z0 : array_like of shape (B, H), or (H,) for one sequence, optional
        Initial state, 0 by default.
    activation : str or Activation, default "tanh"
        The function sigma.
    out : Tape, optional
        The tape of an earlier call of the same T, B, H and dtype, which is not needed
        any more: its states are overwritten, so that a loop allocates nothing.

    Returns
    -------
    z : ndarray of shape (T, B, H) or (T, H)
        The states after each step. Read-only, as the tape needs them as they are.
    tape : Tape
        What `backward` needs.

    Raises
    ------
    TypeError
        An array is not float32 or float64, or not of the dtype of the others.
    ValueError
        A shape does not fit, a token id is out of range, or I or H is 0.

    Examples
    --------
    >>> z, tape = forward(np.ones((5, 3)), np.ones((3, 2)), np.eye(2))
    >>> z.shape, tape
    ((5, 2), Tape(T=5, B=1, I=3, H=2, float64, tanh))
    """
    activation = as_activation(activation)
    W = as_real("W", W, contiguous=False)
    check_ndim("W", W, "(I, H)")
    I, H = W.shape
    check_not_empty("W", "I", I)
    check_not_empty("W", "H", H)
    V = as_real("V", V, W.dtype, contiguous=False)
    check_shape("V", V, "(H, H)", (H, H))
    if b is not None:
        b = as_real("b", b, W.dtype)
        check_shape("b", b, "(H,)", (H,))

    x, batched = _as_input(x, I, W.dtype)
    T, B = x.shape[:2]
    z = _states(out, (T + 1, B, H), W.dtype)
    z[0] = 0 if z0 is None else _as_rows("z0", z0, B, H, W.dtype, batched)

    _backend.kernels.forward(x, W, V, b, z, activation)
    z.flags.writeable = False
    return (z[1:] if batched else z[1:, 0]), Tape(x, W, V, b, z, activation, batched)


def backward(
    tape: Tape,
    dz: ArrayLike | None = None,
    *,
    dz_last: ArrayLike | None = None,
    need_x_grad: bool = True,
    out: Gradients | None = None,
) -> Gradients:
    """Return the exact gradients of a loss on the states: BPTT.

    With e[t] = dL/dz[t] in total and da[t] = dL/da[t] of the pre-activation::

        e[t] = dz[t] + da[t+1] V^T        da[t] = e[t] * sigma'(a[t])
        dV = sum_t z[t-1]^T da[t]         dW = sum_t x[t]^T da[t]
        db = sum_t da[t]                  dx[t] = da[t] W^T         dz0 = da[1] V^T

    Parameters
    ----------
    tape : Tape
        From `forward`.
    dz : array_like of shape (T, B, H), or (T, H) for one sequence, optional
        Gradient of the loss with respect to each state, taken directly, not through
        later states.
    dz_last : array_like of shape (B, H), or (H,) for one sequence, optional
        The same for a loss on the last state alone; added to dz where both are given.
        With T = 0 the last state is the initial one.
    need_x_grad : bool, default True
        Whether to compute the gradient with respect to x. Token ids have none.
    out : Gradients, optional
        The gradients of an earlier call with the same sizes, to be overwritten and
        returned, so that a loop allocates nothing.

    Returns
    -------
    Gradients
        The fields W, V, b, z0, x.

    Raises
    ------
    TypeError
        tape is not a Tape, or an array has another dtype than the tape.
    ValueError
        A shape does not fit, or neither dz nor dz_last is given.

    References
    ----------
    P. J. Werbos, "Backpropagation through time: what it does and how to do it",
    Proceedings of the IEEE 78 (1990) 1550-1560.

    Examples
    --------
    The gradient of the sum of the last state:

    >>> z, tape = forward(np.ones((5, 3)), np.ones((3, 2)), np.eye(2))
    >>> backward(tape, dz_last=np.ones(2)).W.shape
    (3, 2)
    """
    if not isinstance(tape, Tape):
        raise TypeError(
            f"tape must be the Tape that forward returned, got {type(tape).__name__}"
        )
    if dz is None and dz_last is None:
        raise ValueError("dz or dz_last must be given: a loss needs a gradient")
    x, W, V, z = tape.x, tape.W, tape.V, tape.z
    T, B = x.shape[:2]
    H, dtype, batched = len(V), z.dtype, tape.batched
    if dz is not None:
        dz = as_real("dz", dz, dtype)
        check_shape(
            "dz",
            dz,
            "(T, B, H)" if batched else "(T, H)",
            (T, B, H) if batched else (T, H),
        )
        dz = dz.reshape(T, B, H)
    if dz_last is not None:
        dz_last = _as_rows("dz_last", dz_last, B, H, dtype, batched)

    grads = _gradients(tape, need_x_grad) if out is None else out
    if out is not None:
        _check_gradients(out, tape, need_x_grad)
    dx = None if grads.x is None else grads.x.reshape(x.shape)
    _backend.kernels.backward(
        x,
        W,
        V,
        z,
        tape.activation,
        dz,
        dz_last,
        grads.W,
        grads.V,
        grads.b,
        grads.z0.reshape(B, H),
        dx,
    )
    return grads


def _states(out: Tape | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array for the states: a new one, or that of an old tape."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, Tape):
        raise TypeError(f"out must be a Tape of forward, got {type(out).__name__}")
    check_shape("out.z", out.z, "(T + 1, B, H)", shape)
    if out.z.dtype != dtype:
        raise TypeError(f"out.z must have dtype {dtype} like W, got {out.z.dtype}")
    out.z.flags.writeable = True
    return out.z


def _gradients(tape: Tape, need_x_grad: bool) -> Gradients:
    """Return new arrays for the gradients."""
    dtype, shapes = tape.z.dtype, _gradient_shapes(tape, need_x_grad)
    leaves: list[Any] = [None if s is None else np.empty(s, dtype) for s in shapes]
    return Gradients(*leaves)


def _gradient_shapes(tape: Tape, need_x_grad: bool) -> list[tuple[int, ...] | None]:
    (T, B), (I, H) = tape.x.shape[:2], tape.W.shape
    rows = (B,) if tape.batched else ()
    b = None if tape.b is None else (H,)
    x = (T, *rows, I) if need_x_grad and tape.x.ndim == 3 else None
    return [(I, H), (H, H), b, (*rows, H), x]


def _check_gradients(out: Gradients, tape: Tape, need_x_grad: bool) -> None:
    if not isinstance(out, Gradients):
        raise TypeError(f"out must be Gradients of backward, got {type(out).__name__}")
    shapes = _gradient_shapes(tape, need_x_grad)
    for name, leaf, shape in zip(out._fields, out, shapes, strict=True):
        came = None if leaf is None else leaf.shape
        if came != shape:
            raise ValueError(f"out.{name} must have shape {shape}, got {came}")
        if leaf is None:
            continue
        if leaf.dtype != tape.z.dtype:
            raise TypeError(
                f"out.{name} must have dtype {tape.z.dtype}, got {leaf.dtype}"
            )
        if not (leaf.flags.carray and leaf.flags.writeable):
            raise ValueError(f"out.{name} must be contiguous and writeable")


def _as_input(x: ArrayLike, I: int, dtype: np.dtype[Any]) -> tuple[Array, bool]:
    """Return x as (T, B, I) or ids (T, B), and whether it had the axis B."""
    x = as_array("x", x)
    if x.dtype.kind in "iu":
        if x.ndim not in (1, 2):
            hint = "; one-hot or real features must be floats" if x.ndim == 3 else ""
            raise ValueError(
                f"x of integers must have shape (T, B) or (T,): token ids; "
                f"got {x.shape}{hint}"
            )
        ids = as_ids("x", x, I)
        return (ids, True) if x.ndim == 2 else (ids[:, np.newaxis], False)
    x = as_real("x", x, dtype)
    if x.ndim not in (2, 3):
        raise ValueError(f"x must have shape (T, B, I) or (T, I), got {x.shape}")
    if x.shape[-1] != I:
        letters, expected = (
            ("(T, B, I)", f"(T, B, {I})") if x.ndim == 3 else ("(T, I)", f"(T, {I})")
        )
        raise ValueError(
            f"x must have shape {letters} = {expected} to fit W, got {x.shape}"
        )
    return (x, True) if x.ndim == 3 else (x[:, np.newaxis], False)


def _as_rows(
    name: str, value: ArrayLike, B: int, H: int, dtype: np.dtype[Any], batched: bool
) -> Array:
    """Return a state of each sequence as (B, H)."""
    array = as_real(name, value, dtype)
    if batched:
        check_shape(name, array, "(B, H)", (B, H))
    else:
        check_shape(name, array, "(H,)", (H,))
    return array.reshape(B, H)
