"""What pictures have in common: Axes, letters and colours for either kind of page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of equal contrast, 4.5, to white and to black.
GREY = "#767676"
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE = "#56B4E9", "#CC79A7"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE)


def axes_for(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "pictures need matplotlib: pip install 'bptt[plot]'"
        ) from None
    # Small, so that the letters can be read on a phone.
    # No pyplot: it would keep every figure, and ask for a display.
    figure = Figure(figsize=(4.4, 3.2), layout="constrained")
    figure.patch.set_alpha(0)
    ax = figure.subplots()
    ax.patch.set_alpha(0)
    ax.tick_params(colors=GREY, which="both")
    for side in ax.spines.values():
        side.set_color(GREY)
    for text in (ax.xaxis.label, ax.yaxis.label, ax.title):
        text.set_color(GREY)
    return ax


def label(ax: Axes, x: str, y: str, title: str) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, fontsize="medium")


def legend(ax: Axes) -> Axes:
    handles, names = ax.get_legend_handles_labels()
    if len(handles) > 1:
        colour = ink(ax)
        ax.legend(handles, names, labelcolor=colour, framealpha=0, fontsize=9)
    return ax


def ink(ax: Axes) -> Any:
    """Return the colour of the letters, which in a given Axes are the caller's."""
    return ax.xaxis.label.get_color()


def colour_bar(ax: Axes, image: Any) -> None:
    bar: Any = ax.figure.colorbar(image, ax=ax)
    bar.ax.tick_params(colors=ink(ax))
    bar.outline.set_edgecolor(ink(ax))
