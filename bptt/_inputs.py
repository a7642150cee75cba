"""The arguments of forward and backward, checked and brought into one shape."""

from __future__ import annotations

import math
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._forms import Form, Ragged, Rectangle, is_list
from bptt._ids import INTP, as_ids, narrowest
from bptt._lengths import from_lengths, from_offsets
from bptt._parts import Flow
from bptt._recompute import as_bytes
from bptt._validation import (
    as_array,
    as_flag,
    as_positive,
    as_real,
    as_shaped,
    as_size,
    check_ndim,
    check_not_empty,
    fits,
    walks,
)
from bptt.activations import Activation

Array = NDArray[Any]

# A unit of a bounded activation is saturated below this part of the largest slope.
SATURATED = 0.05
# So few rows are measured row by row.
FEW_ROWS = 32
# Counts of a step, and of a run.
COUNT, SUM = np.dtype(np.int32), np.dtype(np.int64)


def as_cells(
    x: Any,
    I: int,
    dtype: np.dtype[Any],
    lengths: ArrayLike | None,
    offsets: ArrayLike | None,
    *,
    narrow: bool = False,
) -> tuple[Any, Form]:
    """Return x as the kernels take it, and the form it came in.

    Token ids are told them by `_ids.addresses`; if narrow they are kept in few bytes.
    """
    kept = narrowest(I) if narrow else INTP
    if lengths is not None and offsets is not None:
        raise ValueError("lengths and offsets must not both be given")
    if is_list(x):
        if lengths is not None or offsets is not None:
            raise ValueError("x must be an array with lengths or offsets, got a list")
        items = _as_items(x, I, dtype)
        form = Ragged("list", np.array([len(a) for a in items], np.intp))
        if not items or items[0].dtype.kind == "f":
            return items, form
        return _placed(_joined(items, I), form, I, kept), form
    if offsets is not None:
        values = _as_sequence("x", x, I, dtype)
        form = Ragged("values", from_offsets(offsets, len(values)))
        return _placed(values, form, I, kept), form
    if lengths is None:
        x, batched = as_input(x, I, dtype, kept)
        return x, Rectangle(x.shape[0], x.shape[1], batched)
    x = as_array("x", x)
    came = x.shape
    if x.dtype.kind not in "iu" or x.ndim not in (1, 2):
        x, batched = as_input(x, I, dtype)
    else:
        batched = x.ndim == 2
    if not batched:
        raise ValueError(
            f"x must have shape (T, B, I) or (T, B) with lengths, got {came}"
        )
    T, B = x.shape[:2]
    counts = from_lengths(lengths, T, B)
    if T and (counts == T).all():
        x = x if x.dtype.kind == "f" else as_ids("x", x, I, kept)
        return x, Rectangle(T, B, True, with_lengths=True)
    form = Ragged("padded", counts, T)
    if x.dtype.kind == "f":
        x = x.reshape(T * B, I)
    return _placed(x, form, I, kept), form


def as_values(x: Any, I: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return a list of sequences one after another, (N, I) or ids (N,), and lengths."""
    items = _as_items(x, I, dtype)
    lengths = np.array([len(a) for a in items], np.intp)
    return _joined(items, I) if items else np.empty((0, I), dtype), lengths


def _as_items(x: Any, I: int, dtype: np.dtype[Any]) -> list[Array]:
    items = [_as_sequence(f"x[{i}]", a, I, dtype) for i, a in enumerate(x)]
    if len({a.ndim for a in items}) > 1:
        raise ValueError("x must be a list of arrays of one kind, features or ids")
    return items


def _joined(items: list[Array], I: int) -> Array:
    """Return sequences one after another, token ids in few bytes."""
    if items[0].dtype.kind == "f":
        return np.concatenate(items)
    kept = narrowest(I)
    return np.concatenate([as_ids(f"x[{i}]", a, I, kept) for i, a in enumerate(items)])


def _placed(rows: Array, form: Ragged, I: int, kept: np.dtype[Any]) -> Array:
    """Return features (M, 1, I) as they stand, or token ids (N, 1) as cells."""
    if rows.dtype.kind == "f":
        return rows[:, np.newaxis]
    # The padding of token ids may be anything: only what is left of them is checked.
    return as_ids("x", rows, I, kept, form.place)


def _as_sequence(name: str, value: ArrayLike, I: int, dtype: np.dtype[Any]) -> Array:
    """Return one sequence, or the values of several, as (T, I) or ids (T,)."""
    array = as_array(name, value)
    if array.dtype.kind in "iu":
        if array.ndim != 1:
            raise ValueError(
                f"{name} of integers must have shape (T,): token ids; got {array.shape}"
            )
        return array
    array = as_real(name, array, dtype)
    if array.ndim != 2 or array.shape[1] != I:
        raise ValueError(
            f"{name} must have shape (T, I) = (T, {I}) to fit W, got {array.shape}"
        )
    return array


def as_starts(z0: Any, form: Form, H: int, dtype: np.dtype[Any]) -> Array:
    """Return the initial state of each sequence, (S, H)."""
    if z0 is None:
        return np.zeros((form.S, H), dtype)
    return as_rows("z0", z0, form.S, H, dtype, form.batched)


def as_reset_state(
    value: Any, form: Form, H: int, dtype: np.dtype[Any]
) -> Array | None:
    """Return the state that each sequence starts from at resets, (S, H), if given."""
    if value is None:
        return None
    array = as_real("reset_state", value, dtype)
    if array.shape == (H,):
        return np.repeat(array[np.newaxis], form.S, axis=0)
    return as_rows("reset_state", array, form.S, H, dtype, form.batched)


def as_budget(
    memory: int | str | None, checkpoint: int | None
) -> tuple[int | None, int | None]:
    """Return memory in bytes, or the steps between states that are kept."""
    if memory is not None and checkpoint is not None:
        raise ValueError("memory and checkpoint must not both be given")
    return (
        None if memory is None else as_bytes("memory", memory),
        None if checkpoint is None else as_size("checkpoint", checkpoint),
    )


def budget_given(memory: Any, checkpoint: Any) -> tuple[str, Any]:
    """Return the name and the value of the one that was given, for an error."""
    return ("memory", memory) if checkpoint is None else ("checkpoint", checkpoint)


class ErrorClip(TypedDict, total=False):
    """The options of `bptt.backward` that bound the error, for those who pass it on."""

    clip_error: float | None
    clip_error_value: float | None


NO_CLIP: ErrorClip = {}


def as_error_clip(
    clip_error: float | None, clip_error_value: float | None
) -> ErrorClip:
    """Return what `bptt.backward` takes, checked before anything is computed."""
    as_flow(clip_error, clip_error_value, False)
    return {"clip_error": clip_error, "clip_error_value": clip_error_value}


_UNCLIPPED = Flow()


def as_flow(
    clip_error: float | None, clip_error_value: float | None, record: bool
) -> Flow | None:
    """Return what is to be done with the error; None for nothing."""
    if record is not False and record is not True:
        record = as_flag("record", record)
    if clip_error is clip_error_value is None:
        return _UNCLIPPED if record else None
    return Flow(
        math.inf if clip_error is None else as_positive("clip_error", clip_error),
        math.inf
        if clip_error_value is None
        else as_positive("clip_error_value", clip_error_value),
    )


def with_records(
    flow: Flow, activation: Activation, shape: tuple[int, ...], H: int
) -> Flow:
    """Return a flow with room for what is measured, of the shape (T, B)."""
    # Few rows stand one after the other in memory, which no two threads share then.
    order: Literal["C", "F"] = "F" if 1 < shape[1] < FEW_ROWS else "C"
    # Written for speed: a short run is over in tens of microseconds, and a named tuple
    # that is called takes .3 of one more.
    low, high = activation.range
    bounded = low > -math.inf and high < math.inf
    return tuple.__new__(
        Flow,
        (
            flow.clip_norm,
            flow.clip_value,
            SATURATED * activation.gamma if bounded else 0.0,
            np.empty(shape, np.float64, order),
            np.empty(shape, COUNT, order),
            np.zeros(H, SUM),
        ),
    )


def as_input(
    x: ArrayLike, I: int, dtype: np.dtype[Any], kept: np.dtype[Any] = INTP
) -> tuple[Array, bool]:
    """Return x as (T, B, I) or ids (T, B), and whether it had the axis B."""
    if not fits(x, dtype):
        x = as_array("x", x)
        if x.dtype.kind in "iu":
            return _as_tokens(x, I, kept)
        x = as_real("x", x, dtype)
    if x.ndim not in (2, 3):
        raise ValueError(f"x must have shape (T, B, I) or (T, I), got {x.shape}")
    if x.shape[-1] != I:
        letters, expected = (
            ("(T, B, I)", f"(T, B, {I})") if x.ndim == 3 else ("(T, I)", f"(T, {I})")
        )
        raise ValueError(
            f"x must have shape {letters} = {expected} to fit W, got {x.shape}"
        )
    return (x, True) if x.ndim == 3 else (x[:, np.newaxis], False)


def _as_tokens(x: Array, I: int, kept: np.dtype[Any]) -> tuple[Array, bool]:
    if x.ndim not in (1, 2):
        hint = "; one-hot or real features must be floats" if x.ndim == 3 else ""
        raise ValueError(
            f"x of integers must have shape (T, B) or (T,): token ids; "
            f"got {x.shape}{hint}"
        )
    ids = as_ids("x", x, I, kept)
    return (ids, True) if x.ndim == 2 else (ids[:, np.newaxis], False)


def as_layer(
    W: ArrayLike, V: ArrayLike, b: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Return the parameters of a layer, of one dtype and of shapes that fit."""
    W = as_real("W", W, contiguous=False)
    if W.ndim != 2 or W.size == 0:
        check_ndim("W", W, "(I, H)")
        check_not_empty("W", "I", W.shape[0])
        check_not_empty("W", "H", W.shape[1])
    H, dtype = W.shape[1], W.dtype
    V = as_shaped("V", V, dtype, "(H, H)", (H, H), contiguous=False)
    if b is not None:
        b = as_shaped("b", b, dtype, "(H,)", (H,))
    return W, V, b


def as_steps(array: Array, back: bool) -> Array:
    """Return an array (T, B, K) whose steps the kernels can walk through: one after the
    other in memory, or if back one before the other, with rows any distance apart.
    """
    if (array.flags.c_contiguous and not back) or walks(array, back):
        return array
    return np.ascontiguousarray(array[::-1])[::-1] if back else array.copy("C")


def as_rows(
    name: str, value: ArrayLike, B: int, H: int, dtype: np.dtype[Any], batched: bool
) -> Array:
    """Return a state of each sequence as (B, H)."""
    if batched:
        return as_shaped(name, value, dtype, "(B, H)", (B, H))
    return as_shaped(name, value, dtype, "(H,)", (H,)).reshape(B, H)
