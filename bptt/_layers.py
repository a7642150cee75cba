"""Layers on top of each other whose states are not all kept, run leaf by leaf.

(a) A leaf is run through all layers before the next one is. What is kept at a border
    is the state of each layer, and each layer has a buffer for the states of one leaf.
(b) Backwards a leaf is run forward again through all layers, then back from the last
    to the first. Each layer carries its own da to the leaf before.
(c) Leaves are whole time chunks of each layer, so that sums over time come in the
    order, and with the bits, of a run whose states are all kept.
(d) What dropout keeps is drawn once, in the order of such a run, and kept as bits.

Within a leaf rows stand cell after cell. Those of a ragged batch are taken from where
they stand in the caller's arrays, and put back there, leaf by leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend, _halves, _recompute
from bptt._dropout import Bits, bytes_of_row, drop, drop_back
from bptt._forms import Form, Ragged
from bptt._ids import addresses
from bptt._inputs import (
    as_cells,
    as_flow,
    as_layer,
    as_reset_state,
    as_rows,
    as_starts,
    as_steps,
    with_records,
)
from bptt._leaves import Leaves, layout_of, starting
from bptt._recompute import Schedule, Sizes
from bptt._runs import Sums, as_recorded, leaf_of
from bptt._tape import ErrorFlow, Gradients
from bptt._validation import as_real, check_shape
from bptt.activations import Activation

Array = NDArray[Any]


class Layer(NamedTuple):
    """One of the layers.

    Attributes
    ----------
    W, V, b : ndarray
    z : ndarray of shape (rows, H)
        Room for the states of a leaf, with the one before.
    z_end : ndarray of shape (S, H)
        The last state of each sequence.
    leaves : Leaves
        With the layout of the states that this layer starts from.
    """

    W: Array
    V: Array
    b: Array | None
    z: Array
    z_end: Array
    leaves: Leaves


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Layers:
    """What a forward pass through the layers leaves for the backward one.

    Attributes
    ----------
    x : ndarray of shape (T, B, I), or as `as_cells` returns it
    form : Rectangle or Ragged
    activation : Activation
    layers : list of Layer
        From the first to the last.
    masks : list of Bits
        What dropout kept of the states of each layer but the last; none without it.
    dropout : float
    schedule : Schedule
    kept : list of (int, list of ndarray)
        The leaves whose first states are kept, and those of each layer.
    held : list of one int
        The leaf whose states the buffers hold.
    """

    x: Array
    form: Form
    activation: Activation
    layers: list[Layer]
    masks: list[Bits]
    dropout: float
    schedule: Schedule
    kept: list[tuple[int, list[Array]]]
    held: list[int]

    @property
    def z_last(self) -> Array:
        """The last states, (L, B, H), or (L, H) of one sequence."""
        last = np.array([layer.z_end for layer in self.layers])
        return last if self.form.batched else last[:, 0]

    def __repr__(self) -> str:
        (I, H), L, form = self.layers[0].W.shape, len(self.layers), self.form
        sizes = f"L={L}, T={form.T}, B={form.S}, I={I}, H={H}"
        return f"Layers({sizes}, {self.layers[0].W.dtype}, {self.activation.name})"

    def run_leaf(self, leaf: int, state: list[Array]) -> list[Array]:
        """Run a leaf through all layers; return what the next one begins with."""
        after = []
        for k, layer in enumerate(self.layers):
            leaves, x = layer.leaves, self.inputs(k, leaf)
            states = leaves.begin(leaf, layer.z, state[k])
            _halves.forward(
                x, layer.W, layer.V, layer.b, states, self.activation,
                leaves.layout(leaf),
            )  # fmt: skip
            leaves.take_ends(leaf, states, layer.z_end)
            after.append(leaves.last(leaf + 1, states))
        return after

    def inputs(self, k: int, leaf: int) -> Array:
        """Return what layer k reads in a leaf: x, or the states of the layer below."""
        if k == 0:
            told: Array = addresses(self.rows(leaf, self.x))
            return told
        below = self.layers[k - 1]
        z = below.leaves.after(leaf, below.leaves.states(leaf, below.z))
        return drop(z, self.mask(k - 1, leaf), self.dropout) if self.masks else z

    def mask(self, k: int, leaf: int) -> Array:
        """Return what dropout kept of the states of layer k in a leaf."""
        leaves, (t0, t1) = self.layers[k].leaves, self.layers[k].leaves.bounds(leaf)
        where = self.places(leaf)
        steps = slice(t0 * leaves.B, t1 * leaves.B)
        rows = self.masks[k].rows(steps if where is None else where)
        B = leaves.B if leaves.offsets is None else 1
        return rows.reshape(-1, B, rows.shape[-1])

    def places(self, leaf: int) -> Array | None:
        """Return in which rows of the caller's arrays the cells of a leaf stand, where
        they do not stand step after step.
        """
        if not isinstance(self.form, Ragged):
            return None
        place: Array = self.layers[0].leaves.part(leaf, self.form.place)
        return place

    def rows(self, leaf: int, array: Array) -> Array:
        """Return the rows of a leaf of an array of the caller's, or of token ids."""
        where = self.places(leaf)
        if where is None or array.ndim == 2:
            part: Array = self.layers[0].leaves.part(leaf, array)
            return part
        return np.take(array[:, 0], where, axis=0)[:, np.newaxis]

    def dz_of(self, leaf: int, dz: Any) -> Any:
        """Return dz of the last layer in a leaf."""
        if dz is None:
            return None
        top = self.layers[-1]
        if callable(dz):
            states = top.leaves.states(leaf, top.z)
            return leaf_of(dz, self.form, top.leaves, leaf, states)
        return as_steps(self.rows(leaf, dz), back=False)


def forward(
    x: Any,
    cells: Sequence[tuple[Array, Array, Array | None]],
    z0: Sequence[ArrayLike] | Array | None,
    *,
    activation: Activation,
    dropout: float = 0.0,
    generator: np.random.Generator | None = None,
    lengths: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    resets: Any = None,
    reset_states: Sequence[ArrayLike] | Array | None = None,
    memory: int | None = None,
    checkpoint: int | None = None,
) -> Layers:
    """Run the layers, each from its z0, with dropout between them from a generator.

    Parameters
    ----------
    x, activation, lengths, offsets, resets, memory, checkpoint
        As in `bptt.forward`.
    cells : sequence of (W, V, b)
        From the first layer to the last.
    z0, reset_states : sequence of array_like, optional
        z0 and reset_state of each layer, as in `bptt.forward`.
    dropout : float
    generator : numpy.random.Generator, optional
        Without one there is no dropout.
    """
    weights = [as_layer(*cell) for cell in cells]
    (I, H), dtype = weights[0][0].shape, weights[0][0].dtype
    x, form = as_cells(x, I, dtype, lengths, offsets, narrow=True)
    flags = None if resets is None else form.flags("resets", resets)
    if reset_states is not None and flags is None:
        raise ValueError("reset_state needs resets, got None")
    if not dropout:
        generator = None
    events = layout_of(form, flags, apart=reset_states is not None)
    if events is not None:
        events = events._replace(place=None, sequence=None)
    sizes = _sizes(form, len(cells), I, H, dtype.itemsize, generator is not None)
    sizes = sizes.with_ids(x).with_events(events)
    schedule = _recompute.plan(sizes, memory=memory, checkpoint=checkpoint)
    masks, state, layers = [], [], []
    for k, (W, V, b) in enumerate(weights):
        if k > 0 and generator is not None:
            masks.append(Bits(generator, form.caller_rows, H, dropout))
        start = as_starts(None if z0 is None else z0[k], form, H, dtype)
        again = None if reset_states is None else reset_states[k]
        layout = starting(events, start, as_reset_state(again, form, H, dtype))
        leaves = Leaves(form, layout, schedule.steps)
        z = np.empty((leaves.room(), H), dtype)
        layers.append(Layer(W, V, b, z, start.copy(), leaves))
        state.append(start[form.first])
    run = Layers(
        x, form, activation, layers, masks, dropout, schedule, [(0, state)], [-1]
    )
    if form.T and form.B:
        last = layers[0].leaves.count - 1
        _recompute.reach(last, schedule.slots, run.kept, run.held, run.run_leaf)
    return run


def backward(
    run: Layers,
    dz: Any,
    dz_last: Array | None,
    *,
    need_x_grad: bool = True,
    clip_error: float | None = None,
    clip_error_value: float | None = None,
    record: bool = False,
) -> tuple[list[Gradients], list[ErrorFlow | None]]:
    """Return the gradients of each layer, x with those of the first, and what was
    recorded of its error.

    Parameters
    ----------
    run : Layers
    dz : ndarray in the form of x, or function ``dz(start, z)``, or None
        On the states of the last layer, as in `bptt.backward`.
    dz_last : ndarray of shape (L, B, H) or (L, H), or None
    need_x_grad, clip_error, clip_error_value, record
        As in `bptt.backward`.
    """
    form, layers = run.form, run.layers
    (I, H), dtype = layers[0].W.shape, layers[0].W.dtype
    dz = as_dz(dz, form, H, dtype)
    flow = as_flow(clip_error, clip_error_value, record)
    sums, flows = [], []
    for k, (W, V, b, _, _, leaves) in enumerate(layers):
        last = None
        if dz_last is not None:
            last = as_rows("dz_last", dz_last[k], form.S, H, dtype, form.batched)
        sums.append(Sums(W, V, b, run.activation, form, leaves, last))
        flows.append(flow)
        if flow is not None and record:
            flows[k] = with_records(flow, run.activation, form.shape, H)
    wanted = need_x_grad and run.x.ndim == 3
    dx = form.empty(I, dtype) if wanted else None

    leaf_by_leaf: Any = ()
    if form.T and form.B:
        leaf_by_leaf = _recompute.reach_back(
            layers[0].leaves.count, run.schedule.slots, run.kept, run.held, run.run_leaf
        )
    for i in leaf_by_leaf:
        error = run.dz_of(i, dz)
        # Forward went up through the layers, so now from the last one down.
        for k in range(len(layers) - 1, -1, -1):
            leaves, x = layers[k].leaves, run.inputs(k, i)
            if k > 0 or (dx is not None and run.places(i) is not None):
                below = np.empty(x.shape, dtype)
            else:
                below = leaves.part(i, dx)
            sums[k].back(
                i, x, leaves.states(i, layers[k].z), error, below, leaves.layout(i),
                leaves.flow(i, flows[k]),
            )  # fmt: skip
            error = below
            if k > 0 and run.masks:
                drop_back(error, run.mask(k - 1, i), run.dropout)
        del x  # the leaf before has one of its own
        if dx is not None and (places := run.places(i)) is not None:
            dx[places] = error

    shaped = None if dx is None else form.shaped(dx)
    grads = [one.gradients(None if k else shaped) for k, one in enumerate(sums)]
    return grads, [as_recorded(flow, form) for flow in flows]


def _sizes(form: Form, L: int, I: int, H: int, itemsize: int, drops: bool) -> Sizes:
    """Return the sizes of a run: with the gradients that go from layer to layer in a
    leaf, states after dropout, rows of a ragged batch and where they stand, and what
    dropout keeps.
    """
    T, B = max(1, form.T), max(1, form.B)
    chunks = [_backend.kernels.chunk_steps(T, B, n, H, itemsize) for n in (I, H)]
    ragged = isinstance(form, Ragged)
    between = 2 * H + 2 * H * drops + 2 * I * ragged
    beside = form.known_bytes + (L - 1) * form.caller_rows * bytes_of_row(H) * drops
    chunk = min(T, lcm(*chunks))
    parts = _halves.sizes(form, H)
    return Sizes(T, B, max(I, H), H, itemsize, chunk, L, between, beside, **parts)


def as_dz(dz: Any, form: Form, H: int, dtype: Any) -> Any:
    """Return dz as (T, B, H), or rows (M, 1, H) of a ragged batch, or a function."""
    if dz is None or callable(dz):
        return dz
    if isinstance(form, Ragged):
        return form.gather("dz", dz, H, dtype)
    array = as_real("dz", dz, dtype, contiguous=False)
    letters = "(T, B, H)" if form.batched else "(T, H)"
    check_shape("dz", array, letters, (form.T, *form.rows, H))
    return array if form.batched else array[:, np.newaxis]
