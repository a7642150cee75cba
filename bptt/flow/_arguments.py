"""What the functions of the package check and take from a tape."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._validation import as_real, as_size, check_shape
from bptt.recurrence import Tape

Array = NDArray[Any]


def as_tape(tape: Tape) -> Tape:
    """Return a tape, refusing what is none."""
    if not isinstance(tape, Tape):
        raise TypeError(
            f"tape must be the Tape that forward returned, got {type(tape).__name__}"
        )
    if type(tape) is not Tape:
        raise ValueError(
            "tape must be of sequences of one length, without resets, with all states "
            f"kept; got another: {tape!r}"
        )
    return tape


def sizes(tape: Tape) -> tuple[int, int, int, int]:
    """Return T, B, I, H."""
    return (*tape.x.shape[:2], *tape.W.shape)


def as_step(name: str, value: Any, lowest: int, highest: int) -> int:
    """Return a step of time as an int."""
    try:
        step = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer, got {type(value).__name__}"
        ) from None
    if not lowest <= step <= highest:
        raise ValueError(f"{name} must be from {lowest} to {highest}, got {step}")
    return step


def as_gap(t: Any, i: Any, T: int) -> tuple[int, int]:
    """Return the ends of a gap, i <= t."""
    t, i = as_step("t", t, 0, T), as_step("i", i, 0, T)
    if i > t:
        raise ValueError(f"i must be at most t = {t}, got {i}: gaps run forwards")
    return t, i


def as_count(name: str, value: Any, highest: int, letter: str) -> int:
    """Return a number of directions, of which there are at most `highest`."""
    count = as_size(name, value)
    if count > highest:
        raise ValueError(f"{name} must be at most {letter} = {highest}, got {count}")
    return count


def as_loss(
    tape: Tape, dz: ArrayLike | None, dz_last: ArrayLike | None
) -> tuple[Array | None, Array | None]:
    """Return the gradients of a loss as float64, (T, B, H) and (B, H)."""
    if dz is None and dz_last is None:
        raise ValueError("dz or dz_last must be given: a loss needs a gradient")
    T, B, _, H = sizes(tape)
    every, last = None, None
    if dz is not None:
        every = as_rows("dz", dz, tape, T).astype(np.float64).reshape(T, B, H)
    if dz_last is not None:
        last = as_rows("dz_last", dz_last, tape).astype(np.float64).reshape(B, H)
    return every, last


def as_rows(name: str, value: ArrayLike, tape: Tape, T: int | None = None) -> Array:
    """Return what has an entry for each state, or for each state of each step."""
    _, B, _, H = sizes(tape)
    array = as_real(name, value, tape.z.dtype)
    axes = {} if T is None else {"T": T}
    if tape.batched:
        axes["B"] = B
    axes["H"] = H
    letters = "(" + ", ".join(axes) + (",)" if len(axes) == 1 else ")")
    check_shape(name, array, letters, tuple(axes.values()))
    return array


def squeeze(array: Array, tape: Tape, axis: int = 0) -> Array:
    """Return an array without the axis B where the tape is of one sequence."""
    return array if tape.batched else array.take(0, axis=axis)
