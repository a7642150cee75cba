"""The state of a training run, and the file that it is stopped in and resumed from.

A checkpoint is the model file of the network with more in it: names with a dot belong
to the run, ``optimizer.*``, ``history.*``, ``best.*``, ``last.*``, ``run.state``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import serialization
from bptt._walk import Walk
from bptt.history import History
from bptt.network import Network
from bptt.optimizers import Optimizer
from bptt.serialization import ModelFileError

Array = NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass
class Run:
    """A network in training, as it is after the last complete step.

    Attributes
    ----------
    walk : Walk or None
        Where the batches are walked through in pieces.
    state : ndarray or None
        The state of a stateful network after that step.
    best : dict of ndarray
        The parameters of the lowest validation loss; empty where none are kept.
    last : dict of ndarray
        The parameters to go on from, where the network has got back the best; else
        empty.
    window : dict of ndarray
        What the walk needs to go on, where there is a checkpoint.
    """

    network: Network
    optimizer: Optimizer
    walk: Walk | None = None
    history: History = field(default_factory=History)
    state: Array | None = None
    best: dict[str, Array] = field(default_factory=dict)
    last: dict[str, Array] = field(default_factory=dict)
    window: dict[str, Array] = field(default_factory=dict)

    def take_best(self) -> None:
        """Give the network the best parameters, and keep the last to go on from."""
        if self.best:
            params = self.network.params
            self.last = {name: p.copy() for name, p in params.items()}
            for name, p in params.items():
                p[...] = self.best[name]


def save(path: Path, run: Run) -> None:
    """Write the checkpoint of a run."""
    arrays, metadata = run.network.contents()
    arrays |= _prefixed("optimizer", run.optimizer.state)
    arrays |= _prefixed("history", run.history.to_arrays())
    arrays |= _prefixed("best", run.best)
    arrays |= _prefixed("last", run.last)
    arrays |= _prefixed("window", run.window)
    if run.state is not None:
        arrays["run.state"] = run.state
    metadata["optimizer"] = type(run.optimizer).__name__
    serialization.write(path, arrays, metadata)


def restore(path: Path, run: Run, *, best: bool) -> None:
    """Set a run to its checkpoint, which must be one of such a run.

    Parameters
    ----------
    path : Path
        The checkpoint.
    run : Run
        Is as it was where there is an error.
    best : bool
        Whether the run keeps the best parameters.

    Raises
    ------
    ModelFileError
        The file is damaged, is no checkpoint, or belongs to another network or
        optimizer, or to a run with other settings.
    """
    arrays, metadata = serialization.read(path)
    saved = Network.from_contents(path, arrays, metadata)
    _check_kind(path, saved, metadata, run)
    with serialization.reading(path):
        history = History.from_arrays(**_named(arrays, "history"))
        _check_memory(_named(arrays, "optimizer"), run, len(history.records))
        state = arrays.get("run.state")
        _check_state(state, run.network)
        kept = {kind: _named(arrays, kind) for kind in ("best", "last")}
        for kind, params in kept.items():
            if params:
                _check_arrays(kind, params, run.network.params)
        window = _named(arrays, "window")
        if (run.walk is not None) != bool(window):
            raise ValueError(f"window.k is {'not wanted' if window else 'missing'}")
        if run.walk is not None:
            run.walk.check(window)
    if best and history.validation and not kept["best"]:
        raise ModelFileError(f"{path} is the checkpoint of a run without patience")

    last = kept["last"] or saved.params
    for name, p in run.network.params.items():
        np.copyto(p, last[name])
    run.optimizer.load_state(_named(arrays, "optimizer"))
    run.history = history
    run.window = window
    if run.walk is not None:
        run.walk.restore(window)
    run.best = {name: np.array(p) for name, p in kept["best"].items()} if best else {}
    run.state = run.network.state = None if state is None else np.array(state)


def _check_kind(
    path: Path, saved: Network, metadata: Mapping[str, str], run: Run
) -> None:
    ours = run.network.contents()[1]
    theirs = saved.contents()[1]
    if ours["network"] != theirs["network"]:
        raise ModelFileError(
            f"{path} is the checkpoint of another network: {saved}, not {run.network}"
        )
    kind, other = type(run.optimizer).__name__, metadata.get("optimizer")
    if other is None:
        raise ModelFileError(f"{path} is a model and no checkpoint: no run to resume")
    if other != kind:
        raise ModelFileError(
            f"{path} is not the checkpoint of a run with {kind}: "
            f"its optimizer is {other}"
        )


def _check_memory(memory: Arrays, run: Run, steps: int) -> None:
    """Refuse a memory that is not the one of such an optimizer after so many steps."""
    made = memory.get("steps")
    # More where the optimizer had made updates before the run.
    if made is None or made.shape or not made >= steps:
        raise ValueError(f"optimizer.steps must be {steps} or more, as its history has")
    # One update of something else says which arrays there are.
    probe = copy.copy(run.optimizer)
    probe.load_state({"steps": np.array(0)})
    params = {name: p.copy() for name, p in run.network.params.items()}
    probe.update(params, {name: np.zeros_like(p) for name, p in params.items()})
    _check_arrays("optimizer", memory, probe.state)


def _check_state(state: Array | None, network: Network) -> None:
    if (state is not None) != network.stateful:
        raise ValueError(f"run.state is {'missing' if state is None else 'not wanted'}")
    if state is None:
        return
    H, layers = network.hidden_size, network.stack.cells
    many, letters = layers > 1, "(B, H) or (H,)"
    if many:
        letters = "(L, B, H) or (L, H)"
    if (
        state.ndim - many not in (1, 2)
        or state.shape[-1] != H
        or (many and len(state) != layers)
        or state.dtype != network.dtype
    ):
        raise ValueError(
            f"run.state must have shape {letters} with H = {H} "
            f"and dtype {network.dtype}, got {state.shape} and {state.dtype}"
        )


def _check_arrays(prefix: str, arrays: Arrays, expected: Arrays) -> None:
    """Refuse arrays whose names, shapes or dtypes are not the expected ones."""
    if wrong := sorted(arrays.keys() ^ expected.keys()):
        what = "missing" if wrong[0] in expected else "not wanted"
        raise ValueError(f"{prefix}.{wrong[0]} is {what}")
    for name, array in arrays.items():
        like = expected[name]
        if array.shape != like.shape or array.dtype != like.dtype:
            raise ValueError(
                f"{prefix}.{name} must have shape {like.shape} and dtype {like.dtype}, "
                f"got {array.shape} and {array.dtype}"
            )


def _prefixed(prefix: str, arrays: dict[str, Array]) -> dict[str, Array]:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def _named(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    start = prefix + "."
    return {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
