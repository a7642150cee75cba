"""Units that let no gradient through: saturated ones, and dead ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt.recurrence import Tape

Array = NDArray[Any]

# A unit is saturated where its slope is below this part of the steepest.
SATURATED = 0.05

# A unit is dead on a sequence where it is silent to the end for this part of it.
DEAD = 0.5


class Units(NamedTuple):
    """What the units let through.

    Attributes
    ----------
    saturated : float
        Of all units at all steps, those with ``|sigma'| < gamma / 20``.
    saturated_by_unit : ndarray of shape (H,)
        The same for each unit.
    zero : float
        Those with ``sigma' == 0``: of ReLU the ones that are off.
    dead : ndarray of int
        Units with sigma' = 0 on every sequence for its last half, or longer.
    dead_since : ndarray of int of shape (H,)
        The step since which the unit has let nothing through on any sequence; T + 1
        where it does at the end.
    dead_share : ndarray of shape (H,)
        On which share of the batch it was dead, in the sense of ``dead``.
    """

    saturated: float
    saturated_by_unit: Array
    zero: float
    dead: Array
    dead_since: Array
    dead_share: Array


def look_at_units(tape: Tape) -> Units:
    """Return what the units of a tape let through; T and B are at least 1."""
    T, B = tape.x.shape[:2]
    H = len(tape.V)
    gamma = tape.activation.gamma
    # Where sigma' is constant nothing saturates, however small it is.
    saturated = np.zeros(H)
    zero = 0
    last_active = np.zeros((B, H), np.int64)
    for t in range(1, T + 1):
        slope = np.abs(tape.activation.dsigma(tape.z[t]))
        saturated += (slope < SATURATED * gamma).sum(axis=0)
        off = slope == 0
        zero += int(off.sum())
        last_active[~off] = t
    silent = T - last_active >= max(1, DEAD * T)
    share = silent.mean(axis=0)
    return Units(
        saturated=float(saturated.sum() / (T * B * H)),
        saturated_by_unit=saturated / (T * B),
        zero=zero / (T * B * H),
        dead=np.flatnonzero(share == 1),
        dead_since=last_active.max(axis=0) + 1,
        dead_share=share,
    )
