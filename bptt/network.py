"""A network: one recurrent layer, a readout, and a loss on it.

    z[t] = sigma(x[t] W + z[t-1] V + b)        f[t] = z[t] U + c        L(f, target)

The gradients are those of `bptt.backward`; what is added here is the readout and its
mirror, the parameters' first values, and the state that a stateful network keeps.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from bptt import initializers, losses, serialization
from bptt._validation import as_size, check_choice, check_shape
from bptt.activations import Activation, as_activation
from bptt.initializers import Initializer
from bptt.recurrence import Tape, backward, forward
from bptt.serialization import ModelFileError, reading

Array = NDArray[Any]
Init = str | Initializer | Mapping[str, str | Initializer]

PARAMETERS = {"W": "(I, H)", "V": "(H, H)", "b": "(H,)", "U": "(H, O)", "c": "(O,)"}
READOUTS = ("every", "last")

_FORMAT = "bptt.Network 1"


class NetworkGradients(NamedTuple):
    """Gradients of the loss, each of the shape of what it belongs to.

    Attributes
    ----------
    W : ndarray of shape (I, H)
    V : ndarray of shape (H, H)
    b : ndarray of shape (H,)
    U : ndarray of shape (H, O)
    c : ndarray of shape (O,)
    z0 : ndarray of shape (B, H) or (H,)
    x : ndarray of shape (T, B, I) or (T, I), or None
        None where it was not wanted, or where x holds token ids.
    """

    W: Array
    V: Array
    b: Array
    U: Array
    c: Array
    z0: Array
    x: Array | None

    @property
    def params(self) -> dict[str, Array]:
        """The gradients of the parameters alone, by name, for an optimizer."""
        return {name: getattr(self, name) for name in PARAMETERS}


class Network:
    """A recurrent layer with a readout and a loss.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        I, H and O.
    activation : str or Activation, default "tanh"
        The function sigma.
    loss : {"cross_entropy", "squared_error", "binary_cross_entropy"}
        The loss on the readout f, see `bptt.losses`.
    readout : {"every", "last"}, default "every"
        Whether f is read, and the loss taken, at every step or at the last one alone.
    init : str, callable, or dict of them, default "uniform"
        The first values: for V, or for each parameter by its letter. The others are
        drawn from U(-1/sqrt(H), 1/sqrt(H)), and b and c are 0. See
        `bptt.initializers`, whose `get` binds parameters.
    stateful : bool, default False
        Whether a call starts in the state in which the last one ended.
    seed : int or numpy.random.Generator, optional
        Where the first values come from.
    dtype : float32 or float64, default float32
        Type of everything.

    Attributes
    ----------
    params : dict of ndarray
        W (I, H), V (H, H), b (H,), U (H, O), c (O,). Write into the arrays to change
        them.
    state : ndarray of shape (B, H) or (H,), or None
        Where the next call of a stateful network starts; None is 0.
    metadata : dict
        What else is to be saved with the network; must be expressible in JSON.

    Raises
    ------
    TypeError, ValueError
        A size below 1, an unknown name, or a parameter of the wrong shape or dtype.

    Examples
    --------
    >>> network = Network(3, 8, 2, loss="squared_error", seed=0)
    >>> x, target = np.ones((5, 4, 3), np.float32), np.zeros((5, 4, 2))
    >>> loss, grads = network.loss_and_gradients(x, target)
    >>> grads.V.shape
    (8, 8)
    >>> network.predict(x).shape
    (5, 4, 2)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        activation: str | Activation = "tanh",
        loss: str = "cross_entropy",
        readout: str = "every",
        init: Init = "uniform",
        stateful: bool = False,
        seed: initializers.Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.input_size = as_size("input_size", input_size)
        self.hidden_size = as_size("hidden_size", hidden_size)
        self.output_size = as_size("output_size", output_size)
        self.activation = as_activation(activation)
        losses.get(loss)
        self.loss = loss
        check_choice("readout", readout, READOUTS)
        self.readout = readout
        self.stateful = bool(stateful)
        self.dtype = initializers.as_float(dtype)
        self.state: Array | None = None
        self.metadata: dict[str, Any] = {}
        self.params = self._initial(init, seed)

    def loss_and_gradients(
        self,
        x: ArrayLike,
        target: ArrayLike,
        z0: ArrayLike | None = None,
        *,
        need_x_grad: bool = False,
    ) -> tuple[float, NetworkGradients]:
        """Return the loss and all its gradients.

        Parameters
        ----------
        x : array_like of shape (T, B, I) or (T, I), or of integers (T, B) or (T,)
            The input, time first, or token ids from 0 to I - 1.
        target : array_like
            What `bptt.losses` takes beside f: class ids of shape (T, B) for
            cross_entropy, else numbers of shape (T, B, O); without T where the readout
            is "last", without B for one sequence.
        z0 : array_like of shape (B, H) or (H,), optional
            Initial state; the default is 0, or the kept state of a stateful network.
        need_x_grad : bool, default False
            Whether to compute the gradient with respect to x.

        Returns
        -------
        loss : float
        grads : NetworkGradients
            The fields W, V, b, U, c, z0, x.

        Raises
        ------
        TypeError, ValueError
            As in `bptt.forward` and in the loss.
        """
        z, tape = self._forward(x, z0)
        # 1. f = z U + c
        rows = self._rows(z, tape)
        f = self._read(rows)
        # 2. L(f, target)
        loss, df = losses.TABLE[self.loss](f, target)

        # 2. forward was L(f, target), which gave df; 1. forward was f = z U + c, so now
        df_rows = df.reshape(-1, self.output_size)
        dU = rows.reshape(-1, self.hidden_size).T @ df_rows
        dc = df_rows.sum(axis=0)
        dz = (df_rows @ self.params["U"].T).reshape(rows.shape)
        if self.readout == "last":
            grads = backward(tape, dz_last=dz, need_x_grad=need_x_grad)
        else:
            grads = backward(tape, dz, need_x_grad=need_x_grad)
        self._keep(tape)
        assert grads.b is not None
        return loss, NetworkGradients(
            grads.W, grads.V, grads.b, dU, dc, grads.z0, grads.x
        )

    def predict(self, x: ArrayLike, z0: ArrayLike | None = None) -> Array:
        """Return the readout f = z U + c: predictions, or logits of the classes.

        Parameters
        ----------
        x : array_like of shape (T, B, I) or (T, I), or of integers (T, B) or (T,)
            The input, time first, or token ids from 0 to I - 1.
        z0 : array_like of shape (B, H) or (H,), optional
            Initial state; the default is 0, or the kept state of a stateful network.

        Returns
        -------
        f : ndarray of shape (T, B, O), (B, O), (T, O) or (O,)
            Without T where the readout is "last", without B for one sequence.

        Raises
        ------
        TypeError, ValueError
            As in `bptt.forward`.
        """
        z, tape = self._forward(x, z0)
        f = self._read(self._rows(z, tape))
        self._keep(tape)
        return f

    def evaluate(
        self, x: ArrayLike, target: ArrayLike, z0: ArrayLike | None = None
    ) -> float:
        """Return the loss alone, starting in z0, by default 0.

        The state of a stateful network is neither used nor changed.

        Parameters
        ----------
        x, target, z0 : array_like
            As in `loss_and_gradients`.

        Returns
        -------
        float
        """
        self._check(self.params)
        z, tape = forward(x, *self._layer(), z0, activation=self.activation)
        loss, _ = losses.TABLE[self.loss](self._read(self._rows(z, tape)), target)
        return loss

    def reset(self) -> None:
        """Forget the state: the next call of a stateful network starts at 0."""
        self.state = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file that ends in ``.safetensors`` or ``.npz``.

        The state of a stateful network is not saved. See `bptt.serialization.write`.
        """
        serialization.write(path, *self.contents())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Network:
        """Return the network that `save` wrote.

        Raises
        ------
        ModelFileError
            The file is not such a network, or is damaged; a ValueError.
        """
        return cls.from_contents(path, *serialization.read(path))

    def contents(self) -> tuple[dict[str, Array], dict[str, str]]:
        """Return the arrays and the metadata that make a file of this network."""
        self._check(self.params)
        config = {
            "sizes": [self.input_size, self.hidden_size, self.output_size],
            "activation": self.activation.__reduce__()[1],
            "loss": self.loss,
            "readout": self.readout,
            "stateful": self.stateful,
            "dtype": self.dtype.name,
        }
        return dict(self.params), {
            "format": _FORMAT,
            "network": json.dumps(config),
            "metadata": json.dumps(self.metadata),
        }

    @classmethod
    def from_contents(
        cls,
        path: str | os.PathLike[str],
        arrays: Mapping[str, Array],
        metadata: Mapping[str, str],
    ) -> Network:
        """Return the network of a file's contents; path is for messages alone."""
        if metadata.get("format") != _FORMAT:
            raise ModelFileError(
                f"{os.fspath(path)} is not a model file of this version of bptt: "
                f"its format is {metadata.get('format')!r}, not {_FORMAT!r}"
            )
        with reading(path):
            config = dict(json.loads(metadata["network"]))
            network = cls(
                *config.pop("sizes"),
                activation=Activation(*config.pop("activation")),
                init={name: _taken(arrays[name]) for name in PARAMETERS},
                **config,
            )
            network.metadata = json.loads(metadata["metadata"])
            if not isinstance(network.metadata, dict):
                raise TypeError("its metadata are no JSON object")
        return network

    def __repr__(self) -> str:
        return (
            f"Network(I={self.input_size}, H={self.hidden_size}, "
            f"O={self.output_size}, {self.activation.name}, {self.loss}, "
            f"readout={self.readout!r}, {self.dtype})"
        )

    def _initial(self, init: Init, seed: initializers.Seed) -> dict[str, Array]:
        """Return new parameters, drawn in the order of PARAMETERS."""
        shapes = self._shapes()
        for name, shape in shapes.items():
            if math.prod(shape) * self.dtype.itemsize > sys.maxsize:
                raise ValueError(
                    "input_size, hidden_size and output_size must make arrays of less "
                    f"than 2**63 bytes, got {name} {PARAMETERS[name]} = {shape}"
                )
        uniform = initializers.get("uniform", limit=1 / math.sqrt(self.hidden_size))
        chosen: dict[str, Any] = dict.fromkeys("WVU", uniform)
        chosen.update({"b": "zeros", "c": "zeros"})
        chosen.update(init if isinstance(init, Mapping) else {"V": init})
        for name in chosen:
            check_choice("a key of init", name, tuple(PARAMETERS))
        rng = initializers.as_generator(seed)
        params = {
            name: initializers.get(chosen[name])(shape, seed=rng, dtype=self.dtype)
            for name, shape in shapes.items()
        }
        self._check(params)
        return params

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        I, H, O = self.input_size, self.hidden_size, self.output_size
        return {"W": (I, H), "V": (H, H), "b": (H,), "U": (H, O), "c": (O,)}

    def _check(self, params: Mapping[str, Any]) -> None:
        """Refuse parameters that are none of this network; anyone may replace them."""
        for name, shape in self._shapes().items():
            p = params.get(name)
            if not isinstance(p, np.ndarray):
                raise TypeError(f"{name} must be an array, got {type(p).__name__}")
            check_shape(name, p, PARAMETERS[name], shape)
            if p.dtype != self.dtype:
                raise TypeError(f"{name} must have dtype {self.dtype}, got {p.dtype}")

    def _layer(self) -> tuple[Array, Array, Array]:
        return self.params["W"], self.params["V"], self.params["b"]

    def _forward(self, x: ArrayLike, z0: ArrayLike | None) -> tuple[Array, Tape]:
        self._check(self.params)
        if z0 is None and self.stateful and self.state is not None:
            z0 = self.state
            if (B := _batch_shape(x)) != z0.shape[:-1]:
                raise ValueError(
                    f"x must have as many sequences as the state, {z0.shape[:-1]}, "
                    f"got {B}; reset() forgets the state"
                )
        return forward(x, *self._layer(), z0, activation=self.activation)

    def _rows(self, z: Array, tape: Tape) -> Array:
        """Return the states that are read: (T, B, H), (B, H), (T, H) or (H,)."""
        return z if self.readout == "every" else _last(tape)

    @np.errstate(over="ignore", invalid="ignore")  # as in the layer
    def _read(self, rows: Array) -> Array:
        # One matrix product: NumPy would make one of each step of a 3-D array.
        f = rows.reshape(-1, self.hidden_size) @ self.params["U"]
        f += self.params["c"]
        shaped: Array = f.reshape(*rows.shape[:-1], self.output_size)
        return shaped

    def _keep(self, tape: Tape) -> None:
        if self.stateful:
            # A copy: a view would keep the states of all steps in memory.
            self.state = _last(tape).copy()


def _batch_shape(x: ArrayLike) -> tuple[int, ...]:
    """Return (B,), or () for one sequence."""
    array = np.asarray(x)
    return array.shape[1:] if array.dtype.kind in "iu" else array.shape[1:-1]


def _last(tape: Tape) -> Array:
    z: Array = tape.z[-1]
    return z if tape.batched else z[0]


def _taken(array: Array) -> Initializer:
    """Return an initializer that gives a copy of this array."""
    return lambda shape, *, seed, dtype: np.array(array)
