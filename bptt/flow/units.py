"""Units that let no gradient through: saturated ones, and dead ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt.flow._path import Path, Stretch

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


class UnitCount:
    """Counts along a path what its units let through."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gamma = path.tape.activation.gamma
        self._saturated, self._zero = np.zeros(path.H), 0
        self._last_active = np.zeros((path.B, path.H), np.int64)

    def add(self, stretch: Stretch) -> None:
        """Count a stretch; they come from the last to the first."""
        slope = np.abs(self.path.tape.activation.dsigma(stretch.z[1:]))
        # Where sigma' is constant nothing saturates, however small it is.
        self._saturated += (slope < SATURATED * self.gamma).sum(axis=(0, 1))
        off = slope == 0
        self._zero += int(off.sum())
        # Of the last step where each is active; 0 where none is.
        steps = np.arange(stretch.t0 + 1, stretch.t1 + 1)[:, np.newaxis, np.newaxis]
        active = np.where(off, 0, steps).max(axis=0)
        last = self._last_active[: len(active)]
        np.maximum(last, active, out=last)

    def units(self) -> Units:
        """Return the counts; there is a step."""
        path, last = self.path, self._last_active
        cells = int(path.lengths.sum())
        T = path.lengths[path.lengths > 0, np.newaxis]
        silent = T - last[: len(T)] >= np.maximum(1, DEAD * T)
        share = silent.mean(axis=0)
        return Units(
            saturated=float(self._saturated.sum() / (cells * path.H)),
            saturated_by_unit=self._saturated / cells,
            zero=self._zero / (cells * path.H),
            dead=np.flatnonzero(share == 1),
            dead_since=last.max(axis=0) + 1,
            dead_share=share,
        )
