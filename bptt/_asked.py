"""Where dz comes from a function of the states, which is asked for some steps after
others: what it is told, and what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._forms import Form, Ragged
from bptt._validation import as_real, check_like

Array = NDArray[Any]
Function = Callable[[Any, Array], ArrayLike]


def asked(
    dz: Function, form: Form, steps: tuple[int, int], z: Array, dtype: Any
) -> Array:
    """Return dz of the states z of some steps, from a function of them.

    Parameters
    ----------
    dz : callable
        ``dz(start, z)`` of states (T, B, H), or (T, H), behind the step start; or where
        sequences have lengths of their own ``dz(rows, z)`` of states (n, H), which
        stand in these rows of the caller's arrays.
    form : Rectangle or Ragged
    steps : (int, int)
        The first, and that behind the last; of the slots of a ragged form.
    z : ndarray of shape (T, B, H), or cells (n, 1, H)
    """
    where = places(form, *steps)
    if where is None:
        name, shown = "dz(start, z)", z[:] if form.batched else z[:, 0]
    else:
        name, shown = "dz(rows, z)", z.reshape(-1, z.shape[-1])
    shown.flags.writeable = False
    given = dz(steps[0] if where is None else where, shown)
    value = as_real(name, given, dtype)
    check_like(name, value, "z", shown.shape)
    return value.reshape(z.shape)


def asked_at_once(dz: Function, form: Ragged, z: Array, dtype: Any) -> Array:
    """Return dz of all states z (M, 1, H), which stand in the caller's rows, as dz does
    then.
    """
    rows = form.empty(z.shape[-1], dtype)
    if form.cells:
        cells = asked(dz, form, (0, form.T), form.cells_of(z[:, 0]), dtype)
        rows[form.place] = cells
    return rows


def places(form: Form, t0: int, t1: int) -> Array | None:
    """Return in which rows of the caller's arrays, their first axes taken as one, the
    states of steps stand; None where all sequences have one length.
    """
    if isinstance(form, Ragged):
        where: Array = form.place[form.offsets[t0] : form.offsets[t1]]
    elif form.with_lengths:
        where = np.arange(t0 * form.B, t1 * form.B)
    else:
        return None
    where.flags.writeable = False
    return where


def cells_of(rows: Any, where: Array, before: Array) -> Array:
    """Return rows (M, 1, K) of the caller's, or of lists, as cells (n, 1, K), and token
    ids, which are cells already.
    """
    if isinstance(rows, list):
        return rows_of_list(rows, before, where)[:, np.newaxis]
    cells: Array = rows
    if rows.ndim == 3:
        cells = np.take(rows[:, 0], where, axis=0)[:, np.newaxis]
    return cells


def rows_of_list(arrays: Sequence[Array], before: Array, where: Array) -> Array:
    """Return rows of arrays that count one array after another, as one array.

    Parameters
    ----------
    arrays : sequence of ndarray of shape (T, ...)
    before : ndarray of int
        How many rows there are before each array, and in all.
    where : ndarray of int of shape (n,)

    Examples
    --------
    >>> rows_of_list([np.array([5, 6]), np.array([7])], np.array([0, 2, 3]), [2, 0])
    array([7, 5])
    """
    where = np.asarray(where)
    which = np.searchsorted(before, where, "right") - 1
    shape = len(where), *arrays[0].shape[1:]
    found = np.empty(shape, np.result_type(*{array.dtype for array in arrays}))
    order = np.argsort(which, kind="stable")
    changes = np.flatnonzero(np.diff(which[order])) + 1
    for mine in np.split(order, changes):
        i = which[mine[0]]
        found[mine] = arrays[i][where[mine] - before[i]]
    return found
