"""The two directions of a layer: time turned round."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from bptt._forms import as_list, is_list
from bptt._inputs import as_values
from bptt._lengths import from_lengths, from_offsets
from bptt._tape import ErrorFlow
from bptt._validation import as_array, check_shape

Array = NDArray[Any]


class Reversal:
    """The order of time for the direction that reads from the end.

    Parameters
    ----------
    lengths : ndarray of shape (B,), optional
        Steps of each sequence: each is turned round by itself and the padding stays
        where it is. Without them all have the same.
    T : int, optional
        Steps with the padding. Without it sequences stand one after another.
    """

    def __init__(self, lengths: Array | None = None, T: int | None = None) -> None:
        self._lengths, self._T = lengths, T

    @cached_property
    def _index(self) -> tuple[Array, ...] | None:
        # A number for each step: not made where layers are run leaf by leaf.
        lengths = self._lengths
        if lengths is None:
            return None
        if self._T is not None:
            t, n = np.arange(self._T)[:, np.newaxis], lengths[np.newaxis]
            return np.where(t < n, n - 1 - t, t), np.arange(len(lengths))
        ends = np.cumsum(lengths)
        first_and_last = np.repeat(2 * ends - lengths - 1, lengths)
        return (first_and_last - np.arange(len(first_and_last)),)

    def __call__(self, array: Array) -> Array:
        """Return (T, B, ...) or (N, ...) with time turned round, if as a view.

        Twice is not at all: what turns x round also turns z and gradients back.
        """
        return array[::-1] if self._index is None else array[self._index]

    def resets(self, resets: Array) -> Array:
        """Return the resets of the direction that reads from the end.

        A reset at step t keeps t from t - 1; read from the end it is t - 1 that begins
        anew.
        """
        turned = self(resets)
        later = np.zeros_like(turned)
        later[1:] = turned[:-1]
        if self._lengths is not None and self._T is None:
            # What stands before a first step belongs to another sequence.
            first = np.cumsum(self._lengths) - self._lengths
            later[first[self._lengths > 0]] = False
        return later


class Order:
    """How the steps of a batch follow each other, in both directions.

    Parameters
    ----------
    x : ndarray
        The input, time first.
    lengths, resets, offsets : array_like, optional
        As in `bptt.forward`.
    listed : bool
        Whether the caller has lists of sequences, of which offsets tell.

    Attributes
    ----------
    valid : ndarray of shape (T, B), or None
        Which steps are no padding, where there are lengths.
    counts : ndarray of shape (S,), or None
        The lengths of sequences that stand one after another.
    reversal : Reversal
    reset_states : sequence of array_like, or None
        Of each cell.
    """

    reset_states: Sequence[ArrayLike] | Array | None = None

    def __init__(
        self,
        x: Array,
        lengths: ArrayLike | None,
        resets: ArrayLike | None,
        offsets: ArrayLike | None = None,
        *,
        listed: bool = False,
    ) -> None:
        self._padded: tuple[int, Array] | None = None
        self.counts: Array | None = None
        self.listed = listed
        self.reversal = Reversal()
        self._lengths = self._resets = self._offsets = None
        if lengths is resets is offsets is None:
            return
        if offsets is not None:
            if lengths is not None:
                raise ValueError("lengths and offsets must not both be given")
            self._offsets = as_array("offsets", offsets)
            self.counts = from_offsets(self._offsets, len(x))
            self.reversal = Reversal(self.counts)
            self._resets = None if resets is None else as_array("resets", resets)
            return
        batched = x.ndim + (x.dtype.kind in "iu") == 3  # an id stands for a row
        if lengths is not None:
            self._lengths = as_array("lengths", lengths)
        if self._lengths is not None and batched:
            T, B = x.shape[:2]
            counts = from_lengths(self._lengths, T, B)
            self._padded = T, counts
            self.reversal = Reversal(counts, T)
        if resets is not None:
            self._resets = as_array("resets", resets)
            if self._resets.ndim == 1 and batched:
                shape = (len(self._resets), x.shape[1])
                self._resets = np.broadcast_to(self._resets[:, np.newaxis], shape)

    @cached_property
    def valid(self) -> Array | None:
        # A flag for each step: not made where layers are run leaf by leaf.
        if self._padded is None:
            return None
        T, counts = self._padded
        valid: Array = np.arange(T)[:, np.newaxis] < counts
        return valid

    @property
    def plain(self) -> bool:
        """Whether all sequences run from the first step to the last."""
        given = self._lengths, self._resets, self._offsets, self.reset_states
        return all(one is None for one in given)

    @property
    def uneven(self) -> bool:
        """Whether sequences have lengths of their own."""
        return self._lengths is not None or self._offsets is not None

    @property
    def resets(self) -> Array | None:
        """Where sequences start anew, in their own order of time."""
        return self._resets

    def options(self, direction: int, cell: int | None = None) -> dict[str, Any]:
        """Return what `bptt.forward` has to be told, with the reset_state of a cell."""
        options: dict[str, Any] = {}
        if self._lengths is not None:
            options["lengths"] = self._lengths
        if self._offsets is not None:
            options["offsets"] = self._offsets
        if self._resets is not None:
            turned = self.reversal.resets if direction else np.asarray
            options["resets"] = turned(self._resets)
        if self.reset_states is not None and cell is not None:
            options["reset_state"] = self.reset_states[cell]
        return options

    def joined(
        self,
        name: str,
        value: Any,
        letters: str,
        rest: tuple[int, ...] | None = None,
        dtype: DTypeLike | None = None,
    ) -> Any:
        """Return what came in the form of x as one array, time first.

        Its axes but the first are the rest, where that is given. The dtype is that of
        what comes from no arrays.
        """
        if not self.listed:
            return value
        return _concatenated(self.items(name, value, letters, rest), rest, dtype)

    def items(
        self, name: str, value: Any, letters: str, rest: tuple[int, ...] | None = None
    ) -> list[Array]:
        """Return what came as a list like x, each array checked as for `joined`."""
        assert self.counts is not None
        return _items(name, value, self.counts, letters, rest)

    def split(self, values: Array) -> Any:
        """Return one array, time first, in the form of x."""
        if not self.listed:
            return values
        assert self.counts is not None
        ends = np.cumsum(self.counts)
        return np.split(values, ends[:-1]) if len(ends) else []

    def flows(
        self, flows: Sequence[ErrorFlow | None], directions: int = 1
    ) -> tuple[ErrorFlow, ...]:
        """Return what was recorded of cells in the form of x, or nothing."""
        turned = []
        for cell, flow in enumerate(flows):
            if flow is None:
                return ()
            parts = flow.norms, flow.saturated
            if cell % directions:
                parts = self.reversal(parts[0]), self.reversal(parts[1])
            norms, saturated = map(self.split, parts)
            turned.append(ErrorFlow(norms, saturated, flow.dead))
        return tuple(turned)


def in_order(
    x: Any,
    lengths: ArrayLike | None,
    resets: Any,
    offsets: ArrayLike | None,
    I: int,
    dtype: np.dtype[Any],
) -> tuple[Array, Order]:
    """Return x as an array, and the order of its steps."""
    if not is_list(x):
        x = as_array("x", x)
        return x, Order(x, lengths, resets, offsets)
    if lengths is not None or offsets is not None:
        raise ValueError("x must be an array with lengths or offsets, got a list")
    values, counts = as_values(x, I, dtype)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if resets is not None:
        resets = _concatenated(_items("resets", resets, counts, "(T,)", ()), (), bool)
    return values, Order(values, None, resets, offsets, listed=True)


def _items(
    name: str, value: Any, counts: Array, letters: str, rest: tuple[int, ...] | None
) -> list[Array]:
    arrays = []
    for i, item in enumerate(as_list(name, value, len(counts))):
        array = as_array(f"{name}[{i}]", item)
        shape = (int(counts[i]), *(rest or ()))
        axes = None if rest is not None else 1
        check_shape(f"{name}[{i}]", array, letters, shape, axes)
        arrays.append(array)
    return arrays


def _concatenated(
    arrays: list[Array], rest: tuple[int, ...] | None, dtype: DTypeLike | None
) -> Array:
    return np.concatenate(arrays) if arrays else np.empty((0, *(rest or ())), dtype)


def batch_shape(x: Any) -> tuple[int, ...]:
    """Return (B,), or () for one sequence."""
    if is_list(x):
        return (len(x),)
    array = np.asarray(x)
    return array.shape[1:] if array.dtype.kind in "iu" else array.shape[1:-1]
