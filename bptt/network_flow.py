"""Gradient flow of a network: its loss brought back to the states of its layers.

What `bptt.flow` does with a tape and dz, for a network and a batch. A cell is a layer
in one direction, as in `_stack.py`, and what flows in it flows through its own V: the
loss of a layer below the last is what comes down from those above.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._asked import asked, places
from bptt._readout import LeafLoss, last_of, read_tape_back, spread
from bptt._runs import Run, leaves_of, walk_back
from bptt._stack import NOTHING
from bptt._stack_inputs import as_network_budgets, forward_within
from bptt._stack_tape import StackTape
from bptt.flow import GradientFlow, gradient_flow, omega
from bptt.network import Network
from bptt.recurrence import Tape, backward

Array = NDArray[Any]


class Trace(NamedTuple):
    """A forward pass with its loss, and the gradient of that by the states of a cell.

    Attributes
    ----------
    loss : float
    tape : Tape
        Of the cell, in its own order of time: that which reads from the end begins
        there. Lists of sequences are values one after another.
    dz : ndarray of shape (T, B, H), or None
        In the order and the form of the tape. None in the last layer where the readout
        is "last".
    dz_last : ndarray of shape (B, H), or None
        None but in the last layer where the readout is "last".
    """

    loss: float
    tape: Tape
    dz: Array | None
    dz_last: Array | None


def trace(
    network: Network,
    x: Any,
    target: Any,
    z0: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    resets: Any = None,
) -> Trace:
    """Return what `bptt.gradient_flow` needs, of a network and a batch.

    The state of a stateful network is neither used nor changed.

    Parameters
    ----------
    network : Network
        Of one layer in one direction.
    x, target, z0, lengths, resets : array_like
        As in `Network.loss_and_gradients`; z0 is 0 by default. In the padding dz is 0.

    Returns
    -------
    Trace

    Raises
    ------
    TypeError, ValueError
        The network is none or has several layers, or arguments do not fit.

    Examples
    --------
    >>> network = Network(2, 8, 1, loss="squared_error", readout="last", seed=0)
    >>> one = trace(network, np.ones((30, 4, 2), np.float32), np.zeros((4, 1)))
    >>> one.tape, one.dz is None, one.dz_last.shape
    (Tape(T=30, B=4, I=2, H=8, float32, tanh), True, (4, 8))
    """
    _check(network)
    if network.stack.cells > 1:
        raise ValueError(
            "network must have one layer in one direction; layer_traces and "
            f"layer_flows are for more, got {', '.join(network.stack.parts())}"
        )
    return next(_down(network, x, target, z0, lengths=lengths, resets=resets))


def layer_traces(
    network: Network,
    x: Any,
    target: Any,
    z0: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    resets: Any = None,
    memory: int | str | None = None,
    checkpoint: int | None = None,
) -> list[Trace]:
    """Return what `bptt.gradient_flow` needs of each cell, without dropout.

    Parameters
    ----------
    network : Network
        Of any number of layers, in one direction or both.
    x, target, z0, lengths, resets, memory, checkpoint
        As in `Network.loss_and_gradients`; z0 is 0 by default. Where states are
        recomputed there is a dz for all steps none the less, as large as the states of
        one layer, and sequences must have one length for more than the last layer's.

    Returns
    -------
    list of Trace
        From the first layer to the last; of two directions that which reads from the
        first step comes first. The gradient of the loss by a parameter of a cell is
        that by `bptt.backward`.

    Raises
    ------
    TypeError, ValueError
        The network is none, or arguments do not fit.

    Examples
    --------
    >>> network = Network(2, 8, 1, loss="squared_error", num_layers=2, seed=0)
    >>> batch = np.ones((9, 4, 2), np.float32), np.zeros((9, 4, 1))
    >>> [one.tape for one in layer_traces(network, *batch)]
    [Tape(T=9, B=4, I=2, H=8, float32, tanh), Tape(T=9, B=4, I=8, H=8, float32, tanh)]
    """
    _check(network)
    stack, every = network.stack, network.readout == "every"
    budget = as_network_budgets(stack, memory, checkpoint, every=every, apart=True)
    down = list(_down(network, x, target, z0, budget, lengths=lengths, resets=resets))
    D = stack.directions
    layers = [down[at : at + D] for at in range(0, len(down), D)]
    return [one for layer in reversed(layers) for one in layer]


def trace_last(network: Network, x: ArrayLike, target: ArrayLike) -> Trace:
    """Return what `bptt.gradient_flow` needs of the last layer of a network.

    Of one direction, from states of 0 and without dropout.

    Parameters
    ----------
    network : Network
    x, target : array_like
        As in `Network.loss_and_gradients`.

    Returns
    -------
    Trace
        With the tape of the last layer, whose x are the states of the layer below.

    Examples
    --------
    >>> network = Network(2, 8, 1, loss="squared_error", num_layers=2, seed=0)
    >>> one = trace_last(network, np.ones((9, 4, 2), np.float32), np.zeros((9, 4, 1)))
    >>> one.tape, one.dz.shape
    (Tape(T=9, B=4, I=8, H=8, float32, tanh), (9, 4, 8))
    """
    _check(network)
    if network.stack.directions > 1:
        raise ValueError("network must have one direction, got a bidirectional one")
    return next(_down(network, x, target))


def network_flow(
    network: Network,
    x: Any,
    target: Any,
    z0: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    resets: Any = None,
) -> GradientFlow:
    """Return `bptt.gradient_flow` of a network's loss on a batch.

    Parameters
    ----------
    network, x, target, z0, lengths, resets
        As in `trace`.

    Returns
    -------
    GradientFlow

    Examples
    --------
    >>> network = Network(2, 8, 1, loss="squared_error", readout="last", seed=0)
    >>> network_flow(network, np.ones((30, 4, 2), np.float32), np.zeros((4, 1))).kind
    'vanishing'
    """
    one = trace(network, x, target, z0, lengths=lengths, resets=resets)
    return gradient_flow(one.tape, one.dz, dz_last=one.dz_last)


def layer_flows(
    network: Network, x: Any, target: Any, z0: ArrayLike | None = None, **options: Any
) -> list[GradientFlow | None]:
    """Return `bptt.gradient_flow` of each cell: ||dL/dz[t]||, and decay through its V.

    Parameters
    ----------
    network, x, target, z0
        As in `layer_traces`.
    **options
        lengths, resets, memory, checkpoint, as there; where states are recomputed
        sequences must have one length.

    Returns
    -------
    list of GradientFlow
        In the order of `layer_traces`. None for a cell that no gradient comes to, as
        below a layer whose units are all dead.

    Examples
    --------
    >>> network = Network(2, 8, 1, loss="squared_error", num_layers=2, seed=0)
    >>> batch = np.ones((99, 4, 2), np.float32), np.zeros((99, 4, 1))
    >>> [flow.kind for flow in layer_flows(network, *batch, checkpoint=10)]
    ['vanishing', 'vanishing']
    """
    return flows_of(layer_traces(network, x, target, z0, **options))


def flows_of(traces: Sequence[Trace]) -> list[GradientFlow | None]:
    """Return what `layer_flows` does, of the traces of all cells."""
    reached = [
        any(dz is not None and dz.any() for dz in (one.dz, one.dz_last))
        for one in traces
    ]
    none = not any(reached)  # the loss has no gradient, and gradient_flow says so
    return [
        gradient_flow(one.tape, one.dz, dz_last=one.dz_last) if some or none else None
        for one, some in zip(traces, reached, strict=True)
    ]


def network_omega(
    network: Network,
    x: Any,
    target: Any,
    z0: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    resets: Any = None,
    form: str = "sum",
    through: str = "everything",
) -> tuple[float, dict[str, Array]]:
    """Return Omega of a network's loss on a batch, and its gradients by name.

    Those of U and c are 0: `bptt.flow.omega` takes the loss's dz as given.

    Parameters
    ----------
    network, x, target, z0, lengths, resets
        As in `trace`.
    form, through : str
        As in `bptt.flow.omega`.

    Returns
    -------
    value : float
    gradients : dict of ndarray
        Of W, V, b, U and c.

    Examples
    --------
    >>> network = Network(2, 8, 1, loss="squared_error", readout="last", seed=0)
    >>> batch = np.ones((30, 4, 2), np.float32), np.zeros((4, 1))
    >>> value, gradients = network_omega(network, *batch)
    >>> value > 1, sorted(gradients)
    (True, ['U', 'V', 'W', 'b', 'c'])
    """
    one = trace(network, x, target, z0, lengths=lengths, resets=resets)
    _, tape, dz, dz_last = one
    value, grads = omega(tape, dz, dz_last=dz_last, form=form, through=through)
    gradients = {name: np.zeros_like(p) for name, p in network.params.items()}
    gradients.update({"W": grads.W, "V": grads.V, "b": np.asarray(grads.b)})
    return value, gradients


def _check(network: Network) -> None:
    if not isinstance(network, Network):
        raise TypeError(f"network must be a bptt.Network, got {network!r}")


def _down(
    network: Network,
    x: Any,
    target: Any,
    z0: ArrayLike | None = None,
    budget: Mapping[str, int] = NOTHING,
    **ends: Any,
) -> Iterator[Trace]:
    """Yield the trace of each cell, from the last layer down, those of a layer in the
    order of its directions; `ends` are lengths and resets.
    """
    stack, H, D = network.stack, network.hidden_size, network.stack.directions
    every = network.readout == "every"
    states = stack.states(x, z0)
    z, tape = forward_within(stack, budget, network.params, x, states, **ends)
    dz: Array | None = None
    dz_last: Array | None = None
    if every and budget:
        loss, dz = _by_leaf(network, tape, target)
    else:
        loss, _, _, drows = read_tape_back(
            stack, network.params, z, tape, target, loss=network.loss,
            readout=network.readout,
        )  # fmt: skip
        if every:
            dz = spread(tape.valid, drows)
        else:
            dz_last = last_of(tape, D, drows)
    turned = tape.order.reversal
    for layer in range(stack.num_layers - 1, -1, -1):
        below = None
        for d, one in enumerate(tape.tapes[layer * D : layer * D + D]):
            mine = last = None
            if dz is not None:
                mine = dz[..., d * H : (d + 1) * H]
                mine = turned(mine) if d else mine
            elif dz_last is not None:
                last = dz_last[layer * D + d]
            yield Trace(loss, one, mine, last)
            if layer > 0:
                dx = backward(one, mine, dz_last=last).x
                below = turned(dx) + below if d else dx
        dz = below


def _by_leaf(network: Network, tape: StackTape, target: Any) -> tuple[float, Array]:
    """Return the loss on states that are not all kept, and its gradient by them."""
    loss = LeafLoss(network.params, network.loss, tape, target)
    dz, top = np.zeros(tape.shape, network.dtype), tape.tapes[-1]
    rows = dz.reshape(-1, tape.shape[-1])
    if isinstance(top, Run) and top.schedule is not None:
        form, leaves = top.form, leaves_of(top)
        for i, z in walk_back(top, leaves):
            t0, t1 = leaves.bounds(i)
            part = asked(loss, form, (t0, t1), leaves.after(i, z), dz.dtype)
            where = places(form, t0, t1)
            mine = slice(t0 * form.B, t1 * form.B) if where is None else where
            rows[mine] = part.reshape(-1, rows.shape[-1])
    return loss.value, dz
