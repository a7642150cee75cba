"""Token ids: kept in few bytes where memory is short, and told to the kernels as intp.

The kernels take an id for an address. So what they are told has been checked where no
one else could change it, and cannot be written to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INTP = np.dtype(np.intp)

# Ids that are checked at once: few enough to stay in the caches until they are kept.
BLOCK = 1 << 12


def narrowest(limit: int) -> np.dtype[Any]:
    """Return the dtype of fewest bytes that holds the ids below a limit.

    Examples
    --------
    >>> narrowest(256), narrowest(257)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.min_scalar_type(limit - 1)


def as_ids(
    name: str,
    array: Array,
    limit: int,
    dtype: np.dtype[Any] = INTP,
    place: Array | None = None,
) -> Array:
    """Return a copy of token ids, contiguous, each within 0 <= id < limit.

    It is read-only, and made block by block: nothing else is as large. With a place of
    each, counted through the whole array, only those are looked at, (N, 1).
    """
    shape = array.shape if place is None else (len(place), 1)
    ids = np.empty(shape, dtype)
    rows = max(1, BLOCK * len(ids) // (ids.size or 1))
    for at in range(0, len(ids), rows):
        block = slice(at, at + rows)
        if place is None:
            part = np.array(array[block])
        elif array.flags.c_contiguous:
            part = np.take(array, place[block])[:, np.newaxis]
        else:  # of which np.take would make a copy
            part = array[np.unravel_index(place[block], array.shape)][:, np.newaxis]
        if part.size:
            _check(name, part, limit)
        ids[block] = part
    ids.flags.writeable = False
    return ids


def _check(name: str, ids: Array, limit: int) -> None:
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= limit:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(
            f"{name} must hold token ids from 0 to I - 1 = {limit - 1}, got {wrong}"
        )


def addresses(x: Any) -> Any:
    """Return what the kernels are told of x: a copy of ids of few bytes."""
    if isinstance(x, list) or x.dtype.kind == "f" or x.dtype == INTP:
        return x
    ids = x.astype(INTP)
    ids.flags.writeable = False
    return ids
