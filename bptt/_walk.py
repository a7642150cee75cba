"""Training by truncated BPTT: batches are walked through in pieces, an update each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import initializers
from bptt._forms import Rectangle, is_list
from bptt._inputs import NO_CLIP, ErrorClip
from bptt._lengths import from_lengths
from bptt._pieces import lengths_of_piece
from bptt._readout import NetworkGradients
from bptt._stack import States
from bptt._stack_tape import StackGradients
from bptt._validation import as_array
from bptt._window import Window
from bptt.data import Batch, Batches, as_batch
from bptt.network import Network
from bptt.truncation import as_steps

Array = NDArray[Any]


class Walk:
    """Batches in pieces of k1 steps, and the last k2 steps of the batch at hand.

    Parameters
    ----------
    network : Network
        In one direction, with a loss on every step.
    batches : callable
        As `bptt.train` takes it; all batches must have as many steps.
    k1, k2 : int
        Steps between updates, and steps that one goes back.

    Attributes
    ----------
    pieces : int
        Of each batch.
    """

    def __init__(
        self, network: Network, batches: Batches, k1: int, k2: int | None
    ) -> None:
        self.k1, self.k2 = as_steps(k1, k2)
        if network.stack.directions == 2:
            raise ValueError(f"k1 must be None for a bidirectional network, got {k1}")
        if network.readout == "last":
            raise ValueError(
                "k1 must be None for readout='last', whose loss is on one step alone, "
                f"got {k1}"
            )
        self.network, self.batches = network, batches
        self.window = Window(network.stack, self.k2)
        self._before: States = None
        self._index, self._whole = 0, self._batch(0)
        self.steps = len(self._whole.x)
        self.pieces = max(1, -(-self.steps // self.k1))

    def __call__(self, step: int) -> Batch:
        """Return the piece of this step."""
        index, piece = divmod(step, self.pieces)
        if index != self._index:
            whole = self._batch(index)
            if len(whole.x) != self.steps:
                raise ValueError(
                    f"batches({index}) must have T = {self.steps} steps like "
                    f"batches(0), got {len(whole.x)}"
                )
            self._index, self._whole = index, whole
        x, target, lengths, resets = self._whole
        first = piece * self.k1
        x, target = x[first : first + self.k1], target[first : first + self.k1]
        if lengths is not None:
            lengths = lengths_of_piece(lengths, first, len(x))
        if resets is not None:
            resets = resets[first : first + self.k1]
        return Batch(x, target, lengths, resets)

    def loss_and_gradients(
        self,
        step: int,
        piece: Batch,
        seed: initializers.Seed,
        error: ErrorClip = NO_CLIP,
    ) -> tuple[float, NetworkGradients | StackGradients]:
        """Read the piece of this step, and return the loss and what k2 steps give."""
        if step % self.pieces == 0:
            self.window.start(self.network.initial_states(piece.x))
        self._before = self.window.state
        return self.network.learn_piece(
            self.window,
            piece.x,
            piece.target,
            lengths=piece.lengths,
            resets=piece.resets,
            seed=seed,
            error=error,
        )

    def forget(self) -> None:
        """Go on from the state before the last piece, with nothing else kept."""
        self.window.start(self._before)

    def arrays(self) -> dict[str, Array]:
        """Return copies of all that is needed to go on."""
        return {"k": np.array([self.k1, self.k2]), **self.window.arrays()}

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Refuse what `arrays` of such a walk would not have returned.

        Raises
        ------
        TypeError, ValueError
            They are of another k1 or k2, or are damaged.
        """
        if "k" not in arrays or arrays["k"].tolist() != [self.k1, self.k2]:
            raise ValueError(
                f"window.k must be [{self.k1}, {self.k2}], k1 and k2 of the run that "
                f"is resumed, got {arrays['k'].tolist() if 'k' in arrays else None}"
            )
        self.window.check({n: a for n, a in arrays.items() if n != "k"})

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go on from what `arrays` returned, once it is checked."""
        self.window.restore({n: a for n, a in arrays.items() if n != "k"})

    def _batch(self, index: int) -> Batch:
        name = f"batches({index})"
        batch = as_batch(f"{name} must return", self.batches(index))
        if is_list(batch.x):
            raise ValueError(
                f"k1 must be None for lists of sequences, got {self.k1}; "
                "bptt.data.pad puts them side by side"
            )
        x, target = as_array("x", batch.x), as_array("target", batch.target)
        if not x.ndim or not target.ndim or len(x) != len(target):
            raise ValueError(
                f"{name} must have as many targets as steps, "
                f"got shapes {x.shape} and {target.shape}"
            )
        lengths, resets = batch.lengths, batch.resets
        batched = x.ndim + (x.dtype.kind in "iu") == 3  # an id stands for a row
        if resets is not None:
            form = Rectangle(len(x), x.shape[1] if batched else 1, batched)
            resets = form.flags("resets", resets)
            resets = resets if batched else resets[:, 0]
        if lengths is not None:
            if not batched:
                raise ValueError(
                    "x must have shape (T, B, I) or (T, B) with lengths, "
                    f"got {x.shape} in {name}"
                )
            lengths = from_lengths(lengths, *x.shape[:2])
        return Batch(x, target, lengths, resets)
