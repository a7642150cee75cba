"""The last steps of a walk through a long sequence, kept for truncated BPTT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._directions import Order
from bptt._forms import Ragged, Rectangle
from bptt._ids import as_ids
from bptt._inputs import NO_CLIP, ErrorClip
from bptt._runs import Run
from bptt._stack import Stack, States
from bptt._stack_tape import StackGradients, StackTape
from bptt.recurrence import Tape

Array = NDArray[Any]


class Window:
    """A walk through a sequence in pieces, and a way back through its last steps.

    Each piece starts in the state in which the one before ended. What the way back
    needs of earlier pieces is kept, not computed again. A sequence may end within a
    piece, and then has no part in those that follow.

    Parameters
    ----------
    stack : Stack
        Layers in one direction.
    k2 : int
        Steps that are kept.

    Attributes
    ----------
    state : ndarray of shape (L, B, H) or (L, H), or None
        Where the next piece starts; None is 0.
    """

    def __init__(self, stack: Stack, k2: int) -> None:
        self.stack, self.k2 = stack, k2
        self.start(None)

    def start(self, state: States, reset_state: States = None) -> None:
        """Forget all steps: the next piece is the first of a sequence.

        Its resets start from the state of each cell that is given, by default 0.
        """
        self.state = state
        self._again = reset_state if reset_state is not None else self.stack.zeros()
        self._tape: StackTape | None = None
        self._kept: dict[str, _Rolling] = {}
        self._dz: Array | None = None
        self._filled = 0

    def follow(self, tape: Tape) -> None:
        """Go on where a run of a single layer ended, and keep what it left."""
        states = tape.z[1:] if tape.batched else tape.z[1:, 0]
        last = tape.z_last[np.newaxis]
        order = Order(tape.x, None, None)
        self.start(last)
        self._tape = StackTape((tape,), (), last, states.shape, order)

    def forward(
        self,
        params: Mapping[str, Array],
        x: ArrayLike,
        generator: np.random.Generator | None = None,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> tuple[Array, StackTape]:
        """Read the next piece; return the states of the last layer, and its tape.

        Resets go with all pieces of a sequence or with none.
        """
        whole = np.shape(x)[0] >= self.k2
        if whole:
            # It leaves nothing of those before, whose memory is free for it.
            self._kept, self._tape = {}, None
        elif not self._kept and self._tape is not None:
            self._keep(self._tape)
        if self._kept and ("resets" in self._kept) != (resets is not None):
            raise ValueError(
                "resets must come with all pieces of a batch, or with none of them"
            )
        z, tape = self.stack.forward(
            params,
            x,
            self.state,
            lengths=lengths,
            resets=resets,
            reset_state=None if resets is None else self._again,
            generator=generator,
        )
        if not whole:
            self._keep(tape)
        self.state, self._tape = tape.z_last.copy(), tape
        return z, tape

    def backward(self, dz: Array, error: ErrorClip = NO_CLIP) -> StackGradients:
        """Return the gradients of a loss on the states of the last piece.

        They take the states of earlier pieces as they were, and the parameters as they
        are. The gradient z0 is that of the state before the first step kept.
        """
        assert self._tape is not None
        tape = self._tape
        if self._kept and tape.valid is None:
            tape = self._kept_tape()
            dz = self._padded(dz, tape.shape[0])
        grads = self._back(tape, dz, None, error)
        if self._kept and tape.valid is not None:
            # Where sequences end is in the last piece: those before are whole to all
            # that go on to it, and no error comes to the others.
            earlier = self._kept_tape(before=tape.shape[0])
            more = self._back(earlier, None, grads.z0, error)
            for name, total in grads.params.items():
                total += more.params[name]
            grads = grads._replace(z0=more.z0)
        return grads

    def arrays(self) -> dict[str, Array]:
        """Return copies of all that is needed to go on from here."""
        if self._tape is None:
            return {}
        if not self._kept:
            self._keep(self._tape)
        arrays = {name: kept.last().copy() for name, kept in self._kept.items()}
        return {"state": np.array(self.state), **arrays}

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Refuse what `arrays` of such a window would not have returned."""
        stack, H = self.stack, self.stack.hidden_size
        n, B = np.shape(arrays.get("z.0", np.empty((1, 0, 0))))[:2]
        shapes: dict[str, tuple[int, ...]] = {}
        for cell in range(stack.cells):
            shapes[f"x.{cell}"] = (n - 1, B, H if cell else stack.input_size)
            shapes[f"z.{cell}"] = (n, B, H)
            if cell and stack.dropout:
                shapes[f"mask.{cell - 1}"] = (n - 1, B, H)
        if "resets" in arrays:
            shapes["resets"] = (n - 1, B)
        if wrong := sorted(arrays.keys() ^ {"state", *shapes}):
            what = "not wanted" if wrong[0] in arrays else "missing"
            raise ValueError(f"window.{wrong[0]} is {what}")
        shapes["state"] = (stack.cells, B, H)
        if arrays["state"].ndim == 2 and B == 1:  # of one sequence
            shapes["state"] = (stack.cells, H)
        if "mask.0" in shapes and len(shapes["state"]) == 2:
            shapes |= {k: (n - 1, H) for k in shapes if k.startswith("mask")}
        if arrays["x.0"].ndim == 2:
            as_ids("window.x.0", arrays["x.0"], stack.input_size)
            shapes["x.0"] = (n - 1, B)
        for name, shape in shapes.items():
            array, dtype = arrays[name], stack.dtype
            if name == "x.0" and array.ndim == 2:
                dtype = np.dtype(np.intp)
            elif name.startswith(("mask", "resets")):
                dtype = np.dtype(bool)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"window.{name} must have shape {shape} and dtype {dtype}, "
                    f"got {array.shape} and {array.dtype}"
                )

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go on from what `arrays` returned, here or in another run."""
        self.start(None)
        if arrays:
            self.state = np.array(arrays["state"])
            for name, rows in arrays.items():
                if name != "state":
                    self._append(name, rows, self.k2 + name.startswith("z"))

    def _keep(self, tape: StackTape) -> None:
        """Add a piece to what is kept."""
        for cell, one in enumerate(tape.tapes):
            first = f"z.{cell}" not in self._kept
            x, z = _steps_of(one)
            self._append(f"x.{cell}", x, self.k2)
            self._append(f"z.{cell}", z if first else z[1:], self.k2 + 1)
        if tape.order.resets is not None:
            flags = tape.order.resets
            self._append("resets", flags.reshape(len(flags), -1), self.k2)
        for layer, mask in enumerate(tape.masks):
            if mask is not None:
                self._append(f"mask.{layer}", mask, self.k2)

    def _back(
        self,
        tape: StackTape,
        dz: Array | None,
        dz_last: Array | None,
        error: ErrorClip,
    ) -> StackGradients:
        return self.stack.flows_back(tape, dz, dz_last, need_x_grad=False, **error)[0]

    def _padded(self, dz: Array, steps: int) -> Array:
        """Return dz with 0 before it: the losses of earlier pieces had their turn."""
        if self._dz is None or len(self._dz) < steps:
            room = min(self.k2, 2 * steps)
            self._dz, self._filled = np.zeros((room, *dz.shape[1:]), dz.dtype), 0
        end, new = len(self._dz), len(dz)
        self._dz[end - max(self._filled, new) : end - new] = 0
        self._dz[end - new :] = dz
        self._filled = new
        return self._dz[end - steps :]

    def _append(self, name: str, rows: Array, size: int) -> None:
        if name not in self._kept:
            self._kept[name] = _Rolling(size)
        self._kept[name].append(rows)

    def _kept_tape(self, before: int = 0) -> StackTape:
        """Return the tape of the window, or of what is before its last steps."""
        assert self._tape is not None
        steps = len(self._kept["x.0"].last()) - before
        tapes = []
        for cell, one in enumerate(self._tape.tapes):
            x = self._kept[f"x.{cell}"].last()[:steps]
            z = self._kept[f"z.{cell}"].last()[: steps + 1]
            x.flags.writeable = z.flags.writeable = False
            kept = Tape(x, one.W, one.V, one.b, z, one.activation, one.batched)
            if "resets" in self._kept:
                flags = self._kept["resets"].last()[:steps]
                kept = _with_resets(kept, flags, self._again[cell])
            tapes.append(kept)
        masks = tuple(
            None if mask is None else self._kept[f"mask.{layer}"].last()[:steps]
            for layer, mask in enumerate(self._tape.masks)
        )
        return replace(
            self._tape,
            tapes=tuple(tapes),
            masks=masks,
            shape=(steps, *self._tape.shape[1:]),
            order=Order(tapes[0].x, None, None),
        )


def _steps_of(tape: Tape) -> tuple[Array, Array]:
    """Return x and z of a tape step by step, with 0 where a sequence has ended."""
    if not isinstance(tape, Run) or not isinstance(tape.form, Ragged):
        return tape.x, tape.z
    form, x = tape.form, tape.x
    # What stands in the padding of features is the caller's.
    cells = x if x.ndim == 2 else form.cells_of(x[:, 0])
    return form.scatter(cells), np.concatenate(
        [tape.z0[np.newaxis], form.shaped(tape.z)]
    )


def _with_resets(tape: Tape, flags: Array, again: ArrayLike) -> Tape:
    """Return a tape whose rows start anew from a state where flags (T, B) say so."""
    T, B = flags.shape
    form = Rectangle(T, B, tape.batched)
    layout = form.layout(flags, first=0, apart=True)
    if layout is None:
        return tape
    first, last = tape.z[0], tape.z[-1]
    starts = np.concatenate([first, np.broadcast_to(again, first.shape)])
    layout = layout._replace(starts=starts)
    return Run(
        tape.x, tape.W, tape.V, tape.b, tape.z, tape.activation, tape.batched,
        form, layout, first, last, None, [], [0], None,
    )  # fmt: skip


class _Rolling:
    """The last rows of an array that grows, always in one block."""

    def __init__(self, size: int) -> None:
        self.size, self.end = size, 0
        self.block: Array | None = None

    def append(self, rows: Array) -> None:
        """Add rows at the end."""
        rows = rows[-self.size :]
        if self.block is None:
            self.block = np.empty((len(rows), *rows.shape[1:]), rows.dtype)
        stay = min(self.end, self.size - len(rows))
        if self.end + len(rows) > len(self.block):
            # With room for as many again, a row is moved about once.
            room, old = 2 * (stay + len(rows)), self.block[self.end - stay : self.end]
            if len(self.block) < room:
                self.block = np.empty((room, *rows.shape[1:]), rows.dtype)
            self.block[:stay] = old
            self.end = stay
        self.block[self.end : self.end + len(rows)] = rows
        self.end += len(rows)

    def last(self) -> Array:
        """Return a view of the last rows."""
        assert self.block is not None
        return self.block[max(0, self.end - self.size) : self.end]
