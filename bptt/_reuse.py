"""The memory of an earlier run, used again: `out` of forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt._forms import Form, Ragged
from bptt._tape import Gradients, Tape, check_gradients
from bptt._validation import check_dtype, check_shape

Array = NDArray[Any]
Sizes = tuple[int, int, int]

# More steps than any sequence has.
EVERY = np.iinfo(np.intp).max


def states(out: Tape | None, shape: Sizes, dtype: np.dtype[Any]) -> Array:
    """Return an array (T + 1, B, H) for states: a new one, or that of an old tape."""
    if out is None:
        return np.empty(shape, dtype)
    _check(out, "(T + 1, B, H)", shape, dtype)
    return _taken(out)


def states_of(
    form: Form, H: int, dtype: np.dtype[Any], out: Tape | None
) -> tuple[Array, Array | None]:
    """Return an array for the states of a form, zero in the padding, and `Run.written`.

    The memory of an old tape is left where padding comes to it that other tapes do not
    know of, or where it is too small, of a padded batch for one that has no padding.
    """
    if not isinstance(form, Ragged):
        shape = form.T + 1, form.B, H
        if _is_padded(out):
            _check(out, "(T, B, H)", (form.T, form.B, H), dtype)
            out = None
        z, written = states(out, shape, dtype), _written(out)
        return z, np.full(form.B, EVERY) if written is None else written
    if form.name == "padded":
        return _padded(form, H, dtype, out)
    if out is None:
        return form.empty(H, dtype), None
    _check(out, "(N, H)", form.shape_of(H), dtype)
    return _taken(out), None


def _padded(
    form: Ragged, H: int, dtype: np.dtype[Any], out: Tape | None
) -> tuple[Array, Array]:
    T, B, _ = shape = form.shape_of(H)
    if _is_padded(out):
        _check(out, "(T, B, H)", shape, dtype)
    elif out is not None:
        _check(out, "(T + 1, B, H)", (T + 1, B, H), dtype)
    written = _written(out)
    if out is None or written is None:
        z, written = form.empty(H, dtype), np.zeros(B, np.intp)
    else:
        before = written.copy()
        z = _taken(out)
        z = z if _is_padded(out) else z[1:].reshape(T * B, 1, H)
        form.clear(z, before)
    written[...] = form.lengths
    return z, written


def _check(
    out: Any, letters: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """Refuse what is no tape of such states, which have the shape that users see."""
    if not isinstance(out, Tape):
        raise TypeError(f"out must be a Tape of forward, got {type(out).__name__}")
    out.check_reusable()
    z, form = out.z, getattr(out, "form", None)
    if isinstance(form, Ragged):
        z = form.shaped(z) if form.name == "padded" else z[:, 0]
    check_shape("out.z", z, letters, shape)
    check_dtype("out.z", out.z, dtype)


def _taken(out: Tape) -> Array:
    """Return the states of an old tape, to be overwritten."""
    if (written := _written(out)) is not None:
        written[...] = EVERY
    z = out.z
    if z.base is not None:
        z.base.setflags(write=True)
    z.setflags(write=True)
    return z


def _written(out: Tape | None) -> Array | None:
    written: Array | None = getattr(out, "written", None)
    return written


def _is_padded(out: Tape | None) -> bool:
    form = getattr(out, "form", None)
    return form is not None and form.name == "padded"


def gradient_of_x(out: Gradients, tape: Any, need_x_grad: bool) -> Array | None:
    """Return the rows of an old gradient of x, zero in the padding, if there is one."""
    check_gradients(out, tape, need_x_grad)
    if out.x is None:
        return None
    form: Form = tape.form
    rows: Array = out.x.reshape(*form.row_axes, out.x.shape[-1])
    form.clear(rows)
    return rows


def overwrite(out: Gradients, grads: Gradients) -> Gradients:
    """Put gradients, of which that of x is there already, into old arrays."""
    for old, new in zip(out[:4], grads[:4], strict=True):
        if old is not None:
            old[...] = new
    return out
