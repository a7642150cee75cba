"""What forward and backward hand over: the tape, the gradients, the error's flow."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt._parts import Flow
from bptt._validation import (
    check_dtype,
    check_entries,
    check_ndim,
    check_shape,
    check_walks,
    in_entries,
    walks,
)
from bptt.activations import Activation

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
        None where it was not wanted, or where x holds token ids. A list, padded, or
        values, as x was, where its sequences have lengths of their own.
    """

    W: Array
    V: Array
    b: Array | None
    z0: Array
    x: Any


class ErrorFlow(NamedTuple):
    """The error on its way back, step by step: `backward(..., record=True)`.

    Attributes
    ----------
    norms : ndarray of float64 of shape (T, B) or (T,)
        ||e[t]|| = ||dL/dz[t]|| of each sequence, before it is clipped. Of sequences
        with lengths of their own, in the form of x.
    saturated : ndarray of int32 of shape (T, B) or (T,)
        How many units have |sigma'(a[t])| below 5 % of its largest value. 0 where the
        activation is not bounded.
    dead : ndarray of int64 of shape (H,)
        At how many steps, of all sequences, sigma'(a[t]) of a unit is exactly 0. A unit
        is dead where that is all of them.
    """

    norms: Any
    saturated: Any
    dead: Array


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Tape:
    """What `forward` leaves for `backward`: the arguments, and every state.

    A tape refers to the arrays that were passed to `forward` and copies none that it
    could use as it was: leave x, W and V unchanged until `backward` has run.

    Attributes
    ----------
    x : ndarray of shape (T, B, I), or of token ids of shape (T, B)
        Ids are a copy, of few bytes each where the tape does not keep all states.
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
        x, W, V, b, z = self.x, self.W, self.V, self.b, self.z
        dtype, ids = z.dtype, x.ndim == 2
        if (
            z.ndim != 3
            or not (W.ndim == V.ndim == 2 <= x.ndim <= 3)
            or x.shape[:2] != (len(z) - 1, z.shape[1])
            or not (z.shape[2] == W.shape[1] == V.shape[0] == V.shape[1])
            or not (W.dtype == V.dtype == dtype)
            or (b is not None and not (b.shape == W.shape[1:] and b.dtype == dtype))
            or (x.dtype != np.intp or x.flags.writeable if ids else x.dtype != dtype)
            or not (ids or x.shape[2] == W.shape[0])
            or not ((x.flags.c_contiguous and z.flags.c_contiguous) or self._walks())
            or not (W.flags.c_contiguous or in_entries(W))
            or not (V.flags.c_contiguous or in_entries(V))
        ):
            self._refuse()

    def _walks(self) -> bool:
        """Whether the kernels can walk through x and z, the one as the other."""
        return walks(self.x, self.back) and walks(self.z, self.back)

    def _refuse(self) -> None:
        """Say which part of a tape does not fit the others."""
        x, W, z, ids = self.x, self.W, self.z, self.x.ndim == 2
        check_ndim("W", W, "(I, H)")
        I, H = W.shape
        if x.ndim not in (2, 3) or (ids and x.dtype.kind not in "iu"):
            raise ValueError(
                "x must have shape (T, B, I), or (T, B) of token ids, "
                f"got {x.dtype} of shape {x.shape}"
            )
        T, B = x.shape[:2]
        if not ids:
            check_shape("x", x, "(T, B, I)", (T, B, I))
        check_dtype("x", x, np.intp if ids else W.dtype)
        for name, letters, shape in (
            ("V", "(H, H)", (H, H)),
            ("b", "(H,)", (H,)),
            ("z", "(T + 1, B, H)", (T + 1, B, H)),
        ):
            array = getattr(self, name)
            if array is not None:
                check_shape(name, array, letters, shape)
                check_dtype(name, array, W.dtype)
        if ids and x.flags.writeable:
            raise ValueError("x of token ids must be read-only, got a writeable array")
        check_walks("z", z, self.back)
        check_walks("x", x, self.back)
        for name in "WV":
            check_entries(name, getattr(self, name))

    @property
    def back(self) -> bool:
        """Whether the steps stand in memory from the last one on."""
        return self.z.strides[0] < 0

    @property
    def cells(self) -> tuple[int, int]:
        """The shape of an array of one entry per cell: (T, B), or (N, 1)."""
        after, B, _ = self.z.shape
        return after - 1, B

    @property
    def z_last(self) -> Array:
        """The last state of each sequence, (B, H), or (H,)."""
        z: Array = self.z[-1]
        return z if self.batched else z[0]

    def check_reusable(self) -> None:
        """Refuse to have the states overwritten by those of a later run."""

    def gradient_shapes(self, need_x_grad: bool) -> tuple[Any, ...]:
        """Return the shapes of the `Gradients`."""
        b, z0 = self.b, self.z.shape[1:]
        x = self.x.shape if need_x_grad and self.x.ndim == 3 else None
        if not self.batched:
            z0, x = z0[1:], None if x is None else (x[0], x[2])
        return self.W.shape, self.V.shape, None if b is None else b.shape, z0, x

    def __repr__(self) -> str:
        (T, B), (I, H) = self.x.shape[:2], self.W.shape
        return (
            f"Tape(T={T}, B={B}, I={I}, H={H}, {self.z.dtype}, {self.activation.name})"
        )


# What sets the fields of a frozen class, looked up once.
_set_x, _set_w, _set_v, _set_b, _set_z, _set_activation, _set_batched = (
    getattr(Tape, field.name).__set__ for field in fields(Tape)
)


def tape_of(
    x: Array,
    W: Array,
    V: Array,
    b: Array | None,
    z: Array,
    activation: Activation,
    batched: bool,
) -> Tape:
    """Return the `Tape` of a call of `forward`, which has checked the arrays."""
    tape = object.__new__(Tape)
    _set_x(tape, x)
    _set_w(tape, W)
    _set_v(tape, V)
    _set_b(tape, b)
    _set_z(tape, z)
    _set_activation(tape, activation)
    _set_batched(tape, batched)
    return tape


def new_gradients(tape: Tape, need_x_grad: bool) -> Gradients:
    """Return new arrays for the gradients."""
    dtype, empty = tape.z.dtype, np.empty
    W, V, b, z0, x = tape.gradient_shapes(need_x_grad)
    dx = None if x is None else empty(x, dtype)
    if dx is not None and tape.back:
        dx = dx[::-1]
    db = None if b is None else empty(b, dtype)
    return Gradients(empty(W, dtype), empty(V, dtype), db, empty(z0, dtype), dx)


def check_gradients(out: Gradients, tape: Tape, need_x_grad: bool) -> None:
    if not isinstance(out, Gradients):
        raise TypeError(f"out must be Gradients of backward, got {type(out).__name__}")
    shapes, dtype = tape.gradient_shapes(need_x_grad), tape.z.dtype
    for leaf, shape in zip(out, shapes, strict=True):
        if leaf is shape is None:
            continue
        # A C array is aligned and writeable as well.
        if (
            leaf is None
            or leaf.shape != shape
            or leaf.dtype != dtype
            or not leaf.flags.carray
        ):
            _refuse_gradients(out, shapes, dtype)


def _refuse_gradients(
    out: Gradients, shapes: tuple[Any, ...], dtype: np.dtype[Any]
) -> None:
    """Say which of the gradients cannot be overwritten."""
    for name, leaf, shape in zip(out._fields, out, shapes, strict=True):
        came = None if leaf is None else leaf.shape
        if came != shape:
            raise ValueError(f"out.{name} must have shape {shape}, got {came}")
        if leaf is not None:
            check_dtype(f"out.{name}", leaf, dtype)
            if not leaf.flags.carray:
                raise ValueError(f"out.{name} must be contiguous and writeable")


def as_error_flow(flow: Flow, batched: bool) -> ErrorFlow:
    """Return what was recorded of a plain run."""
    norms, saturated, dead = flow[3:]
    assert norms is not None
    assert saturated is not None
    if not batched:
        norms, saturated = norms[:, 0], saturated[:, 0]
    return tuple.__new__(ErrorFlow, (norms, saturated, dead))  # as in with_records
