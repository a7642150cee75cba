"""What became of the gradient of a loss on its way back through time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.flow import _verdict
from bptt.flow._arguments import as_loss, as_tape, sizes
from bptt.flow.jacobians import rescale
from bptt.flow.units import Units, look_at_units
from bptt.recurrence import Tape

Array = NDArray[Any]

# A gradient that has fallen to this is taken for gone.
HORIZON = 0.01

# Steps from which gradients are sent back alone, to see how they fare.
_ANCHORS = 8


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class GradientFlow:
    """The gradient of a loss on its way back through time.

    Logarithms are to the base 10 and safe from underflow; minus infinity stands for a
    gradient that is 0.

    Attributes
    ----------
    log10_norm : ndarray of shape (T + 1, B)
        Of ||dL/dz[t]|| in total, for each sequence; entry 0 belongs to z[0].
    log10_norm_all : ndarray of shape (T + 1,)
        The same of the whole batch.
    log10_decay : ndarray of shape (T + 1,)
        By gap k: of ||dl/dz[t-k]|| / ||dl/dz[t]|| for the loss l of step t alone, in
        the mean over sequences and over those of up to 8 steps t with a loss that have
        such a gap before them. A gradient that is 0 is left out, unless all are.
    growth : ndarray of shape (T + 1,)
        By gap k, the factor per step: ``10**(log10_decay[k] / k)``; growth[0] is 1.
    horizon : float
        Steps until a gradient has fallen to 1 %; infinity where it does not within T.
    log10_dV : ndarray of shape (T,)
        Of ||z[t-1]^T da[t]||, what each step contributes to dV; entry 0 is t = 1.
    units : Units
        Saturated and silent units.
    spectral_radius, largest_singular_value : float
        Of V.
    gamma : float
        The bound of |sigma'|: no gap of k steps grows by more than
        ``(gamma * largest_singular_value)**k``.
    sizes : tuple of int
        T, B, I, H.
    activation : str

    Examples
    --------
    See `gradient_flow`.
    """

    log10_norm: Array
    log10_norm_all: Array
    log10_decay: Array
    log10_dV: Array
    units: Units
    spectral_radius: float
    largest_singular_value: float
    gamma: float
    sizes: tuple[int, int, int, int]
    activation: str

    @property
    def horizon(self) -> float:
        """Steps until a gradient has fallen to 1 %."""
        return _horizon(self.log10_decay)

    @property
    def growth(self) -> Array:
        """The factor per step over a gap of k steps."""
        gaps = np.maximum(1, np.arange(len(self.log10_decay)))
        with np.errstate(over="ignore", under="ignore"):
            growth: Array = 10.0 ** (self.log10_decay / gaps)
        return growth

    @property
    def log10_bound(self) -> Array:
        """log10 of (gamma ||V||)^k, beside log10_decay."""
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.log10(self.gamma * self.largest_singular_value)
            bound: Array = np.arange(len(self.log10_decay)) * step
        bound[0] = 0
        return bound

    @property
    def kind(self) -> str:
        """One of vanishing, exploding, saturated, dead, healthy, not finite."""
        return _verdict.kind(self)

    @property
    def verdict(self) -> str:
        """What is the matter, on which figures that rests, and what usually helps."""
        return _verdict.sentence(self)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: numbers that are not finite become None."""
        T, B, I, H = self.sizes
        return {
            "kind": self.kind,
            "verdict": self.verdict,
            "sizes": {"T": T, "B": B, "I": I, "H": H},
            "activation": self.activation,
            "horizon": _plain(self.horizon),
            "spectral_radius": _plain(self.spectral_radius),
            "largest_singular_value": _plain(self.largest_singular_value),
            "gamma": self.gamma,
            "saturated": _plain(self.units.saturated),
            "silent": _plain(self.units.zero),
            "dead_units": self.units.dead.tolist(),
            "log10_norm": [_plain(v) for v in self.log10_norm_all.tolist()],
            "log10_decay": [_plain(v) for v in self.log10_decay.tolist()],
            "log10_bound": [_plain(v) for v in self.log10_bound.tolist()],
            "log10_dV": [_plain(v) for v in self.log10_dV.tolist()],
        }

    def __repr__(self) -> str:
        T, B, _, H = self.sizes
        return f"GradientFlow(T={T}, B={B}, H={H}, {self.activation}, {self.kind})"


def gradient_flow(
    tape: Tape, dz: ArrayLike | None = None, *, dz_last: ArrayLike | None = None
) -> GradientFlow:
    """Follow the gradient of a loss back through time.

    Parameters
    ----------
    tape : Tape
        From `bptt.forward`.
    dz : array_like of shape (T, B, H) or (T, H), optional
        Gradient of the loss with respect to each state, taken directly.
    dz_last : array_like of shape (B, H) or (H,), optional
        The same for the last state alone; added to dz where both are given.

    Returns
    -------
    GradientFlow
        Norms per step, decay by gap, horizon, units, bounds; ``verdict`` puts it into
        words. Computed in float64 with the exponent apart, whatever the type of the
        tape.

    Raises
    ------
    TypeError, ValueError
        tape is none, a shape or dtype does not fit it, there is no step, or neither dz
        nor dz_last is given, or what is given is 0 everywhere.

    References
    ----------
    R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> rng = np.random.default_rng(0)
    >>> x, W = rng.standard_normal((100, 4, 3)), 0.1 * rng.standard_normal((3, 16))
    >>> V = 0.5 * np.linalg.qr(rng.standard_normal((16, 16)))[0]
    >>> z, tape = bptt.forward(x, W, V)
    >>> flow = gradient_flow(tape, dz_last=np.ones((4, 16)))
    >>> flow.kind, flow.horizon
    ('vanishing', 7.0)
    """
    injected = _injected(as_tape(tape), dz, dz_last)
    V = tape.V.astype(np.float64)
    radius = largest = math.nan
    if np.isfinite(V).all():
        radius = float(np.abs(np.linalg.eigvals(V)).max())
        largest = float(np.linalg.norm(V, 2))
    norm, norm_all, dV = _backward_norms(tape, V, injected)
    return GradientFlow(
        log10_norm=norm,
        log10_norm_all=norm_all,
        log10_decay=_decay(tape, V, injected),
        log10_dV=dV,
        units=look_at_units(tape),
        spectral_radius=radius,
        largest_singular_value=largest,
        gamma=tape.activation.gamma,
        sizes=sizes(tape),
        activation=tape.activation.name,
    )


def horizon(
    tape: Tape, dz: ArrayLike | None = None, *, dz_last: ArrayLike | None = None
) -> float:
    """Return the horizon alone: steps until a gradient has fallen to 1 %.

    Parameters
    ----------
    tape, dz, dz_last
        As in `gradient_flow`.

    Returns
    -------
    float
        Infinity where it does not within T.

    Raises
    ------
    TypeError, ValueError
        As in `gradient_flow`.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> x, W, V = np.zeros((30, 1)), np.ones((1, 2)), 0.5 * np.eye(2)
    >>> horizon(bptt.forward(x, W, V)[1], dz_last=np.ones(2))
    7.0
    """
    injected = _injected(as_tape(tape), dz, dz_last)
    return _horizon(_decay(tape, tape.V.astype(np.float64), injected))


def _horizon(log10_decay: Array) -> float:
    below = np.flatnonzero(log10_decay <= math.log10(HORIZON))
    return float(below[0]) if len(below) else math.inf


def _injected(tape: Tape, dz: ArrayLike | None, dz_last: ArrayLike | None) -> Array:
    """Return the gradient of a loss by each state, (T, B, H)."""
    every, last = as_loss(tape, dz, dz_last)
    T, B, _, H = sizes(tape)
    if T == 0 or B == 0:
        raise ValueError(f"tape must have a step and a sequence, got T={T}, B={B}")
    injected = np.zeros((T, B, H)) if every is None else every.copy()
    if last is not None:
        injected[-1] += last
    if not injected.any():
        raise ValueError("dz must not be 0 everywhere: the loss has no gradient")
    return injected


@np.errstate(all="ignore")
def _backward_norms(tape: Tape, V: Array, dz: Array) -> tuple[Array, Array, Array]:
    """Return log10 of ||e[t]||, per sequence and in all, and of each step's part in dV.

    e[t] is carried as ``e * 2**exponent``, with an exponent for the whole batch.
    """
    T, B, _ = dz.shape
    norm, norm_all, dV = np.empty((T + 1, B)), np.empty(T + 1), np.empty(T)
    e, exponent = np.zeros_like(dz[0]), np.zeros(1, np.int64)
    for t in range(T, -1, -1):
        if t > 0 and dz[t - 1].any():
            e, exponent = _add(e, exponent, dz[t - 1])
        scale = exponent[0] * math.log10(2)
        norm[t] = np.log10(_norm(e, axis=1)) + scale
        norm_all[t] = np.log10(_norm(e)) + scale
        if t > 0:
            da = e * tape.activation.dsigma(tape.z[t].astype(np.float64))
            before = tape.z[t - 1].astype(np.float64)
            dV[t - 1] = np.log10(_outer_norm(before, da)) + scale
            e = da @ V.T
            rescale(e[np.newaxis], exponent)
    return norm, norm_all, dV


def _add(e: Array, exponent: Array, g: Array) -> tuple[Array, Array]:
    """Return e 2^exponent + g, with the larger one's scale."""
    if not e.any():
        return g.copy(), np.zeros_like(exponent)
    shift = int(exponent[0])
    if shift <= 0:
        return np.ldexp(e, max(shift, -2000)) + g, np.zeros_like(exponent)
    return e + np.ldexp(g, -min(shift, 2000)), exponent


def _norm(e: Array, axis: int | None = None) -> Array:
    """Return the Euclidean norm, of squares that cannot underflow."""
    largest = np.abs(e).max(axis=axis, keepdims=True, initial=0)
    largest = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    squares = np.square(e / largest).sum(axis=axis)
    norm: Array = np.sqrt(squares) * largest.reshape(squares.shape)
    return norm


def _outer_norm(z: Array, da: Array) -> Array:
    """Return ||z^T da||_F, by the matrix that is smaller: (B, B) or (H, H)."""
    B, H = z.shape
    largest = np.abs(da).max()
    largest = largest if largest > 0 and np.isfinite(largest) else 1.0
    da = da / largest
    if B < H:
        square = np.maximum(0, ((z @ z.T) * (da @ da.T)).sum())
    else:
        square = np.square(z.T @ da).sum()
    norm: Array = np.sqrt(square) * largest
    return norm


@np.errstate(all="ignore")
def _decay(tape: Tape, V: Array, dz: Array) -> Array:
    """Return log10_decay: gradients of single steps, each sent back alone."""
    T, B, H = dz.shape
    with_loss = np.flatnonzero(dz.any(axis=(1, 2))) + 1
    # The latest go furthest; the others are spread evenly.
    chosen = np.linspace(len(with_loss) - 1, 0, min(_ANCHORS, len(with_loss)))
    anchors = with_loss[np.unique(chosen.round().astype(int))]
    rows = np.zeros((len(anchors), B, H))
    exponent = np.zeros(len(anchors), np.int64)
    start = np.full((len(anchors), B), np.nan)
    total, count = np.zeros(T + 1), np.zeros(T + 1)
    for t in range(anchors[-1], -1, -1):
        new = np.flatnonzero(anchors == t)
        if len(new):
            rows[new] = dz[t - 1]
            size = _norm(rows[new[0]], axis=1)
            start[new] = np.where(size > 0, np.log10(size), np.nan)
        first = int(np.searchsorted(anchors, t))
        active = rows[first:]
        size = _norm(active.reshape(-1, H), axis=1).reshape(-1, B)
        log = np.log10(size) + exponent[first:, np.newaxis] * math.log10(2)
        change = log - start[first:]
        # One that is 0 would make the mean minus infinity; only if all are, it is.
        there = ~np.isnan(change) & (change > -np.inf)
        gaps = anchors[first:] - t
        np.add.at(total, gaps, np.where(there, change, 0).sum(axis=1))
        np.add.at(count, gaps, there.sum(axis=1))
        if t > 0:
            slope = tape.activation.dsigma(tape.z[t].astype(np.float64))
            rows[first:] = ((active * slope).reshape(-1, H) @ V.T).reshape(-1, B, H)
            for a in range(first, len(anchors)):
                rescale(rows[a][np.newaxis], exponent[a : a + 1])
    mean = np.where(count > 0, total / count, -np.inf)
    return np.asarray(mean[: anchors[-1] + 1])


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
