"""Forward and backward of one recurrent layer: the functional core of the package.

The functions here check and allocate; the loop over time is in the backend. What is not
one plain call, of rows that all run from the first step to the last and whose states
are all kept, is walked by `_runs.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend, _reuse, _runs
from bptt._asked import asked
from bptt._forms import Rectangle, is_list
from bptt._inputs import (
    as_budget,
    as_cells,
    as_flow,
    as_input,
    as_layer,
    as_reset_state,
    as_rows,
    as_starts,
    as_steps,
    with_records,
)
from bptt._parts import Flow
from bptt._tape import (
    ErrorFlow,
    Gradients,
    Tape,
    as_error_flow,
    check_gradients,
    new_gradients,
    tape_of,
)
from bptt._validation import as_flag, as_shaped
from bptt.activations import Activation, as_activation

Array = NDArray[Any]
Dz = ArrayLike | Callable[[Any, Array], ArrayLike] | None

__all__ = ["ErrorFlow", "Gradients", "Tape", "backward", "forward"]


def forward(
    x: Any,
    W: ArrayLike,
    V: ArrayLike,
    b: ArrayLike | None = None,
    z0: ArrayLike | None = None,
    *,
    activation: str | Activation = "tanh",
    lengths: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: ArrayLike | None = None,
    memory: int | str | None = None,
    checkpoint: int | None = None,
    out: Tape | None = None,
) -> tuple[Any, Tape]:
    """Run the recurrent layer z[t] = sigma(x[t] W + z[t-1] V + b) for t = 1..T.

    Parameters
    ----------
    x : array_like of shape (T, B, I) or (T, I), or of integers of shape (T, B) or (T,)
        The input, time first. Integers are token ids from 0 to I - 1, each of which
        stands for the one-hot row that selects a row of W. A list of such arrays, one
        sequence (T, I) each, is a batch of sequences of their own lengths; [] of none.
    W : array_like of shape (I, H)
        Input weights, float32 or float64; all other arrays have the same dtype.
    V : array_like of shape (H, H)
        Recurrent weights.
    b : array_like of shape (H,), optional
        Bias.
    z0 : array_like of shape (B, H), or (H,) for one sequence, optional
        Initial state, 0 by default.
    activation : str or Activation, default "tanh"
        The function sigma.
    lengths : array_like of integers of shape (B,), optional
        How many steps each sequence of x (T, B, I) has, from 0 to T; what comes after
        is padding, and of no effect. In any order, for nothing is padded on the way.
    offsets : array_like of integers of shape (B + 1,), optional
        Where in x (N, I), sequence after sequence, each one begins, and the last ends.
    resets : array_like of bool of shape (T, B), or (T,) for all, optional
        Where True the sequence starts from its initial state at this step, and no
        gradient goes back further. In the form of x.
    reset_state : array_like of shape (B, H), or (H,) for all, optional
        The state, a constant, from which resets start instead, where z0 is none to
        start from but the end of an earlier batch. One at the first step then counts.
    memory : int or str, optional
        Keep only some states, and let `backward` compute the others again: so many
        bytes, or text like "64MB", for them, for the workspace of the kernels, for what
        says where the cells of a ragged batch stand, 16 bytes each, and for a copy of
        token ids, 1 byte each where I is at most 256, 2 where it is at most 65536.
        ``tape.schedule`` tells what it costs; the gradients have the same bits.
    checkpoint : int, optional
        Keep only the states so many steps apart, rounded up to whole time chunks.
    out : Tape, optional
        The tape of an earlier call of the same T, B, H and dtype, which is not needed
        any more: its states are overwritten, so that a loop allocates nothing. Lengths
        and resets may differ. Not with a list, memory or checkpoint.

    Returns
    -------
    z : ndarray of shape (T, B, H) or (T, H)
        The states after each step. Read-only, as the tape needs them as they are. Of
        sequences with lengths of their own, in the form of x: a list, padded with
        zeros, or values. With memory or checkpoint only the last states, (B, H).
    tape : Tape
        What `backward` needs; ``tape.z_last`` is the last state of each sequence.

    Raises
    ------
    TypeError
        An array is not float32 or float64, or not of the dtype of the others.
    ValueError
        A shape does not fit, a token id is out of range, or I or H is 0.

    Examples
    --------
    >>> z, tape = forward(np.ones((5, 3)), np.ones((3, 2)), np.eye(2))
    >>> z.shape, tape
    ((5, 2), Tape(T=5, B=1, I=3, H=2, float64, tanh))

    Sequences of different lengths, and the last state of each:

    >>> x = [np.ones((5, 3)), np.ones((2, 3))]
    >>> z, tape = forward(x, np.ones((3, 2)), np.eye(2))
    >>> z[1].shape, tape.z_last.shape
    ((2, 2), (2, 2))
    """
    activation = as_activation(activation)
    W, V, b = as_layer(W, V, b)
    (I, H), dtype = W.shape, W.dtype
    plain = lengths is offsets is resets is reset_state is memory is checkpoint is None
    if not plain or is_list(x):
        if out is not None and (is_list(x) or not memory is checkpoint is None):
            raise ValueError("out must be None with a list, memory or checkpoint")
        within = not memory is checkpoint is None
        cells, form = as_cells(x, I, dtype, lengths, offsets, narrow=within)
        flags = None if resets is None else form.flags("resets", resets)
        start = as_starts(z0, form, H, dtype)
        again = as_reset_state(reset_state, form, H, dtype)
        if again is not None and flags is None:
            raise ValueError("reset_state needs resets, got None")
        budget = as_budget(memory, checkpoint)
        return _runs.forward(
            cells, W, V, b, start, activation, form, flags, again, *budget, out
        )

    x, batched = as_input(x, I, dtype)
    T, B = x.shape[:2]
    z = _reuse.states(out, (T + 1, B, H), dtype)
    z[0] = 0 if z0 is None else as_rows("z0", z0, B, H, dtype, batched)

    _backend.kernels.forward(x, W, V, b, z, activation)
    z.setflags(write=False)
    tape = tape_of(x, W, V, b, z, activation, batched)
    return (z[1:] if batched else z[1:, 0]), tape


@overload
def backward(
    tape: Tape,
    dz: Dz = None,
    *,
    dz_last: ArrayLike | None = None,
    need_x_grad: bool = True,
    clip_error: float | None = None,
    clip_error_value: float | None = None,
    record: Literal[False] = False,
    out: Gradients | None = None,
) -> Gradients: ...
@overload
def backward(
    tape: Tape,
    dz: Dz = None,
    *,
    dz_last: ArrayLike | None = None,
    need_x_grad: bool = True,
    clip_error: float | None = None,
    clip_error_value: float | None = None,
    record: Literal[True],
    out: Gradients | None = None,
) -> tuple[Gradients, ErrorFlow]: ...
def backward(
    tape: Tape,
    dz: Dz = None,
    *,
    dz_last: ArrayLike | None = None,
    need_x_grad: bool = True,
    clip_error: float | None = None,
    clip_error_value: float | None = None,
    record: bool = False,
    out: Gradients | None = None,
) -> Gradients | tuple[Gradients, ErrorFlow]:
    """Return the exact gradients of a loss on the states: BPTT.

    With e[t] = dL/dz[t] in total and da[t] = dL/da[t] of the pre-activation::

        e[t] = dz[t] + da[t+1] V^T        da[t] = e[t] * sigma'(a[t])
        dV = sum_t z[t-1]^T da[t]         dW = sum_t x[t]^T da[t]
        db = sum_t da[t]                  dx[t] = da[t] W^T         dz0 = da[1] V^T

    Parameters
    ----------
    tape : Tape
        From `forward`.
    dz : array_like of shape (T, B, H), or (T, H) for one sequence, optional
        Gradient of the loss with respect to each state, taken directly, not through
        later states. Of sequences with lengths of their own, in the form of x. Or a
        function ``dz(start, z)`` that returns it for z, the states of the steps start +
        1 to start + len(z): where the tape does not keep all states it is called for
        one part after another, from the last to the first, and no dz (T, B, H) need be.
        Where there were lengths, offsets or a list it is ``dz(rows, z)``, of states z
        (n, H) that stand in these rows of x.reshape(T * B, I), of x (N, I), or of the
        arrays of the list one after another; rows (n,) are in no order.
    dz_last : array_like of shape (B, H), or (H,) for one sequence, optional
        The same for a loss on the last state alone; added to dz where both are given.
        With T = 0 the last state is the initial one.
    need_x_grad : bool, default True
        Whether to compute the gradient with respect to x, all of it, whatever the tape
        keeps. Token ids have none.
    clip_error : float, optional
        The largest norm of e[t] of a sequence: a longer one is scaled down to it before
        it goes on. This bounds what explodes where it does; the gradients are no longer
        those of the loss.
    clip_error_value : float, optional
        The same for each entry of e[t], which is cut off; after `clip_error`.
    record : bool, default False
        Whether to return an `ErrorFlow` as well: ||e[t]||, and saturated units.
    out : Gradients, optional
        The gradients of an earlier call with the same sizes, to be overwritten and
        returned, so that a loop allocates nothing. Not where x was a list.

    Returns
    -------
    Gradients
        The fields W, V, b, z0, x. With record, a pair of it and an `ErrorFlow`.

    Raises
    ------
    TypeError
        tape is not a Tape, or an array has another dtype than the tape.
    ValueError
        A shape does not fit, or neither dz nor dz_last is given.

    References
    ----------
    P. J. Werbos, "Backpropagation through time: what it does and how to do it",
    Proceedings of the IEEE 78 (1990) 1550-1560.
    A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850
    (2013), section 2.1: the clipping of e[t].

    Examples
    --------
    The gradient of the sum of the last state:

    >>> z, tape = forward(np.ones((5, 3)), np.ones((3, 2)), np.eye(2))
    >>> backward(tape, dz_last=np.ones(2)).W.shape
    (3, 2)
    """
    if not isinstance(tape, Tape):
        raise TypeError(
            f"tape must be the Tape that forward returned, got {type(tape).__name__}"
        )
    if dz is None and dz_last is None:
        raise ValueError("dz or dz_last must be given: a loss needs a gradient")
    if need_x_grad is not True and need_x_grad is not False:
        need_x_grad = as_flag("need_x_grad", need_x_grad)
    flow = flow_of(tape, clip_error, clip_error_value, record)
    if isinstance(tape, _runs.Run):
        if out is not None and tape.form.name == "list":
            raise ValueError("out must be None where x was a list")
        if dz is not None and not callable(dz):
            dz = tape.form.gather("dz", dz, len(tape.V), tape.V.dtype)
        if dz_last is not None:
            dz_last = as_rows(
                "dz_last", dz_last, tape.form.S, len(tape.V), tape.V.dtype, tape.batched
            )
        grads, recorded = _runs.backward(tape, dz, dz_last, need_x_grad, flow, out)
        return grads if recorded is None else (grads, recorded)

    grads = new_gradients(tape, need_x_grad) if out is None else out
    if out is not None:
        check_gradients(out, tape, need_x_grad)
    _backend.kernels.backward(*told(tape, dz, dz_last, grads, flow))
    if flow is None or not record:
        return grads
    return grads, as_error_flow(flow, tape.batched)


def flow_of(
    tape: Tape,
    clip_error: float | None = None,
    clip_error_value: float | None = None,
    record: bool = False,
) -> Flow | None:
    """Return what is to be done with the error of a run; None for nothing."""
    flow = as_flow(clip_error, clip_error_value, record)
    if flow is None or not record:
        return flow
    return with_records(flow, tape.activation, tape.cells, len(tape.V))


def told(
    tape: Tape, dz: Dz, dz_last: ArrayLike | None, grads: Gradients, flow: Flow | None
) -> tuple[Any, ...]:
    """Return what the `backward` of the kernels is told of a plain run, checked."""
    x, V, z, batched = tape.x, tape.V, tape.z, tape.batched
    (T, B), H, dtype = x.shape[:2], len(V), V.dtype
    if callable(dz):
        form = Rectangle(T, B, batched)
        dz = as_steps(asked(dz, form, (0, T), z[1:], dtype), tape.back)
    elif dz is not None:
        letters, shape = ("(T, B, H)", (T, B, H)) if batched else ("(T, H)", (T, H))
        dz = as_shaped("dz", dz, dtype, letters, shape, contiguous=False)
        dz = as_steps(dz if batched else dz[:, np.newaxis], tape.back)
    if dz_last is not None:
        dz_last = as_rows("dz_last", dz_last, B, H, dtype, batched)
    dW, dV, db, dz0, dx = grads
    if not batched:
        dz0, dx = dz0[np.newaxis], None if dx is None else dx[:, np.newaxis]
    return (
        x, tape.W, V, z, tape.activation, dz, dz_last, dW, dV, db, dz0, dx,
        None, None, flow,
    )  # fmt: skip
