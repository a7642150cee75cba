from typing import Any

from numpy.typing import NDArray

from bptt._parts import Flow, Layout, Segment
from bptt.activations import Activation

_Array = NDArray[Any]

__test__: dict[str, str]

def forward(
    x: Any,
    W: _Array,
    V: _Array,
    b: _Array | None,
    z: _Array,
    activation: Activation,
    layout: Layout | None = None,
) -> None: ...
def forward_both(
    first: tuple[Any, ...], second: tuple[Any, ...], apart: bool = False
) -> None: ...
def backward(
    x: Any,
    W: _Array,
    V: _Array,
    z: _Array,
    activation: Activation,
    dz: Any,
    dz_last: _Array | None,
    dW: _Array | None,
    dV: _Array | None,
    db: _Array | None,
    dz0: _Array,
    dx: _Array | None,
    layout: Layout | None = None,
    segment: Segment | None = None,
    flow: Flow | None = None,
) -> None: ...
def backward_both(
    first: tuple[Any, ...], second: tuple[Any, ...], apart: bool = False
) -> None: ...
def side_by_side(B: int, H: int, work: float) -> bool: ...
def halves(B: int, H: int) -> bool: ...
def halve(offsets: _Array, half: int, own: _Array, cells: _Array) -> int: ...
def jvp(
    x: _Array,
    W: _Array,
    V: _Array,
    z: _Array,
    activation: Activation,
    dx: _Array | None,
    dW: _Array | None,
    dV: _Array | None,
    db: _Array | None,
    dz: _Array,
) -> None: ...
def lyapunov(
    V: _Array,
    z: _Array,
    activation: Activation,
    Q: _Array,
    logs: _Array,
) -> None: ...
def state_backward(V: _Array, da: _Array, dz: _Array) -> None: ...
def place_cells(
    lengths: _Array,
    start: _Array,
    row: _Array,
    offsets: _Array,
    first: _Array,
    stride: int,
    place: _Array,
    sequence: _Array,
) -> None: ...
def clear(rows: _Array, lengths: _Array, written: _Array) -> None: ...
def chunk_steps(T: int, B: int, I: int, H: int, itemsize: int) -> int: ...
def config() -> dict[str, str]: ...
def supported_isas() -> list[str]: ...
