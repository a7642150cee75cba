"""Dropout: which states are kept on their way up, and what becomes of them.

Forward is z <- z mask / (1 - dropout), and so is backward for dz.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Entries of a mask that are drawn at a time where it is kept as bits.
_DRAWN = 1 << 13


def draw(
    generator: np.random.Generator, shape: tuple[int, ...], dropout: float
) -> Array:
    """Return a mask: True with probability 1 - dropout.

    Two draws, one after the other, are what one of both shapes is.
    """
    # float32 whatever z is: a float64 network drops the same states.
    mask: Array = generator.random(shape, np.float32) >= dropout
    return mask


def drop(z: Array, mask: Array, dropout: float) -> Array:
    """Return the states after dropout."""
    kept: Array = z * mask
    kept /= 1 - dropout
    return kept


def drop_back(dz: Array, mask: Array, dropout: float) -> None:
    """Turn gradients by the states after dropout into those by the states before."""
    dz *= mask
    dz /= 1 - dropout


class Bits:
    """A mask of rows (M, H) with a bit for each entry.

    Parameters
    ----------
    generator : numpy.random.Generator
    M, H : int
    dropout : float
    """

    def __init__(
        self, generator: np.random.Generator, M: int, H: int, dropout: float
    ) -> None:
        self.H = H
        self.packed = np.empty((M, bytes_of_row(H)), np.uint8)
        step = max(1, _DRAWN // H)
        for row in range(0, M, step):
            part = self.packed[row : row + step]
            mask = draw(generator, (len(part), H), dropout)
            part[...] = np.packbits(mask, axis=1)

    def rows(self, which: Any) -> Array:
        """Return the mask (n, H) of some rows."""
        return np.unpackbits(self.packed[which], axis=1, count=self.H).view(bool)


def bytes_of_row(H: int) -> int:
    """Return the bytes of a row of `Bits`."""
    return -(-H // 8)
