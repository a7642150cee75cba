"""Recurrent layers, stacked and in both directions, with their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from bptt import _parameters, initializers
from bptt._parameters import Init
from bptt._stack import Stack, StackGradients, StackTape
from bptt._validation import as_array, as_fraction, as_real, as_size, check_shape
from bptt.activations import Activation, as_activation

Array = NDArray[Any]

# PyTorch's names of W and V, which it keeps transposed, and of the two parts of b.
_TORCH = {"W": ("weight_ih",), "V": ("weight_hh",), "b": ("bias_ih", "bias_hh")}


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
        self.batch_first = bool(batch_first)
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
        x: ArrayLike,
        z0: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        training: bool = False,
        seed: initializers.Seed = None,
    ) -> tuple[Array, StackTape]:
        """Run all layers.

        Parameters
        ----------
        x : array_like of shape (T, B, I) or (T, I), or of integers (T, B) or (T,)
            The input, or token ids from 0 to I - 1; with batch_first B comes before T.
        z0 : array_like of shape (L, B, H), or (L, H) for one sequence, optional
            Initial states, 0 by default. L counts the layers times the directions, the
            directions of the first layer first.
        lengths : array_like of integers of shape (B,), optional
            Steps of each sequence, as in `bptt.forward`; the direction that reads from
            the end begins at each sequence's own. What follows is padding: 0 in z.
        resets : array_like of bool of shape (T, B), or (T,) for all, optional
            Where a sequence begins anew, as in `bptt.forward`. Neither direction
            carries a state over the border before such a step. With batch_first (B, T).
        training : bool, default False
            Whether there is dropout.
        seed : int or numpy.random.Generator, optional
            Where the dropout comes from.

        Returns
        -------
        z : ndarray of shape (T, B, D H), or (T, D H) for one sequence
            States of the last layer, of its D directions side by side. Read-only.
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
        """
        _parameters.check(self.params, self.stack.shapes(), self.stack.dtype)
        x = as_array("x", x)
        batched = x.ndim + (x.dtype.kind in "iu") == 3  # an id stands for a row
        if batched:
            x = self._swapped(x)
            if resets is not None and np.ndim(resets) == 2:
                resets = self._swapped(as_array("resets", resets))
        states = None if z0 is None else self.stack.as_states(x, z0)
        generator = initializers.as_generator(seed) if training else None
        z, tape = self.stack.forward(
            self.params,
            x,
            states,
            lengths=lengths,
            resets=resets,
            generator=generator,
        )
        return self._swapped(z) if batched else z, tape

    def backward(
        self,
        tape: StackTape,
        dz: ArrayLike | None = None,
        *,
        dz_last: ArrayLike | None = None,
        need_x_grad: bool = True,
    ) -> StackGradients:
        """Return the exact gradients of a loss on the states.

        Parameters
        ----------
        tape : StackTape
            From `forward`.
        dz : array_like of shape (T, B, D H), or (T, D H) for one sequence, optional
            Gradient of the loss with respect to each state that `forward` returned.
        dz_last : array_like of shape (L, B, H), or (L, H) for one sequence, optional
            The same for the states in ``tape.z_last``; added where both are given.
        need_x_grad : bool, default True
            Whether to compute the gradient with respect to x. Token ids have none.

        Returns
        -------
        StackGradients
            The fields params, z0, x.

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
        if dz is None and dz_last is None:
            raise ValueError("dz or dz_last must be given: a loss needs a gradient")
        batched = len(tape.shape) == 3
        if dz is not None:
            dz = as_real("dz", dz, self.stack.dtype, contiguous=False)
            T, *B, _ = tape.shape
            order = (*B, T) if self.batch_first else (T, *B)
            letters = "B, T" if self.batch_first else "T, B"
            letters = f"({letters if batched else 'T'}, D H)"
            check_shape("dz", dz, letters, (*order, self.stack.width))
            dz = self._swapped(dz) if batched else dz
        if dz_last is not None:
            dz_last = as_real("dz_last", dz_last, self.stack.dtype)
            letters = "(L, B, H)" if batched else "(L, H)"
            check_shape("dz_last", dz_last, letters, tape.z_last.shape)
        grads = self.stack.backward(tape, dz, dz_last, need_x_grad=need_x_grad)
        if grads.x is not None and batched:
            grads = grads._replace(x=self._swapped(grads.x))
        return grads

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
        state: dict[str, Array] = {}
        for name, p in self.params.items():
            first, *rest = self._torch_names(name)
            state[first] = p.T
            state |= {other: np.zeros_like(p) for other in rest}
        return state

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
        wanted = {n: self._torch_names(n) for n in self.params}
        names = [name for row in wanted.values() for name in row]
        if wrong := sorted(state.keys() ^ dict.fromkeys(names).keys()):
            what = "lacks" if wrong[0] in names else "must not have"
            raise ValueError(f"state {what} {wrong[0]!r} for {self!r}")
        taken = {}
        for name, row in wanted.items():
            parts = [as_real(n, state[n], self.stack.dtype) for n in row]
            shape = self.params[name].shape[::-1]
            for n, part in zip(row, parts, strict=True):
                check_shape(n, part, _letters(n), shape)
            taken[name] = sum(parts[1:], parts[0]).T
        for name, value in taken.items():
            self.params[name][...] = value

    def _torch_names(self, name: str) -> list[str]:
        kind, _, end = name.partition("_")
        if not end.startswith("l"):
            end = "l0" + ("_reverse" if end else "")
        return [f"{theirs}_{end}" for theirs in _TORCH[kind]]

    def _swapped(self, array: Array) -> Array:
        """Return an array with batch_first time first, and the other way about."""
        return array.swapaxes(0, 1) if self.batch_first else array


def as_stack(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    dropout: float,
    activation: str | Activation,
    bias: bool,
    dtype: DTypeLike,
) -> Stack:
    """Return the layers that the arguments of an `RNN` or a `Network` ask for."""
    stack = Stack(
        as_size("input_size", input_size),
        as_size("hidden_size", hidden_size),
        as_size("num_layers", num_layers),
        2 if bidirectional else 1,
        as_fraction("dropout", dropout),
        bool(bias),
        as_activation(activation),
        initializers.as_float(dtype),
    )
    if dropout and stack.num_layers == 1:
        raise ValueError(
            f"dropout is between layers and needs num_layers above 1, got {dropout} "
            "with num_layers = 1"
        )
    return stack


def _letters(theirs: str) -> str:
    return {"weight_ih": "(H, I)", "weight_hh": "(H, H)"}.get(theirs[:9], "(H,)")
