"""Learning rates as functions of the number of steps made so far.

A schedule is any callable from a step count, 0 before the first update, to a learning
rate. It has no state of its own, so that a resumed run continues where it was.
Schedules compose: `linear_warmup` takes any other one. Those of this module can be
pickled, and with them an optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from bptt._validation import as_number, as_positive, as_size

Schedule = Callable[[int], float]


def constant(rate: float) -> Schedule:
    """Return ``rate`` at every step.

    Parameters
    ----------
    rate : float
        The learning rate, above 0 and finite.

    Returns
    -------
    callable

    Raises
    ------
    TypeError, ValueError
        rate is no number, not positive, or not finite.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """
    return partial(_constant, as_rate("rate", rate))


def step_decay(rate: float, every: int, factor: float = 0.1) -> Schedule:
    """Return ``rate * factor**(step // every)``.

    Parameters
    ----------
    rate : float
        The learning rate at the start.
    every : int
        Steps between two reductions.
    factor : float
        What each reduction multiplies the rate by.

    Returns
    -------
    callable

    Raises
    ------
    TypeError, ValueError
        An argument that is not positive, or not finite.

    Examples
    --------
    >>> schedule = step_decay(1.0, every=10, factor=0.5)
    >>> [schedule(step) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """
    rate, every = as_rate("rate", rate), as_size("every", every)
    factor = as_rate("factor", factor)
    return partial(_step_decay, rate, every, factor)


def exponential(rate: float, decay: float) -> Schedule:
    """Return ``rate * decay**step``.

    Parameters
    ----------
    rate : float
        The learning rate at the start.
    decay : float
        What each step multiplies the rate by, for instance 0.9999.

    Returns
    -------
    callable

    Raises
    ------
    TypeError, ValueError
        An argument that is not positive, or not finite.

    Examples
    --------
    >>> exponential(1.0, 0.5)(3)
    0.125
    """
    rate, decay = as_rate("rate", rate), as_rate("decay", decay)
    return partial(_exponential, rate, decay)


def cosine(rate: float, steps: int, floor: float = 0.0) -> Schedule:
    """Return half a cosine from rate at step 0 down to floor at ``steps``, then floor.

    ``floor + (rate - floor) (1 + cos(pi step / steps)) / 2`` (Loshchilov and Hutter
    2017, SGDR, equation 5, one period).

    Parameters
    ----------
    rate : float
        The learning rate at the start.
    steps : int
        Length of the descent.
    floor : float
        The learning rate at the end, from 0 to rate.

    Returns
    -------
    callable

    Raises
    ------
    TypeError, ValueError
        An argument that is not positive or not finite, or a floor above rate.

    Examples
    --------
    >>> schedule = cosine(1.0, steps=100)
    >>> [round(schedule(step), 3) for step in (0, 50, 100, 200)]
    [1.0, 0.5, 0.0, 0.0]
    """
    rate, steps = as_rate("rate", rate), as_size("steps", steps)
    floor = as_number("floor", floor)
    if not 0 <= floor <= rate:
        raise ValueError(f"floor must be from 0 to rate = {rate}, got {floor:g}")
    return partial(_cosine, rate, steps, floor)


def linear_warmup(schedule: float | Schedule, steps: int) -> Schedule:
    """Multiply a schedule by ``(step + 1) / steps`` until that is 1.

    Parameters
    ----------
    schedule : float or callable
        What to warm up to.
    steps : int
        How many steps the ramp has.

    Returns
    -------
    callable

    Raises
    ------
    TypeError, ValueError
        A schedule that is neither a positive number nor callable, or steps below 1.

    Examples
    --------
    >>> schedule = linear_warmup(step_decay(1.0, every=4), steps=4)
    >>> [schedule(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 0.1]
    """
    inner, steps = as_schedule("schedule", schedule), as_size("steps", steps)
    return partial(_linear_warmup, inner, steps)


def _constant(rate: float, step: int) -> float:
    return rate


def _step_decay(rate: float, every: int, factor: float, step: int) -> float:
    return rate * factor ** (step // every)


def _exponential(rate: float, decay: float, step: int) -> float:
    return float(rate * decay**step)


def _cosine(rate: float, steps: int, floor: float, step: int) -> float:
    height = (1 + math.cos(math.pi * min(step, steps) / steps)) / 2
    return floor + (rate - floor) * height


def _linear_warmup(inner: Schedule, steps: int, step: int) -> float:
    return rate_at(inner, step) * min(1.0, (step + 1) / steps)


def as_schedule(name: str, value: float | Schedule) -> Schedule:
    """Return a schedule as it is, and a number as the constant one."""
    return value if callable(value) else constant(as_rate(name, value))


def rate_at(schedule: Schedule, step: int) -> float:
    """Return what a schedule says, which must be a rate or 0."""
    rate = as_number("what a schedule returns", schedule(step))
    if not 0 <= rate < math.inf:
        raise ValueError(
            "what a schedule returns must be at least 0 and finite, "
            f"got {rate!r} at step {step}"
        )
    return rate


def as_rate(name: str, value: float) -> float:
    """Return value as a positive, finite float."""
    number = as_positive(name, value)
    if math.isinf(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number
