"""The state of a training run, and the file that it is stopped in and resumed from.

A checkpoint is the model file of the network with more in it: names with a dot belong
to the run, ``optimizer.*``, ``history.*``, ``best.*``, ``run.state``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import serialization
from bptt.history import History
from bptt.network import Network
from bptt.optimizers import Optimizer
from bptt.serialization import ModelFileError

Array = NDArray[Any]


@dataclass
class Run:
    """A network in training, as it is after the last complete step.

    Attributes
    ----------
    state : ndarray or None
        The state of a stateful network after that step.
    best : dict of ndarray
        The parameters of the lowest validation loss; empty where none are kept.
    """

    network: Network
    optimizer: Optimizer
    history: History = field(default_factory=History)
    state: Array | None = None
    best: dict[str, Array] = field(default_factory=dict)


def save(path: Path, run: Run) -> None:
    """Write the checkpoint of a run."""
    arrays, metadata = run.network.contents()
    arrays |= _prefixed("optimizer", run.optimizer.state)
    arrays |= _prefixed("history", run.history.to_arrays())
    arrays |= _prefixed("best", run.best)
    if run.state is not None:
        arrays["run.state"] = run.state
    metadata["optimizer"] = type(run.optimizer).__name__
    serialization.write(path, arrays, metadata)


def restore(path: Path, run: Run) -> None:
    """Set a run to its checkpoint, which must be one of such a run.

    Raises
    ------
    ModelFileError
        The file is damaged, is no checkpoint, or belongs to another network or
        optimizer. The run is then as it was.
    """
    arrays, metadata = serialization.read(path)
    saved = Network.from_contents(path, arrays, metadata)
    ours = run.network.contents()[1]
    theirs = saved.contents()[1]
    if ours["network"] != theirs["network"]:
        raise ModelFileError(
            f"{path} is the checkpoint of another network: {saved}, not {run.network}"
        )
    kind = type(run.optimizer).__name__
    if metadata.get("optimizer") != kind:
        raise ModelFileError(
            f"{path} is not the checkpoint of a run with {kind}: "
            f"its optimizer is {metadata.get('optimizer')}"
        )
    try:
        history = History.from_arrays(**_named(arrays, "history"))
        run.optimizer.load_state(_named(arrays, "optimizer"))
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is not a checkpoint: {error}") from None
    for name, p in run.network.params.items():
        np.copyto(p, saved.params[name])
    run.history = history
    run.best = {name: np.array(p) for name, p in _named(arrays, "best").items()}
    state = arrays.get("run.state")
    run.state = run.network.state = None if state is None else np.array(state)


def _prefixed(prefix: str, arrays: dict[str, Array]) -> dict[str, Array]:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def _named(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    start = prefix + "."
    return {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
