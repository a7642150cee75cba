"""A network: recurrent layers, a readout, and a loss on it.

    z[t] = sigma(x[t] W + z[t-1] V + b)        f[t] = z[t] U + c        L(f, target)

The gradients are those of the layers in `_stack.py`; what is added here is the readout
and its mirror, and the state that a stateful network keeps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from bptt import _network_file, _parameters, initializers, losses, serialization
from bptt._directions import batch_shape
from bptt._inputs import NO_CLIP, ErrorClip, as_error_clip
from bptt._parameters import Init, Shapes
from bptt._readout import (
    NetworkGradients,
    learn,
    read,
    read_tape_back,
    rows_of,
    shapes_of,
    spread,
    targets_of,
    with_readout,
)
from bptt._stack import NOTHING, States
from bptt._stack_inputs import as_network_budgets, as_stack, forward_within
from bptt._stack_tape import StackGradients, StackTape
from bptt._validation import as_flag, as_size, check_choice
from bptt._window import Window
from bptt.activations import Activation
from bptt.flow.regulariser import OmegaTerm, as_term

Array = NDArray[Any]

READOUTS = ("every", "last")


class Network:
    """Recurrent layers with a readout and a loss.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        I, H and O.
    activation : str or Activation, default "tanh"
        The function sigma.
    num_layers : int, default 1
        Layers, as in `bptt.RNN`.
    bidirectional : bool, default False
        Whether each also reads from the end; U is then (2 H, O).
    dropout : float, default 0.0
        Between layers, where gradients are taken.
    loss : {"cross_entropy", "squared_error", "binary_cross_entropy"}
        The loss on the readout f, see `bptt.losses`.
    readout : {"every", "last"}, default "every"
        Whether f is read, and the loss taken, at every step or at the last one alone.
    init : str, callable, or dict of them, default "uniform"
        The first values: for V, or for each parameter by its letter. The others are
        drawn from U(-1/sqrt(H), 1/sqrt(H)), and b and c are 0. See
        `bptt.initializers`, whose `get` binds parameters. A letter stands for that
        parameter of every layer.
    stateful : bool, default False
        Whether a call starts in the state in which the last one ended. There is no
        such thing for a bidirectional network, which reads from the end too.
    seed : int or numpy.random.Generator, optional
        Where the first values come from.
    dtype : float32 or float64, default float32
        Type of everything.

    Attributes
    ----------
    params : dict of ndarray
        W (I, H), V (H, H), b (H,), U (H, O), c (O,), and those of more layers under
        the names of `bptt.RNN`. Write into the arrays to change them.
    state : ndarray of shape (B, H) or (H,), or None
        Where the next call of a stateful network starts; None is 0. With several
        layers, (num_layers, B, H) or (num_layers, H).
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
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        activation: str | Activation = "tanh",
        loss: str = "cross_entropy",
        readout: str = "every",
        init: Init = "uniform",
        stateful: bool = False,
        seed: initializers.Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        losses.get(loss)
        self.loss = loss
        check_choice("readout", readout, READOUTS)
        self.readout = readout
        self.stateful = as_flag("stateful", stateful)
        if stateful and as_flag("bidirectional", bidirectional):
            raise ValueError(
                "stateful must be False for a bidirectional network, which reads "
                "from the end too, got True"
            )
        self.state: Array | None = None
        self.metadata: dict[str, Any] = {}
        self.output_size = as_size("output_size", output_size)
        self.stack = as_stack(
            input_size, hidden_size, num_layers, bidirectional, dropout, activation,
            True, dtype,
        )  # fmt: skip
        self.input_size = self.stack.input_size
        self.hidden_size = self.stack.hidden_size
        self.activation, self.dtype = self.stack.activation, self.stack.dtype
        shapes = self._shapes()
        self.params = _parameters.draw(
            shapes,
            _parameters.chosen(init, shapes),
            self.hidden_size,
            initializers.as_generator(seed),
            self.dtype,
        )

    def loss_and_gradients(
        self,
        x: Any,
        target: Any,
        z0: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: Any = None,
        need_x_grad: bool = False,
        omega: float | OmegaTerm | None = None,
        memory: int | str | None = None,
        checkpoint: int | None = None,
        clip_error: float | None = None,
        clip_error_value: float | None = None,
        seed: initializers.Seed = None,
    ) -> tuple[float, NetworkGradients | StackGradients]:
        """Return the loss and all its gradients.

        Parameters
        ----------
        x : array_like of shape (T, B, I) or (T, I), or of integers (T, B) or (T,)
            The input, time first, or token ids from 0 to I - 1. Or a list of sequences
            of their own lengths, (T, I) or (T,) each, and target a list too.
        target : array_like
            What `bptt.losses` takes beside f: class ids of shape (T, B) for
            cross_entropy, else numbers of shape (T, B, O); without T where the readout
            is "last", without B for one sequence.
        z0 : array_like of shape (B, H) or (H,), optional
            Initial state, of the shape of `state`, or (L, B, H) as in `RNN.forward`;
            the default is 0, or the kept state of a stateful network.
        lengths, resets : array_like, optional
            As in `RNN.forward`. The loss is the mean over the steps that are no
            padding, and the last state is each sequence's own. In a stateful network
            that goes on from its state, resets start from 0, at the first step too.
        need_x_grad : bool, default False
            Whether to compute the gradient with respect to x.
        omega : float or bptt.flow.OmegaTerm, optional
            Weight of `bptt.flow.omega`, whose gradients are added; the loss is returned
            without it. A number is a weight of the sum, through everything but dz. For
            a network of one layer.
        memory, checkpoint : optional
            As in `RNN.forward`: keep only some states, and no readout of all steps.
            Where that is "every" the loss is taken part by part, and loss and gradients
            differ by rounding.
        clip_error, clip_error_value : float, optional
            As in `RNN.backward`. They bound the error in the layers: the loss, dU and
            dc are as they were, and so are the gradients of omega.
        seed : int or numpy.random.Generator, optional
            Where dropout comes from.

        Returns
        -------
        loss : float
        grads : NetworkGradients, or StackGradients where there are several layers
            The fields W, V, b, U, c, z0, x; or params, z0, x.

        Raises
        ------
        TypeError, ValueError
            As in `bptt.forward` and in the loss, or omega does not fit.
        """
        term, every = as_term(omega), self.readout == "every"
        budget = as_network_budgets(
            self.stack, memory, checkpoint, every=every, omega=term is not None
        )
        generator = initializers.as_generator(seed) if self.stack.dropout else None
        z, tape = self._forward(x, z0, lengths, resets, generator, budget, go_on=True)
        found = learn(
            self.stack, self.params, z, tape, target, loss=self.loss,
            readout=self.readout, by_leaf=every and bool(budget),
            need_x_grad=as_flag("need_x_grad", need_x_grad), term=term,
            error=as_error_clip(clip_error, clip_error_value),
        )  # fmt: skip
        self._keep(tape.z_last)
        return found

    def initial_states(self, x: Any) -> States:
        """Return where a walk starts: where `predict` does without z0."""
        return self.stack.states(x, self._start(x, None))

    def learn_piece(
        self,
        window: Window,
        x: Any,
        target: Any,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        seed: initializers.Seed = None,
        error: ErrorClip = NO_CLIP,
    ) -> tuple[float, NetworkGradients | StackGradients]:
        """Return the loss of the next piece of a walk, and gradients of its window."""
        generator = initializers.as_generator(seed) if self.stack.dropout else None
        self._check()
        z, tape = window.forward(self.params, x, generator, lengths, resets)
        loss, dU, dc, drows = read_tape_back(
            self.stack, self.params, z, tape, target, loss=self.loss,
            readout=self.readout,
        )  # fmt: skip
        grads = window.backward(spread(tape.valid, drows), error)
        assert isinstance(window.state, np.ndarray)
        self._keep(window.state)
        return loss, with_readout(grads, dU, dc)

    def predict(
        self,
        x: Any,
        z0: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: Any = None,
    ) -> Any:
        """Return the readout f = z U + c: predictions, or logits of the classes.

        Parameters
        ----------
        x : array_like of shape (T, B, I) or (T, I), or of integers (T, B) or (T,)
            The input, time first, or token ids from 0 to I - 1, or a list, as above.
        z0 : array_like of shape (B, H) or (H,), optional
            Initial state; the default is 0, or the kept state of a stateful network.
        lengths, resets : array_like, optional
            As in `RNN.forward`.

        Returns
        -------
        f : ndarray of shape (T, B, O), (B, O), (T, O) or (O,)
            Without T where the readout is "last", without B for one sequence. 0 in the
            padding. Of a list, a list of (T, O) where the readout is "every".

        Raises
        ------
        TypeError, ValueError
            As in `bptt.forward`.
        """
        z, tape = self._forward(x, z0, lengths, resets, go_on=True)
        f = read(self.params, self._rows(z, tape))
        self._keep(tape.z_last)
        return f if self.readout == "last" else tape.order.split(spread(tape.valid, f))

    def evaluate(
        self,
        x: Any,
        target: Any,
        z0: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: Any = None,
    ) -> float:
        """Return the loss alone, starting in z0, by default 0.

        The state of a stateful network is neither used nor changed.

        Parameters
        ----------
        x, target, z0, lengths, resets : array_like
            As in `loss_and_gradients`.

        Returns
        -------
        float
        """
        z, tape = self._forward(x, z0, lengths, resets)
        f = read(self.params, self._rows(z, tape))
        loss, _ = losses.TABLE[self.loss](f, targets_of(tape, self.readout, target))
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
        self._check()
        return _network_file.contents(self)

    @classmethod
    def from_contents(
        cls,
        path: str | os.PathLike[str],
        arrays: Mapping[str, Array],
        metadata: Mapping[str, str],
    ) -> Network:
        """Return the network of a file's contents; path is for messages alone."""
        return _network_file.from_contents(cls, path, arrays, metadata)

    def __repr__(self) -> str:
        layers = "".join(f", {part}" for part in self.stack.parts())
        return (
            f"Network(I={self.input_size}, H={self.hidden_size}, "
            f"O={self.output_size}{layers}, {self.activation.name}, {self.loss}, "
            f"readout={self.readout!r}, {self.dtype})"
        )

    def _shapes(self) -> Shapes:
        return {**self.stack.shapes(), **shapes_of(self.stack, self.output_size)}

    def _check(self) -> None:
        """Refuse parameters that are none of this network; anyone may replace them."""
        _parameters.check(self.params, self._shapes(), self.dtype)

    def _start(self, x: Any, z0: ArrayLike | None) -> ArrayLike | None:
        """Return the initial state: z0, or the kept one of a stateful network."""
        if z0 is not None or not self.stateful or self.state is None:
            return z0
        kept = self.state.shape[self.stack.cells > 1 : -1]
        if (B := batch_shape(x)) != kept:
            raise ValueError(
                f"x must have as many sequences as the state, {kept}, "
                f"got {B}; reset() forgets the state"
            )
        return self.state

    def _forward(
        self,
        x: Any,
        z0: ArrayLike | None,
        lengths: ArrayLike | None,
        resets: Any,
        generator: np.random.Generator | None = None,
        budget: Mapping[str, int] = NOTHING,
        *,
        go_on: bool = False,
    ) -> tuple[Array, StackTape]:
        """Run the layers, from the kept state where that is asked for."""
        self._check()
        start = self._start(x, z0) if go_on else z0
        carried = resets is not None and start is not z0
        return forward_within(
            self.stack, budget, self.params, x, self.stack.states(x, start),
            lengths=lengths, resets=resets, generator=generator,
            reset_state=self.stack.zeros() if carried else None,
            together=self.readout == "every",
        )  # fmt: skip

    def _rows(self, z: Array, tape: StackTape) -> Array:
        return rows_of(z, tape, self.readout, self.stack.directions)

    def _keep(self, z_last: Array) -> None:
        if self.stateful:
            self.state = z_last if self.stack.cells > 1 else z_last[0].copy()
