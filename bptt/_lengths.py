"""How many steps each sequence has, from what a caller says of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._validation import as_array, check_shape

Array = NDArray[Any]


def from_lengths(value: ArrayLike, T: int | None, B: int) -> Array:
    """Return lengths (B,) of a padded batch, each from 0 to T, where that is known."""
    lengths = _as_counts("lengths", value)
    check_shape("lengths", lengths, "(B,)", (B,))
    least, most = lengths.min(initial=0), lengths.max(initial=0)
    if least < 0 or (T is not None and most > T):
        wanted = "at least 0" if T is None else f"from 0 to T = {T}"
        raise ValueError(
            f"lengths must be {wanted}, got {least if least < 0 else most}"
        )
    return lengths


def as_offsets(value: ArrayLike) -> Array:
    """Return offsets (B + 1,), of which it is not looked at whether they fit."""
    offsets = _as_counts("offsets", value)
    if offsets.ndim != 1 or len(offsets) == 0:
        raise ValueError(f"offsets must have shape (B + 1,), got {offsets.shape}")
    return offsets


def from_offsets(value: ArrayLike, N: int) -> Array:
    """Return the lengths of sequences from where each begins, and the last one ends."""
    offsets = as_offsets(value)
    lengths = np.diff(offsets)
    came = f"{offsets[0]} to {offsets[-1]}"
    if (lengths < 0).any():
        at = int(np.argmax(lengths < 0))
        came = f"{offsets[at + 1]} after {offsets[at]}"
    elif offsets[0] == 0 and offsets[-1] == N:
        return lengths
    raise ValueError(f"offsets must ascend from 0 to {N}, the rows of x, got {came}")


def _as_counts(name: str, value: ArrayLike) -> Array:
    array = as_array(name, value)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    if array.size and array.max() > np.iinfo(np.intp).max:
        raise ValueError(f"{name} must fit {np.dtype(np.intp)}, got {array.max()}")
    return array.astype(np.intp)
