"""The arguments of layers, checked and brought into one shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import DTypeLike, NDArray

from bptt import initializers
from bptt._inputs import as_budget, budget_given
from bptt._recompute import BudgetError
from bptt._stack import Stack
from bptt._stack_tape import StackTape
from bptt._validation import as_flag, as_fraction, as_real, as_size, check_shape
from bptt.activations import Activation, as_activation

Array = NDArray[Any]


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
        2 if as_flag("bidirectional", bidirectional) else 1,
        as_fraction("dropout", dropout),
        as_flag("bias", bias),
        as_activation(activation),
        initializers.as_float(dtype),
    )
    if dropout and stack.num_layers == 1:
        raise ValueError(
            f"dropout is between layers and needs num_layers above 1, got {dropout} "
            "with num_layers = 1"
        )
    return stack


def as_budgets(memory: int | str | None, checkpoint: int | None) -> dict[str, int]:
    """Return what layers are told of the states that they may keep."""
    size, steps = as_budget(memory, checkpoint)
    given = {"memory": size, "checkpoint": steps}
    return {name: value for name, value in given.items() if value is not None}


def _shares(stack: Stack, together: bool) -> int:
    """Return how many have a part of a budget each: the directions of a single layer,
    unless they are run together, as layers on top of each other are.
    """
    return stack.directions if stack.num_layers == 1 and not together else 1


def as_network_budgets(
    stack: Stack,
    memory: int | str | None,
    checkpoint: int | None,
    *,
    every: bool,
    omega: bool = False,
    apart: bool = False,
) -> dict[str, int]:
    """Return what `as_budgets` does, for a network whose readout is at every step or
    not; with omega or with tapes of their own its cells may need all states.
    """
    budget = as_budgets(memory, checkpoint)
    if not budget:
        return budget
    name, came = budget_given(memory, checkpoint)
    if apart and stack.directions > 1 and (stack.num_layers > 1 or every):
        raise ValueError(
            f"{name} must be None for layers that are run together in both directions, "
            f"which have no tapes of their own then, got {came!r}"
        )
    if omega:
        raise ValueError(
            f"{name} must be None with omega, which needs all states, got {came!r}"
        )
    return budget


def forward_within(
    stack: Stack,
    budget: Mapping[str, int],
    *arguments: Any,
    together: bool = False,
    **options: Any,
) -> tuple[Array, StackTape]:
    """Run `stack.forward`; of a budget that is too small say what all of it must be."""
    parts, each = _shares(stack, together), dict(budget)
    if "memory" in each:
        each["memory"] = max(1, each["memory"] // parts)
    try:
        return stack.forward(*arguments, **options, budget=each, together=together)
    except BudgetError as error:
        raise BudgetError(error.least * parts, budget["memory"]) from None


def as_dz(stack: Stack, dz: Any, tape: StackTape, batch_first: bool) -> Array:
    """Return dz, which came in the form of x, as one array, time first."""
    width, batched = stack.width, len(tape.shape) == 3
    dz = tape.order.joined("dz", dz, "(T, D H)", (width,), stack.dtype)
    dz = as_real("dz", dz, stack.dtype, contiguous=False)
    T, *B, _ = tape.shape
    letters = "B, T" if batch_first else "T, B"
    letters = f"({letters if batched else 'T'}, D H)"
    check_shape("dz", dz, letters, (*B, T, width) if batch_first else tape.shape)
    array: Array = dz.swapaxes(0, 1) if batched and batch_first else dz
    return array


def as_function(stack: Stack, dz: Any, tape: StackTape, batch_first: bool) -> Any:
    """Return a function of states, time first, for one that takes the form of x."""
    if stack.directions > 1:
        raise ValueError("dz must be an array for both directions, got a function")
    if not batch_first or len(tape.shape) < 3:
        return dz

    if tape.order.uneven:
        T, B, _ = tape.shape
        return lambda rows, z: dz(rows % B * T + rows // B, z)

    def turned(start: int, z: Array) -> Array:
        value = as_real("dz(start, z)", dz(start, z.swapaxes(0, 1)), stack.dtype)
        return value.swapaxes(0, 1) if value.ndim == 3 else value

    return turned
