"""Checks of arguments: each names the argument, what was expected, and what came.

Nothing below the public functions checks again.
"""

from __future__ import annotations

import math
import operator
from typing import Any, SupportsFloat, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def as_array(name: str, value: ArrayLike) -> Array:
    """Return value as a plain ndarray, refusing what would lose its meaning."""
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return np.asarray(value)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be ignored; "
            f"pass {name}.filled(value)"
        )
    if value is None:
        raise TypeError(f"{name} must be an array, got None")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array: {error}") from None
    if array.dtype == object and not array.ndim:
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    return array


def as_real(
    name: str,
    value: ArrayLike,
    dtype: DTypeLike | None = None,
    *,
    contiguous: bool = True,
) -> Array:
    """Return value as float32 or float64: aligned, of native byte order, contiguous.

    At most one copy is made, and none of an array that is all that already.
    """
    if fits(value, dtype):
        return value
    array = as_array(name, value)
    native = array.dtype.newbyteorder("=")
    if native not in FLOATS:
        wanted = np.dtype(np.float32 if dtype is None else dtype)
        hint = "" if native.kind not in "biuf" else f"; pass {name}.astype(np.{wanted})"
        raise TypeError(
            f"{name} must have dtype float32 or float64, got {array.dtype}{hint}"
        )
    if dtype is not None and native != dtype:
        raise TypeError(
            f"{name} must have dtype {np.dtype(dtype)} like the other arrays, "
            f"got {array.dtype}; pass {name}.astype(np.{np.dtype(dtype)})"
        )
    if not contiguous and in_entries(array):
        return np.require(array, native, ["A"])
    return np.require(array, native, ["C", "A"])


def fits(value: Any, dtype: DTypeLike | None) -> TypeGuard[Array]:
    """Whether value needs no conversion: the usual case, which a call meets often."""
    if type(value) is not np.ndarray:
        return False
    came, flags = value.dtype, value.flags
    return (
        (came in FLOATS if dtype is None else came == dtype)
        and flags.c_contiguous
        and flags.aligned
    )


def as_shaped(
    name: str,
    value: ArrayLike,
    dtype: np.dtype[Any],
    letters: str,
    shape: tuple[int, ...],
    *,
    contiguous: bool = True,
) -> Array:
    """Return value as `as_real` does, refusing all but the shape named by letters."""
    if fits(value, dtype) and value.shape == shape:
        return value
    array = as_real(name, value, dtype, contiguous=contiguous)
    check_shape(name, array, letters, shape)
    return array


def check_shape(
    name: str,
    array: Array,
    letters: str,
    expected: tuple[int, ...],
    axes: int | None = None,
) -> None:
    """Refuse an array whose shape is not the expected one, named by its letters.

    Only its first axes are looked at, where a number of them is given.
    """
    if array.shape[:axes] != expected:
        raise ValueError(
            f"{name} must have shape {letters} = {_shape(expected)}, "
            f"got {_shape(array.shape)}"
        )


def check_like(name: str, array: Array, other: str, expected: tuple[int, ...]) -> None:
    """Refuse an array that has not the shape of another one."""
    if array.shape != expected:
        raise ValueError(
            f"{name} must have the shape of {other}, {_shape(expected)}, "
            f"got {_shape(array.shape)}"
        )


def check_ndim(name: str, array: Array, letters: str) -> None:
    """Refuse an array that has not one axis for each letter."""
    if array.ndim != letters.count(",") + (not letters.endswith(",)")):
        raise ValueError(f"{name} must have shape {letters}, got {_shape(array.shape)}")


def in_entries(array: Array) -> bool:
    """Whether the entries of an array are a whole number of them apart."""
    if array.flags.c_contiguous:
        return True
    return all(stride % array.itemsize == 0 for stride in array.strides)


def check_entries(name: str, array: Array) -> None:
    """Refuse an array whose entries are parts of an entry apart."""
    if not in_entries(array):
        raise ValueError(
            f"{name} must have strides in whole entries of {array.itemsize} bytes, "
            f"got {array.strides}; pass np.ascontiguousarray({name})"
        )


def walks(array: Array, back: bool = False) -> bool:
    """Whether the kernels can walk through the steps of an array (T, B, K), or of ids
    (T, B): one after the other in memory, or if back one before the other.

    The rows of a step may be any distance apart; ids stand one beside the other.
    """
    if not (back and len(array) > 1) and array.flags.c_contiguous:
        return True
    if array.ndim == 2 or array.size == 0:
        return bool(array[:: -1 if back else 1].flags.c_contiguous)
    T, B, K = array.shape
    step, row, entry = array.strides
    step = -step if back else step
    follows = T < 2 or (step > 0 if B == 1 else step == B * row)
    apart = (step if T > 1 else 0) if B == 1 else row
    return (
        follows
        and (apart > 0 or B * T == 1)
        and apart % array.itemsize == 0
        and (K < 2 or entry == array.itemsize)
    )


def check_walks(name: str, array: Array, back: bool) -> None:
    """Refuse an array whose steps the kernels cannot walk through."""
    if walks(array, back):
        return
    order = "one before the other, like those of z" if back else "one after the other"
    remedy = f"np.ascontiguousarray({name}{'[::-1]' * back}){'[::-1]' * back}"
    raise ValueError(
        f"{name} must have its steps in memory {order}, got strides {array.strides} of "
        f"shape {array.shape}; pass {remedy}"
    )


def check_dtype(name: str, array: Array, dtype: DTypeLike) -> None:
    """Refuse an array of another dtype."""
    if array.dtype != dtype:
        raise TypeError(f"{name} must have dtype {np.dtype(dtype)}, got {array.dtype}")


def check_not_empty(name: str, letter: str, size: int) -> None:
    """Refuse a size of 0."""
    if size == 0:
        raise ValueError(f"{name} must have {letter} >= 1, got {letter} = 0")


def as_size(name: str, value: Any) -> int:
    """Return value as a positive int."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer, got {type(value).__name__}"
        ) from None
    if size < 1 or isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return size


def as_flag(name: str, value: Any) -> bool:
    """Return value as a bool, refusing what is only as good as one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def as_number(name: str, value: Any) -> float:
    """Return value as a float."""
    if type(value) is float:
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        shape = _shape(value.shape)
        raise TypeError(f"{name} must be a number, got an array of shape {shape}")
    if isinstance(value, SupportsFloat):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name} must fit a float64, got {value!r}") from None
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{name} must be a number, got {value!r}")


def as_fraction(name: str, value: Any) -> float:
    """Return value as a float from 0 to below 1."""
    number = as_number(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be from 0 to below 1, got {value!r}")
    return number


def as_positive(name: str, value: Any) -> float:
    """Return value as a float above 0; infinity is allowed."""
    number = as_number(name, value)
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if math.isnan(number) or number <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return number


def as_loss(name: str, answer: Any) -> tuple[float, Any]:
    """Return the value and the gradient dz that a loss gave; its name is that call."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise TypeError(f"{name} must return (value, dz), got {kind_of(answer)}")
    value, dz = answer
    return as_number(f"the value of {name}", value), dz


def kind_of(value: Any) -> str:
    """Return what a value is, for an error: its type, and how many are in a tuple."""
    count = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return type(value).__name__ + count


def check_function(name: str, value: Any, arguments: str) -> None:
    """Refuse what cannot be called with the arguments, which are told in words."""
    if not callable(value):
        raise TypeError(
            f"{name} must be a function of {arguments}, got {type(value).__name__}"
        )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the choices."""
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name} must be one of {listed}; got {value!r}")


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
