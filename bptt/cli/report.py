"""The report of ``bptt flow``: one HTML page with its pictures in it."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bptt import __version__, plots
from bptt.cli.flow import Subject, rows
from bptt.flow import GradientFlow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Letters and lines of the pictures take the colour of the page's text.
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
  max-width: 64rem; color: #1a1a1a; background: #ffffff; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; }
table { border-collapse: collapse; } td { padding: .15rem .8rem .15rem 0; }
td:last-child { font-variant-numeric: tabular-nums; }
.pictures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; }
footer { opacity: .75; font-size: .85rem; margin-top: 2rem; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #121212; } }
"""

# A heat map of more steps would only be larger, not finer.
_MAP_STEPS, _VALUE_STEPS = 400, 400


def page(subject: Subject, found: GradientFlow) -> str:
    """Return the page."""
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in rows(found)
    )
    figures = "".join(
        f"<figure>{_svg(draw, n)}</figure>"
        for n, draw in enumerate(_pictures(subject, found))
    )
    title = html.escape(f"Gradient flow: {subject.name}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title}</h1><p>{html.escape(found.verdict)}</p>"
        f'<table>{cells}</table><h2>Pictures</h2><div class="pictures">{figures}</div>'
        f"<footer>bptt {__version__}. In the map and the singular values: the last "
        f"{_MAP_STEPS} steps at most of the first sequence.</footer></body></html>\n"
    )


def _pictures(subject: Subject, found: GradientFlow) -> list[Callable[[], Axes]]:
    tape = plots.last_steps(subject.tape, _MAP_STEPS)
    drawn: list[Callable[[], Axes]] = [
        lambda: plots.gradient_norms(found),
        lambda: plots.decay(found),
        lambda: plots.product_norms(tape),
        lambda: plots.singular_values(tape),
        lambda: plots.eigenvalues(subject.tape.V),
        lambda: plots.saturation(subject.tape),
        plots.loss_cliff,
    ]
    norm: Any = subject.training.get("norm")
    clip: Any = subject.training.get("clip")
    if _numbers(norm) and (clip is None or _numbers([clip])):
        drawn.append(lambda: plots.clipping(norm, clip))
    return drawn


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in values
    )


def _svg(draw: Callable[[], Axes], n: int) -> str:
    """Return a picture as an element of the page."""
    buffer = io.StringIO()
    figure: Any = draw().figure
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(plots.GREY, "currentColor")
    # Names within one picture must not meet those of the next on the page.
    text = re.sub(r'\bid="', f'id="p{n}-', text)
    text = re.sub(r'href="#', f'href="#p{n}-', text)
    return re.sub(r"url\(#", f"url(#p{n}-", text)
