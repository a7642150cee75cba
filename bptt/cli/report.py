"""The report of ``bptt flow``: one HTML page with its pictures in it."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt import __version__, plots
from bptt._drawing import GREY
from bptt.cli.flow import Part, Subject, rows, verdict
from bptt.flow import GradientFlow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bptt.recurrence import Tape

# Letters and lines of the pictures take the colour of the page's text.
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
  max-width: 64rem; color: #1a1a1a; background: #ffffff; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; }
table { border-collapse: collapse; }
th, td { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
th { font-weight: normal; white-space: nowrap; opacity: .75; }
td { font-variant-numeric: tabular-nums; }
.pictures { display: grid; gap: 2rem 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; }
figcaption { font-size: .9rem; opacity: .85; }
footer { opacity: .75; font-size: .85rem; margin-top: 2rem; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #121212; } }
"""

# A heat map of more steps would only be larger, not finer.
_MAP_STEPS = 400

# What each picture shows: beneath it, and for who listens.
_WORDS = {
    "gradient_norms": "How long the gradient of the loss by the states of each step "
    "is. It comes back through time, from the right.",
    "decay": "What is left of the gradient k steps further back. Below the dotted line "
    "it is less than 1 %; the dashed line is what it cannot exceed.",
    "product_norms": "What the way back from step t to step i does to the length of a "
    "gradient, in the mean over its directions, in {of}: brown shrinks, purple "
    "stretches.",
    "singular_values": "How much the way back over a gap stretches the directions that "
    "it stretches most, in {of}.",
    "eigenvalues": "The eigenvalues of V, and the unit circle. Outside of it V by "
    "itself lets a direction grow, inside it lets one die out.",
    "saturation": "How steep the activation is where the units are, over all steps and "
    "sequences. The red bar is saturated: less than a twentieth of the steepest.",
    "loss_cliff": "Not of this model, but why gradients are clipped: one unit over 50 "
    "steps has a cliff in its loss, from which a plain step is thrown far away.",
    "clipping": "The norm of the gradient while the model was trained.",
    "horizons": "How many steps back the gradient reached meanwhile, to 1 % of what it "
    "was; where it reached through the whole of a batch's sequences there is no point.",
}


def page(subject: Subject) -> str:
    """Return the page."""
    title, body, n = html.escape(f"Gradient flow: {subject.name}"), "", 0
    level = 2 if len(subject.parts) == 1 else 3
    for part in subject.parts:
        tape = plots.last_steps(part.tape, _MAP_STEPS)
        drawn = _pictures(part, tape)
        if part is subject.parts[-1]:
            drawn |= _around(subject.training)
        of = f"the last {len(tape.x)} steps of the first sequence"
        heading = f"<h2>{html.escape(part.name)}</h2>" if part.name else ""
        body += (
            f"{heading}<p>{html.escape(verdict(part.found))}</p>"
            f"<table>{_cells(part.found)}</table>"
            f'<h{level}>Pictures</h{level}><div class="pictures">'
        )
        for name, draw in drawn.items():
            body += _figure(draw, n, _WORDS[name].format(of=of))
            n += 1
        body += "</div>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"{body}<footer>bptt {__version__}</footer></body></html>\n"
    )


def _cells(found: GradientFlow | None) -> str:
    """Return the rows of the table."""
    if found is None:
        return ""
    return "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        f"<td>{html.escape(value)}</td></tr>"
        for name, value in rows(found)
    )


def _figure(draw: Callable[[], Axes], n: int, text: str) -> str:
    words = f'<figcaption id="p{n}">{html.escape(text)}</figcaption>'
    return f"<figure>{_svg(draw, n)}{words}</figure>"


def _pictures(part: Part, tape: Tape) -> dict[str, Callable[[], Axes]]:
    """Return what is drawn of a layer and its last steps, by the name of its words."""
    drawn: dict[str, Callable[[], Axes]] = {}
    if (found := part.found) is not None:
        drawn["gradient_norms"] = lambda: plots.gradient_norms(found)
        drawn["decay"] = lambda: plots.decay(found)
    return drawn | {
        "product_norms": lambda: plots.product_norms(tape),
        "singular_values": lambda: plots.singular_values(tape),
        "eigenvalues": lambda: plots.eigenvalues(part.tape.V),
        "saturation": lambda: plots.saturation(part.tape),
    }


def _around(training: dict[str, Any]) -> dict[str, Callable[[], Axes]]:
    """Return what is drawn once, whatever layers there are."""
    drawn: dict[str, Callable[[], Axes]] = {"loss_cliff": plots.loss_cliff}
    norm: Any = training.get("norm")
    clip: Any = training.get("clip")
    every: Any = training.get("every", 1)  # of so many steps one was kept
    if (
        _numbers(norm)
        and (clip is None or (_numbers([clip]) and clip > 0))
        and (_numbers([every]) and every > 0)
    ):
        step = 1 + every * np.arange(len(norm))
        drawn["clipping"] = lambda: plots.clipping(norm, clip, step=step)
    seen: Any = training.get("horizon")
    if (
        isinstance(seen, list)
        and seen
        and all(_numbers(s) and len(s) == 2 for s in seen)
    ):
        drawn["horizons"] = lambda: plots.horizons(*np.array(seen, np.float64).T)
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
    text = text[text.index("<svg") :].replace(GREY, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # Names within one picture must not meet those of the next on the page.
    text = re.sub(r'\bid="', f'id="p{n}-', text)
    text = re.sub(r'href="#', f'href="#p{n}-', text)
    text = re.sub(r"url\(#", f"url(#p{n}-", text)
    # Letters are drawn as curves, so that who listens is told what the picture shows.
    return text.replace("<svg", f'<svg role="img" aria-labelledby="p{n}"', 1)
