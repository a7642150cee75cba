"""What layers in both directions hand over: their tape, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from bptt._directions import Order
from bptt._layers import Layers
from bptt._layers_both import LayersBoth
from bptt._recompute import Schedule
from bptt._tape import Gradients, Tape

Array = NDArray[Any]
R = TypeVar("R")


class Later(Sequence[R]):
    """Things of which the number is known, that are made when one is asked for.

    Parameters
    ----------
    count : int
    make : callable
        Returns them all.
    """

    def __init__(self, count: int, make: Callable[[], Sequence[R]]) -> None:
        self._count, self._make = count, make

    @cached_property
    def _made(self) -> tuple[R, ...]:
        return tuple(self._make())

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, which: Any) -> Any:
        return self._made[which]


class StackGradients(NamedTuple):
    """Gradients of the loss, each of the shape of what it belongs to.

    Attributes
    ----------
    params : dict of ndarray
        Those of the parameters, by name, for an optimizer.
    z0 : ndarray of shape (L, B, H) or (L, H)
        L counts the layers times the directions.
    x : ndarray of the shape of x, or None
        None where it was not wanted, or where x holds token ids. A list where x is one.
    """

    params: dict[str, Array]
    z0: Array
    x: Any


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class StackTape:
    """What a forward pass through the layers leaves for the backward one.

    Attributes
    ----------
    tapes : sequence of Tape
        One for each cell. Of sequences with lengths of their own in both directions of
        several layers they are made by another forward pass when they are asked for,
        with the parameters as they are then.
        Where the layers are run again together, each of them runs
        all: its x is NaN where that is the states of the layer below.
    masks : sequence of ndarray or None
        What dropout kept of the states of each layer but the last; None where it
        dropped nothing.
    z_last : ndarray of shape (L, B, H) or (L, H)
        The state in which each cell ended: that of a sequence's last step, or of its
        first in the direction that reads from the end.
    shape : tuple of int
        That of the states of the last layer, time first.
    order : Order
    layers : Layers, LayersBoth or None
        The layers, where they are run leaf by leaf, be it in a single one.
    """

    tapes: Sequence[Tape]
    masks: Sequence[Array | None]
    z_last: Array
    shape: tuple[int, ...]
    order: Order
    layers: Layers | LayersBoth | None = None

    @property
    def schedule(self) -> Schedule | None:
        """How states are kept and computed again; None where all are kept. Of two
        directions that of each.
        """
        if self.layers is not None:
            return self.layers.schedule
        return getattr(self.tapes[0], "schedule", None)

    @property
    def valid(self) -> Array | None:
        """Which steps (T, B) are no padding, where there were lengths."""
        return self.order.valid

    def __repr__(self) -> str:
        if self.layers is not None:
            return f"{type(self).__name__}({self.layers!r})"
        return f"{type(self).__name__}({len(self.tapes)} of {self.tapes[0]!r})"


def named(grads: Gradients, names: Sequence[str]) -> dict[str, Array]:
    """Return the gradients of the parameters of a cell under their names."""
    leaves = zip(names, grads[:3], strict=True)
    return {name: leaf for name, leaf in leaves if leaf is not None}
