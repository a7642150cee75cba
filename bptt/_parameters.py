"""Parameters by name: first values, and a check of those that anyone may replace."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import initializers
from bptt._validation import check_choice, check_shape
from bptt.initializers import Initializer

Array = NDArray[Any]
Init = str | Initializer | Mapping[str, str | Initializer]
# The shape of each parameter by its name: in letters, and in numbers.
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


def letter(name: str) -> str:
    """Return the letter of a parameter: ``W`` of ``W_l1_reverse``."""
    return name.partition("_")[0]


@functools.lru_cache(64)
def names_of_cells(num_layers: int, directions: int) -> list[list[str]]:
    """Return the names of W, V and b of each cell, layer by layer."""
    names = []
    for cell in range(num_layers * directions):
        layer, direction = divmod(cell, directions)
        end = (f"_l{layer}" if layer else "") + ("_reverse" if direction else "")
        names.append([letter + end for letter in "WVb"])
    return names


@functools.lru_cache(64)
def shapes_of_cells(
    input_size: int, hidden_size: int, num_layers: int, directions: int, bias: bool
) -> Shapes:
    """Return the shape of each parameter of layers by its name."""
    H = hidden_size
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for cell, (W, V, b) in enumerate(names_of_cells(num_layers, directions)):
        first = cell < directions
        inputs = "I" if first else "H" if directions == 1 else "2 H"
        shapes[W] = f"({inputs}, H)", (input_size if first else directions * H, H)
        shapes[V] = "(H, H)", (H, H)
        if bias:
            shapes[b] = "(H,)", (H,)
    return shapes


def chosen(init: Init, shapes: Shapes) -> Mapping[str, str | Initializer]:
    """Return init as a dict, whose keys are letters or names of parameters."""
    if not isinstance(init, Mapping):
        return {"V": init}
    known = dict.fromkeys([*map(letter, shapes), *shapes])
    for name in init:
        check_choice("a key of init", name, tuple(known))
    return init


def draw(
    shapes: Shapes,
    init: Mapping[str, str | Initializer],
    hidden_size: int,
    seed: initializers.Seed,
    dtype: np.dtype[Any],
) -> dict[str, Array]:
    """Return new parameters, drawn in the order of shapes.

    Matrices that init does not name are drawn from U(-1/sqrt(H), 1/sqrt(H)); biases
    are 0.
    """
    for name, (letters, shape) in shapes.items():
        if math.prod(shape) * dtype.itemsize > sys.maxsize:
            raise ValueError(
                "input_size, hidden_size and output_size must make arrays of less "
                f"than 2**63 bytes, got {name} {letters} = {shape}"
            )
    uniform = initializers.get("uniform", limit=1 / math.sqrt(hidden_size))
    params = {}
    for name, (_, shape) in shapes.items():
        default = uniform if len(shape) == 2 else "zeros"
        initializer = init.get(name, init.get(letter(name), default))
        make = initializers.get(initializer)
        params[name] = make(shape, seed=seed, dtype=dtype)
    check(params, shapes, dtype)
    return params


def check(params: Mapping[str, Any], shapes: Shapes, dtype: np.dtype[Any]) -> None:
    """Refuse parameters of another shape or dtype."""
    for name, (letters, shape) in shapes.items():
        p = params.get(name)
        if not isinstance(p, np.ndarray):
            raise TypeError(f"{name} must be an array, got {type(p).__name__}")
        check_shape(name, p, letters, shape)
        if p.dtype != dtype:
            raise TypeError(f"{name} must have dtype {dtype}, got {p.dtype}")


def saved(
    arrays: Mapping[str, Array], letters: Sequence[str]
) -> Mapping[str, Initializer]:
    """Return initializers that give copies of saved arrays, of which none may lack."""
    return _Saved(
        (name, _taken(array))
        for name, array in arrays.items()
        if letter(name) in letters
    )


class _Saved(dict[str, Initializer]):
    def get(self, name: str, default: Any = None) -> Any:
        return self[name]


def _taken(array: Array) -> Initializer:
    return lambda shape, *, seed, dtype: np.array(array)
