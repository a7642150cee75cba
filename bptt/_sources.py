"""What a stream is read from: chunks from the first to the last, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from math import isqrt
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend
from bptt._forms import Rectangle
from bptt._validation import as_array, as_size

Array = NDArray[Any]

# Bytes of states of a chunk of an array that is not long: as many as the caches hold.
CHUNK_BYTES = 1 << 20


class StreamChangedError(ValueError):
    """The second reading of a source gave something else than the first."""


class Layer(Protocol):
    """The layer that a source is read for, which says how chunks are checked."""

    I: int
    H: int
    W: Array

    def read(self, x: ArrayLike, where: str) -> Array:
        """Return a chunk as (t, B, I), or ids (t, B); where it is, for errors."""


class Source:
    """Chunks from the first to the last, and back."""

    def __init__(
        self, source: Any, steps: int | None, layer: Layer, *, keep: bool = False
    ) -> None:
        self.layer = layer
        if steps is not None and not isinstance(source, np.ndarray):
            raise ValueError("steps must be None where the source gives chunks")
        if isinstance(source, np.ndarray):
            source = Slices(as_array("source", source), steps, layer)
        elif keep and not hasattr(source, "__getitem__") and not callable(source):
            source = list(source)
        self.source = source
        self.by_index = hasattr(source, "__getitem__") and hasattr(source, "__len__")
        self.again = self.by_index or callable(source)
        if not self.again and not isinstance(source, Iterator):
            raise TypeError(
                "source must be an array, chunks, a function or an iterator, "
                f"got {type(source).__name__}"
            )

    def read(self) -> Iterator[Array]:
        if self.by_index:
            for i in range(len(self.source)):
                yield self._chunk(i, self.source[i])
        else:
            for i, x in enumerate(self._begin()):
                yield self._chunk(i, x)

    def read_back(self, count: int) -> Iterator[tuple[int, Array]]:
        """Yield (i, chunk i) from the last to the first."""
        if self.by_index:
            for i in range(count - 1, -1, -1):
                yield i, self._chunk(i, self.source[i])
            return
        group = isqrt(max(0, count - 1)) + 1
        for first in range((count - 1) // group * group, -1, -group):
            end = min(count, first + group)
            group_now = enumerate(islice(self._begin(), first, end), first)
            chunks = [self._chunk(i, x) for i, x in group_now]
            if len(chunks) < end - first:
                raise StreamChangedError(
                    "source must give the same chunks when it is read again; "
                    f"chunk {first + len(chunks)} is missing"
                )
            while chunks:
                yield first + len(chunks) - 1, chunks.pop()

    def _chunk(self, i: int, x: ArrayLike) -> Array:
        """Return chunk i, checked. Those of an array are none that the caller knows."""
        of_array = isinstance(self.source, Slices)
        return self.layer.read(x, "" if of_array else f"chunk {i}: ")

    def _begin(self) -> Iterator[ArrayLike]:
        """Return an iterator over the chunks, a new one where a function gives it."""
        if not callable(self.source):
            return iter(self.source)
        chunks = self.source()
        if not hasattr(chunks, "__iter__"):
            raise TypeError(
                "source() must return an iterator over chunks, "
                f"got {type(chunks).__name__}"
            )
        return iter(chunks)


class Resets:
    """Where sequences start anew: said of all steps, or asked chunk by chunk.

    Parameters
    ----------
    resets : array_like of bool of shape (T, B), or (T,) for all, or callable
        A function ``resets(start, x)`` returns those of x, the steps from start + 1 on.
    source : str
        What has T steps, in messages.
    """

    def __init__(
        self, resets: ArrayLike | Callable[[int, Array], ArrayLike], source: str
    ) -> None:
        self.source = source
        self._ask = resets if callable(resets) else None
        self._all: Array | None = None
        if not callable(resets):
            self._all = as_array("resets", resets)
            if self._all.ndim not in (1, 2):
                shape = self._all.shape
                raise ValueError(f"resets must have shape (T, B) or (T,), got {shape}")

    def of(self, start: int, x: Array, form: Rectangle) -> Array:
        """Return those of x, the steps from start + 1 on, as (t, B)."""
        if self._ask is not None:
            return form.flags("resets(start, x)", self._ask(start, x))
        assert self._all is not None
        end, steps = start + len(x), len(self._all)
        if steps < end:
            self._refuse(f"{end} or more")
        whole = Rectangle(steps, form.B, form.batched)
        return whole.flags("resets", self._all)[start:end]

    def check_end(self, steps: int) -> None:
        """Refuse what was said of more steps than there are, or fewer."""
        if self._all is not None and len(self._all) != steps:
            self._refuse(steps)

    def _refuse(self, steps: object) -> None:
        assert self._all is not None
        raise ValueError(
            f"resets must have as many steps as the {self.source}, {steps}, "
            f"got {len(self._all)}"
        )


class Slices:
    """An array as chunks of whole time chunks."""

    def __init__(self, x: Array, steps: int | None, layer: Layer) -> None:
        self.x = x
        # (T, B, I), or ids (T, B).
        B = x.shape[1] if x.ndim == 2 + (x.dtype.kind not in "iu") else 1
        H, itemsize = layer.H, layer.W.dtype.itemsize
        T = len(x) if x.ndim else 0
        if steps is None:
            # A state is kept for each chunk: never many more than a chunk has.
            steps = max(1, CHUNK_BYTES // max(1, B * H * itemsize), isqrt(T))
        unit = _backend.kernels.chunk_steps(max(1, T), max(1, B), layer.I, H, itemsize)
        self.steps: int = -(-as_size("steps", steps) // unit) * unit

    def __len__(self) -> int:
        return max(1, -(-len(self.x) // self.steps))

    def __getitem__(self, i: int) -> Array:
        return self.x[i * self.steps : (i + 1) * self.steps]
