"""What a training run was, step by step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt._validation import check_shape

Array = NDArray[Any]


class Record(NamedTuple):
    """What one step was.

    Attributes
    ----------
    step : int
        Number of the step, from 1.
    loss : float
        Before the update.
    norm : float
        Euclidean norm of the gradient of all parameters, before clipping.
    clipped : bool
        Whether that was above the threshold.
    clipped_fraction : float
        Of all steps so far.
    rate : float
        The learning rate.
    """

    step: int
    loss: float
    norm: float
    clipped: bool
    clipped_fraction: float
    rate: float


class History:
    """What a run was.

    Attributes
    ----------
    records : list of Record
        One for each step.
    validation : list of (int, float)
        Steps made, and the validation loss after them.
    stopped : str
        Why the run ended: "steps", "patience" or "callback"; "" while it runs.

    Examples
    --------
    >>> history = History()
    >>> history.add(loss=2.5, norm=10.0, clipped=True, rate=0.1).clipped_fraction
    1.0
    >>> history.loss
    array([2.5])
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.validation: list[tuple[int, float]] = []
        self.stopped = ""
        self._clipped = 0

    @property
    def loss(self) -> Array:
        """The loss before each update, of shape (steps,)."""
        return np.array([record.loss for record in self.records])

    @property
    def norm(self) -> Array:
        """The gradient's norm at each step before clipping, of shape (steps,)."""
        return np.array([record.norm for record in self.records])

    @property
    def clipped_fraction(self) -> float:
        """Of all steps, those whose gradient was clipped."""
        return self.records[-1].clipped_fraction if self.records else 0.0

    def add(self, loss: float, norm: float, clipped: bool, rate: float) -> Record:
        """Append the record of the next step, and return it."""
        step = len(self.records) + 1
        self._clipped += clipped
        record = Record(step, loss, norm, clipped, self._clipped / step, rate)
        self.records.append(record)
        return record

    def since_best(self) -> int:
        """Return how many validations there were after the one of the lowest loss."""
        # A NaN is no loss to be below: min() would keep one that came first.
        losses = [math.inf if math.isnan(v) else v for _, v in self.validation]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    def to_arrays(self) -> dict[str, Array]:
        """Return all that is needed to continue, as arrays of float64."""
        rows = [(r.loss, r.norm, r.clipped, r.rate) for r in self.records]
        return {
            "steps": np.array(rows, np.float64).reshape(-1, 4),
            "validation": np.array(self.validation, np.float64).reshape(-1, 2),
        }

    @classmethod
    def from_arrays(cls, steps: Array, validation: Array) -> History:
        """Return the history of which these are the arrays.

        Raises
        ------
        TypeError, ValueError
            They are none of a history.
        """
        for name, array, columns in (
            ("steps", steps, 4),
            ("validation", validation, 2),
        ):
            check_shape(f"history.{name}", array, "(n, m)", (len(array), columns))
            if array.dtype != np.float64:
                raise TypeError(
                    f"history.{name} must have dtype float64, got {array.dtype}"
                )
        made = validation[:, 0]
        if not np.isin(made, np.arange(1, len(steps) + 1)).all():
            raise ValueError("history.validation must hold numbers of steps made")
        history = cls()
        for loss, norm, clipped, rate in steps.tolist():
            history.add(loss, norm, bool(clipped), rate)
        history.validation = [(int(step), loss) for step, loss in validation.tolist()]
        return history
