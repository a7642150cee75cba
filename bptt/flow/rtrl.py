"""Real-time recurrent learning: the gradients of BPTT, forwards in time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._inputs import as_layer
from bptt._validation import as_real, check_shape
from bptt.activations import Activation, as_activation
from bptt.recurrence import Gradients

Array = NDArray[Any]


class RTRL:
    """A recurrent layer that knows its gradients at every step, without a past.

    It carries the influence dz[t]/dp of every parameter p along with the state, H
    numbers for each of the H (I + H + 1) parameters, so that a loss at any step has its
    exact gradient at once. A step costs H^3 (I + H + 1) multiplications: for small
    nets, online, and to prove `bptt.backward`, which gets the same gradients another
    way.

    Parameters
    ----------
    W : array_like of shape (I, H)
    V : array_like of shape (H, H)
    b : array_like of shape (H,), optional
    z0 : array_like of shape (H,), optional
        The state to start in, 0 by default.
    activation : str or Activation, default "tanh"

    Attributes
    ----------
    z : ndarray of shape (H,)
        The state.
    gradients : Gradients
        The sum of those of the losses so far, with x None; `forget` starts anew.

    Raises
    ------
    TypeError, ValueError
        A shape or dtype does not fit, or I or H is 0.

    References
    ----------
    R. J. Williams, D. Zipser, "A learning algorithm for continually running fully
    recurrent neural networks", Neural Computation 1 (1989) 270-280.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> rng = np.random.default_rng(0)
    >>> x, W, V = (rng.standard_normal(shape) for shape in [(9, 2), (2, 3), (3, 3)])
    >>> layer = RTRL(W, V)
    >>> for x_t in x:
    ...     z = layer.step(x_t)
    >>> layer.add_loss(np.ones(3))
    >>> _, tape = bptt.forward(x, W, V)
    >>> expected = bptt.backward(tape, dz_last=np.ones(3))
    >>> np.allclose(layer.gradients.V, expected.V)
    True
    """

    def __init__(
        self,
        W: ArrayLike,
        V: ArrayLike,
        b: ArrayLike | None = None,
        z0: ArrayLike | None = None,
        *,
        activation: str | Activation = "tanh",
    ) -> None:
        self.activation = as_activation(activation)
        self.W, self.V, self.b = as_layer(W, V, b)
        (I, H), dtype = self.W.shape, self.W.dtype
        self.z = np.zeros(H, dtype)
        if z0 is not None:
            z0 = as_real("z0", z0, dtype)
            check_shape("z0", z0, "(H,)", (H,))
            self.z[...] = z0
        # The last axis is the state's, the others those of the parameter.
        self._by_W = np.zeros((I, H, H), dtype)
        self._by_V = np.zeros((H, H, H), dtype)
        self._by_b = np.zeros((H, H), dtype)
        self._by_z0 = np.eye(H, dtype=dtype)
        self.forget()

    def step(self, x: ArrayLike) -> Array:
        """Read an input of shape (I,), and return the state of shape (H,)."""
        I, H = self.W.shape
        x = as_real("x", x, self.W.dtype)
        check_shape("x", x, "(I,)", (I,))
        a = x @ self.W + self.z @ self.V
        if self.b is not None:
            a = a + self.b
        before, self.z = self.z, self.activation.sigma(a)
        slope = self.activation.dsigma(self.z)
        own = np.arange(H)
        influences = (
            (self._by_W, x[:, np.newaxis]),
            (self._by_V, before[:, np.newaxis]),
            (self._by_b, 1),
            (self._by_z0, 0),
        )
        for influence, direct in influences:
            carried = influence @ self.V
            carried[..., own, own] += direct
            np.multiply(carried, slope, out=influence)
        return self.z.copy()

    def add_loss(self, dz: ArrayLike) -> None:
        """Add the gradient of a loss whose gradient by the present state is dz (H,)."""
        dz = as_real("dz", dz, self.W.dtype)
        check_shape("dz", dz, "(H,)", self.z.shape)
        W, V, b, z0, _ = self.gradients
        W += self._by_W @ dz
        V += self._by_V @ dz
        if b is not None:
            b += self._by_b @ dz
        z0 += self._by_z0 @ dz

    def forget(self) -> None:
        """Set the sum of the gradients to 0; the state and its influences stay."""
        self.gradients = Gradients(
            W=np.zeros_like(self.W),
            V=np.zeros_like(self.V),
            b=None if self.b is None else np.zeros_like(self.b),
            z0=np.zeros_like(self.z),
            x=None,
        )
