"""Products with the Jacobian of all states: forwards a tangent, backwards an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend
from bptt._validation import as_real, check_shape
from bptt.flow._arguments import as_rows, as_tape, sizes, squeeze
from bptt.recurrence import Gradients, Tape, backward

Array = NDArray[Any]


def jvp(
    tape: Tape,
    *,
    dz0: ArrayLike | None = None,
    dx: ArrayLike | None = None,
    dparams: Mapping[str, ArrayLike] | Gradients | None = None,
) -> Array:
    """Return the tangent of every state along a direction: forward-mode derivatives.

    With a dot for the derivative along the direction::

        dz[t] = sigma'(a[t]) * (dx[t] W + x[t] dW + z[t-1] dV + db + dz[t-1] V)

    Parameters
    ----------
    tape : Tape
        From `bptt.forward`.
    dz0 : array_like of shape (B, H) or (H,), optional
        Direction of the initial state.
    dx : array_like of shape (T, B, I) or (T, I), optional
        Direction of the input. Token ids have none.
    dparams : dict or Gradients, optional
        Directions of W (I, H), V (H, H) and b (H,); what is absent or None is 0. Of
        `Gradients` the fields z0 and x are not looked at.

    Returns
    -------
    ndarray of shape (T, B, H) or (T, H)
        The tangents of the states that `bptt.forward` returned.

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
    T, B, I, H = sizes(tape)
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
        given[name] = as_real(f"dparams[{name!r}]", value, tape.z.dtype)
        check_shape(f"dparams[{name!r}]", given[name], letters[name], shapes[name])
    if dx is not None:
        if tape.x.ndim == 2:
            raise ValueError("dx must be None where x holds token ids, got an array")
        dx = as_real("dx", dx, tape.z.dtype)
        axes = "(T, B, I)" if tape.batched else "(T, I)"
        check_shape("dx", dx, axes, (T, B, I) if tape.batched else (T, I))
        dx = dx.reshape(T, B, I)
    dz = np.empty((T + 1, B, H), tape.z.dtype)
    dz[0] = 0 if dz0 is None else as_rows("dz0", dz0, tape).reshape(B, H)
    _backend.kernels.jvp(
        tape.x,
        tape.W,
        tape.V,
        tape.z,
        tape.activation,
        dx,
        given.get("W"),
        given.get("V"),
        given.get("b"),
        dz,
    )
    return squeeze(dz[1:], tape, 1)


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
