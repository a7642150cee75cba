"""Optimizers: each turns gradients into a step of the parameters, in place.

An optimizer keeps its memory in a flat dict of arrays, `Optimizer.state`, so that it
can be saved and restored bit for bit: ``"steps"`` counts the updates made, and
``"<slot>.<parameter>"`` is an array like that parameter.

Each refuses a hyperparameter out of its range with a TypeError or a ValueError.

Adding an optimizer: one class with a `_step`, one row in `TABLE`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bptt._validation import (
    as_flag,
    as_fraction,
    as_number,
    as_positive,
    check_choice,
)
from bptt.schedules import Schedule, as_schedule, rate_at

Array = NDArray[Any]
Arrays = Mapping[str, Array]


class Optimizer:
    """What all optimizers share: the learning rate, the memory, and the checks.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a schedule: a function of the number of updates made so far.

    Attributes
    ----------
    steps : int
        Updates made so far.
    """

    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self, learning_rate: float | Schedule) -> None:
        self.learning_rate = as_schedule("learning_rate", learning_rate)
        self.steps = 0
        self._memory: dict[str, Array] = {}

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        return rate_at(self.learning_rate, self.steps)

    def update(self, params: Arrays, grads: Arrays) -> None:
        """Make one step: change every parameter in place.

        Parameters
        ----------
        params : dict of ndarray
            Parameters by name; written to.
        grads : dict of ndarray
            Their gradients, by the same names and of the same shapes and dtypes.

        Raises
        ------
        TypeError, ValueError
            Names, shapes or dtypes of params and grads differ, or those of the memory
            do, or a parameter is read-only; then nothing has been changed.
        """
        self._check(params, grads)
        rate = self.rate
        for name, p in params.items():
            self._step(name, p, grads[name], rate)
        self.steps += 1

    @property
    def state(self) -> dict[str, Array]:
        """The memory: the arrays themselves, not copies, and the count of steps."""
        return {"steps": np.array(self.steps, np.int64), **self._memory}

    def load_state(self, state: Arrays) -> None:
        """Take over a saved memory; the arrays are copied.

        Parameters
        ----------
        state : dict of ndarray
            From `state` of an optimizer of the same class.

        Raises
        ------
        ValueError
            The state is not that of such an optimizer.
        """
        memory = {name: np.array(array) for name, array in state.items()}
        steps = memory.pop("steps", None)
        if steps is None or steps.shape or steps.dtype.kind not in "iu" or steps < 0:
            raise ValueError("state must hold 'steps', the number of updates made")
        for name in memory:
            if name.partition(".")[0] not in self.slots:
                raise ValueError(
                    f"state of {type(self).__name__} has no entry {name!r}; "
                    f"its slots are {', '.join(self.slots) or 'none'}"
                )
        self.steps = int(steps)
        self._memory = memory

    def _step(self, name: str, p: Array, g: Array, rate: float) -> None:
        raise NotImplementedError

    def _slot(self, slot: str, name: str, p: Array) -> Array:
        """Return the array of a slot for one parameter; zeros at first."""
        key = f"{slot}.{name}"
        if key not in self._memory:
            self._memory[key] = np.zeros_like(p)
        return self._memory[key]

    def _check(self, params: Arrays, grads: Arrays) -> None:
        if params.keys() != grads.keys():
            raise ValueError(
                f"grads must have the names of params, {', '.join(params)}; "
                f"got {', '.join(grads) or 'none'}"
            )
        for name, p in params.items():
            if not p.flags.writeable:
                raise ValueError(f"params[{name!r}] must be writable, got it read-only")
            _check_like(f"grads[{name!r}]", grads[name], p)
            for slot in self.slots:
                if (kept := self._memory.get(f"{slot}.{name}")) is not None:
                    _check_like(f"state['{slot}.{name}']", kept, p)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum m and weight decay w.

    ``g <- g + w p``, ``v <- m v + g``, ``p <- p - rate v``, and with Nesterov's
    momentum ``p <- p - rate (g + m v)``.

    Parameters
    ----------
    learning_rate : float or callable
        A number or a schedule.
    momentum : float
        From 0 to below 1.
    nesterov : bool
        Whether the gradient is taken as if one step ahead; needs a momentum.
    weight_decay : float
        Strength of the L2 penalty.

    References
    ----------
    I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of
    initialization and momentum in deep learning", ICML 2013; in the form of PyTorch,
    which applies the rate to the whole momentum.

    Examples
    --------
    >>> p = {"V": np.array([1.0])}
    >>> SGD(0.1).update(p, {"V": np.array([2.0])})
    >>> p["V"]
    array([0.8])
    """

    slots = ("momentum",)

    def __init__(
        self,
        learning_rate: float | Schedule = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate)
        self.momentum = as_fraction("momentum", momentum)
        self.weight_decay = _not_negative("weight_decay", weight_decay)
        self.nesterov = as_flag("nesterov", nesterov)
        if nesterov and not momentum:
            raise ValueError("nesterov needs a momentum above 0, got momentum = 0")

    def _step(self, name: str, p: Array, g: Array, rate: float) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * p
        if self.momentum:
            v = self._slot("momentum", name, p)
            v *= self.momentum
            v += g
            g = g + self.momentum * v if self.nesterov else v
        p -= rate * g


class RMSProp(Optimizer):
    """Gradient over its running root mean square, with momentum m and weight decay w.

    ``g <- g + w p``, ``s <- decay s + (1 - decay) g^2``,
    ``v <- m v + g / (sqrt(s) + eps)``, ``p <- p - rate v`` (Tieleman 2012).

    Parameters
    ----------
    learning_rate : float or callable
        A number or a schedule.
    decay : float
        Memory of the mean square, from 0 to below 1.
    eps : float
        Added to the root, above 0.
    momentum : float
        From 0 to below 1.
    weight_decay : float
        Strength of the L2 penalty.

    Examples
    --------
    >>> p = {"V": np.array([1.0])}
    >>> RMSProp(0.1, decay=0.0).update(p, {"V": np.array([-3.0])})
    >>> p["V"].round(6)
    array([1.1])
    """

    slots = ("square", "momentum")

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        *,
        decay: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate)
        self.decay = as_fraction("decay", decay)
        self.eps = as_positive("eps", eps)
        self.momentum = as_fraction("momentum", momentum)
        self.weight_decay = _not_negative("weight_decay", weight_decay)

    def _step(self, name: str, p: Array, g: Array, rate: float) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * p
        s = self._slot("square", name, p)
        scratch = np.square(g)
        _average(s, scratch, self.decay)
        np.sqrt(s, out=scratch)
        scratch += self.eps
        np.divide(g, scratch, out=scratch)
        if self.momentum:
            v = self._slot("momentum", name, p)
            v *= self.momentum
            v += scratch
            p -= rate * v
        else:
            scratch *= rate
            p -= scratch


class Adam(Optimizer):
    """Running mean over the root of the running mean square, both without bias.

    ``g <- g + w p``, ``m <- beta1 m + (1 - beta1) g``,
    ``s <- beta2 s + (1 - beta2) g^2``, and at the n-th update
    ``p <- p - rate m / (1 - beta1^n) / (sqrt(s / (1 - beta2^n)) + eps)``.

    Parameters
    ----------
    learning_rate : float or callable
        A number or a schedule.
    beta1, beta2 : float
        Memory of the mean and of the mean square, from 0 to below 1.
    eps : float
        Added to the root, above 0.
    weight_decay : float
        Strength w of the L2 penalty.

    References
    ----------
    D. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    Examples
    --------
    The first step has the length of the learning rate, whatever the gradient:

    >>> p = {"V": np.array([1.0])}
    >>> Adam(0.1).update(p, {"V": np.array([400.0])})
    >>> p["V"].round(6)
    array([0.9])
    """

    slots = ("mean", "square")

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate)
        self.beta1 = as_fraction("beta1", beta1)
        self.beta2 = as_fraction("beta2", beta2)
        self.eps = as_positive("eps", eps)
        self.weight_decay = _not_negative("weight_decay", weight_decay)

    def _step(self, name: str, p: Array, g: Array, rate: float) -> None:
        g = self._decay(p, g, rate)
        m, s = self._slot("mean", name, p), self._slot("square", name, p)
        n = self.steps + 1
        scratch = np.array(g)
        _average(m, scratch, self.beta1)
        np.square(g, out=scratch)
        _average(s, scratch, self.beta2)
        np.sqrt(s, out=scratch)
        scratch /= math.sqrt(1 - self.beta2**n)
        scratch += self.eps
        np.divide(m, scratch, out=scratch)
        scratch *= rate / (1 - self.beta1**n)
        p -= scratch

    def _decay(self, p: Array, g: Array, rate: float) -> Array:
        """Apply the weight decay, here as a part of the gradient."""
        return g + self.weight_decay * p if self.weight_decay else g


class AdamW(Adam):
    """Adam whose weight decay w does not pass through the mean squares.

    ``p <- p - rate w p``, then a step of Adam without weight decay.

    Parameters
    ----------
    learning_rate : float or callable
        A number or a schedule.
    weight_decay : float
        What is taken off each parameter per unit of learning rate.
    **others
        beta1, beta2 and eps, as in `Adam`.

    References
    ----------
    I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> p = {"V": np.array([1.0])}
    >>> AdamW(0.1, weight_decay=0.5).update(p, {"V": np.array([0.0])})
    >>> p["V"]
    array([0.95])
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        *,
        weight_decay: float = 0.01,
        **others: float,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **others)

    def _decay(self, p: Array, g: Array, rate: float) -> Array:
        p *= 1 - rate * self.weight_decay
        return g


TABLE: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
}


def get(name: str) -> type[Optimizer]:
    """Return the optimizer class of this name: sgd, rmsprop, adam or adamw."""
    check_choice("optimizer", name, tuple(TABLE))
    return TABLE[name]


def _average(mean: Array, value: Array, memory: float) -> None:
    """Set mean to memory * mean + (1 - memory) * value; value is used up."""
    mean *= memory
    value *= 1 - memory
    mean += value


def _check_like(name: str, array: Array, p: Array) -> None:
    if array.shape != p.shape:
        raise ValueError(f"{name} must have shape {p.shape}, got {array.shape}")
    if array.dtype != p.dtype:
        raise TypeError(f"{name} must have dtype {p.dtype}, got {array.dtype}")


def _not_negative(name: str, value: float) -> float:
    number = as_number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {value!r}")
    return number
