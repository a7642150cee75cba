"""What became of the gradient of a loss on its way back through time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.flow import _verdict
from bptt.flow._measures import Decay, Norms, log10_root_of_squares
from bptt.flow._path import Loss, Path
from bptt.flow.units import UnitCount, Units
from bptt.recurrence import Tape

Array = NDArray[Any]

# A gradient that has fallen to this is taken for gone.
HORIZON = 0.01


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class GradientFlow:
    """The gradient of a loss on its way back through time.

    Logarithms are to the base 10 and safe from underflow; minus infinity stands for a
    gradient that is 0. Of sequences with lengths of their own T is the longest, and
    past its end a sequence has no gradient.

    Attributes
    ----------
    log10_norm : ndarray of shape (T + 1, B)
        Of ||dL/dz[t]|| in total, for each sequence; entry 0 belongs to z[0]. Where a
        sequence starts anew with step t + 1, nothing comes to z[t] from later steps.
    log10_norm_all : ndarray of shape (T + 1,)
        The same of the whole batch.
    log10_decay : ndarray of shape (K + 1,)
        By gap k: of ||dl/dz[t-k]|| / ||dl/dz[t]|| for the loss l of step t alone, in
        the mean over sequences and over those of up to 8 steps t with a loss that have
        such a gap before them. A gradient that is 0 is left out, unless all are. K is
        the longest gap: T where the last step has a loss, and no sequence starts anew.
    growth : ndarray of shape (T + 1,)
        By gap k, the factor per step: ``10**(log10_decay[k] / k)``; growth[0] is 1.
    horizon : float
        Steps until a gradient has fallen to 1 %; infinity where it does not within T,
        NaN where it is not finite before.
    log10_dV : ndarray of shape (T,)
        Of ||z[t-1]^T da[t]||, what each step contributes to dV, of all sequences;
        entry 0 is t = 1.
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
            "dead_since": self.units.dead_since[self.units.dead].tolist(),
            "dead_share": self.units.dead_share.tolist(),
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
        From `bptt.forward`. One whose states are recomputed is walked leaf by leaf, as
        by `bptt.backward`, unless its sequences have lengths of their own. Of layers
        that of one of them, from the ``tapes`` of what `RNN.forward` returned.
    dz : array_like of shape (T, B, H) or (T, H), optional
        Gradient of the loss with respect to each state, taken directly. Of sequences
        with lengths of their own, in the form of x.
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
    path, loss = _begin(tape, dz, dz_last)
    V = tape.V.astype(np.float64)
    radius = largest = math.nan
    if np.isfinite(V).all():
        radius = float(np.abs(np.linalg.eigvals(V)).max())
        largest = float(np.linalg.norm(V, 2))
    norms, decay, units = Norms(path, loss), Decay(path, loss), UnitCount(path)
    with np.errstate(all="ignore"):
        for stretch in path.back(decay.anchors):
            norms.add(stretch)
            decay.add(stretch)
            units.add(stretch)
        norm_all = log10_root_of_squares(norms.norm)
        log10_decay = decay.mean()
    return GradientFlow(
        log10_norm=np.take(norms.norm, path.row, axis=1),
        log10_norm_all=norm_all,
        log10_decay=log10_decay,
        log10_dV=norms.dV,
        units=units.units(),
        spectral_radius=radius,
        largest_singular_value=largest,
        gamma=tape.activation.gamma,
        sizes=(path.T, path.B, len(tape.W), path.H),
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
        Infinity where it does not within T, NaN where it is not finite before.

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
    path, loss = _begin(tape, dz, dz_last)
    decay = Decay(path, loss)
    with np.errstate(all="ignore"):
        for stretch in path.back(decay.anchors):
            decay.add(stretch)
        return _horizon(decay.mean())


def _horizon(log10_decay: Array) -> float:
    below = np.flatnonzero(log10_decay <= math.log10(HORIZON))
    if len(below):
        return float(below[0])
    return math.nan if np.isnan(log10_decay).any() else math.inf


def _begin(
    tape: Tape, dz: ArrayLike | None, dz_last: ArrayLike | None
) -> tuple[Path, Loss]:
    """Return the path of a tape, and a loss on it."""
    path = Path(tape)
    loss = Loss(path, dz, dz_last)
    if path.T == 0 or path.B == 0:
        raise ValueError(
            f"tape must have a step and a sequence, got T={path.T}, B={path.B}"
        )
    if len(loss.steps) == 0:
        name = "dz_last" if dz is None else "dz"
        raise ValueError(f"{name} must not be 0 everywhere: the loss has no gradient")
    return path, loss


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
