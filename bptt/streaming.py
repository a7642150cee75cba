"""Sequences that do not fit in memory: read chunk by chunk, forwards and once more.

The first reading runs forward and keeps the state at each chunk's start. The second
goes from the last chunk to the first: a chunk is run forward again from the state that
was kept, the loss is asked for its gradient, and the error is carried to the chunk
before. Neither x nor the states are ever there for more than a few chunks, and nothing
is written to a file. (What was read of a memmap counts as resident until the system
needs the room.)

A source is one of

- an array (T, B, I) or (T, I), or of token ids, such as a `numpy.memmap`, which is
  read `steps` steps at a time, by default those of 1 MB of states, or sqrt(T) if that
  is more: there is a state for each chunk, and all those of one;
- an object with ``len(source)`` chunks ``source[i]``, arrays (t_i, B, I) each;
- a function without arguments that returns a new iterator over chunks. An iterator
  cannot go back, and so is started again for each group of about sqrt(n) chunks;
- an iterator over chunks, which is read once: for `forward`, or with ``keep=True``.

Where sequences start anew is said by an array of all steps, in memory or a memmap, or
by a function that is asked chunk by chunk.

The functions take one layer; those on top of each other keep few states with
`bptt.RNN.forward(memory=)`, which takes an array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend, _sources
from bptt._forms import Rectangle
from bptt._inputs import (
    as_flow,
    as_input,
    as_layer,
    as_reset_state,
    as_rows,
    with_records,
)
from bptt._leaves import with_room
from bptt._parts import Flow, Layout
from bptt._runs import add_starts
from bptt._sources import Source, StreamChangedError
from bptt._tape import ErrorFlow, Gradients, as_error_flow
from bptt._totals import Totals
from bptt._validation import as_loss, as_real, check_function, check_like
from bptt.activations import Activation, as_activation

Array = NDArray[Any]
Loss = Callable[[int, Array], tuple[float, ArrayLike | None]]
Resets = ArrayLike | Callable[[int, Array], ArrayLike] | None

__all__ = ["StreamChangedError", "StreamResult", "forward", "gradients"]


class StreamResult(NamedTuple):
    """What a stream came to.

    Attributes
    ----------
    loss : float
        The sum over all chunks.
    grads : Gradients
        Its gradients; x is None.
    z_last : ndarray of shape (B, H) or (H,)
    """

    loss: float
    grads: Gradients
    z_last: Array


def forward(
    source: Any,
    W: ArrayLike,
    V: ArrayLike,
    b: ArrayLike | None = None,
    z0: ArrayLike | None = None,
    *,
    activation: str | Activation = "tanh",
    resets: Resets = None,
    reset_state: ArrayLike | None = None,
    steps: int | None = None,
    each: Callable[[int, Array], object] | None = None,
) -> Array:
    """Run one layer forward over a source, and return the last state.

    Parameters
    ----------
    source : array, object with chunks, function or iterator
        See the text of this module.
    W, V, b, z0, activation
        As in `bptt.forward`.
    resets : array_like of bool of shape (T, B), or (T,) for all, or callable, optional
        As in `bptt.forward`. A function ``resets(start, x)`` returns those of a chunk
        x, whose first step is step start + 1.
    reset_state : array_like of shape (B, H), or (H,) for all, optional
        As in `bptt.forward`.
    steps : int, optional
        Steps of a chunk of an array.
    each : callable, optional
        Called as ``each(start, z)`` with the states of the steps start + 1 to
        start + len(z), chunk after chunk.

    Returns
    -------
    ndarray of shape (B, H) or (H,)

    Raises
    ------
    TypeError, ValueError
        As `bptt.forward`, or the chunks do not fit one another.

    Examples
    --------
    >>> chunks = (np.ones((100, 3)) for _ in range(5))
    >>> forward(chunks, np.ones((3, 2)), np.eye(2)).shape
    (2,)
    """
    if each is not None:
        check_function("each", each, "start and z")
    layer = _Layer(W, V, b, z0, activation, resets, reset_state)
    start = 0
    for x in Source(source, steps, layer).read():
        z = layer.run(x, layer.layout(start, x))
        if each is not None:
            each(start, layer.view(z)[1:])
        start += len(x)
    return layer.last(start)


def gradients(
    source: Any,
    loss: Loss,
    W: ArrayLike,
    V: ArrayLike,
    b: ArrayLike | None = None,
    z0: ArrayLike | None = None,
    *,
    activation: str | Activation = "tanh",
    resets: Resets = None,
    reset_state: ArrayLike | None = None,
    clip_error: float | None = None,
    clip_error_value: float | None = None,
    steps: int | None = None,
    keep: bool = False,
    dx: Callable[[int, Array], object] | None = None,
    record: Callable[[int, ErrorFlow], object] | None = None,
) -> StreamResult:
    """Return a loss over a source, and its exact gradients, of one layer.

    Where each chunk but the last has a multiple of the kernels' own time chunk, as
    those of an array have, the gradients have the bits of `bptt.backward`.

    Parameters
    ----------
    source : array, object with chunks, function or iterator
        See the text of this module. It must give the same chunks when it is read again.
    loss : callable
        ``loss(start, z)`` returns the loss on the states of the steps start + 1 to
        start + len(z), and its gradient dz with respect to them: of the shape of z, of
        that of z[-1] where the loss is on the chunk's last state alone, or None. Called
        once for each chunk, from the last to the first.
    W, V, b, z0, activation
        As in `bptt.forward`.
    resets : array_like of bool of shape (T, B), or (T,) for all, or callable, optional
        As in `bptt.streaming.forward`. A function is called twice for each chunk.
    reset_state : array_like of shape (B, H), or (H,) for all, optional
        As in `bptt.forward`.
    clip_error, clip_error_value : float, optional
        As in `bptt.backward`.
    steps : int, optional
        Steps of a chunk of an array, rounded up to whole time chunks.
    keep : bool, default False
        Whether to keep the chunks of an iterator in memory.
    dx : callable, optional
        Called as ``dx(start, gradient)`` with the gradient of each chunk.
    record : callable, optional
        Called as ``record(start, flow)`` with the `ErrorFlow` of each chunk.

    Returns
    -------
    StreamResult
        loss, grads, z_last.

    Raises
    ------
    StreamChangedError
        A chunk has another length when it is read again, or its last state has other
        bits. A difference that a chunk's last state has forgotten is not seen.
    TypeError, ValueError
        As `bptt.forward`, or the chunks do not fit one another.

    Examples
    --------
    >>> chunks = [np.ones((100, 3))] * 5
    >>> def loss(start, z):
    ...     return 0.5 * (z**2).sum(), z
    >>> gradients(chunks, loss, np.ones((3, 2)), np.eye(2)).grads.V.shape
    (2, 2)
    """
    check_function("loss", loss, "start and z")
    if dx is not None:
        check_function("dx", dx, "start and a gradient")
    if record is not None:
        check_function("record", record, "start and a flow")
    layer = _Layer(W, V, b, z0, activation, resets, reset_state)
    flow = as_flow(clip_error, clip_error_value, record is not None)
    chunks = Source(source, steps, layer, keep=keep)
    if not chunks.again:
        raise ValueError(
            "source must be readable twice, got an iterator; pass a function that "
            "returns a new one, or keep=True"
        )
    borders, starts = [], [0]
    for x in chunks.read():
        borders.append(layer.state)
        layer.run(x, layer.layout(starts[-1], x))
        starts.append(starts[-1] + len(x))
    last = layer.last(starts[-1])
    borders.append(layer.state)

    back = _Backward(layer, starts[-1])
    total = 0.0
    for i, x in chunks.read_back(len(borders) - 1):
        layer.state, steps = borders[i], starts[i + 1] - starts[i]
        layout = layer.layout(starts[i], x) if len(x) == steps else None
        z = layer.run(x, layout)
        if len(x) != steps or layer.state.tobytes() != borders[i + 1].tobytes():
            raise StreamChangedError(
                f"source must give the same chunks when it is read again; "
                f"chunk {i} is another one"
            )
        answer = loss(starts[i], layer.view(z)[1:])
        value, dz = as_loss("loss(start, z)", answer)
        total += value
        if record is not None and flow is not None:
            flow = with_records(flow, layer.activation, x.shape[:2], layer.H)
        gradient = back.run(x, z, dz, dx is not None, layout, flow)
        if dx is not None and gradient is not None:
            dx(starts[i], gradient)
        if record is not None and flow is not None:
            record(starts[i], as_error_flow(flow, layer.batched))
    return StreamResult(total, back.gradients(), last)


class _Layer:
    """The weights, and the state that the next chunk starts from."""

    def __init__(
        self,
        W: ArrayLike,
        V: ArrayLike,
        b: ArrayLike | None,
        z0: ArrayLike | None,
        activation: str | Activation,
        resets: Resets,
        reset_state: ArrayLike | None,
    ) -> None:
        self.W, self.V, self.b = as_layer(W, V, b)
        self.I, self.H = self.W.shape
        self.z0, self.activation = z0, as_activation(activation)
        self.resets = None if resets is None else _sources.Resets(resets, "source")
        self.B, self.batched = -1, True  # known from the first chunk on
        self.reset_state = reset_state
        if reset_state is not None and resets is None:
            raise ValueError("reset_state needs resets, got None")
        self.state = self.starts = np.empty((0, self.H), self.W.dtype)

    def read(self, x: ArrayLike, where: str) -> Array:
        """Return a chunk as (t, B, I), or ids (t, B); where it is, for errors."""
        try:
            cells, batched = as_input(x, self.I, self.W.dtype)
        except TypeError as error:
            raise TypeError(f"{where}{error}") from None
        except ValueError as error:
            raise ValueError(f"{where}{error}") from None
        B = cells.shape[1]
        if self.B < 0:
            self.B, self.batched = B, batched
            self.state = np.zeros((B, self.H), self.W.dtype)
            if self.z0 is not None:
                rows = as_rows("z0", self.z0, B, self.H, self.W.dtype, batched)
                self.state = rows.copy()
            form, dtype = Rectangle(len(cells), B, batched), self.W.dtype
            again = as_reset_state(self.reset_state, form, self.H, dtype)
            self.starts = self.state
            if again is not None:
                self.starts = np.concatenate([self.state, again])
        elif (B, batched) != (self.B, self.batched):
            first, other = (
                str(n) if axis else "no axis B"
                for n, axis in ((self.B, self.batched), (B, batched))
            )
            raise ValueError(
                f"{where}source must give chunks of one B, got {first} and {other}"
            )
        return cells

    def layout(self, start: int, x: Array) -> Layout | None:
        """Return where the sequences of a chunk start anew."""
        if self.resets is None:
            return None
        form = Rectangle(len(x), self.B, self.batched)
        flags = self.resets.of(start, self.view(x), form)
        apart = len(self.starts) > self.B
        layout = form.layout(flags, int(start == 0 and not apart), apart=apart)
        return None if layout is None else layout._replace(starts=self.starts)

    def run(self, x: Array, layout: Layout | None) -> Array:
        """Run forward over a chunk from the state before it; return all its states."""
        z = np.empty((len(x) + 1, self.B, self.H), self.W.dtype)
        z[0] = self.state
        _backend.kernels.forward(x, self.W, self.V, self.b, z, self.activation, layout)
        z.flags.writeable = False
        self.state = z[-1].copy()
        return z

    def view(self, array: Array) -> Array:
        """Return an array (t, B, ...) in the form of the chunks."""
        return array if self.batched else array[:, 0]

    def last(self, steps: int) -> Array:
        """Return the state after the last of all steps."""
        if self.B < 0:
            raise ValueError("source must give at least one chunk")
        if self.resets is not None:
            self.resets.check_end(steps)
        return self.state if self.batched else self.state[0]


class _Backward:
    """The sums of the gradients, and the error that is carried on."""

    def __init__(self, layer: _Layer, T: int) -> None:
        self.layer = layer
        dtype, I, H = layer.W.dtype, layer.I, layer.H
        self.totals = Totals(layer.W, layer.V, layer.b, layer.B)
        self.dz0: Array | None = None  # of the starts in mid-course, if there are any
        self.dz_start = np.zeros((layer.B, H), dtype)
        self.steps = _backend.kernels.chunk_steps(
            max(1, T), max(1, layer.B), I, H, dtype.itemsize
        )

    def run(
        self,
        x: Array,
        z: Array,
        dz: Any,
        need_x_grad: bool,
        layout: Layout | None,
        flow: Flow | None,
    ) -> Array | None:
        """Run back over a chunk; return the gradient of x."""
        layer = self.layer
        dtype, T, (B, H) = z.dtype, len(x), z.shape[1:]
        dx = np.empty(x.shape, dtype) if need_x_grad and x.ndim == 3 else None
        dz_last = None
        if dz is not None:
            dz = as_real("dz", dz, dtype)
            shape = layer.view(z)[1:].shape
            if dz.shape == shape[1:]:
                dz, dz_last = None, dz.reshape(B, H)
            else:
                check_like("dz", dz, "z", shape)
                dz = dz.reshape(T, B, H)
        if T and B:
            da_first = np.empty((B, H), dtype)
            layout = with_room(layout, H, dtype)
            _backend.kernels.backward(
                x, layer.W, layer.V, z, layer.activation, dz, dz_last,
                *self.totals.first, self.dz_start, dx, layout,
                self.totals.segment(self.steps, da_first), flow,
            )  # fmt: skip
            if layout is not None:
                if self.dz0 is None:
                    self.dz0 = np.zeros((B, H), dtype)
                add_starts(self.dz0, layer.V, layout)
        elif T == 0 and dz_last is not None and dz_last.any():
            raise ValueError("dz must be None or zero for a chunk without steps")
        if dx is None or layer.batched:
            return dx
        return dx[:, 0]

    def gradients(self) -> Gradients:
        dz0 = self.dz_start if self.dz0 is None else self.dz0 + self.dz_start
        dz0 = dz0 if self.layer.batched else dz0[0]
        return Gradients(*self.totals.added(), dz0, None)
