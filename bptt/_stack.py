"""Layers on top of each other and in both directions, made of `recurrence.py`.

(a) A cell is one layer in one direction: `forward` and `backward` with parameters of
    its own. Cells count layer by layer, the direction from the first step first.
(b) The direction that reads from the end gets its input turned round in time, and its
    states are turned back: by strides (`_both_ways.py`), or where sequences have resets
    of their own, or ends and a single layer, by one copy each way. Several layers over
    sequences of their own lengths are one leaf of `_layers_both.py`.
(c) The next layer reads the states of both directions side by side, with dropout.

Time is the first axis here, and who calls has checked the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _both_ways, _errors_both, _layers, _layers_both
from bptt._at_once import both
from bptt._directions import Order, batch_shape, in_order
from bptt._dropout import draw, drop, drop_back
from bptt._forms import is_list
from bptt._layer_tapes import tapes_of
from bptt._layers import Layers
from bptt._layers_both import LayersBoth
from bptt._lengths import as_offsets
from bptt._parameters import Shapes, names_of_cells, shapes_of_cells
from bptt._runs import Run
from bptt._stack_tape import Later, StackGradients, StackTape, named
from bptt._validation import as_array, as_real, check_shape
from bptt.activations import Activation
from bptt.recurrence import (
    ErrorFlow,
    Gradients,
    Tape,
    backward,
    forward,
)

Array = NDArray[Any]
Cell = _both_ways.Cell
States = _both_ways.States

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Stack:
    """What layers there are; their parameters come with each call."""

    input_size: int
    hidden_size: int
    num_layers: int
    directions: int
    dropout: float
    bias: bool
    activation: Activation
    dtype: np.dtype[Any]

    @property
    def cells(self) -> int:
        """How many there are: L."""
        return self.num_layers * self.directions

    @property
    def width(self) -> int:
        """Of the states of a layer, those of all directions: D H."""
        return self.directions * self.hidden_size

    def names(self) -> list[list[str]]:
        """Return the names of W, V and b of each cell."""
        return names_of_cells(self.num_layers, self.directions)

    def shapes(self) -> Shapes:
        """Return the shape of each parameter by its name, in letters and numbers."""
        return shapes_of_cells(
            self.input_size, self.hidden_size, self.num_layers, self.directions,
            self.bias,
        )  # fmt: skip

    def parts(self) -> list[str]:
        """Return what a name says beside the sizes, if there is more than one cell."""
        parts = [f"num_layers={self.num_layers}"] * (self.num_layers > 1)
        parts += ["bidirectional"] * (self.directions == 2)
        return parts + [f"dropout={self.dropout:g}"] * (self.dropout > 0)

    def as_states(
        self, name: str, x: Any, value: ArrayLike, offsets: ArrayLike | None = None
    ) -> Array:
        """Return states (L, B, H), or (L, H) of one sequence, checked."""
        value = as_real(name, value, self.dtype)
        B = batch_shape(x)
        if offsets is not None:
            B = (len(as_offsets(offsets)) - 1,)
        elif not is_list(x):
            x = as_array("x", x)
            if x.ndim + (x.dtype.kind in "iu") not in (2, 3):
                return value  # what is wrong is x
        letters = "(L, B, H)" if B else "(L, H)"
        check_shape(name, value, letters, (self.cells, *B, self.hidden_size))
        return value

    def zeros(self) -> Array:
        """Return the state 0 of each cell, for all sequences, (L, H)."""
        return np.zeros((self.cells, self.hidden_size), self.dtype)

    def states(self, x: Any, z0: ArrayLike | None) -> States:
        """Return initial states for `forward`; of a single cell (B, H) or (H,)."""
        if z0 is None:
            return None
        return [z0] if self.cells == 1 else self.as_states("z0", x, z0)

    def forward(
        self,
        params: Mapping[str, Array],
        x: Any,
        z0: States = None,
        *,
        lengths: ArrayLike | None = None,
        offsets: ArrayLike | None = None,
        resets: Any = None,
        reset_state: States = None,
        generator: np.random.Generator | None = None,
        budget: Mapping[str, Any] = NOTHING,
        together: bool = False,
    ) -> tuple[Array, StackTape]:
        """Run all layers, each cell from its z0, with dropout from a generator.

        Lists become one array of all steps. With a budget, for the states that are
        kept, z are the last ones. It is one for each direction of a single layer,
        unless both are to be run together, for those who need both states of a step.
        """
        x, order = in_order(x, lengths, resets, offsets, self.input_size, self.dtype)
        if reset_state is not None:
            order.reset_states = reset_state
        shape = (*x.shape[: x.ndim - (x.dtype.kind not in "iu")], self.width)
        if budget and (self.num_layers > 1 or together):
            layers = self._layers(params, x, z0, order, generator, budget)
            z_last = layers.z_last
            each = tapes_of(layers) if isinstance(layers, Layers) else ()
            return z_last, StackTape(each, (), z_last, shape, order, layers)
        if self.cells == 1:
            first = None if z0 is None else z0[0]
            cell = self._cell(params, 0)
            options = {**order.options(0, 0), **budget}
            z, tape = forward(x, *cell, first, activation=self.activation, **options)
            z_last = tape.z_last[np.newaxis]
            z = z_last if budget else z
            return z, StackTape((tape,), (), z_last, shape, order)
        if self.directions == 2 and self.num_layers > 1 and order.uneven:
            return self._uneven(params, x, z0, order, generator, shape)

        def draws(layer: int, z: Array) -> Array | None:
            if generator is None or not self.dropout:
                return None
            return draw(generator, z.shape, self.dropout)

        return self._forward_layers(params, x, z0, order, draws, budget, shape)

    def _uneven(
        self,
        params: Mapping[str, Array],
        x: Array,
        z0: States,
        order: Order,
        generator: np.random.Generator | None,
        shape: tuple[int, ...],
    ) -> tuple[Array, StackTape]:
        """Run all layers in both directions over sequences of different lengths, which
        is one leaf: its cells are walked both ways without a copy for each.
        """
        run = self._layers(params, x, z0, order, generator, NOTHING)
        assert isinstance(run, LayersBoth)
        masks = Later(self.num_layers - 1, partial(run.all_masks, shape))
        drawn = partial(_mask_below, masks)
        arguments = params, x, z0, order, drawn, NOTHING, shape
        tapes = Later(self.cells, partial(self._tapes, *arguments))
        return run.all_states(), StackTape(tapes, masks, run.z_last, shape, order, run)

    def _tapes(self, *arguments: Any) -> Sequence[Tape]:
        return self._forward_layers(*arguments)[1].tapes

    def _forward_layers(
        self,
        params: Mapping[str, Array],
        x: Array,
        z0: States,
        order: Order,
        draws: Callable[[int, Array], Array | None],
        budget: Mapping[str, Any],
        shape: tuple[int, ...],
    ) -> tuple[Array, StackTape]:
        """Run one layer after the other, with dropout that a function draws."""
        tapes: list[Tape] = []
        masks: list[Array | None] = []
        z = x
        for layer in range(self.num_layers):
            if layer > 0:
                mask = draws(layer, z)
                if mask is not None:
                    z = drop(z, mask, self.dropout)
                masks.append(mask)
            if self.directions == 2 and order.plain and not budget:
                cells = slice(2 * layer, 2 * layer + 2)
                z, new_tapes = _both_ways.forward(
                    z,
                    [self._cell(params, cell) for cell in range(self.cells)[cells]],
                    None if z0 is None else z0[cells],
                    self.activation,
                )
                tapes += new_tapes
                continue
            new = self._forward_layer(params, layer, z, z0, order, budget)
            tapes += [tape for _, tape in new]
            z = new[0][0]
            if len(new) == 2 and not budget:
                # Side by side, and read-only as they were.
                z = np.concatenate([z, order.reversal(new[1][0])], axis=-1)
                z.flags.writeable = False
        z_last = np.array([tape.z_last for tape in tapes])
        done = StackTape(tuple(tapes), tuple(masks), z_last, shape, order)
        return z_last if budget else z, done

    def backward(
        self,
        tape: StackTape,
        dz: Any,
        dz_last: Array | None = None,
        *,
        need_x_grad: bool = True,
    ) -> StackGradients:
        """Run all layers backwards, from dz on the last one and dz_last on each.

        In one direction dz may be a function, as in `bptt.backward`.
        """
        return self.flows_back(tape, dz, dz_last, need_x_grad=need_x_grad)[0]

    def flows_back(
        self,
        tape: StackTape,
        dz: Any,
        dz_last: Array | None,
        *,
        need_x_grad: bool,
        **error: Any,
    ) -> tuple[StackGradients, tuple[ErrorFlow, ...]]:
        """Run backwards, do to the error of each cell what it says, and measure it."""
        if tape.layers is not None:
            return self._layers_back(tape, tape.layers, dz, dz_last, need_x_grad, error)
        if self.cells == 1:
            last = None if dz_last is None else dz_last[0]
            one, seen = _back(tape.tapes[0], dz, last, need_x_grad, error)
            dx = one.x if one.x is None else tape.order.split(one.x)
            mine = StackGradients(named(one, "WVb"), one.z0[np.newaxis], dx)
            return mine, tape.order.flows([seen])
        D = self.directions
        params: dict[str, Array] = {}
        flows: list[ErrorFlow | None] = [None] * self.cells
        dz0 = np.empty_like(tape.z_last)
        # Forward went up through the layers, so now from the last one down.
        for layer in range(self.num_layers - 1, -1, -1):
            cells = slice(layer * D, layer * D + D)
            last = None if dz_last is None else dz_last[cells]
            need = need_x_grad or layer > 0
            new = self._backward_layer(tape, cells, dz, last, need, error)
            for cell, (grads, seen) in zip(range(self.cells)[cells], new, strict=True):
                dz0[cell], flows[cell] = grads.z0, seen
                params |= named(grads, self.names()[cell])
            dz = new[0][0].x
            if dz is not None and D == 2:
                assert new[1][0].x is not None
                dz += tape.order.reversal(new[1][0].x)
            del new, grads  # the next layer down needs as much memory
            mask = tape.masks[layer - 1] if layer else None
            if dz is not None and mask is not None:
                drop_back(dz, mask, self.dropout)
        params = {name: params[name] for name in self.shapes()}
        dx = dz if dz is None else tape.order.split(dz)
        return StackGradients(params, dz0, dx), tape.order.flows(flows, D)

    def _layers(
        self,
        params: Mapping[str, Array],
        x: Array,
        z0: States,
        order: Order,
        generator: np.random.Generator | None,
        budget: Mapping[str, Any],
    ) -> Layers | LayersBoth:
        """Run layers leaf by leaf; without a budget all states are kept."""
        options = {
            "activation": self.activation,
            "dropout": self.dropout,
            "generator": generator,
            "reset_states": order.reset_states,
            **budget,
        }
        cells = [self._cell(params, cell) for cell in range(self.cells)]
        options |= order.options(0)
        if self.directions == 1:
            return _layers.forward(x, cells, z0, **options)
        return _layers_both.forward(x, cells, z0, **options)

    def _layers_back(
        self,
        tape: StackTape,
        layers: Layers | LayersBoth,
        dz: Any,
        dz_last: Array | None,
        need_x_grad: bool,
        error: Mapping[str, Any],
    ) -> tuple[StackGradients, tuple[ErrorFlow, ...]]:
        """Run backwards leaf by leaf."""
        run: Any = _layers.backward if self.directions == 1 else _errors_both.backward
        grads, flows = run(layers, dz, dz_last, need_x_grad=need_x_grad, **error)
        params: dict[str, Array] = {}
        for one, names in zip(grads, self.names(), strict=True):
            params |= named(one, names)
        dz0, dx = np.array([one.z0 for one in grads]), grads[0].x
        dx = dx if dx is None else tape.order.split(dx)
        return StackGradients(params, dz0, dx), tape.order.flows(flows)

    def _forward_layer(
        self,
        params: Mapping[str, Array],
        layer: int,
        x: Any,
        z0: States,
        order: Order,
        budget: Mapping[str, Any],
    ) -> list[tuple[Array, Tape]]:
        """Return the states of each direction, in its own order of time, and tapes."""

        def run(d: int) -> tuple[Array, Tape]:
            cell = layer * self.directions + d
            return forward(
                order.reversal(x) if d else x,
                *self._cell(params, cell),
                None if z0 is None else z0[cell],
                activation=self.activation,
                **{**order.options(d, cell), **budget},
            )

        return [run(0)] if self.directions == 1 else both(run, *self._work(x, layer))

    def _backward_layer(
        self,
        tape: StackTape,
        cells: slice,
        dz: Array | None,
        dz_last: Array | None,
        need_x_grad: bool,
        error: Mapping[str, Any],
    ) -> list[tuple[Gradients, ErrorFlow | None]]:
        """Return the gradients of each direction, in its own order of time."""
        H, tapes = self.hidden_size, tape.tapes[cells]
        if self.directions == 2 and not isinstance(tapes[0], Run):
            return _both_ways.backward(tapes, dz, dz_last, need_x_grad, error)

        def run(d: int) -> tuple[Gradients, ErrorFlow | None]:
            mine = dz
            if dz is not None and d:
                mine = tape.order.reversal(dz[..., H:])
            elif dz is not None and self.directions == 2:
                mine = dz[..., :H]
            last = None if dz_last is None else dz_last[d]
            return _back(tapes[d], mine, last, need_x_grad, error)

        if self.directions == 1:
            return [run(0)]
        T, B = tape.shape[0], tape.shape[1] if len(tape.shape) == 3 else 1
        return both(run, B, H, 2.0 * T * B * H * (H + len(tapes[0].W)))

    def _cell(self, params: Mapping[str, Array], cell: int) -> Cell:
        W, V, b = self.names()[cell]
        return params[W], params[V], params[b] if self.bias else None

    def _work(self, x: Array, layer: int) -> tuple[int, int, float]:
        """Return B, H and the multiplications of one direction, as `both` wants."""
        H, I = self.hidden_size, self.width if layer else self.input_size
        rows = x.size if x.dtype.kind in "iu" else x.size // max(1, x.shape[-1])
        return rows // max(1, len(x)), H, float(rows) * H * (H + I)


def _mask_below(masks: Sequence[Array | None], layer: int, z: Array) -> Array | None:
    """Return what dropout keeps of the states z that a layer reads."""
    return masks[layer - 1]


def _back(
    tape: Tape,
    dz: Any,
    dz_last: Array | None,
    need_x_grad: bool,
    error: Mapping[str, Any],
) -> tuple[Gradients, ErrorFlow | None]:
    """Return the gradients of a cell, and what was recorded of the error."""
    back = backward(tape, dz, dz_last=dz_last, need_x_grad=need_x_grad, **error)
    return back if error.get("record") else (back, None)
