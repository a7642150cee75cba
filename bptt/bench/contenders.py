"""The contenders: each gets the inputs, takes one step at a time, shows its result.

A contender is built outside the clock: it converts the inputs, compiles, allocates.
`step` is what is timed: forward and backward from the plain inputs to the gradients of
W, V, b, z0 and x, or forward alone. Frameworks are imported here and nowhere else.
"""

from __future__ import annotations

import importlib
import os
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

import bptt
from bptt import _reference
from bptt.activations import Activation
from bptt.bench.cases import GRADIENTS, Array, Arrays, Task


class UnableError(Exception):
    """A contender does not offer what a task asks for."""


class Contender(Protocol):
    """What the worker needs of a contender."""

    version: str

    def __init__(self, task: Task, inputs: Arrays) -> None: ...

    def step(self) -> None:
        """Take one step: this is timed."""

    def result(self) -> dict[str, Array] | None:
        """Return what the last step gave, or None if there is nothing to check."""


@runtime_checkable
class Yardstick(Protocol):
    """A contender that measures the machine, not the task."""

    def work(self) -> float:
        """Return the flops, or the bytes, of one of its steps."""


class Bptt:
    """The public functions `bptt.forward` and `bptt.backward`, as a loop uses them.

    Results are overwritten with ``out``, as those of oneDNN and NumPy are here.
    """

    version = bptt.__version__

    def __init__(self, task: Task, inputs: Arrays) -> None:
        self.task, self.inputs = task, inputs
        self.activation = Activation(task.activation)
        self.tape: bptt.Tape | None = None
        self.grads: bptt.Gradients | None = None

    def step(self) -> None:
        """Take one step."""
        i = self.inputs
        self.z, self.tape = bptt.forward(
            i.x, i.W, i.V, i.b, i.z0, activation=self.activation, out=self.tape
        )
        if not self.task.forward_only:
            self.grads = bptt.backward(self.tape, i.dz, out=self.grads)

    def result(self) -> dict[str, Array]:
        """Return the states or the gradients."""
        return {"z": self.z} if self.grads is None else self.grads._asdict()


class NumPy:
    """The specification: matrix products and a loop in Python."""

    version = np.__version__

    def __init__(self, task: Task, inputs: Arrays) -> None:
        self.task, self.inputs = task, inputs
        self.activation = Activation(task.activation)
        i = inputs
        self.z = np.empty((len(i.x) + 1, *i.z0.shape), i.x.dtype)
        self.z[0] = i.z0
        dW, dV, db, dz0, dx = map(np.empty_like, (i.W, i.V, i.b, i.z0, i.x))
        self.grads = (dW, dV, db, dz0, dx)

    def step(self) -> None:
        """Take one step."""
        i, z = self.inputs, self.z
        _reference.forward(i.x, i.W, i.V, i.b, z, self.activation)
        if not self.task.forward_only:
            _reference.backward(
                i.x, i.W, i.V, z, self.activation, i.dz, None, *self.grads
            )

    def result(self) -> dict[str, Array]:
        """Return the states or the gradients."""
        if self.task.forward_only:
            return {"z": self.z[1:]}
        return dict(zip(GRADIENTS, self.grads, strict=True))


class Torch:
    """PyTorch's nn.RNN and its autograd."""

    def __init__(self, task: Task, inputs: Arrays) -> None:
        self.torch = torch = importlib.import_module("torch")
        self.version = str(torch.__version__)
        if task.activation not in ("tanh", "relu"):
            raise UnableError(f"nn.RNN has no {task.activation}")
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self.task = task
        I, H = task.shape.I, task.shape.H
        dtype = getattr(torch, task.dtype)
        self.rnn = torch.nn.RNN(I, H, nonlinearity=task.activation, dtype=dtype)
        parameters = {
            "weight_ih_l0": inputs.W.T,
            "weight_hh_l0": inputs.V.T,
            "bias_ih_l0": inputs.b,
            "bias_hh_l0": np.zeros_like(inputs.b),
        }
        with torch.no_grad():
            for name, value in parameters.items():
                getattr(self.rnn, name).copy_(torch.from_numpy(value.copy()))
        grad = not task.forward_only
        self.x = torch.from_numpy(inputs.x).requires_grad_(grad)
        self.z0 = torch.from_numpy(inputs.z0[np.newaxis]).requires_grad_(grad)
        self.dz = torch.from_numpy(inputs.dz)
        self.leaves = [*(getattr(self.rnn, n) for n in parameters), self.z0, self.x]

    def step(self) -> None:
        """Take one step."""
        if self.task.forward_only:
            with self.torch.no_grad():
                self.z, _ = self.rnn(self.x, self.z0)
        else:
            z, _ = self.rnn(self.x, self.z0)
            # The loss is sum(z * dz), whose gradient needs no product to be formed.
            self.grads = self.torch.autograd.grad(z, self.leaves, self.dz)

    def result(self) -> dict[str, Array]:
        """Return the states or the gradients, in the layout of bptt."""
        if self.task.forward_only:
            return {"z": self.z.numpy()}
        dW, dV, db, _, dz0, dx = (grad.numpy() for grad in self.grads)
        return {"W": dW.T, "V": dV.T, "b": db, "z0": dz0[0], "x": dx}


class Jax:
    """JAX: lax.scan over the recurrence, x W as one product before it, jitted.

    How far the scan is unrolled is tried out beforehand: which is faster depends on H.
    """

    UNROLL = (1, 8)
    TRIES = 3

    def __init__(self, task: Task, inputs: Arrays) -> None:
        self.jax = jax = importlib.import_module("jax")
        self.version = str(jax.__version__)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", task.dtype == "float64")
        self.task = task
        jnp = jax.numpy
        sigma = {
            "tanh": jnp.tanh,
            "relu": jax.nn.relu,
            "sigmoid": jax.nn.sigmoid,
        }[task.activation]

        def forward(unroll: int, W: Any, V: Any, b: Any, z0: Any, x: Any) -> Any:
            def one(z: Any, a: Any) -> Any:
                z = sigma(a + z @ V)
                return z, z

            return jax.lax.scan(one, z0, x @ W + b, unroll=unroll)[1]

        def train(unroll: int, dz: Any, *leaves: Any) -> Any:
            # The loss is sum(z * dz), whose gradient needs no product to be formed.
            z, pull = jax.vjp(partial(forward, unroll), *leaves)
            return z, pull(dz)

        self.arguments = [jnp.asarray(getattr(inputs, name)) for name in GRADIENTS]
        if not task.forward_only:
            self.arguments.insert(0, jnp.asarray(inputs.dz))
        function = forward if task.forward_only else train
        candidates = [jax.jit(partial(function, unroll)) for unroll in self.UNROLL]
        self.function = min(candidates, key=self._least_time)

    def _least_time(self, function: Callable[..., Any]) -> float:
        """Return the shortest of a few runs, compiled before."""
        self.function = function
        self.step()
        return min(timeit.repeat(self.step, number=1, repeat=self.TRIES))

    def step(self) -> None:
        """Take one step."""
        self.out = self.jax.block_until_ready(self.function(*self.arguments))

    def result(self) -> dict[str, Array]:
        """Return the states or the gradients."""
        if self.task.forward_only:
            return {"z": np.asarray(self.out)}
        grads = map(np.asarray, self.out[1])
        return dict(zip(GRADIENTS, grads, strict=True))
