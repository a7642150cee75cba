"""PyTorch's names of the parameters of layers, there and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._validation import as_real, check_shape

Array = NDArray[Any]

# Of W and V, which it keeps transposed, and of the two parts of b.
_TORCH = {"W": ("weight_ih",), "V": ("weight_hh",), "b": ("bias_ih", "bias_hh")}


def to_torch(params: Mapping[str, Array]) -> dict[str, Array]:
    """Return parameters under the names of ``nn.RNN``."""
    state: dict[str, Array] = {}
    for name, p in params.items():
        first, *rest = theirs_of(name)
        state[first] = p.T
        state |= {other: np.zeros_like(p) for other in rest}
    return state


def from_torch(
    state: Mapping[str, ArrayLike],
    params: Mapping[str, Array],
    dtype: np.dtype[Any],
    owner: object,
) -> dict[str, Array]:
    """Return values for parameters from those of an ``nn.RNN``, all of them checked."""
    wanted = {n: theirs_of(n) for n in params}
    names = [name for row in wanted.values() for name in row]
    if wrong := sorted(state.keys() ^ dict.fromkeys(names).keys()):
        what = "lacks" if wrong[0] in names else "must not have"
        raise ValueError(f"state {what} {wrong[0]!r} for {owner!r}")
    taken = {}
    for name, row in wanted.items():
        parts = [as_real(n, state[n], dtype) for n in row]
        shape = params[name].shape[::-1]
        for n, part in zip(row, parts, strict=True):
            check_shape(n, part, _letters(n), shape)
        taken[name] = sum(parts[1:], parts[0]).T
    return taken


def theirs_of(name: str) -> list[str]:
    """Return PyTorch's names of one of our parameters."""
    kind, _, end = name.partition("_")
    if not end.startswith("l"):
        end = "l0" + ("_reverse" if end else "")
    return [f"{theirs}_{end}" for theirs in _TORCH[kind]]


def _letters(theirs: str) -> str:
    return {"weight_ih": "(H, I)", "weight_hh": "(H, H)"}.get(theirs[:9], "(H,)")
