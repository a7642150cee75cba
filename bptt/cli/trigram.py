"""A trigram model: what a network of characters has to beat.

The probability of a character c after a, b is the count of abc, smoothed by the bigram
model, that one by the unigram model, and that one by the uniform distribution over O
characters (MacKay and Peto 1995, "A hierarchical Dirichlet language model")::

    p1(c)      = (n(c)   + 1)            / (n     + O)
    p2(c|b)    = (n(bc)  + k2 p1(c))     / (n(b)  + k2)
    p3(c|ab)   = (n(abc) + k3 p2(c|b))   / (n(ab) + k3)

k2 and k3 are those that predict the last tenth of the training text best from the rest.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class Trigram:
    """A trigram model of token ids.

    Parameters
    ----------
    ids : ndarray of int, of shape (N,)
        The text to count.
    O : int
        How many ids there are.
    k2, k3 : float
        Strength of the smoothing.

    Examples
    --------
    >>> text = np.arange(3000) % 3
    >>> Trigram(text, 3).bits(text) < 0.01  # after two characters, the third is sure
    True
    """

    def __init__(self, ids: Array, O: int, k2: float = 4.0, k3: float = 4.0) -> None:
        self.O, self.k2, self.k3 = O, k2, k3
        self._ones = np.bincount(ids, minlength=O)
        self._twos = _Counts(_pairs(ids, O))
        self._threes = _Counts(_triples(ids, O))
        # A context counts where something follows: else p would not sum to 1.
        self._contexts = np.bincount(ids[:-1], minlength=O)
        self._pair_contexts = _Counts(_pairs(ids[:-1], O))

    @classmethod
    def tuned(cls, ids: Array, O: int) -> Trigram:
        """Return the model of a text with the strengths that suit its end."""
        cut = len(ids) - len(ids) // 10
        model = cls(ids[:cut], O)
        tries = []
        for k2, k3 in itertools.product(STRENGTHS, STRENGTHS):
            model.k2, model.k3 = k2, k3
            tries.append((model.bits(ids[cut:]), k2, k3))
        _, k2, k3 = min(tries)
        return cls(ids, O, k2, k3)

    def bits(self, ids: Array) -> float:
        """Return the mean of -log2 p3 over a text, from its third character on."""
        a, b, c = ids[:-2], ids[1:-1], ids[2:]
        if not len(c):
            raise ValueError("a text must have at least three characters")
        O = self.O
        p1 = (self._ones[c] + 1) / (self._ones.sum() + O)
        n_bc, n_b = self._twos.of(b * O + c), self._contexts[b]
        p2 = (n_bc + self.k2 * p1) / (n_b + self.k2)
        ab = a * O + b
        n_abc, n_ab = self._threes.of(ab * O + c), self._pair_contexts.of(ab)
        p3 = (n_abc + self.k3 * p2) / (n_ab + self.k3)
        return float(-np.log2(p3).mean())


class _Counts:
    """How often each key came; a key is an n-gram as a number in base O."""

    def __init__(self, keys: Array) -> None:
        self._keys, self._counts = np.unique(keys, return_counts=True)

    def of(self, keys: Array) -> Array:
        if not len(self._keys):
            return np.zeros(len(keys), np.int64)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._counts[at], 0)


def _pairs(ids: Array, O: int) -> Array:
    return ids[:-1] * O + ids[1:]


def _triples(ids: Array, O: int) -> Array:
    return (ids[:-2] * O + ids[1:-1]) * O + ids[2:]
