from typing import Any

from numpy.typing import NDArray

from bptt.activations import Activation

_Array = NDArray[Any]

__test__: dict[str, str]

def forward(
    x: _Array,
    W: _Array,
    V: _Array,
    b: _Array | None,
    z: _Array,
    activation: Activation,
) -> None: ...
def backward(
    x: _Array,
    W: _Array,
    V: _Array,
    z: _Array,
    activation: Activation,
    dz: _Array | None,
    dz_last: _Array | None,
    dW: _Array,
    dV: _Array,
    db: _Array | None,
    dz0: _Array,
    dx: _Array | None,
) -> None: ...
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
def config() -> dict[str, str]: ...
def supported_isas() -> list[str]: ...
