"""Truncated BPTT: gradients along the way of a sequence that has no end in sight.

A walk reads a stream in pieces. `truncated` goes back a fixed number of steps after
each piece; `randomized` as far as chance has it, with weights that leave the gradient
right on average. The parameters may be changed between two pieces. Sequences may start
anew or end on the way. The functions take one layer; `bptt.train(k1=, k2=)` goes back
through several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from numpy.typing import ArrayLike, NDArray

from bptt import initializers
from bptt._inputs import ErrorClip, as_error_clip, as_layer
from bptt._pieces import Loss, Pieces, Stream
from bptt._stack import Stack
from bptt._validation import as_fraction, as_size
from bptt._window import Window
from bptt.activations import Activation, as_activation
from bptt.recurrence import Gradients, Tape, backward, forward
from bptt.streaming import Resets

Array = NDArray[Any]
Layer = tuple[Array, Array, Array | None]


class Update(NamedTuple):
    """What a walk has for an optimizer.

    Attributes
    ----------
    loss : float
        That of the steps since the last update.
    grads : Gradients
        Of which x is None, and z0 belongs to the state before the first step that was
        gone back to; what a reset starts from is a constant.
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
    lengths: ArrayLike | None = None,
    resets: Resets = None,
    reset_state: ArrayLike | None = None,
    clip_error: float | None = None,
    clip_error_value: float | None = None,
) -> Iterator[Update]:
    """Walk one layer along a stream, and every k1 steps go back k2: BPTT(k2; k1).

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
    lengths : array_like of integers of shape (B,), optional
        How many steps of the stream each sequence has; what comes after is padding, and
        of no effect. The loss gets the N steps of a piece that are no padding, one
        step after another: z (N, H), target (N, ...); where there are none it is not
        asked, and is 0.
    resets : array_like of bool of shape (T, B), or (T,) for all, or callable, optional
        Where True the sequence starts anew at this step, and no gradient goes back
        further. A function ``resets(start, x)`` returns those of a piece x, whose first
        step is step start + 1.
    reset_state : array_like of shape (B, H), or (H,) for all, optional
        The state, a constant, from which resets start; z0 by default. One at the first
        step then counts.
    clip_error, clip_error_value : float, optional
        As in `bptt.backward`, for e[t], the sum of what comes from all losses of the
        update.

    Yields
    ------
    Update
        The fields loss, grads, steps.

    Raises
    ------
    TypeError, ValueError
        As in `bptt.forward` and `bptt.backward`; k2 is less than k1; or x and target,
        lengths or resets are not of as many steps. Those of an iterable are found out
        when it ends.

    References
    ----------
    R. J. Williams and J. Peng, "An efficient gradient-based algorithm for on-line
    training of recurrent network trajectories", Neural Computation 2 (1990) 490-501.

    Examples
    --------
    >>> import numpy as np
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
    layer, sigma = as_layer(W, V, b), as_activation(activation)
    error = as_error_clip(clip_error, clip_error_value)
    pieces = Pieces(stream, k1, layer, z0, loss, lengths, resets, reset_state)
    return _updates(pieces, (W, V, b), z0, k2, sigma, error)


def _updates(
    pieces: Pieces,
    layer: Layer,
    state: ArrayLike | None,
    k2: int,
    sigma: Activation,
    error: ErrorClip,
) -> Iterator[Update]:
    W, _, b = as_layer(*layer)
    (I, H), dtype = W.shape, W.dtype
    window = Window(Stack(I, H, 1, 1, 0.0, b is not None, sigma, dtype), k2)
    window.start(None if state is None else [state], [pieces.reset_state])
    tape, steps = None, 0
    for piece in pieces:
        if len(piece.x) == k2 and piece.plain:
            # As long as the window, and so a run of its own. What is deleted gives its
            # memory to the next piece.
            tape = None
            z, tape = forward(piece.x, *layer, state, activation=sigma)
            value, dz = piece.loss(z)
            grads = backward(tape, dz, need_x_grad=False, **error)
            state = z[-1].copy()
        else:
            if tape is not None:
                window.follow(tape)
                tape = None
            # Anew for each piece, for what had to be converted is a copy.
            now = zip("WVb", as_layer(*layer), strict=True)
            params = {name: p for name, p in now if p is not None}
            z, _ = window.forward(
                params, piece.x, lengths=piece.lengths, resets=piece.resets
            )
            value, dz = piece.loss(z)
            named, dz0, _ = window.backward(dz, error)
            grads = Gradients(named["W"], named["V"], named.get("b"), dz0[0], None)
        steps += len(z)
        del piece, z, dz
        yield Update(value, grads, steps)
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
    lengths: ArrayLike | None = None,
    resets: Resets = None,
    reset_state: ArrayLike | None = None,
    clip_error: float | None = None,
    clip_error_value: float | None = None,
) -> Iterator[Update]:
    """Walk one layer along a stream, and go back at random: ARTBP, unbiased truncation.

    After each k steps the walk goes back with the given probability, to where it did so
    before. Between two such places the error that flows back across a border of k steps
    is divided by ``1 - probability``, the chance that the way is open. So the sum of
    all updates is, on average, the exact gradient of the stream, where `truncated` is
    biased; the price is their variance. The states since the last update are kept: of
    ``k / probability`` steps on average.

    Parameters
    ----------
    stream, W, V, b, z0, loss, activation, lengths, resets, reset_state
        As in `truncated`.
    k : int
        Steps between two borders.
    probability : float
        From 0, which is the whole of BPTT with one update at the end, to below 1.
    seed : int or numpy.random.Generator, optional
        Where chance comes from.
    clip_error, clip_error_value : float, optional
        As in `bptt.backward`, for e[t] with its weights. What is clipped is biased.

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
    >>> import numpy as np
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
    layer, sigma = as_layer(W, V, b), as_activation(activation)
    error = as_error_clip(clip_error, clip_error_value)
    pieces = Pieces(stream, k, layer, z0, loss, lengths, resets, reset_state)
    return _at_cuts(pieces, (W, V, b), z0, c, lambda: rng.random() < c, sigma, error)


def _at_cuts(
    pieces: Pieces,
    layer: Layer,
    state: ArrayLike | None,
    c: float,
    cut: Callable[[], bool],
    sigma: Activation,
    error: ErrorClip,
) -> Iterator[Update]:
    """Yield an update wherever cut() says so, and at the end."""
    tapes: list[tuple[Tape, Array]] = []
    total, steps = 0.0, 0
    for piece in pieces:
        if tapes and cut():
            yield Update(total, _back(tapes, 1 - c, error), steps)
            tapes, total = [], 0.0
        z, tape = forward(
            piece.x,
            *layer,
            state,
            activation=sigma,
            lengths=piece.lengths,
            resets=piece.resets,
            reset_state=piece.reset_state,
        )
        value, dz = piece.loss(z)
        tapes.append((tape, dz))
        total, steps, state = total + value, steps + len(z), tape.z_last
    if tapes:
        yield Update(total, _back(tapes, 1 - c, error), steps)


def _back(
    tapes: list[tuple[Tape, Array]], chance: float, error: ErrorClip
) -> Gradients:
    """Return the gradients of pieces, the error between two divided by a chance."""
    *earlier, (tape, dz) = tapes
    total = backward(tape, dz, need_x_grad=False, **error)
    for tape, dz in reversed(earlier):
        carried = total.z0 / total.z0.dtype.type(chance)
        new = backward(tape, dz, dz_last=carried, need_x_grad=False, **error)
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
