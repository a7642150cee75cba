"""A gradient flow in words: what is the matter, why, and what usually helps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bptt.flow.gradients import GradientFlow

# A gradient vanishes where it is gone for good within this part of the sequence, and
# explodes where a gap multiplies it by more than this.
_VANISHING, _EXPLODING = 0.5, 1e3
_MANY = 0.5

# Activations that saturate at either end.
_BOUNDED = ("tanh", "sigmoid", "hard_sigmoid", "softsign", "scaled_tanh")


def kind(flow: GradientFlow) -> str:
    """Return one of vanishing, exploding, saturated, dead, healthy, not finite."""
    if np.isnan(flow.log10_norm).any() or (flow.log10_norm == math.inf).any():
        return "not finite"
    H = flow.sizes[3]
    if len(flow.units.dead) > _MANY * H:
        # Rounded, a state of the bound itself has a slope of 0 like one that is off.
        return "saturated" if flow.activation in _BOUNDED else "dead"
    steps = len(flow.log10_decay) - 1
    # There is no gap shorter than a step, be the sequence of one or two.
    early = _lasts(flow) < max(2, _VANISHING * steps)
    if not early and flow.log10_decay.max() > math.log10(_EXPLODING):
        return "exploding"
    if early or flow.log10_decay[-1] == -math.inf:
        return "saturated" if _saturates(flow) else "vanishing"
    return "healthy"


def sentence(flow: GradientFlow) -> str:
    """Return the verdict."""
    return {
        "not finite": _not_finite,
        "dead": _dead,
        "saturated": _saturated,
        "vanishing": _vanishing,
        "exploding": _exploding,
        "healthy": _healthy,
    }[kind(flow)](flow)


def _saturates(flow: GradientFlow) -> bool:
    # Of activations that are off below 0, off is not saturated.
    return flow.units.saturated - flow.units.zero > _MANY or (
        flow.units.saturated > _MANY and flow.activation in _BOUNDED
    )


def _lasts(flow: GradientFlow) -> int:
    """Return the gap from which on the gradient stays at 1 %: the horizon, or later."""
    return 1 + int(np.flatnonzero(flow.log10_decay > -2).max(initial=-1))


def _not_finite(flow: GradientFlow) -> str:
    t = int(np.flatnonzero(~(flow.log10_norm < math.inf).all(axis=1)).max())
    return (
        f"Not finite: dL/dz[{t}] holds a NaN or an infinity, and so does all that "
        "comes from it. A smaller learning rate, or clipping before the step that "
        "overflowed, usually helps."
    )


def _dead(flow: GradientFlow) -> str:
    dead, H = flow.units.dead, flow.sizes[3]
    since = int(flow.units.dead_since[dead].max())
    return (
        f"Dead: {len(dead)} of {H} units have let no gradient through since step "
        f"{since} or earlier, on every sequence. A smaller learning rate, a bias above "
        "0, or leaky_relu, whose slope is never 0, usually helps."
    )


def _saturated(flow: GradientFlow) -> str:
    share = 100 * flow.units.saturated
    return (
        f"Saturated: {share:.0f} % of the units are where sigma' is below a twentieth "
        f"of its largest, so that {_decayed(flow)}.{_radius(flow)} Smaller "
        "weights, inputs of unit variance, or an activation that does not saturate "
        "(relu with V = I) usually help."
    )


def _vanishing(flow: GradientFlow) -> str:
    gamma, norm = flow.gamma, flow.largest_singular_value
    bound = ""
    if gamma * norm < 1:
        bound = f" It cannot do otherwise: gamma ||V|| = {gamma * norm:.3g} < 1."
    return (
        f"Vanishing: {_decayed(flow)}.{bound}{_radius(flow)} An orthogonal or identity "
        "initial V"
        + (", tanh or relu in place of sigmoid," if gamma < 1 else "")
        + f" or the Omega regulariser usually helps; truncation beyond "
        f"{steps_of(_lasts(flow))} loses little."
    )


def _exploding(flow: GradientFlow) -> str:
    k = int(flow.log10_decay.argmax())
    h = power(np.median(flow.log10_norm_all))
    return (
        f"Exploding: over {k} steps back the gradient is multiplied by "
        f"{power(flow.log10_decay[k])}, {flow.growth[k]:.3g} per step.{_radius(flow)} "
        f"Clipping the norm, at first at h = 1 (the median norm here is {h}), an "
        "orthogonal initial V, or truncation at fewer steps usually helps."
    )


def _healthy(flow: GradientFlow) -> str:
    k, lasts = len(flow.log10_decay) - 1, _lasts(flow)
    far = (
        f"it falls to 1 % in {steps_of(flow.horizon)} of {k}"
        if math.isfinite(flow.horizon)
        else f"it does not fall to 1 % within {steps_of(k)}"
    )
    if lasts > flow.horizon:
        far += f", but is above that again {steps_of(lasts - 1)} back"
    return (
        f"Healthy: over {steps_of(k)} back the gradient is multiplied by "
        f"{power(flow.log10_decay[k])}, and {far}.{_radius(flow)}"
    )


def _decayed(flow: GradientFlow) -> str:
    if not math.isfinite(flow.horizon):
        return "the gradient does not reach the first step"
    k = int(flow.horizon)
    of = f"{steps_of(k)} of {len(flow.log10_decay) - 1}"
    if flow.log10_decay[k] == -math.inf:
        return f"the gradient is 0 after {of}"
    return (
        f"the gradient falls to 1 % in {of}, by a factor of {flow.growth[k]:.3g} per "
        "step"
    )


def _radius(flow: GradientFlow) -> str:
    """Return what the spectral radius says, and whether the growth agrees."""
    rho = flow.spectral_radius
    k = min(_lasts(flow), len(flow.log10_decay) - 1)
    growth = float(flow.growth[k])
    said = f" The spectral radius of V is {rho:.3g}, its norm {_norm(flow)}"
    peak = float(flow.log10_decay.max())
    if rho < 0.95 and peak > 0.5:
        return (
            f"{said}: the radius alone would promise that gradients vanish, but V is "
            f"not normal, and over these gaps they grow up to {power(peak)}-fold."
        )
    if rho > 1.05 and growth < 0.95 and peak <= 0.5:
        return (
            f"{said}: the radius alone would promise that gradients explode, but the "
            "sigma' on the way shrink them."
        )
    return f"{said}."


def _norm(flow: GradientFlow) -> str:
    return f"{flow.largest_singular_value:.3g}"


def steps_of(k: float) -> str:
    """Return a number of steps in words."""
    if not math.isfinite(k):
        return "this length"
    return f"{int(k)} step{'' if k == 1 else 's'}"


def power(log10: float) -> str:
    """Return 10**log10 in figures, of any size."""
    if log10 == -math.inf:
        return "0"
    if not math.isfinite(log10):
        return str(log10)
    if abs(log10) < 4:
        return f"{10.0**log10:.3g}"
    exponent = math.floor(log10)
    return f"{10.0 ** (log10 - exponent):.1f}e{exponent:+d}"
