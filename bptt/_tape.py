"""What forward and backward hand over: the tape, the gradients, the error's flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt._parts import Flow
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
            or not (self.W.dtype == self.V.dtype == self.z.dtype)
            or (ids and self.x.flags.writeable)
            or (not ids and self.x.dtype != self.z.dtype)
        ):
            raise ValueError(
                "a Tape comes from forward; these parts are of no one call"
            )

    @property
    def back(self) -> bool:
        """Whether the steps stand in memory from the last one on."""
        return self.z.strides[0] < 0

    @property
    def cells(self) -> tuple[int, int]:
        """The shape of an array of one entry per cell: (T, B), or (N, 1)."""
        return self.z.shape[0] - 1, self.z.shape[1]

    @property
    def z_last(self) -> Array:
        """The last state of each sequence, (B, H), or (H,)."""
        z: Array = self.z[-1]
        return z if self.batched else z[0]

    def __repr__(self) -> str:
        (T, B), (I, H) = self.x.shape[:2], self.W.shape
        return (
            f"Tape(T={T}, B={B}, I={I}, H={H}, {self.z.dtype}, {self.activation.name})"
        )


def new_gradients(tape: Tape, need_x_grad: bool) -> Gradients:
    """Return new arrays for the gradients."""
    dtype, shapes = tape.z.dtype, _gradient_shapes(tape, need_x_grad)
    leaves: list[Any] = [None if s is None else np.empty(s, dtype) for s in shapes]
    if tape.back and leaves[4] is not None:
        leaves[4] = leaves[4][::-1]
    return Gradients(*leaves)


def _gradient_shapes(tape: Tape, need_x_grad: bool) -> list[tuple[int, ...] | None]:
    (T, B), (I, H) = tape.x.shape[:2], tape.W.shape
    rows = (B,) if tape.batched else ()
    b = None if tape.b is None else (H,)
    x = (T, *rows, I) if need_x_grad and tape.x.ndim == 3 else None
    return [(I, H), (H, H), b, (*rows, H), x]


def check_gradients(out: Gradients, tape: Tape, need_x_grad: bool) -> None:
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


def as_error_flow(flow: Flow, batched: bool) -> ErrorFlow:
    """Return what was recorded of a plain run."""
    assert flow.norms is not None
    assert flow.saturated is not None
    assert flow.dead is not None
    if batched:
        return ErrorFlow(flow.norms, flow.saturated, flow.dead)
    return ErrorFlow(flow.norms[:, 0], flow.saturated[:, 0], flow.dead)
