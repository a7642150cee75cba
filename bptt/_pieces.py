"""A stream in pieces of k steps, and what belongs to the steps of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._directions import batch_shape
from bptt._forms import Rectangle, is_list
from bptt._lengths import from_lengths
from bptt._readout import spread, without_padding
from bptt._sources import Resets
from bptt._validation import (
    as_array,
    as_loss,
    as_real,
    check_function,
    check_like,
    kind_of,
)

Array = NDArray[Any]
Pair = tuple[ArrayLike, ArrayLike]
Stream = Pair | Iterable[Pair]
Loss = Callable[[Array, Array], tuple[float, ArrayLike]]


class Pieces:
    """The pieces of a stream one after another: of k steps, but for the last one.

    Parameters
    ----------
    stream, k, z0, loss, lengths, resets, reset_state
        As `bptt.truncation.truncated` takes them, k as k1.
    layer : (W, V, b)

    Attributes
    ----------
    reset_state : ndarray of shape (B, H) or (H,)
        The state from which resets start.
    """

    def __init__(
        self,
        stream: Stream,
        k: int,
        layer: tuple[Array, Array, Array | None],
        z0: ArrayLike | None,
        loss: Loss,
        lengths: ArrayLike | None,
        resets: Any,
        reset_state: ArrayLike | None,
    ) -> None:
        check_function("loss", loss, "z and target")
        if not hasattr(stream, "__iter__") and not hasattr(stream, "__getitem__"):
            raise TypeError(
                "stream must be a pair (x, target) or give such pairs, "
                f"got {type(stream).__name__}"
            )
        if reset_state is not None and resets is None:
            raise ValueError("reset_state needs resets, got None")
        self.stream, self.k, self.loss = stream, k, loss
        self._lengths = None if lengths is None else as_array("lengths", lengths)
        self._resets = None if resets is None else Resets(resets, "stream")
        self._from_z0 = reset_state is None
        name, state = "reset_state", reset_state
        if self._from_z0:
            name, state = "z0", z0
        W = layer[0]
        self.reset_state = np.zeros(W.shape[1], W.dtype)
        if state is not None:
            # A copy: the way back takes states as they were.
            self.reset_state = as_real(name, state, W.dtype).copy()
        self._T: int | None = None  # steps of all, where that is known beforehand
        x = stream[0] if isinstance(stream, tuple) and stream else None
        if isinstance(x, np.ndarray) and x.ndim:
            self._T = len(x)
            self._check_end(self._T)

    def __iter__(self) -> Iterator[Piece]:
        start = 0
        for x, target in self._pairs():
            yield self._piece(start, x, target)
            start += len(x)
        self._check_end(start)

    def _piece(self, start: int, x: Array, target: Array) -> Piece:
        piece = Piece(x, target, self.loss)
        if self._lengths is None and self._resets is None:
            return piece
        batch = batch_shape(x)
        if self._lengths is not None and len(batch) != 1:
            piece.lengths = self._lengths  # for forward to refuse x
        elif self._lengths is not None:
            lengths = from_lengths(self._lengths, self._T, *batch)
            piece.valid = np.arange(start, start + len(x))[:, np.newaxis] < lengths
            piece.lengths = lengths_of_piece(lengths, start, len(x))
        if self._resets is not None and len(batch) < 2:
            form = Rectangle(len(x), batch[0] if batch else 1, bool(batch))
            flags = self._resets.of(start, x, form)
            if self._from_z0 and start == 0:
                # The first step starts there anyway, and goes back to it.
                flags = np.concatenate([np.zeros_like(flags[:1]), flags[1:]])
            piece.resets = flags if batch else flags[:, 0]
            piece.reset_state = self.reset_state
        return piece

    def _check_end(self, T: int) -> None:
        """Refuse what has more steps than the stream, or fewer."""
        if self._lengths is not None and self._lengths.ndim == 1:
            from_lengths(self._lengths, T, len(self._lengths))
        if self._resets is not None:
            self._resets.check_end(T)

    def _pairs(self) -> Iterator[tuple[Array, Array]]:
        """Yield k steps of x and target, however long those are that they come in."""
        left: list[tuple[Array, Array]] = []
        first, have, k, stream = None, 0, self.k, self.stream
        one = isinstance(stream, tuple)
        for number, pair in enumerate([stream] if one else stream):
            where = "" if one else f"chunk {number}: "
            x, target = _as_pair(pair, where)
            kind = _kind(x, target)
            first = first or kind
            for name, began, came in zip(("x", "target"), first, kind, strict=True):
                if came != began:
                    raise ValueError(
                        f"{where}{name} must go on as it began, {began}, got {came}"
                    )
            start = 0
            while have + len(x) - start >= k:
                stop = start + k - have
                left.append((x[start:stop], target[start:stop]))
                yield _joined(left)
                left, have, start = [], 0, stop
            if start < len(x):
                left.append((x[start:], target[start:]))
                have += len(x) - start
        if left:
            yield _joined(left)


class Piece:
    """Some steps of a stream, and the loss on them.

    Attributes
    ----------
    x, target : ndarray
    lengths : ndarray of shape (B,), or None
        Where the sequences end in it; None where none does.
    valid : ndarray of bool of shape (n, B), or None
        Which steps are no padding; None where the stream has no lengths.
    resets, reset_state : ndarray, or None
        As in `bptt.forward`.
    """

    def __init__(self, x: Array, target: Array, loss: Loss) -> None:
        self.x, self.target, self._loss = x, target, loss
        self.lengths: Array | None = None
        self.valid: Array | None = None
        self.resets: Array | None = None
        self.reset_state: Array | None = None

    @property
    def plain(self) -> bool:
        """Whether all sequences run from the first step to the last."""
        return self.lengths is self.resets is None

    def loss(self, z: Array) -> tuple[float, Array]:
        """Return the loss on the states of the piece, and its gradient dz."""
        target, valid = self.target, self.valid
        if valid is not None:
            target = without_padding(valid, target)
            if not valid.any():
                return 0.0, np.zeros_like(z)
            z = z[valid]
        value, dz = as_loss("loss(z, target)", self._loss(z, target))
        dz = as_real("dz", dz, z.dtype)
        check_like("dz", dz, "z" if valid is None else "z without padding", z.shape)
        return value, spread(valid, dz)


def lengths_of_piece(lengths: Array, start: int, steps: int) -> Array | None:
    """Return where sequences end in a piece that begins after so many steps.

    None where all of them go through it.
    """
    left = np.clip(lengths - start, 0, steps)
    return None if (left == steps).all() else left


def _as_pair(pair: Any, where: str) -> tuple[Array, Array]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(
            f"{where}stream must give pairs (x, target), got {kind_of(pair)}"
        )
    if is_list(pair[0]):
        raise ValueError(
            f"{where}x must be an array, got a list of sequences; bptt.data.pad puts "
            "them side by side"
        )
    x, target = as_array("x", pair[0]), as_array("target", pair[1])
    if not x.ndim or not target.ndim or len(x) != len(target):
        raise ValueError(
            f"{where}x and target must have as many steps, "
            f"got shapes {x.shape} and {target.shape}"
        )
    return x, target


def _kind(x: Array, target: Array) -> tuple[str, str]:
    """Return what all steps of a stream have in common, in words."""
    ids = "token ids" if x.dtype.kind in "iu" else "features"
    first, second = (
        "(t" + "".join(f", {n}" for n in array.shape[1:]) + ")" for array in (x, target)
    )
    return f"{ids} of shape {first}", f"shape {second}"


def _joined(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    if len(parts) == 1:
        return parts[0]
    xs, targets = zip(*parts, strict=True)
    return np.concatenate(xs), np.concatenate(targets)
