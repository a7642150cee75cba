"""Gradient flow of a network: its loss brought back to the states of its layer.

What `bptt.flow` does with a tape and dz, for a network of one layer and a batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import losses
from bptt._readout import read_back, rows_of
from bptt.flow import GradientFlow, gradient_flow, omega
from bptt.network import Network
from bptt.recurrence import Tape, forward

Array = NDArray[Any]


class Trace(NamedTuple):
    """A forward pass with its loss, and the gradient of that by the states.

    Attributes
    ----------
    loss : float
    tape : Tape
    dz : ndarray of shape (T, B, H), or None
        Where the readout is "every".
    dz_last : ndarray of shape (B, H), or None
        Where the readout is "last".
    """

    loss: float
    tape: Tape
    dz: Array | None
    dz_last: Array | None


def trace(
    network: Network, x: ArrayLike, target: ArrayLike, z0: ArrayLike | None = None
) -> Trace:
    """Return what `bptt.gradient_flow` needs, of a network and a batch.

    The state of a stateful network is neither used nor changed.

    Parameters
    ----------
    network : Network
        Of one layer.
    x, target, z0 : array_like
        As in `Network.loss_and_gradients`; z0 is 0 by default.

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
    if not isinstance(network, Network):
        raise TypeError(f"network must be a bptt.Network, got {network!r}")
    p = network.params
    if p.keys() != {"W", "V", "b", "U", "c"}:
        raise ValueError(f"network must have one layer, got one of {', '.join(p)}")
    z, tape = forward(x, p["W"], p["V"], p["b"], z0, activation=network.activation)
    rows = z
    if network.readout == "last":
        rows = tape.z[-1] if tape.batched else tape.z[-1, 0]
    f = (rows.reshape(-1, len(p["U"])) @ p["U"] + p["c"]).reshape(*rows.shape[:-1], -1)
    loss, df = losses.TABLE[network.loss](f, target)
    dz = (df.reshape(-1, p["U"].shape[1]) @ p["U"].T).reshape(rows.shape)
    if network.readout == "last":
        return Trace(loss, tape, None, dz)
    return Trace(loss, tape, dz, None)


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
    if network.stack.directions > 1:
        raise ValueError("network must have one direction, got a bidirectional one")
    states = network.stack.states(x, None)
    z, stack = network.stack.forward(network.params, x, states)
    rows = rows_of(z, stack, network.readout, 1)
    loss, _, _, drows = read_back(network.params, rows, network.loss, target)
    if network.readout == "last":
        return Trace(loss, stack.tapes[-1], None, drows)
    return Trace(loss, stack.tapes[-1], drows, None)


def network_flow(
    network: Network, x: ArrayLike, target: ArrayLike, z0: ArrayLike | None = None
) -> GradientFlow:
    """Return `bptt.gradient_flow` of a network's loss on a batch.

    Parameters
    ----------
    network, x, target, z0
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
    _, tape, dz, dz_last = trace(network, x, target, z0)
    return gradient_flow(tape, dz, dz_last=dz_last)


def network_omega(
    network: Network,
    x: ArrayLike,
    target: ArrayLike,
    z0: ArrayLike | None = None,
    *,
    form: str = "sum",
    through: str = "everything",
) -> tuple[float, dict[str, Array]]:
    """Return Omega of a network's loss on a batch, and its gradients by name.

    Those of U and c are 0: `bptt.flow.omega` takes the loss's dz as given.

    Parameters
    ----------
    network, x, target, z0
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
    _, tape, dz, dz_last = trace(network, x, target, z0)
    value, grads = omega(tape, dz, dz_last=dz_last, form=form, through=through)
    gradients = {name: np.zeros_like(p) for name, p in network.params.items()}
    gradients.update({"W": grads.W, "V": grads.V, "b": np.asarray(grads.b)})
    return value, gradients
