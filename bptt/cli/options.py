"""Types of command-line options."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentTypeError


def positive_int(text: str) -> int:
    """Return an integer above 0."""
    return _int(text, 1)


def alphabet_size(text: str) -> int:
    """Return an integer of at least 2."""
    return _int(text, 2)


def not_negative_int(text: str) -> int:
    """Return an integer of at least 0."""
    return _int(text, 0)


def positive_float(text: str) -> float:
    """Return a finite number above 0."""
    number = _float(text)
    if number <= 0:
        raise ArgumentTypeError(f"must be above 0, got {text}")
    return number


def threshold(text: str) -> float | None:
    """Return a finite number above 0, or None for none."""
    return None if text.lower() == "none" else positive_float(text)


def not_negative_float(text: str) -> float:
    """Return a finite number of at least 0."""
    number = _float(text)
    if number < 0:
        raise ArgumentTypeError(f"must be at least 0, got {text}")
    return number


def fraction(text: str) -> float:
    """Return a number between 0 and 1, without the ends."""
    number = _float(text)
    if not 0 < number < 1:
        raise ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return number


def _int(text: str, lowest: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ArgumentTypeError(f"must be an integer, got {text!r}") from None
    if number < lowest:
        raise ArgumentTypeError(f"must be at least {lowest}, got {text}")
    if number > sys.maxsize:
        raise ArgumentTypeError(f"must be at most {sys.maxsize}, got {text}")
    return number


def _float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not math.isfinite(number):
        raise ArgumentTypeError(f"must be finite, got {text}")
    return number
