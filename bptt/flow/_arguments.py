"""What the functions of the package check and take from a tape."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import numpy as np

from bptt import _runs
from bptt._validation import as_size
from bptt.recurrence import Tape


def as_tape(tape: Tape) -> Tape:
    """Return a tape whose arrays stand cell after cell, refusing what is none."""
    if not isinstance(tape, Tape):
        advice = ""
        if hasattr(tape, "tapes"):
            advice = (
                "; its tapes has one for each layer"
                if tape.tapes
                else ", whose layers in both directions have none of their own; run "
                "forward without memory and checkpoint"
            )
        raise TypeError(
            "tape must be the Tape that forward returned, "
            f"got {type(tape).__name__}{advice}"
        )
    if isinstance(tape, _runs.Run):
        return _runs.in_cells(tape)
    if tape.z.flags.c_contiguous and tape.x.flags.c_contiguous:
        return tape
    x, z = np.ascontiguousarray(tape.x), np.ascontiguousarray(tape.z)
    x.flags.writeable = z.flags.writeable = False
    return replace(tape, x=x, z=z)


def as_held(tape: Tape, function: str) -> Tape:
    """Return a tape that holds all its states, refusing one that recomputes them."""
    held = as_tape(tape)
    if isinstance(held, _runs.Run) and held.schedule is not None:
        raise ValueError(
            f"tape must hold its states for {function}, which needs those of all steps "
            f"at once; run forward without memory and checkpoint, got {tape!r}"
        )
    return held


def as_step(name: str, value: Any, lowest: int, highest: int) -> int:
    """Return a step of time as an int; a bool is none."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got bool")
    try:
        step = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer, got {type(value).__name__}"
        ) from None
    if highest < lowest:
        raise ValueError(f"tape must have a step, got T={highest}")
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
