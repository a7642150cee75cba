"""Lyapunov exponents: how fast tangents grow along a long trajectory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend, _runs
from bptt._validation import as_array
from bptt.activations import Activation
from bptt.flow._arguments import as_count, as_step, as_tape
from bptt.initializers import as_generator
from bptt.recurrence import Tape, forward

Array = NDArray[Any]

# Steps of a trajectory that are held in memory at a time.
_PIECE = 4096


class LyapunovSpectrum(NamedTuple):
    """The largest Lyapunov exponents, per step.

    Attributes
    ----------
    exponents : ndarray of shape (B, k), or (k,) for one sequence
        Natural logarithms of the growth per step, in the order in which the directions
        were found, which is descending in the limit.
    steps : int
        Over which they were averaged.
    H : int, optional
        How many exponents there are in all: the dimension of the state. None where it
        is not known.
    """

    exponents: Array
    steps: int
    H: int | None = None

    @property
    def entropy_rate(self) -> Array:
        """The sum of the positive exponents, nats per step (Pesin)."""
        rate: Array = np.maximum(self.exponents, 0).sum(axis=-1)
        return rate

    @property
    def kaplan_yorke(self) -> Array:
        """The dimension j + (l_1 + .. + l_j) / |l_(j+1)| of the attractor.

        j is the largest number of exponents whose sum is not negative; where that is
        all H of them, the dimension is H. NaN where those that were computed do not
        settle it: ask for more of them.
        """
        exponents = -np.sort(-self.exponents, axis=-1)
        flat = exponents.reshape(-1, exponents.shape[-1])
        dimension = np.array([_kaplan_yorke(e, self.H) for e in flat])
        shaped: Array = dimension.reshape(exponents.shape[:-1])
        return shaped


def lyapunov_exponents(
    tape: Tape | tuple[ArrayLike, ArrayLike, ArrayLike | None, ArrayLike],
    k: int = 1,
    *,
    activation: str | Activation | None = None,
    z0: ArrayLike | None = None,
    skip: int = 0,
    seed: int = 0,
) -> LyapunovSpectrum:
    """Return the k largest Lyapunov exponents along a trajectory.

    k orthonormal tangents are carried along, and made orthonormal again at each step;
    an exponent is the mean logarithm of what is left of a tangent's length (Benettin et
    al. 1980). In compiled code, and in float64 or float32 as the arrays are.

    Parameters
    ----------
    tape : Tape, or a tuple (W, V, b, x)
        From `bptt.forward`, of sequences of one length that never start anew; or its
        arguments: the trajectory is then run piece by piece and never held in memory. b
        may be None.
    k : int, default 1
        How many exponents, at most H.
    activation, z0
        As in `bptt.forward`, for a tuple alone: "tanh" and 0 by default. A tape has its
        own.
    skip : int, default 0
        Steps at the beginning that turn the tangents but are not counted; a tangent
        that starts at random needs some to find its direction.
    seed : int, default 0
        Of the directions to start from.

    Returns
    -------
    LyapunovSpectrum
        exponents, entropy_rate and kaplan_yorke.

    Raises
    ------
    TypeError, ValueError
        Arguments do not fit, k is above H, or no step is left to count.

    References
    ----------
    G. Benettin et al., "Lyapunov characteristic exponents for smooth dynamical
    systems", Meccanica 15 (1980) 9-30.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> W, V, x = np.ones((1, 2)), np.diag([0.5, 0.25]), np.zeros((200, 1))
    >>> spectrum = lyapunov_exponents((W, V, None, x), 2, skip=100)
    >>> np.exp(spectrum.exponents)
    array([0.5 , 0.25])
    """
    if isinstance(tape, tuple):
        named = "tanh" if activation is None else activation
        pieces, T, batched = _run(tape, named, z0)
    else:
        tape = as_tape(tape)
        if z0 is not None or activation is not None:
            raise ValueError("a tape has its activation and z0; pass neither")
        pieces, T, batched = _of_tape(tape), len(tape.x), tape.batched
    skip = as_step("skip", skip, 0, 2**62)
    if skip >= T:
        raise ValueError(f"skip must be below T = {T}, got {skip}: no step to count")
    rng = as_generator(seed)
    Q = logs = None
    done = H = 0
    for piece, states in pieces:
        B, H = states.shape[1:]
        if Q is None or logs is None:
            k = as_count("k", k, H, "H")
            Q, logs = _frames(rng, B, k, H, states.dtype), np.zeros((B, k))
        for z in _cut(states, skip - done):
            _backend.kernels.lyapunov(piece.V, z, piece.activation, Q, logs)
            done += len(z) - 1
            if done == skip:
                logs[...] = 0
    assert logs is not None
    exponents = logs / (T - skip)
    return LyapunovSpectrum(exponents if batched else exponents[0], T - skip, H)


def _of_tape(tape: Tape) -> Iterator[tuple[Tape, Array]]:
    """Return the states of a tape piece by piece, each with the one before it."""
    if not isinstance(tape, _runs.Run):
        return iter([(tape, tape.z)])
    if tape.layout is not None:
        raise ValueError(
            "tape must be of sequences of one length, without resets; pass each one's "
            f"(W, V, b, x), got {tape!r}"
        )
    if tape.form.T == 0 or tape.form.B == 0:
        return iter([(tape, tape.z)])
    leaves = _runs.walk_forward(tape, _runs.leaves_of(tape))
    return ((tape, states) for _, states in leaves)


def _run(
    arguments: tuple[ArrayLike, ArrayLike, ArrayLike | None, ArrayLike],
    activation: str | Activation,
    z0: ArrayLike | None,
) -> tuple[Iterator[tuple[Tape, Array]], int, bool]:
    """Return a trajectory piece by piece, its length, and whether it is batched."""
    if len(arguments) != 4:
        raise TypeError(f"a tuple must be (W, V, b, x), got {len(arguments)} entries")
    W, V, b, x = arguments
    x = as_array("x", x)
    if x.ndim == 0:
        raise ValueError("x must have shape (T, B, I) or (T, I), got ()")
    _, first = forward(x[:1], W, V, b, z0, activation=activation)

    def pieces() -> Iterator[tuple[Tape, Array]]:
        state = z0
        for start in range(0, len(x), _PIECE):
            part = x[start : start + _PIECE]
            z, piece = forward(part, W, V, b, state, activation=activation)
            yield piece, piece.z
            state = z[-1]

    return pieces(), len(x), first.batched


def _cut(z: Array, at: int) -> list[Array]:
    """Return a trajectory in two where the counting begins within it."""
    return [z[: at + 1], z[at:]] if 0 < at < len(z) - 1 else [z]


def _frames(
    rng: np.random.Generator, B: int, k: int, H: int, dtype: np.dtype[Any]
) -> Array:
    start = rng.standard_normal((B, H, k))
    Q: Array = np.linalg.qr(start)[0].swapaxes(1, 2).astype(dtype)
    return np.ascontiguousarray(Q)


def _kaplan_yorke(exponents: Array, H: int | None) -> float:
    sums = np.cumsum(exponents)
    if sums[0] < 0:
        return 0.0
    below = np.flatnonzero(sums < 0)
    if len(below) == 0:
        return float(H) if len(sums) == H and sums[-1] >= 0 else np.nan
    j = int(below[0])
    return float(j + sums[j - 1] / abs(exponents[j]))
