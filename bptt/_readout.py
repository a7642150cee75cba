"""The readout f = z U + c with a loss on it, and its mirror."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import losses
from bptt._asked import rows_of_list
from bptt._inputs import ErrorClip
from bptt._omega import with_omega
from bptt._parameters import Shapes
from bptt._stack import Stack
from bptt._stack_tape import StackGradients, StackTape
from bptt._validation import as_array, check_shape
from bptt.flow.regulariser import OmegaTerm

Array = NDArray[Any]

# Of a single layer. The names of those of several are in `RNN.params`.
PARAMETERS = ("W", "V", "b", "U", "c")

# Entries of z and f that are read at a time where not all are: the caches hold them.
BLOCK = 1 << 16


class NetworkGradients(NamedTuple):
    """Gradients of the loss, each of the shape of what it belongs to.

    Attributes
    ----------
    W : ndarray of shape (I, H)
    V : ndarray of shape (H, H)
    b : ndarray of shape (H,)
    U : ndarray of shape (H, O)
    c : ndarray of shape (O,)
    z0 : ndarray of shape (B, H) or (H,)
    x : ndarray of shape (T, B, I) or (T, I), or None
        None where it was not wanted, or where x holds token ids. A list where x is one.
    """

    W: Array
    V: Array
    b: Array
    U: Array
    c: Array
    z0: Array
    x: Any

    @property
    def params(self) -> dict[str, Array]:
        """The gradients of the parameters alone, by name, for an optimizer."""
        return {name: getattr(self, name) for name in PARAMETERS}


def shapes_of(stack: Stack, output_size: int) -> Shapes:
    """Return the shapes of U and c."""
    letters = "(H, O)" if stack.directions == 1 else "(2 H, O)"
    U, c = (letters, (stack.width, output_size)), ("(O,)", (output_size,))
    return {"U": U, "c": c}


@np.errstate(over="ignore", invalid="ignore")  # as in the layer
def read(params: Mapping[str, Array], rows: Array) -> Array:
    """Return f of states (..., D H)."""
    U, c = params["U"], params["c"]
    # One matrix product: NumPy would make one of each step of a 3-D array.
    f = rows.reshape(-1, len(U)) @ U
    f += c
    shaped: Array = f.reshape(*rows.shape[:-1], len(c))
    return shaped


@np.errstate(over="ignore", invalid="ignore")  # as in `read`
def read_back(
    params: Mapping[str, Array], rows: Array, loss: str, target: ArrayLike
) -> tuple[float, Array, Array, Array]:
    """Return the loss on states (..., D H), and its gradients dU, dc and drows."""
    U = params["U"]
    # 1. f = z U + c
    f = read(params, rows)
    # 2. L(f, target)
    value, df = losses.TABLE[loss](f, target)

    # 2. forward was L(f, target), which gave df; 1. forward was f = z U + c, so now
    df_rows = df.reshape(-1, U.shape[1])
    dU = rows.reshape(-1, len(U)).T @ df_rows
    dc = df_rows.sum(axis=0)
    return value, dU, dc, (df_rows @ U.T).reshape(rows.shape)


def read_tape_back(
    stack: Stack,
    params: Mapping[str, Array],
    z: Array,
    tape: StackTape,
    target: Any,
    *,
    loss: str,
    readout: str,
) -> tuple[float, Array, Array, Array]:
    """Return what `read_back` does, for the states of a tape that are read."""
    rows = rows_of(z, tape, readout, stack.directions)
    return read_back(params, rows, loss, targets_of(tape, readout, target))


def rows_of(z: Array, tape: StackTape, readout: str, directions: int) -> Array:
    """Return the states that are read.

    (T, B, D H), or those of the steps that are no padding, or of a list (N, D H), or
    where readout is "last" (B, D H); without B for one sequence.
    """
    if readout == "every":
        return z if tape.valid is None else z[tape.valid]
    return np.concatenate(tape.z_last[-directions:], axis=-1)


def targets_of(tape: StackTape, readout: str, target: Any) -> Any:
    """Return the targets of the states that are read."""
    if readout == "last":
        return target
    if tape.valid is None:
        return tape.order.joined("target", target, "(T, ..)")
    return without_padding(tape.valid, target)


def without_padding(valid: Array, target: Any) -> Array:
    """Return the targets of the steps (T, B) that are no padding."""
    target = as_array("target", target)
    check_shape("target", target, "(T, B, ..)", valid.shape, axes=2)
    rows: Array = target[valid]
    return rows


def spread(valid: Array | None, rows: Array) -> Array:
    """Return what belongs to the states that are read with T and B, 0 in padding."""
    if valid is None:
        return rows
    whole = np.zeros((*valid.shape, *rows.shape[1:]), rows.dtype)
    whole[valid] = rows
    return whole


def last_of(tape: StackTape, directions: int, drows: Array) -> Array:
    """Return dz_last of all cells (L, B, H) for gradients (B, D H) of the last."""
    dz_last = np.zeros_like(tape.z_last)
    dz_last[-directions:] = np.split(drows, directions, axis=-1)
    return dz_last


class Targets:
    """The targets of the states that are read, of which a few are asked for at a time.

    Neither a list nor the steps that are no padding are made one array.

    Attributes
    ----------
    rows : int
        How many states are read.
    """

    def __init__(self, tape: StackTape, target: Any) -> None:
        order, shape = tape.order, tape.shape[:-1]
        self.arrays: list[Array] | None = None
        self.B = shape[-1]
        if order.listed:
            arrays = order.items("target", target, "(T, ..)")
            rest = arrays[0].shape[1:] if arrays else ()
            self.arrays = order.items("target", arrays, "(T, ..)", rest)
            self.before = np.cumsum([0, *map(len, arrays)])
            self.rows = int(self.before[-1])
            return
        self.array = as_array("target", target)
        letters = "(T, B, ..)" if len(shape) == 2 else "(T, ..)"
        check_shape("target", self.array, letters, shape, axes=len(shape))
        valid = order.valid
        self.rows = math.prod(shape) if valid is None else int(valid.sum())

    def at(self, where: int | Array, part: slice) -> Array:
        """Return the targets of a part of states, of which a function of them is told
        where they stand; see `_asked.asked`.
        """
        if not isinstance(where, np.ndarray):
            steps: Array = self.array[where + part.start : where + part.stop]
            return steps
        if self.arrays is not None:
            return rows_of_list(self.arrays, self.before, where[part])
        rows: Array = self.array[np.divmod(where[part], self.B)]
        return rows


class LeafLoss:
    """The readout and the loss on it of one leaf after another, as `dz(start, z)`.

    Where the layers do not keep all states there is no readout of all steps either, and
    none of a whole leaf: it goes block by block. The loss is a mean over all rows, and
    each block has its share of it.

    Attributes
    ----------
    value : float
        The loss on the leaves so far.
    dU, dc : ndarray
        Its gradients.
    """

    def __init__(
        self, params: Mapping[str, Array], loss: str, tape: StackTape, target: Any
    ) -> None:
        self.params, self.loss = params, loss
        self.targets = Targets(tape, target)
        self.value = 0.0
        self.dU, self.dc = np.zeros_like(params["U"]), np.zeros_like(params["c"])

    def __call__(self, where: int | Array, z: Array) -> Array:
        """Return dz of the steps behind a step, or of rows, as `_asked.asked` says."""
        return self._blocks(where, z, counted=True)

    def again(self, where: int | Array, z: Array) -> Array:
        """Return dz of states whose loss is counted already."""
        return self._blocks(where, z, counted=False)

    def _blocks(self, where: int | Array, z: Array, *, counted: bool) -> Array:
        dz = np.empty_like(z)
        row = math.prod(z.shape[1:-1]) * sum(self.params["U"].shape)
        n = max(1, BLOCK // max(1, row))
        for t in range(0, len(z), n):
            block = slice(t, min(len(z), t + n))
            target = self.targets.at(where, block)
            dz[block] = self._block(target, z[block], counted)
        return dz

    def _block(self, target: Array, z: Array, counted: bool) -> Array:
        value, dU, dc, dz = read_back(self.params, z, self.loss, target)
        share = math.prod(z.shape[:-1]) / max(1, self.targets.rows)
        if counted:
            self.value += share * value
            self.dU += share * dU
            self.dc += share * dc
        dz *= share
        return dz


def learn(
    stack: Stack,
    params: Mapping[str, Array],
    z: Array,
    tape: StackTape,
    target: Any,
    *,
    loss: str,
    readout: str,
    by_leaf: bool,
    need_x_grad: bool,
    term: OmegaTerm | None,
    error: ErrorClip,
) -> tuple[float, NetworkGradients | StackGradients]:
    """Return the loss on the states of layers, and all gradients."""
    if by_leaf:
        leaves = LeafLoss(params, loss, tape, target)
        grads, _ = stack.flows_back(
            tape, leaves, None, need_x_grad=need_x_grad, **error
        )
        return leaves.value, with_readout(grads, leaves.dU, leaves.dc)
    value, dU, dc, drows = read_tape_back(
        stack, params, z, tape, target, loss=loss, readout=readout
    )
    if readout == "last":
        dz, dz_last = None, last_of(tape, stack.directions, drows)
    else:
        dz, dz_last = spread(tape.valid, drows), None
    grads, _ = stack.flows_back(tape, dz, dz_last, need_x_grad=need_x_grad, **error)
    if term is not None:
        grads = with_omega(grads, tape, dz, dz_last, term)
    return value, with_readout(grads, dU, dc)


def with_readout(
    grads: StackGradients, dU: Array, dc: Array
) -> NetworkGradients | StackGradients:
    """Return the gradients of layers with those of the readout."""
    if len(grads.z0) > 1:
        return grads._replace(params={**grads.params, "U": dU, "c": dc})
    W, V, b = grads.params.values()
    return NetworkGradients(W, V, b, dU, dc, grads.z0[0], grads.x)
