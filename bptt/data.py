"""Where training gets its batches: each a function of the step, and of nothing else.

What `bptt.train` calls is ``batches(step)``, which returns (x, target), or (x, target,
lengths) where sequences have lengths of their own, or a `Batch`. As a batch depends on
the step count alone, a run that was stopped continues with the batches that it would
have had. ``len(batches)``, where there is one, is the number of steps in an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._validation import as_array, as_size, check_choice, check_shape, kind_of

Array = NDArray[Any]
# (x, target), (x, target, lengths), or a Batch.
Data = tuple[Any, ...]
Batches = Callable[[int], Data]


class Batch(NamedTuple):
    """What one step of training learns from: arguments of `Network.loss_and_gradients`.

    Attributes
    ----------
    x : array_like of shape (T, B, I), or of token ids (T, B), or list
    target : array_like, or list
    lengths : array_like of integers of shape (B,), or None
        How many steps of each sequence are no padding.
    resets : array_like of bool of shape (T, B), or None
        Where a sequence starts anew. In the form of x.
    """

    x: Any
    target: Any
    lengths: Any = None
    resets: Any = None


def pad(sequences: Sequence[ArrayLike]) -> tuple[Array, Array]:
    """Return sequences of different lengths side by side, and the lengths.

    Parameters
    ----------
    sequences : sequence of N array_like of shape (T_n, ...)
        Of one shape but for the first axis, and of one dtype.

    Returns
    -------
    padded : ndarray of shape (T, N, ...)
        With T that of the longest, and 0 after the end of each.
    lengths : ndarray of intp of shape (N,)

    Raises
    ------
    ValueError
        There is none, or shapes or dtypes do not agree.

    Examples
    --------
    >>> padded, lengths = pad([np.ones((5, 2)), np.ones((3, 2))])
    >>> padded.shape, lengths
    ((5, 2, 2), array([5, 3]))
    """
    arrays = [as_array(f"sequences[{n}]", a) for n, a in enumerate(sequences)]
    if not arrays:
        raise ValueError("sequences must not be empty, got none")
    first = arrays[0]
    for n, a in enumerate(arrays):
        if not a.ndim or (a.shape[1:], a.dtype) != (first.shape[1:], first.dtype):
            raise ValueError(
                f"sequences[{n}] must be like sequences[0] but for its length, "
                f"got {a.dtype} {a.shape} and {first.dtype} {first.shape}"
            )
    lengths = np.array([len(a) for a in arrays], np.intp)
    padded = np.zeros((lengths.max(), len(arrays), *first.shape[1:]), first.dtype)
    for n, a in enumerate(arrays):
        padded[: len(a), n] = a
    return padded, lengths


class Minibatches:
    """Random batches of sequences, each sequence once an epoch.

    The order is a function of seed and epoch. Sequences left over at the end of an
    epoch, fewer than batch_size, are left out of it.

    Parameters
    ----------
    x : array_like of shape (T, N, I), or of token ids (T, N)
        N sequences, time first.
    target : array_like of shape (T, N, ...), or (N, ...) where readout is "last"
        Their targets.
    batch_size : int
        Sequences in a batch, B.
    lengths : array_like of integers of shape (N,), optional
        How many steps each sequence has, as `pad` returns them. Batches then are
        (x, target, lengths).
    readout : {"every", "last"}
        That of the network.
    seed : int
        Seed of the order.

    Raises
    ------
    TypeError, ValueError
        Shapes that do not agree, lengths that are no integers, or a batch_size above N.

    Examples
    --------
    >>> batches = Minibatches(np.zeros((7, 10, 2)), np.zeros((7, 10, 1)), 4)
    >>> x, target = batches(0)
    >>> x.shape, target.shape, len(batches)
    ((7, 4, 2), (7, 4, 1), 2)
    """

    def __init__(
        self,
        x: ArrayLike,
        target: ArrayLike,
        batch_size: int,
        *,
        lengths: ArrayLike | None = None,
        readout: str = "every",
        seed: int = 0,
    ) -> None:
        check_choice("readout", readout, ("every", "last"))
        self.x, self.target = as_array("x", x), as_array("target", target)
        self.axis = 1 if readout == "every" else 0
        if self.x.ndim < 2 or self.target.ndim <= self.axis:
            raise ValueError(
                "x must have shape (T, N, I) or (T, N) and target an axis N too, "
                f"got {self.x.shape} and {self.target.shape}"
            )
        N = self.x.shape[1]
        if self.target.shape[self.axis] != N:
            raise ValueError(
                f"target must have N = {N} on axis {self.axis}, "
                f"got shape {self.target.shape}"
            )
        self.lengths = None
        if lengths is not None:
            self.lengths = as_array("lengths", lengths)
            if self.lengths.dtype.kind not in "iu":
                raise TypeError(f"lengths must hold integers, got {self.lengths.dtype}")
            check_shape("lengths", self.lengths, "(N,)", (N,))
        self.batch_size, self.seed = as_size("batch_size", batch_size), seed
        if self.batch_size > N:
            raise ValueError(f"batch_size must be at most N = {N}, got {batch_size}")
        self._epoch, self._order = -1, np.empty(0, np.intp)

    def __len__(self) -> int:
        return int(self.x.shape[1]) // self.batch_size

    def __call__(self, step: int) -> tuple[Array, ...]:
        """Return the batch of this step."""
        epoch, batch = divmod(step, len(self))
        if self._epoch != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._order, self._epoch = rng.permutation(self.x.shape[1]), epoch
        chosen = self._order[batch * self.batch_size : (batch + 1) * self.batch_size]
        pair = self.x.take(chosen, axis=1), self.target.take(chosen, axis=self.axis)
        return pair if self.lengths is None else (*pair, self.lengths[chosen])


class TokenStreams:
    """Chunks of one long sequence of token ids, each with the ids that follow.

    The sequence is cut into B streams, read in parallel, T ids at a time: where a chunk
    ends the next one begins, so that a stateful network reads on. Each epoch starts at
    another offset, drawn from seed and epoch, so that chunks do not always end at the
    same places.

    Parameters
    ----------
    ids : array_like of int, of shape (N,)
        The sequence.
    length : int
        T, steps in a chunk.
    batch_size : int
        B, streams.
    seed : int
        Seed of the offsets.

    Raises
    ------
    TypeError, ValueError
        ids are no integers, or too few for one chunk of each stream.

    Examples
    --------
    >>> x, target = TokenStreams(np.arange(9), length=2, batch_size=2)(0)
    >>> bool((target == x + 1).all())
    True
    """

    def __init__(
        self, ids: ArrayLike, length: int, batch_size: int, *, seed: int = 0
    ) -> None:
        self.ids = as_array("ids", ids)
        if self.ids.dtype.kind not in "iu" or self.ids.ndim != 1:
            raise TypeError(
                "ids must be integers of shape (N,), "
                f"got {self.ids.dtype} of shape {self.ids.shape}"
            )
        self.length = as_size("length", length)
        self.batch_size, self.seed = as_size("batch_size", batch_size), seed
        # One id follows the last chunk, and the offset takes less than a chunk.
        usable = len(self.ids) - self.length
        self._chunks = usable // self.batch_size // self.length
        if self._chunks < 1:
            needed = self.length * (self.batch_size + 1)
            raise ValueError(
                f"ids must be at least (batch_size + 1) length = {needed} long, "
                f"got {len(self.ids)}"
            )

    def __len__(self) -> int:
        return self._chunks

    def __call__(self, step: int) -> tuple[Array, Array]:
        """Return the chunk of this step: ids (T, B) and those that follow (T, B)."""
        epoch, chunk = divmod(step, self._chunks)
        T, B, stride = self.length, self.batch_size, self._chunks * self.length
        offset = np.random.default_rng([self.seed, epoch]).integers(T)
        starts = offset + chunk * T + stride * np.arange(B)
        at = np.arange(T)[:, np.newaxis] + starts
        return self.ids[at], self.ids[at + 1]


def as_batch(name: str, value: Any) -> Batch:
    """Return what came as a batch, or refuse it by its name."""
    if isinstance(value, Batch):
        return value
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise TypeError(
            f"{name} (x, target), (x, target, lengths) or a Batch, got {kind_of(value)}"
        )
    return Batch(*value)


def as_batches(batches: Batches | Data) -> tuple[Batches, int | None]:
    """Return a function of the step, and the number of steps in an epoch if known."""
    if callable(batches):
        return batches, len(batches) if hasattr(batches, "__len__") else None
    if not isinstance(batches, tuple):
        raise TypeError(
            "batches must be a batch (x, target) or a function from the step to one, "
            f"got {type(batches).__name__}"
        )
    batch = as_batch("batches must be", batches)
    return (lambda step: batch), 1
