"""Products with the Jacobian of all states: forwards a tangent, backwards an error."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend, _runs
from bptt._inputs import as_rows
from bptt._leaves import Leaves, take_ends
from bptt._validation import as_real, check_shape
from bptt.flow._arguments import as_tape
from bptt.flow._path import form_of
from bptt.recurrence import Gradients, Tape, backward

Array = NDArray[Any]


def jvp(
    tape: Tape,
    *,
    dz0: ArrayLike | None = None,
    dx: ArrayLike | None = None,
    dparams: Mapping[str, ArrayLike] | Gradients | None = None,
) -> Any:
    """Return the tangent of every state along a direction: forward-mode derivatives.

    With a dot for the derivative along the direction::

        dz[t] = sigma'(a[t]) * (dx[t] W + x[t] dW + z[t-1] dV + db + dz[t-1] V)

    Where a sequence starts anew, so does its tangent, from dz0.

    Parameters
    ----------
    tape : Tape
        From `bptt.forward`.
    dz0 : array_like of shape (B, H) or (H,), optional
        Direction of the initial state.
    dx : array_like of shape (T, B, I) or (T, I), optional
        Direction of the input, in its form. Token ids have none.
    dparams : dict or Gradients, optional
        Directions of W (I, H), V (H, H) and b (H,); what is absent or None is 0. Of
        `Gradients` the fields z0 and x are not looked at.

    Returns
    -------
    ndarray of shape (T, B, H) or (T, H)
        The tangents of the states that `bptt.forward` returned, and in their form: of
        sequences with lengths of their own a list, padded or values; with memory or
        checkpoint of the last states alone, (B, H) or (H,).

    Raises
    ------
    TypeError, ValueError
        tape is none, no direction is given, or one of another shape or dtype.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> _, tape = bptt.forward(np.zeros((3, 1)), np.ones((1, 2)), 0.5 * np.eye(2))
    >>> jvp(tape, dz0=np.array([1.0, 0.0]))
    array([[0.5  , 0.   ],
           [0.25 , 0.   ],
           [0.125, 0.   ]])
    """
    tape = as_tape(tape)
    (I, H), dtype = tape.W.shape, tape.W.dtype
    form = form_of(tape)
    if dparams is None:
        given: dict[str, Any] = {}
    elif isinstance(dparams, Gradients):
        given = {name: getattr(dparams, name) for name in "WVb"}
    elif isinstance(dparams, Mapping):
        given = dict(dparams)
    else:
        raise TypeError(
            f"dparams must be a dict or Gradients, got {type(dparams).__name__}"
        )
    for name in given:
        if name not in ("W", "V", "b"):
            raise ValueError(f"a key of dparams must be 'W', 'V' or 'b', got {name!r}")
    given = {name: value for name, value in given.items() if value is not None}
    if dz0 is None and dx is None and not given:
        raise ValueError("dz0, dx or dparams must be given: a tangent has a direction")

    shapes = {"W": (I, H), "V": (H, H), "b": (H,)}
    letters = {"W": "(I, H)", "V": "(H, H)", "b": "(H,)"}
    for name, value in given.items():
        given[name] = as_real(f"dparams[{name!r}]", value, dtype)
        check_shape(f"dparams[{name!r}]", given[name], letters[name], shapes[name])
    if dx is not None:
        if tape.x.dtype.kind in "iu":
            raise ValueError("dx must be None where x holds token ids, got an array")
        dx = form.gather_cells("dx", dx, I, dtype, "I")
    start = np.zeros((form.S, H), dtype)
    if dz0 is not None:
        start[...] = as_rows("dz0", dz0, form.S, H, dtype, tape.batched)
    directions = (given.get("W"), given.get("V"), given.get("b"))
    if isinstance(tape, _runs.Run):
        return _of_run(tape, start, dx, directions)
    dz = np.empty(tape.z.shape, dtype)
    dz[0] = start
    _backend.kernels.jvp(
        tape.x, tape.W, tape.V, tape.z, tape.activation, dx, *directions, dz
    )
    return form.scatter(dz[1:])


def _of_run(
    run: _runs.Run,
    start: Array,
    dx: Array | None,
    directions: tuple[Array | None, Array | None, Array | None],
) -> Any:
    """Return the tangents of a run that is not a plain one, leaf by leaf."""
    form, H = run.form, len(run.V)
    ends, flat, first = start.copy(), start[:0], 0
    if form.T and form.B:
        leaves, run = _runs.leaves_of(run), run.apart()
        carried = start[form.first]
        for i, states in _runs.walk_over(run, leaves, 0, leaves.count):
            first = len(carried)
            flat = np.empty((states.size // H, H), states.dtype)
            flat[:first] = carried
            _through_leaf(run, leaves, i, states, dx, directions, start, flat)
            take_ends(ends, flat, leaves.layout(i))
            if i + 1 < leaves.count:
                carried = leaves.last(i + 1, flat)
    if run.schedule is not None:
        return ends if run.batched else ends[0]
    return form.scatter(flat[first:].reshape(*run.x.shape[:2], H))


def _through_leaf(
    run: _runs.Run,
    leaves: Leaves,
    i: int,
    states: Array,
    dx: Array | None,
    directions: tuple[Array | None, Array | None, Array | None],
    start: Array,
    tangents: Array,  # IN of the states before the leaf, OUT of its own
) -> None:
    """Carry tangents through a leaf, in stretches where no row ends or starts anew."""
    layout, H = leaves.layout(i), states.shape[-1]
    offsets = np.arange(len(states)) * leaves.B
    restarts = np.empty((0, 3), np.intp)
    if layout is not None:
        offsets = offsets if layout.offsets is None else layout.offsets
        restarts = restarts if layout.restarts is None else layout.restarts
    rows = np.diff(offsets)
    ends = np.flatnonzero(np.diff(rows)) + 1
    breaks = np.unique([0, len(rows), *ends, *restarts[:, 0]])
    z, first = states.reshape(-1, H), int(rows[0])
    x, dx = run.inputs(leaves, i), leaves.part(i, dx)
    for s0, s1 in itertools.pairwise(breaks.tolist()):
        n, o0, o1 = int(rows[s0]), int(offsets[s0]), int(offsets[s1])
        span = slice(first + o0 - n, first + o1)
        z_s, dz_s = z[span].reshape(-1, n, H), tangents[span].reshape(-1, n, H)
        _, row, sequence = restarts[restarts[:, 0] == s0].T
        if len(row):
            z_s, dz_s = z_s.copy(), dz_s.copy()
            assert layout is not None
            assert layout.starts is not None
            z_s[0, row - (first - n)] = layout.starts[sequence]
            # A state that resets have of their own is constant.
            tangent = np.take(start, sequence % len(start), axis=0)
            tangent[sequence >= len(start)] = 0
            dz_s[0, row - (first - n)] = tangent
        x_s, dx_s = (
            None
            if array is None
            else array.reshape(-1, *array.shape[2:])[o0:o1].reshape(
                s1 - s0, n, *array.shape[2:]
            )
            for array in (x, dx)
        )
        _backend.kernels.jvp(
            x_s, run.W, run.V, z_s, run.activation, dx_s, *directions, dz_s
        )
        tangents[first + o0 : first + o1] = dz_s[1:].reshape(-1, H)


def vjp(
    tape: Tape,
    dz: ArrayLike | None = None,
    *,
    dz_last: ArrayLike | None = None,
    need_x_grad: bool = True,
) -> Gradients:
    """Return the gradients of sum(dz * z): `bptt.backward`, the mirror of `jvp`.

    For every direction, ``<dz, jvp(direction)> == <vjp(dz), direction>``.

    Parameters
    ----------
    tape, dz, dz_last, need_x_grad
        As in `bptt.backward`.

    Returns
    -------
    Gradients

    Raises
    ------
    TypeError, ValueError
        As in `bptt.backward`.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> _, tape = bptt.forward(np.zeros((3, 1)), np.ones((1, 2)), 0.5 * np.eye(2))
    >>> vjp(tape, dz_last=np.array([1.0, 0.0])).z0
    array([0.125, 0.   ])
    """
    return backward(tape, dz, dz_last=dz_last, need_x_grad=need_x_grad)
