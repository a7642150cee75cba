"""Exact backpropagation through time, compiled.

>>> import numpy as np, bptt
>>> z, tape = bptt.forward(np.ones((5, 2, 3)), np.ones((3, 4)), np.eye(4))
>>> grads = bptt.backward(tape, dz_last=np.ones((2, 4)))
>>> grads, norm = bptt.clip_norm(grads, 1.0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from bptt._backend import show_config
from bptt._threads import get_num_threads, set_num_threads, threads
from bptt.activations import Activation
from bptt.clipping import clip_norm, clip_value
from bptt.recurrence import Gradients, Tape, backward, forward

if TYPE_CHECKING:
    from bptt import data as data
    from bptt import flow as flow
    from bptt import initializers as initializers
    from bptt import losses as losses
    from bptt import optimizers as optimizers
    from bptt import schedules as schedules
    from bptt import streaming as streaming
    from bptt import truncation as truncation
    from bptt.flow import (
        gradient_flow,
        jacobian,
        jacobian_product,
        jvp,
        lyapunov_exponents,
        vjp,
    )
    from bptt.network import Network
    from bptt.rnn import RNN
    from bptt.training import train

__all__ = [
    "RNN",
    "Activation",
    "Gradients",
    "Network",
    "Tape",
    "backward",
    "clip_norm",
    "clip_value",
    "forward",
    "get_num_threads",
    "gradient_flow",
    "jacobian",
    "jacobian_product",
    "jvp",
    "lyapunov_exponents",
    "set_num_threads",
    "show_config",
    "threads",
    "train",
    "vjp",
]

# What the functional core does not need is imported when it is first asked for.
_LAZY = {
    "Network": ("bptt.network", "Network"),
    "RNN": ("bptt.rnn", "RNN"),
    "train": ("bptt.training", "train"),
    "gradient_flow": ("bptt.flow", "gradient_flow"),
    "jacobian": ("bptt.flow", "jacobian"),
    "jacobian_product": ("bptt.flow", "jacobian_product"),
    "jvp": ("bptt.flow", "jvp"),
    "lyapunov_exponents": ("bptt.flow", "lyapunov_exponents"),
    "vjp": ("bptt.flow", "vjp"),
    "data": ("bptt.data", None),
    "flow": ("bptt.flow", None),
    "initializers": ("bptt.initializers", None),
    "losses": ("bptt.losses", None),
    "optimizers": ("bptt.optimizers", None),
    "schedules": ("bptt.schedules", None),
    "streaming": ("bptt.streaming", None),
    "truncation": ("bptt.truncation", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'bptt' has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAZY})
