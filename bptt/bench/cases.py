"""What is computed: shapes, their arrays, their flops, and the right answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt import _reference
from bptt.activations import Activation

Array = NDArray[Any]

GRADIENTS = ("W", "V", "b", "z0", "x")
ACTIVATIONS = ("tanh", "relu", "sigmoid")


class Shape(NamedTuple):
    """The sizes of one case.

    Attributes
    ----------
    T, B, I, H : int
        Steps, sequences, inputs, hidden units.
    """

    T: int
    B: int
    I: int
    H: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Return the shape that "T,B,I,H" names.

        Examples
        --------
        >>> Shape.parse("200,32,64,128")
        Shape(T=200, B=32, I=64, H=128)
        """
        sizes = [int(s) if s.isdecimal() else 0 for s in text.split(",")]
        if len(sizes) != 4 or min(sizes) < 1:
            raise ValueError(f"a shape is T,B,I,H, each at least 1; got {text!r}")
        return cls(*sizes)

    def __str__(self) -> str:
        return ", ".join(map(str, self))


# From one sequence of 16 units to a batch that fills the machine.
SHAPES = [
    Shape(1000, 1, 16, 16),
    Shape(1000, 1, 16, 64),
    Shape(10000, 1, 16, 128),
    Shape(1000, 1, 64, 256),
    Shape(200, 32, 64, 128),
    Shape(100, 64, 64, 256),
    Shape(35, 20, 650, 650),
    Shape(50, 128, 1024, 1024),
    Shape(50, 32, 1760, 1760),
]


@dataclass(frozen=True)
class Task:
    """One shape and what is to be done with it.

    Attributes
    ----------
    shape : Shape
    dtype : str
        "float32" or "float64".
    activation : str
        One of `ACTIVATIONS`.
    forward_only : bool
        Whether the states alone are wanted, and no gradients.
    """

    shape: Shape
    dtype: str = "float32"
    activation: str = "tanh"
    forward_only: bool = False

    def flops(self) -> int:
        """Return the multiplications and additions of the matrix products.

        Forward x W and z V; backward da V^T, dV, dW and dx: one of H H and one of I H
        in each of three pairs, 2 T B flops an entry.
        """
        T, B, I, H = self.shape
        return 2 * T * B * (I + H) * H * (1 if self.forward_only else 3)

    def bytes(self) -> int:
        """Return the traffic that no implementation avoids: each array moved once.

        Forward reads x and the parameters and writes z; backward reads them all and
        dz, and writes dx and the gradients.
        """
        T, B, I, H = self.shape
        sequences, parameters = T * B * (I + H), (I + H + 1) * H
        if self.forward_only:
            entries = sequences + parameters
        else:
            entries = 2 * sequences + T * B * (I + H) + 3 * parameters
        return entries * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Arrays:
    """The inputs of one step, the same for every contender.

    Attributes
    ----------
    x : ndarray of shape (T, B, I)
    W : ndarray of shape (I, H)
    V : ndarray of shape (H, H)
    b : ndarray of shape (H,)
    z0 : ndarray of shape (B, H)
    dz : ndarray of shape (T, B, H)
    """

    x: Array
    W: Array
    V: Array
    b: Array
    z0: Array
    dz: Array


def arrays(task: Task, seed: int = 0) -> Arrays:
    """Return random inputs of a task.

    The norm of V is about 0.8, so that neither states nor errors grow with T: the
    contenders can be compared after a million steps.
    """
    T, B, I, H = task.shape
    rng = np.random.default_rng(seed)
    dtype = np.dtype(task.dtype)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=dtype.type)

    def uniform(*shape: int, deviation: float) -> Array:
        bound = 3**0.5 * deviation
        return rng.uniform(-bound, bound, shape).astype(dtype)

    return Arrays(
        x=normal(T, B, I),
        W=uniform(I, H, deviation=0.6 * I**-0.5),
        V=uniform(H, H, deviation=0.4 * H**-0.5),
        b=uniform(H, deviation=0.3),
        z0=uniform(B, H, deviation=0.5),
        dz=normal(T, B, H),
    )


def answer(task: Task) -> dict[str, Array]:
    """Return the states or the gradients of a task by name, from float64."""
    activation = Activation(task.activation)
    x, W, V, b, z0, dz = (
        array.astype(np.float64) for array in vars(arrays(task)).values()
    )
    z = np.empty((len(x) + 1, *z0.shape))
    z[0] = z0
    _reference.forward(x, W, V, b, z, activation)
    if task.forward_only:
        return {"z": z[1:]}
    leaves = zip(GRADIENTS, (W, V, b, z0, x), strict=True)
    grads = {name: np.empty_like(leaf) for name, leaf in leaves}
    _reference.backward(x, W, V, z, activation, dz, None, *grads.values())
    return grads


def tolerance(task: Task) -> float:
    """Return how far a right result may be from the answer, relative in norm.

    The rounding errors of a sum of K terms walk at random: sqrt(K) eps (Higham and
    Mary 2019). The recurrence carries them on at most 1 / (1 - |V|) = 5 times forward
    and as often backward. Where sigma has a kink, the entries as close to it as that
    error may get the other slope, whose share enters the norm as its root.
    """
    T, B, I, H = task.shape
    eps = float(np.finfo(task.dtype).eps)
    error = 25 * eps * math.sqrt(T * B + I + H)
    return max(error, math.sqrt(error)) if task.activation == "relu" else error


def deviation(result: dict[str, Array], right: dict[str, Array]) -> float:
    """Return the largest relative distance, in norm, of a result from the answer."""
    if set(result) != set(right):
        raise ValueError(f"a contender gave {sorted(result)}, not {sorted(right)}")
    worst = 0.0
    for name, desired in right.items():
        actual = np.asarray(result[name], np.float64)
        if actual.shape != desired.shape:
            raise ValueError(
                f"d{name} must have shape {desired.shape}, got {actual.shape}"
            )
        distance = float(np.linalg.norm(actual - desired))
        scale = float(np.linalg.norm(desired))
        worst = max(worst, distance / scale if scale else distance)
    return worst
