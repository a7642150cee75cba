"""The live line of ``bptt train``, and what of it is kept with the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bptt.flow import horizon
from bptt.network_flow import trace_last

if TYPE_CHECKING:
    from bptt.history import History, Record
    from bptt.network import Network

# Steps between two looks at the horizon, and sequences that are looked at: a hundredth
# of the time of training.
EVERY, SEQUENCES = 100, 4

# Points of the norm's record that are kept with a model.
KEPT = 1000


class Watch:
    """Says what a step was, and now and then how far back its gradient reached, in the
    last layer where there are several.

    Parameters
    ----------
    network : Network
        That is trained.
    batches : callable
        Its batches, of token ids (T, B) and theirs.
    """

    def __init__(self, network: Network, batches: Callable[[int], Any]) -> None:
        self.network = network
        self.batches = batches
        self.horizons: list[tuple[int, float]] = []

    def __call__(self, record: Record) -> str:
        """Return the line of a step."""
        if record.step % EVERY == 1:
            self.horizons.append((record.step, self._horizon(record.step - 1)))
        return (
            f"{record.loss / math.log(2):.3f} bits/char, |g| {record.norm:.2f}, "
            f"clipped {record.clipped_fraction:.0%}{self._said()}"
        )

    def kept(self, history: History, clip: float) -> dict[str, Any]:
        """Return what goes into the metadata of the model."""
        every = max(1, -(-len(history.norm) // KEPT))
        norm = history.norm[::every]
        finite = [(step, h) for step, h in self.horizons if math.isfinite(h)]
        return {
            "norm": [float(f"{v:.4g}") for v in norm],
            "every": every,
            "clip": clip,
            "clipped_fraction": history.clipped_fraction,
            "horizon": finite,
        }

    def _said(self) -> str:
        if not self.horizons:
            return ""
        steps = self.horizons[-1][1]
        return ", horizon > T" if steps == math.inf else f", horizon {steps:.0f}"

    def _horizon(self, step: int) -> float:
        x, target = self.batches(step)
        one = trace_last(self.network, x[:, :SEQUENCES], target[:, :SEQUENCES])
        try:
            return horizon(one.tape, one.dz, dz_last=one.dz_last)
        except ValueError:  # a loss that is learned to the last bit has no gradient
            return math.inf
