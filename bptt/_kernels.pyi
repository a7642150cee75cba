from typing import Any

from numpy.typing import NDArray

from bptt.activations import Activation

Array = NDArray[Any]

def forward(
    x: Array,
    W: Array,
    V: Array,
    b: Array | None,
    z: Array,
    activation: Activation,
) -> None: ...
def backward(
    x: Array,
    W: Array,
    V: Array,
    z: Array,
    activation: Activation,
    dz: Array | None,
    dz_last: Array | None,
    dW: Array,
    dV: Array,
    db: Array | None,
    dz0: Array,
    dx: Array | None,
) -> None: ...
