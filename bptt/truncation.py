"""Truncated BPTT: gradients along the way of a sequence that has no end in sight.

A walk reads a stream in pieces. `truncated` goes back a fixed number of steps after
each piece; `randomized` as far as chance has it, with weights that leave the gradient
right on average. The parameters may be changed between two pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import initializers
from bptt._stack import Stack
from bptt._validation import as_array, as_fraction, as_real, as_size, check_ndim
from bptt._window import Window
from bptt.activations import Activation, as_activation
from bptt.recurrence import Gradients, Tape, backward, forward

Array = NDArray[Any]
Pair = tuple[ArrayLike, ArrayLike]
Stream = Pair | Iterable[Pair]
Loss = Callable[[Array, Array], tuple[float, ArrayLike]]


class Update(NamedTuple):
    """What a walk has for an optimizer.

    Attributes
    ----------
    loss : float
        That of the steps since the last update.
    grads : Gradients
        Of which x is None, and z0 belongs to the state before the first step that was
        gone back to.
    steps : int
        Steps read so far.
    """

    loss: float
    grads: Gradients
    steps: int


def truncated(
    stream: Stream,
    W: Array,
    V: Array,
    b: Array | None = None,
    z0: ArrayLike | None = None,
    *,
    loss: Loss,
    k1: int,
    k2: int | None = None,
    activation: str | Activation = "tanh",
) -> Iterator[Update]:
    """Walk along a stream, and every k1 steps go back k2: BPTT(k2; k1).

    The update after step n is the gradient of the losses of the last k1 steps through
    the last k2::

        sum over s in n-k1+1..n, t in n-k2+1..s of  dL[s]/da[t] da[t]/d(W, V, b)

    with z[n-k2] held fixed. The state is carried on, no step is run forward twice, and
    an update costs k2 steps backward. With k2 as long as the stream, the updates add up
    to its exact gradient.

    Parameters
    ----------
    stream : (x, target), or iterable of such pairs
        Pieces of any length of x (T, B, I) or (T, I), or of token ids (T, B) or (T,),
        and of a target that has an entry for each step.
    W, V, b : ndarray of shape (I, H), (H, H), (H,)
        Parameters. Arrays that are written to between two updates are used as they then
        are: the next piece runs with them, and so does the way back, through states
        that older values have made.
    z0 : array_like of shape (B, H), or (H,) for one sequence, optional
        Initial state, 0 by default.
    loss : callable
        ``loss(z, target) -> (value, dz)`` of the states of k1 steps and their targets,
        with dz = dvalue/dz.
    k1 : int
        Steps between two updates. The last update is that of the steps left over.
    k2 : int, optional
        Steps to go back, at least k1, which is the default.
    activation : str or Activation, default "tanh"
        The function sigma.

    Yields
    ------
    Update
        The fields loss, grads, steps.

    Raises
    ------
    TypeError, ValueError
        As in `bptt.forward`; k2 is less than k1; or x and target differ in length.

    References
    ----------
    R. J. Williams and J. Peng, "An efficient gradient-based algorithm for on-line
    training of recurrent network trajectories", Neural Computation 2 (1990) 490-501.

    Examples
    --------
    >>> W, V = np.ones((1, 2)), np.eye(2) / 2
    >>> x, target = np.ones((10, 1)), np.zeros((10, 2))
    >>> def loss(z, target):
    ...     return float(np.square(z - target).sum() / 2), z - target
    >>> for update in truncated((x, target), W, V, loss=loss, k1=4, k2=8):
    ...     V -= 0.01 * update.grads.V
    ...     print(update.steps)
    4
    8
    10
    """
    k1, k2 = as_steps(k1, k2)
    stack, params = _as_layer(W, V, b, activation)
    return _updates(stream, stack, params, z0, loss, k1, k2)


def _updates(
    stream: Stream,
    stack: Stack,
    params: dict[str, Array],
    state: ArrayLike | None,
    loss: Loss,
    k1: int,
    k2: int,
) -> Iterator[Update]:
    layer, tape, steps = (params["W"], params["V"], params.get("b")), None, 0
    window = Window(stack, k2)
    window.start(None if state is None else [state])
    for x, target in _pieces(stream, k1):
        if len(x) == k2:
            # As long as the window, and so a run of its own. What is deleted gives its
            # memory to the next piece.
            tape = None
            z, tape = forward(x, *layer, state, activation=stack.activation)
            value, dz = loss(z, target)
            grads = backward(tape, dz, need_x_grad=False)
            state = z[-1].copy()
        else:
            if tape is not None:
                window.follow(tape)
                tape = None
            z, _ = window.forward(params, x)
            value, dz = loss(z, target)
            named, dz0, _ = window.backward(_as_dz(dz, z))
            grads = Gradients(named["W"], named["V"], named.get("b"), dz0[0], None)
        steps += len(z)
        del z, dz
        yield Update(float(value), grads, steps)
        del grads


def randomized(
    stream: Stream,
    W: Array,
    V: Array,
    b: Array | None = None,
    z0: ArrayLike | None = None,
    *,
    loss: Loss,
    k: int,
    probability: float,
    seed: initializers.Seed = None,
    activation: str | Activation = "tanh",
) -> Iterator[Update]:
    """Walk along a stream, and go back at random: ARTBP, unbiased truncation.

    After each k steps the walk goes back with the given probability, to where it did so
    before. Between two such places the error that flows back across a border of k steps
    is divided by ``1 - probability``, the chance that the way is open. So the sum of
    all updates is, on average, the exact gradient of the stream, where `truncated` is
    biased; the price is their variance. The states since the last update are kept: of
    ``k / probability`` steps on average.

    Parameters
    ----------
    stream, W, V, b, z0, loss, activation
        As in `truncated`.
    k : int
        Steps between two borders.
    probability : float
        From 0, which is the whole of BPTT with one update at the end, to below 1.
    seed : int or numpy.random.Generator, optional
        Where chance comes from.

    Yields
    ------
    Update
        The fields loss, grads, steps; the last at the end of the stream.

    Raises
    ------
    TypeError, ValueError
        As in `truncated`, or a probability out of range.

    References
    ----------
    C. Tallec and Y. Ollivier, "Unbiasing truncated backpropagation through time", 2017,
    equation 8, with the same probability at each border.

    Examples
    --------
    >>> def loss(z, target):
    ...     return float(np.square(z - target).sum() / 2), z - target
    >>> stream = np.ones((10, 1)), np.zeros((10, 2))
    >>> arguments = np.ones((1, 2)), np.eye(2) / 2
    >>> updates = randomized(
    ...     stream, *arguments, loss=loss, k=2, probability=0.5, seed=0
    ... )
    >>> [update.steps for update in updates]
    [4, 6, 8, 10]
    """
    k, c = as_size("k", k), as_fraction("probability", probability)
    rng = initializers.as_generator(seed)
    sigma = as_activation(activation)
    return _at_cuts(stream, W, V, b, z0, loss, k, c, lambda: rng.random() < c, sigma)


def _at_cuts(
    stream: Stream,
    W: Array,
    V: Array,
    b: Array | None,
    state: ArrayLike | None,
    loss: Loss,
    k: int,
    c: float,
    cut: Callable[[], bool],
    activation: Activation,
) -> Iterator[Update]:
    """Yield an update wherever cut() says so, and at the end."""
    tapes: list[tuple[Tape, ArrayLike]] = []
    total, steps = 0.0, 0
    for x, target in _pieces(stream, k):
        if tapes and cut():
            yield Update(total, _back(tapes, 1 - c), steps)
            tapes, total = [], 0.0
        z, tape = forward(x, W, V, b, state, activation=activation)
        value, dz = loss(z, target)
        tapes.append((tape, dz))
        total, steps, state = total + float(value), steps + len(z), z[-1]
    if tapes:
        yield Update(total, _back(tapes, 1 - c), steps)


def _back(tapes: list[tuple[Tape, ArrayLike]], chance: float) -> Gradients:
    """Return the gradients of pieces, the error between two divided by a chance."""
    *earlier, (tape, dz) = tapes
    total = backward(tape, dz, need_x_grad=False)
    for tape, dz in reversed(earlier):
        carried = total.z0 / total.z0.dtype.type(chance)
        new = backward(tape, dz, dz_last=carried, need_x_grad=False)
        total.W[...] += new.W
        total.V[...] += new.V
        if total.b is not None:
            total.b[...] += new.b
        total = total._replace(z0=new.z0)
    return total


def as_steps(k1: int, k2: int | None) -> tuple[int, int]:
    """Return k1 and k2, checked; None for k2 is k1."""
    k1 = as_size("k1", k1)
    k2 = k1 if k2 is None else as_size("k2", k2)
    if k2 < k1:
        raise ValueError(f"k2 must be at least k1 = {k1}, got {k2}")
    return k1, k2


def _as_layer(
    W: Array, V: Array, b: Array | None, activation: str | Activation
) -> tuple[Stack, dict[str, Array]]:
    W = as_real("W", W, contiguous=False)
    check_ndim("W", W, "(I, H)")
    I, H = W.shape
    params = {"W": W, "V": as_real("V", V, W.dtype, contiguous=False)}
    if b is not None:
        params["b"] = as_real("b", b, W.dtype)
    sizes, sigma = (as_size("I", I), as_size("H", H)), as_activation(activation)
    return Stack(*sizes, 1, 1, 0.0, b is not None, sigma, W.dtype), params


def _as_dz(dz: ArrayLike, z: Array) -> Array:
    dz = as_real("dz", dz, z.dtype)
    if dz.shape != z.shape:
        raise ValueError(f"dz must have the shape of z, {z.shape}, got {dz.shape}")
    return dz


def _pieces(stream: Stream, k: int) -> Iterator[tuple[Array, Array]]:
    """Yield a stream in pieces of k steps, however long those are that it comes in."""
    left: list[tuple[Array, Array]] = []
    have = 0
    for pair in [stream] if isinstance(stream, tuple) else stream:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            came = type(pair).__name__
            came += f" of {len(pair)}" if isinstance(pair, (tuple, list)) else ""
            raise TypeError(f"stream must give pairs (x, target), got {came}")
        x, target = pair
        x, target = as_array("x", x), as_array("target", target)
        if not x.ndim or not target.ndim or len(x) != len(target):
            raise ValueError(
                "x and target must have as many steps, "
                f"got shapes {x.shape} and {target.shape}"
            )
        start = 0
        while have + len(x) - start >= k:
            stop = start + k - have
            left.append((x[start:stop], target[start:stop]))
            yield _joined(left)
            left, have, start = [], 0, stop
        if start < len(x):
            left.append((x[start:], target[start:]))
            have += len(x) - start
    if left:
        yield _joined(left)


def _joined(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    if len(parts) == 1:
        return parts[0]
    xs, targets = zip(*parts, strict=True)
    return np.concatenate(xs), np.concatenate(targets)
