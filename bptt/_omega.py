"""The regulariser Omega on the gradients of a network's layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt._stack_tape import StackGradients, StackTape
from bptt.flow.regulariser import OmegaTerm, omega

Array = NDArray[Any]


def with_omega(
    grads: StackGradients,
    tape: StackTape,
    dz: Array | None,
    dz_last: Array | None,
    term: OmegaTerm,
) -> StackGradients:
    """Return the gradients of a layer with those of a term of `bptt.flow.omega`.

    The tape and dz are those that the gradients came from: no state is computed anew.
    """
    if len(tape.tapes) > 1:
        raise ValueError(
            f"omega needs a network of one layer, got one of {len(tape.tapes)} cells"
        )
    one = tape.tapes[0]
    last = None if dz_last is None else dz_last[0]
    need_x_grad = grads.x is not None
    _, extra = omega(
        one,
        dz,
        dz_last=last,
        form=term.form,
        through=term.through,
        need_x_grad=need_x_grad,
    )

    def plus(gradient: Array, of_omega: Array) -> Array:
        total: Array = gradient + (term.weight * of_omega).astype(gradient.dtype)
        return total

    dx = grads.x
    if extra.x is not None:
        added = tape.order.split(extra.x)
        if isinstance(dx, list):
            dx = [plus(one, more) for one, more in zip(dx, added, strict=True)]
        else:
            dx = plus(dx, added)
    return StackGradients(
        {
            name: plus(gradient, np.asarray(getattr(extra, name)))
            for name, gradient in grads.params.items()
        },
        plus(grads.z0, extra.z0[np.newaxis]),
        dx,
    )
