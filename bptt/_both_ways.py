"""Both directions of a layer, of rows that all run from the first step to the last.

They are one call of the kernels each way, and share one array of states: the columns of
the direction that reads from the end begin with its initial state at the other end, and
are walked through backwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend
from bptt._inputs import as_input, as_layer, as_rows
from bptt._tape import ErrorFlow, Gradients, Tape, as_error_flow, new_gradients
from bptt.activations import Activation
from bptt.recurrence import flow_of, told

Array = NDArray[Any]
# W, V and b of a direction; the initial states of several.
Cell = tuple[Array, Array, Array | None]
States = Sequence[ArrayLike] | Array | None


def forward(
    x: Any, cells: Sequence[Cell], z0: States, activation: Activation
) -> tuple[Array, list[Tape]]:
    """Return the states of both directions side by side, and their tapes."""
    layers = [as_layer(*cell) for cell in cells]
    (I, H), dtype = layers[0][0].shape, layers[0][0].dtype
    x, batched = as_input(x, I, dtype)
    T, B = x.shape[:2]
    wide = np.empty((T + 2, B, 2 * H), dtype)
    inputs, states = (x, x[::-1]), (wide[:-1, :, :H], wide[:0:-1, :, H:])
    for d, z in enumerate(states):
        z[0] = 0 if z0 is None else as_rows("z0", z0[d], B, H, dtype, batched)
    runs = list(zip(inputs, layers, states, strict=True))
    _backend.kernels.forward_both(*((x, *layer, z, activation) for x, layer, z in runs))
    for array in (wide, *states):
        array.flags.writeable = False
    tapes = [Tape(x, *layer, z, activation, batched) for x, layer, z in runs]
    return (wide[1:-1] if batched else wide[1:-1, 0]), tapes


def backward(
    tapes: Sequence[Tape],
    dz: Array | None,
    dz_last: Array | None,
    need_x_grad: bool,
    error: Mapping[str, Any],
) -> list[tuple[Gradients, ErrorFlow | None]]:
    """Return the gradients of each direction in its own order of time, and what was
    recorded of its error.
    """
    H = len(tapes[0].V)
    columns = (None, None) if dz is None else (dz[..., :H], dz[::-1, ..., H:])
    last = (None, None) if dz_last is None else dz_last
    flows = [flow_of(tape, **error) for tape in tapes]
    grads = [new_gradients(tape, need_x_grad) for tape in tapes]
    runs = zip(tapes, columns, last, grads, flows, strict=True)
    _backend.kernels.backward_both(*(told(*run) for run in runs))
    seen: list[ErrorFlow | None] = [None, None]
    if error.get("record"):
        seen = [as_error_flow(f, tapes[0].batched) for f in flows if f is not None]
    return list(zip(grads, seen, strict=True))
