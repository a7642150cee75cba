"""The gradients of the parameters, summed up segment by segment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import _backend
from bptt._parts import Segment

Array = NDArray[Any]
Parameters = tuple[Array, Array, Array | None]


class Totals:
    """dW, dV and db of a run of B rows, from its last segment to its first.

    Attributes
    ----------
    first : (dW, dV, db)
    second : (dW, dV, db), or None
        Those of the second half of the rows, where the kernels sum up halves apart.
    """

    def __init__(self, W: Array, V: Array, b: Array | None, B: int) -> None:
        parameters = W, V, b
        self.first = _zeros(parameters)
        halves = _backend.kernels.halves(B, len(V))
        self.second = _zeros(parameters) if halves else None
        self.da_next: Array | None = None

    def segment(self, steps: int, da_first: Array) -> Segment:
        """Return the next segment before, which leaves da of its first step."""
        behind, self.da_next = self.da_next, da_first
        return Segment(steps, behind is not None, behind, da_first, self.second)

    def added(self) -> Parameters:
        """Return the gradients, when all segments are done."""
        if self.second is None:
            return self.first
        (dW, dV, db), (W, V, b) = self.first, self.second
        return dW + W, dV + V, None if db is None else db + b


def _zeros(parameters: Parameters) -> Parameters:
    W, V, b = parameters
    # Contiguous, whatever the parameters are.
    dW, dV = np.zeros(W.shape, W.dtype), np.zeros(V.shape, V.dtype)
    return dW, dV, None if b is None else np.zeros(b.shape, b.dtype)
