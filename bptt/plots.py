"""Pictures of the flow of gradients: one function each, which returns the Axes.

They need matplotlib, ``pip install 'bptt[plot]'``. Each takes ``ax``, the Axes to draw
into; without it a figure is made that has no background of its own and grey letters, so
that it can be read on a white page and on a black one. The colours are those of Okabe
and Ito (2008), which the colour-blind can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import flow as flows
from bptt._drawing import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    axes_for,
    colour_bar,
    ink,
    label,
    legend,
)
from bptt._ids import addresses
from bptt._validation import (
    as_array,
    as_positive,
    as_real,
    as_size,
    check_ndim,
    check_shape,
)
from bptt.flow import cliff
from bptt.flow._path import Path
from bptt.flow.gradients import GradientFlow
from bptt.recurrence import Tape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]


def gradient_norms(
    flow: GradientFlow | Mapping[str, GradientFlow], ax: Axes | None = None
) -> Axes:
    """Draw log10 ||dL/dz[t]|| over time, of one gradient flow or of several by name.

    Parameters
    ----------
    flow : GradientFlow, or dict of them
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = axes_for(ax)
    for (name, one), colour in zip(_named(flow), _cycle(), strict=False):
        t = np.arange(len(one.log10_norm_all))
        line = _drawn(one.log10_norm_all)
        ax.plot(t, line, color=colour, label=name or "the whole batch")
        if not name and one.log10_norm.shape[1] > 1:
            low, high = _range(one.log10_norm)
            band = ax.fill_between(t, low, high, color=SKY, alpha=0.5, lw=0)
            band.set_label("its sequences")
    label(ax, "t", "log10 ||dL/dz[t]||", "Gradient over time")
    return legend(ax)


def decay(
    flow: GradientFlow | Mapping[str, GradientFlow], ax: Axes | None = None
) -> Axes:
    """Draw what is left of a gradient after a gap, and for a single flow the bound.

    Parameters
    ----------
    flow : GradientFlow, or dict of them
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = axes_for(ax)
    for (name, one), colour in zip(_named(flow), _cycle(), strict=False):
        gaps = np.arange(len(one.log10_decay))
        ax.plot(gaps, _drawn(one.log10_decay), color=colour, label=name or "measured")
        if not name:
            limits = ax.get_ylim()
            bound = _drawn(one.log10_bound)
            ax.plot(gaps, bound, color=ORANGE, ls="--", label="bound (gamma ||V||)^k")
            low, high = min(limits[0], -2.5), max(limits[1], 1.0)
            ax.set_ylim(low, min(high + (high - low) / 2, max(high, np.nanmax(bound))))
    ax.axhline(-2, color=GREY, lw=0.8, ls=":")
    ax.annotate(
        "1 %",
        (0.99, -2),
        xycoords=("axes fraction", "data"),
        color=ink(ax),
        ha="right",
        va="top",
    )
    label(ax, "gap k", "log10 of what is left", "Gradient over a gap of k steps")
    return legend(ax)


def product_norms(tape: Tape | Array, ax: Axes | None = None) -> Axes:
    """Draw log10 ||dz[t]/dz[i]|| over t and i, of a tape's first sequence.

    Parameters
    ----------
    tape : Tape, or ndarray of shape (T + 1, T + 1)
        A tape, or what `bptt.flow.product_norms` returned, which says what is computed.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    norms = as_real(
        "tape", flows.product_norms(tape) if isinstance(tape, Tape) else tape
    )
    check_ndim("tape", norms, "(T + 1, T + 1)")
    check_shape("tape", norms, "(T + 1, T + 1)", norms.shape[:1] * 2)
    ax = axes_for(ax)
    from matplotlib import colormaps

    seen = norms[np.isfinite(norms)]
    # Beyond 16 decades float64 has no digits left, and colours none to spare.
    limit = min(16.0, max(2.0, float(np.abs(seen).max(initial=0))))
    # Where i > t there is no gap, which must not look like an orthogonal product's 0.
    palette = colormaps["PuOr"].with_extremes(bad=(0.5, 0.5, 0.5, 0.25))
    image = ax.imshow(
        np.clip(np.nan_to_num(norms, nan=np.nan, neginf=-limit), -limit, limit),
        cmap=palette,
        vmin=-limit,
        vmax=limit,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    label(ax, "i", "t", "log10 ||dz[t]/dz[i]|| / sqrt(H)")
    colour_bar(ax, image)
    return ax


def singular_values(
    tape: Tape, k: int = 3, *, points: int = 12, ax: Axes | None = None
) -> Axes:
    """Draw the k largest singular values of dz[T]/dz[T-gap] over the gap.

    Parameters
    ----------
    tape : Tape
        Its first sequence is looked at, from where it last started anew.
    k : int, default 3
    points : int, default 12
        Gaps to compute, from 1 to T.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    k, points = as_size("k", k), as_size("points", points)
    tape = last_steps(tape, Path(tape).T)
    T, H = len(tape.x), len(tape.V)
    gaps = np.unique(np.geomspace(1, max(1, T), points).round().astype(int))
    gaps = gaps[gaps <= T]
    k = min(k, H)
    values = np.array(
        [
            flows.log_singular_values(tape, T, T - int(gap), k, iterations=8)
            for gap in gaps
        ]
    ).reshape(len(gaps), k) / np.log(10)
    ax = axes_for(ax)
    for j, colour in zip(range(k), _cycle(), strict=False):
        ax.plot(gaps, _drawn(values[:, j]), color=colour, marker=".", label=f"s{j + 1}")
    ax.axhline(0, color=GREY, lw=0.8, ls=":")
    label(ax, "gap", "log10 of singular values", "Singular values of dz[T]/dz[T-gap]")
    return legend(ax)


def eigenvalues(V: ArrayLike, ax: Axes | None = None) -> Axes:
    """Draw the eigenvalues of V in the complex plane, with the unit circle.

    Parameters
    ----------
    V : array_like of shape (H, H)
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    V = as_real("V", V)
    check_ndim("V", V, "(H, H)")
    check_shape("V", V, "(H, H)", V.shape[:1] * 2)
    ax = axes_for(ax)
    finite = bool(np.isfinite(V).all())
    values = np.linalg.eigvals(V.astype(np.float64)) if finite else np.empty(0, complex)
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), color=GREY, lw=0.8)
    ax.plot(values.real, values.imag, ".", color=BLUE)
    ax.set_aspect("equal", "datalim")
    radius = f"radius {np.abs(values).max(initial=0):.3g}"
    title = f"Eigenvalues of V, {radius if finite else 'which is not finite'}"
    label(ax, "real", "imaginary", title)
    return ax


def saturation(tape: Tape, ax: Axes | None = None) -> Axes:
    """Draw how steep the activation was: a histogram of sigma' / gamma.

    Parameters
    ----------
    tape : Tape
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = axes_for(ax)
    edges, counts = np.linspace(0, 1, 21), np.zeros(20, np.int64)
    for stretch in Path(tape).back():
        slope = np.abs(tape.activation.dsigma(stretch.z[1:]))
        counts += np.histogram(slope / (tape.activation.gamma or 1.0), edges)[0]
    share = counts / max(1, counts.sum())
    colours = [VERMILION if right < 0.06 else BLUE for right in edges[1:]]
    ax.bar(edges[:-1], share, width=0.05, align="edge", color=colours)
    title = f"Slopes of {tape.activation.name}, saturated {100 * share[0]:.0f} %"
    label(ax, "sigma' / largest sigma'", "share of units", title)
    return ax


def loss_cliff(ax: Axes | None = None, *, clip: float = 0.1) -> Axes:
    """Draw the cliff of `bptt.flow.cliff`, and a descent without and one with clipping.

    Parameters
    ----------
    ax : matplotlib.axes.Axes, optional
    clip : float, default 0.1
        h.

    Returns
    -------
    matplotlib.axes.Axes
    """
    clip, ax = as_positive("clip", clip), axes_for(ax)
    w, b = np.linspace(3.2, 6.2, 240), np.linspace(-4.2, -1.2, 240)
    loss = cliff.loss_surface(w, b[:, np.newaxis])
    limits = (w[0], w[-1], b[0], b[-1])
    image = ax.imshow(
        loss, origin="lower", extent=limits, cmap="cividis", aspect="auto"
    )
    for name, h, colour, style in (
        ("without clipping", None, VERMILION, "X-"),
        (f"clipped at h = {clip:g}", clip, SKY, ".-"),
    ):
        path = cliff.descend(clip=h)
        ax.plot(path[:, 0], path[:, 1], style, color=colour, lw=1, ms=3.5, label=name)
    ax.set_xlim(*limits[:2])
    ax.set_ylim(*limits[2:])
    label(ax, "w", "b", "Loss of one unit, 50 steps")
    colour_bar(ax, image)
    # White letters need a ground of their own: the descent runs beneath them.
    ax.legend(
        loc="upper right",
        labelcolor="white",
        facecolor="#00204d",
        edgecolor="none",
        framealpha=1,
        fontsize=9,
    )
    return ax


def clipping(
    norm: ArrayLike,
    h: float | None = None,
    ax: Axes | None = None,
    *,
    step: ArrayLike | None = None,
) -> Axes:
    """Draw the gradient's norm along a training run, before and after clipping.

    Parameters
    ----------
    norm : array_like of shape (steps,)
        Before clipping, as `bptt.history.History.norm`.
    h : float, optional
        The threshold.
    ax : matplotlib.axes.Axes, optional
    step : array_like of shape (steps,), optional
        Which steps they are of, where not of all: 1, 2, ... by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = axes_for(ax)
    norm = as_array("norm", norm).astype(np.float64)
    check_ndim("norm", norm, "(steps,)")
    h = None if h is None else as_positive("h", h)
    if step is None:
        step = np.arange(1, len(norm) + 1)
    step = as_array("step", step).astype(np.float64)
    check_shape("step", step, "(steps,)", norm.shape)
    ax.plot(step, norm, color=ORANGE, lw=1.2, label="before clipping")
    title = "Norm of the gradient"
    if h is not None and np.isfinite(h):
        ax.plot(step, np.minimum(norm, h), color=BLUE, lw=1.2, label="after")
        ax.axhline(h, color=GREY, lw=0.8, ls=":")
        share = 100 * (norm > h).mean() if len(norm) else 0
        title += f", clipped in {share:.0f} % of the steps"
    if (norm > 0).any():
        ax.set_yscale("log")
        ax.margins(y=0.2)
    label(ax, "step", "norm", title)
    return legend(ax)


def horizons(step: ArrayLike, horizon: ArrayLike, ax: Axes | None = None) -> Axes:
    """Draw how far back the gradient reached along a training run.

    Parameters
    ----------
    step : array_like of shape (n,)
        Of the training, at which it was looked at.
    horizon : array_like of shape (n,)
        Steps in time until the gradient has fallen to 1 %, as `bptt.flow.horizon`.
        Infinite ones are left out.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = axes_for(ax)
    step = as_array("step", step).astype(np.float64)
    check_ndim("step", step, "(n,)")
    horizon = as_array("horizon", horizon).astype(np.float64)
    check_shape("horizon", horizon, "(n,)", step.shape)
    ax.plot(step, _drawn(horizon), ".-", color=GREEN, lw=1.2)
    ax.set_ylim(bottom=0)
    label(ax, "step", "steps back", "Horizon of the gradient")
    return ax


def _named(
    flow: GradientFlow | Mapping[str, GradientFlow],
) -> list[tuple[str, GradientFlow]]:
    if isinstance(flow, GradientFlow):
        return [("", flow)]
    named = list(flow.items()) if isinstance(flow, Mapping) else [("", flow)]
    for _, one in named:
        if not isinstance(one, GradientFlow):
            raise TypeError(
                "flow must be a GradientFlow, or a dict of them by name, "
                f"got {type(one).__name__}"
            )
    return named


def _cycle() -> list[str]:
    return list(COLOURS) * 8


def _drawn(values: Array) -> Array:
    """Return values with NaN, a gap in the line, for what is infinite."""
    return np.where(np.isfinite(values), values, np.nan)


def _range(values: Array) -> tuple[Array, Array]:
    """Return the least and the largest of each row's finite values, else NaN."""
    finite = np.isfinite(values)
    low = values.min(axis=1, where=finite, initial=np.inf)
    high = values.max(axis=1, where=finite, initial=-np.inf)
    return _drawn(low), _drawn(high)


def last_steps(tape: Tape, steps: int) -> Tape:
    """Return the tape of the last steps of the first sequence since it began anew."""
    path = Path(tape)
    path.check_sequences()
    tape, row = path.tape, int(path.row[0])
    T = int(path.lengths[row])
    start = max(0, T - steps)
    anew = [t - 1 for t in range(start + 1, T + 1) if row in path.cuts(t)]
    start = anew[-1] if anew else start
    z = np.zeros((T - start + 1, 1, path.H), tape.W.dtype)
    for stretch in path.forward(start, T):
        z[stretch.t0 - start : stretch.t1 - start + 1, 0] = stretch.z[:, row]
    x = np.array([path.at(tape.x, t)[row] for t in range(start + 1, T + 1)])
    x = x.reshape(T - start, 1, *tape.x.shape[2:]).astype(tape.x.dtype)
    x.flags.writeable = False
    return Tape(addresses(x), tape.W, tape.V, tape.b, z, tape.activation, False)
