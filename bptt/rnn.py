"""Recurrent layers, stacked and in both directions, with their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from bptt import _parameters, _torch_names, initializers
from bptt._forms import is_list
from bptt._parameters import Init
from bptt._stack_inputs import (
    as_budgets,
    as_dz,
    as_function,
    as_stack,
    forward_within,
)
from bptt._stack_tape import StackGradients, StackTape
from bptt._validation import as_array, as_flag, as_real, check_shape
from bptt.activations import Activation
from bptt.recurrence import ErrorFlow

Array = NDArray[Any]
Dz = Any | Callable[[Any, Array], ArrayLike] | None


class RNN:
    """Recurrent layers: stacked, in one direction or in both.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int, default 1
        Layers, each of which reads the states of the one below.
    bidirectional : bool, default False
        Whether each layer also reads from the end; the next one, and the caller, get
        the states of both side by side.
    dropout : float, default 0.0
        Share of the states that are set to 0 between two layers in training; the others
        are divided by 1 - dropout.
    batch_first : bool, default False
        Whether x, z and their gradients have the axis B before T. z0 never has.
    activation : str or Activation, default "tanh"
        The function sigma.
    bias : bool, default True
        Whether there is a b.
    init : str, callable, or dict of them, default "uniform"
        The first values, as in `bptt.Network`: for V, or by letter or by name.
    seed : int or numpy.random.Generator, optional
        Where the first values come from.
    dtype : float32 or float64, default float32
        Type of everything.

    Attributes
    ----------
    params : dict of ndarray
        ``W`` (I, H), ``V`` (H, H) and ``b`` (H,) of the first layer; those of layer k,
        counted from 0, end in ``_lk``, and those of the direction that reads from the
        end in ``_reverse``: ``V_reverse``, ``W_l1``, ``W_l1_reverse``. Write into the
        arrays to change them.

    Raises
    ------
    TypeError, ValueError
        A size below 1, an unknown name, a parameter of the wrong shape or dtype, or
        dropout in a single layer.

    References
    ----------
    M. Schuster and K. K. Paliwal, "Bidirectional recurrent neural networks", IEEE
    Transactions on Signal Processing 45 (1997) 2673-2681. Dropout between layers alone:
    W. Zaremba, I. Sutskever and O. Vinyals, "Recurrent neural network regularization",
    2014.

    Examples
    --------
    >>> rnn = RNN(3, 8, num_layers=2, bidirectional=True, seed=0)
    >>> z, tape = rnn.forward(np.ones((5, 4, 3), np.float32))
    >>> z.shape, tape.z_last.shape
    ((5, 4, 16), (4, 4, 8))
    >>> grads = rnn.backward(tape, np.ones_like(z))
    >>> grads.params["W_l1_reverse"].shape, grads.z0.shape, grads.x.shape
    ((16, 8), (4, 4, 8), (5, 4, 3))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        batch_first: bool = False,
        activation: str | Activation = "tanh",
        bias: bool = True,
        init: Init = "uniform",
        seed: initializers.Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.stack = as_stack(
            input_size,
            hidden_size,
            num_layers,
            bidirectional,
            dropout,
            activation,
            bias,
            dtype,
        )
        self.batch_first = as_flag("batch_first", batch_first)
        shapes = self.stack.shapes()
        self.params = _parameters.draw(
            shapes,
            _parameters.chosen(init, shapes),
            self.stack.hidden_size,
            initializers.as_generator(seed),
            self.stack.dtype,
        )

    def __repr__(self) -> str:
        s = self.stack
        layers = "".join(f", {part}" for part in s.parts())
        sizes = f"I={s.input_size}, H={s.hidden_size}"
        return f"RNN({sizes}{layers}, {s.activation.name}, {s.dtype})"

    def forward(
        self,
        x: Any,
        z0: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        offsets: ArrayLike | None = None,
        resets: Any = None,
        reset_state: ArrayLike | None = None,
        memory: int | str | None = None,
        checkpoint: int | None = None,
        training: bool = False,
        seed: initializers.Seed = None,
    ) -> tuple[Any, StackTape]:
        """Run all layers.

        Parameters
        ----------
        x : array_like of shape (T, B, I) or (T, I), or of integers (T, B) or (T,)
            The input, or token ids from 0 to I - 1; with batch_first B comes before T.
            A list of such arrays, one sequence (T, I) each, is a batch of sequences of
            their own lengths.
        z0 : array_like of shape (L, B, H), or (L, H) for one sequence, optional
            Initial states, 0 by default. L counts the layers times the directions, the
            directions of the first layer first.
        lengths : array_like of integers of shape (B,), optional
            Steps of each sequence, as in `bptt.forward`; the direction that reads from
            the end begins at each sequence's own. What follows is padding: 0 in z.
        offsets : array_like of integers of shape (B + 1,), optional
            Where in x (N, I), sequence after sequence, each one begins, and the last
            ends.
        resets : array_like of bool of shape (T, B), or (T,) for all, optional
            Where a sequence begins anew, as in `bptt.forward`. Neither direction
            carries a state over the border before such a step. In the form of x.
        reset_state : array_like of shape (L, B, H), or (L, H) for all, optional
            The state from which resets start instead of z0, as in `bptt.forward`.
        memory : int or str, optional
            Keep only some states and let `backward` compute the others again, as in
            `bptt.forward`: so many bytes for those of all layers, and for what dropout
            keeps, a bit for each state. Of two directions of a single layer each has
            half, and with lengths there is a copy of x turned round, which does not
            count. Several layers in both directions take more than one extra pass, as
            ``tape.schedule`` tells.
        checkpoint : int, optional
            Keep only the states so many steps apart, likewise.
        training : bool, default False
            Whether there is dropout.
        seed : int or numpy.random.Generator, optional
            Where the dropout comes from.

        Returns
        -------
        z : ndarray of shape (T, B, D H), or (T, D H) for one sequence
            States of the last layer, of its D directions side by side. Read-only. In
            the form of x where it is a list, or has offsets. With memory or checkpoint
            the last states alone, ``tape.z_last``.
        tape : StackTape
            What `backward` needs; ``tape.z_last`` (L, B, H) is where each cell ended.

        Raises
        ------
        TypeError, ValueError
            As in `bptt.forward`.

        Examples
        --------
        >>> rnn = RNN(3, 8, batch_first=True, seed=0)
        >>> rnn.forward(np.ones((4, 5, 3), np.float32))[0].shape
        (4, 5, 8)

        Sequences of different lengths, in both directions:

        >>> rnn = RNN(3, 8, bidirectional=True, seed=0)
        >>> x = [np.ones((5, 3), np.float32), np.ones((2, 3), np.float32)]
        >>> z, tape = rnn.forward(x)
        >>> z[1].shape, rnn.backward(tape, z).x[1].shape
        ((2, 16), (2, 3))
        """
        _parameters.check(self.params, self.stack.shapes(), self.stack.dtype)
        budget = as_budgets(memory, checkpoint)
        batched = False
        if not is_list(x):
            x = as_array("x", x)
            batched = x.ndim + (x.dtype.kind in "iu") == 3  # an id stands for a row
        if batched:
            x = self._swapped(x)
            if resets is not None and np.ndim(resets) == 2:
                resets = self._swapped(as_array("resets", resets))
        states = None if z0 is None else self.stack.as_states("z0", x, z0, offsets)
        if reset_state is not None and np.ndim(reset_state) != 2:
            reset_state = self.stack.as_states("reset_state", x, reset_state, offsets)
        elif reset_state is not None:
            shape = self.stack.cells, self.stack.hidden_size
            reset_state = as_real("reset_state", reset_state, self.stack.dtype)
            check_shape("reset_state", reset_state, "(L, H)", shape)
        generator = None
        if as_flag("training", training):
            generator = initializers.as_generator(seed)
        z, tape = forward_within(
            self.stack,
            budget,
            self.params,
            x,
            states,
            lengths=lengths,
            offsets=offsets,
            resets=resets,
            reset_state=reset_state,
            generator=generator,
        )
        if budget:
            return z, tape
        return self._swapped(z) if batched else tape.order.split(z), tape

    @overload
    def backward(
        self,
        tape: StackTape,
        dz: Dz = None,
        *,
        dz_last: ArrayLike | None = None,
        need_x_grad: bool = True,
        clip_error: float | None = None,
        clip_error_value: float | None = None,
        record: Literal[False] = False,
    ) -> StackGradients: ...
    @overload
    def backward(
        self,
        tape: StackTape,
        dz: Dz = None,
        *,
        dz_last: ArrayLike | None = None,
        need_x_grad: bool = True,
        clip_error: float | None = None,
        clip_error_value: float | None = None,
        record: Literal[True],
    ) -> tuple[StackGradients, tuple[ErrorFlow, ...]]: ...
    def backward(
        self,
        tape: StackTape,
        dz: Dz = None,
        *,
        dz_last: ArrayLike | None = None,
        need_x_grad: bool = True,
        clip_error: float | None = None,
        clip_error_value: float | None = None,
        record: bool = False,
    ) -> StackGradients | tuple[StackGradients, tuple[ErrorFlow, ...]]:
        """Return the exact gradients of a loss on the states.

        Parameters
        ----------
        tape : StackTape
            From `forward`.
        dz : array_like of shape (T, B, D H), or (T, D H) for one sequence, optional
            Gradient of the loss with respect to each state that `forward` returned, in
            the form of x. Of layers in one direction it may be a function of the
            states of the last one, as in `bptt.backward`; with batch_first rows are
            those of x.reshape(B * T, I).
        dz_last : array_like of shape (L, B, H), or (L, H) for one sequence, optional
            The same for the states in ``tape.z_last``; added where both are given.
        need_x_grad : bool, default True
            Whether to compute the gradient with respect to x. Token ids have none.
        clip_error, clip_error_value : float, optional
            As in `bptt.backward`, for the error of each cell by itself.
        record : bool, default False
            Whether to return an `ErrorFlow` of each cell as well, L of them, whose
            steps are those of x.

        Returns
        -------
        StackGradients
            The fields params, z0, x. With record, a pair of it and a tuple.

        Raises
        ------
        TypeError, ValueError
            As in `bptt.backward`.

        Examples
        --------
        >>> rnn = RNN(3, 8, num_layers=2, seed=0)
        >>> z, tape = rnn.forward(np.ones((5, 3), np.float32))
        >>> grads = rnn.backward(tape, dz_last=np.ones_like(tape.z_last))
        >>> list(grads.params)
        ['W', 'V', 'b', 'W_l1', 'V_l1', 'b_l1']
        """
        if not isinstance(tape, StackTape):
            raise TypeError(
                "tape must be the StackTape that RNN.forward returned, "
                f"got {type(tape).__name__}"
            )
        stack = self.stack
        mine = stack.cells, stack.width, stack.hidden_size, stack.dtype
        z = tape.z_last
        if (len(z), tape.shape[-1], z.shape[-1], z.dtype) != mine:
            raise ValueError(f"tape must be one of {self!r}, got {tape!r}")
        if dz is None and dz_last is None:
            raise ValueError("dz or dz_last must be given: a loss needs a gradient")
        batched = len(tape.shape) == 3
        if callable(dz):
            dz = as_function(self.stack, dz, tape, self.batch_first)
        elif dz is not None:
            dz = as_dz(self.stack, dz, tape, self.batch_first)
        if dz_last is not None:
            dz_last = as_real("dz_last", dz_last, self.stack.dtype)
            letters = "(L, B, H)" if tape.z_last.ndim == 3 else "(L, H)"
            check_shape("dz_last", dz_last, letters, tape.z_last.shape)
        grads, flows = self.stack.flows_back(
            tape,
            dz,
            dz_last,
            need_x_grad=as_flag("need_x_grad", need_x_grad),
            clip_error=clip_error,
            clip_error_value=clip_error_value,
            record=as_flag("record", record),
        )
        if batched:
            if grads.x is not None:
                grads = grads._replace(x=self._swapped(grads.x))
            flows = tuple(
                ErrorFlow(self._swapped(f.norms), self._swapped(f.saturated), f.dead)
                for f in flows
            )
        return (grads, flows) if record else grads

    def torch_state(self) -> dict[str, Array]:
        """Return the parameters under the names of PyTorch's ``nn.RNN``.

        Returns
        -------
        dict of ndarray
            ``weight_ih_l0`` (H, I), ``weight_hh_l0`` (H, H) and so on, views of W^T and
            V^T; ``bias_ih_l0`` is b, and ``bias_hh_l0`` is 0.

        Examples
        --------
        >>> list(RNN(3, 8, bias=False, bidirectional=True).torch_state())
        ['weight_ih_l0', 'weight_hh_l0', 'weight_ih_l0_reverse', 'weight_hh_l0_reverse']
        """
        return _torch_names.to_torch(self.params)

    def load_torch_state(self, state: Mapping[str, ArrayLike]) -> None:
        """Take over the parameters of a PyTorch ``nn.RNN`` of the same sizes.

        Parameters
        ----------
        state : dict of array_like
            ``module.state_dict()``, or arrays by its names. The two biases of a layer,
            which are only ever added, become one b.

        Raises
        ------
        TypeError, ValueError
            A name is missing or not wanted, or an array has another shape or dtype;
            then nothing has been changed.

        Examples
        --------
        >>> rnn, other = RNN(3, 8, seed=0), RNN(3, 8, seed=1)
        >>> rnn.load_torch_state(other.torch_state())
        >>> bool((rnn.params["V"] == other.params["V"]).all())
        True
        """
        taken = _torch_names.from_torch(state, self.params, self.stack.dtype, self)
        for name, value in taken.items():
            self.params[name][...] = value

    def _swapped(self, array: Array) -> Array:
        """Return an array with batch_first time first, and the other way about."""
        return array.swapaxes(0, 1) if self.batch_first else array
