"""The tape of each of several layers that keep few states and are run together.

It is walked as that of a single layer is, but a leaf of it comes from a run of all
layers through that leaf: what a layer reads is the states of the one below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt._forms import Ragged
from bptt._layers import Layers
from bptt._leaves import Leaves
from bptt._runs import Run

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class LayerTape(Run):
    """The tape of one layer; its x is NaN where that is the states of another one.

    Attributes
    ----------
    layers : Layers
    k : int
        Which of them, from 0.
    """

    layers: Layers
    k: int

    def inputs(self, leaves: Leaves, leaf: int) -> Any:
        """Return what the layer reads in a leaf."""
        return self.layers.inputs(self.k, leaf)

    def check_rows(self) -> None:
        """Refuse to go back where dz would not stand as the states do."""
        if isinstance(self.form, Ragged):
            raise ValueError(
                "tape must hold its states to go back through one of several layers "
                "where sequences have lengths of their own; go back through all of "
                f"them, or run forward without memory and checkpoint, got {self!r}"
            )

    def apart(self) -> LayerTape:
        """Return the run with room of its own for the states that it recomputes."""
        layers = [
            layer._replace(z=np.empty_like(layer.z), z_end=layer.z_end.copy())
            for layer in self.layers.layers
        ]
        return tape_of(replace(self.layers, layers=layers, held=[-1]), self.k)

    def runner(self, leaves: Leaves) -> Callable[[int, Any], Any]:
        """Return what runs a leaf through all layers."""
        return self.layers.run_leaf


def tapes_of(layers: Layers) -> tuple[LayerTape, ...]:
    """Return the tape of each layer."""
    return tuple(tape_of(layers, k) for k in range(len(layers.layers)))


def tape_of(layers: Layers, k: int) -> LayerTape:
    """Return the tape of layer k."""
    form, (W, V, b, z, z_end, leaves) = layers.form, layers.layers[k]
    x, layout = layers.x, leaves.whole
    if k > 0:
        x = np.broadcast_to(np.full((), np.nan, W.dtype), (*form.shape, len(W)))
    if isinstance(form, Ragged):
        assert layout is not None
        assert layout.starts is not None
        z0 = layout.starts[: form.S]
    else:
        z0 = layers.kept[0][1][k]
    return LayerTape(
        x, W, V, b, z, layers.activation, form.batched, form, layout, z0, z_end,
        layers.schedule, layers.kept, layers.held, None, layers, k,
    )  # fmt: skip
