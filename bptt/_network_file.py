"""A network as the contents of a file, and back: arrays, and JSON for all the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bptt import _parameters
from bptt._readout import PARAMETERS
from bptt._stack import Stack
from bptt.activations import Activation
from bptt.serialization import ModelFileError, reading

Array = NDArray[Any]

_FORMAT = "bptt.Network 1"


class Saved(Protocol):
    """What a file says of a network."""

    stack: Stack
    params: dict[str, Array]
    metadata: dict[str, Any]
    output_size: int
    loss: str
    readout: str
    stateful: bool
    dtype: np.dtype[Any]


N = TypeVar("N", bound=Saved)


def contents(network: Saved) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the metadata that make a file of a network."""
    stack = network.stack
    config: dict[str, Any] = {
        "sizes": [stack.input_size, stack.hidden_size, network.output_size],
        "activation": stack.activation.__reduce__()[1],
        "loss": network.loss,
        "readout": network.readout,
        "stateful": network.stateful,
        "dtype": network.dtype.name,
    }
    # The file of a single layer is what it was before there were more.
    if stack.cells > 1:
        config["num_layers"] = stack.num_layers
        config["bidirectional"] = stack.directions == 2
        config["dropout"] = stack.dropout
    return dict(network.params), {
        "format": _FORMAT,
        "network": json.dumps(config),
        "metadata": json.dumps(network.metadata),
    }


def from_contents(
    make: Callable[..., N],
    path: str | os.PathLike[str],
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
) -> N:
    """Return the network of a file's contents; path is for messages alone."""
    if metadata.get("format") != _FORMAT:
        raise ModelFileError(
            f"{os.fspath(path)} is not a model file of this version of bptt: "
            f"its format is {metadata.get('format')!r}, not {_FORMAT!r}"
        )
    with reading(path):
        config = dict(json.loads(metadata["network"]))
        # Before anything is made of each layer: a file may claim any number of them.
        if (layers := config.get("num_layers", 1)) > len(arrays):
            raise ValueError(
                f"its {len(arrays)} arrays are too few for {layers} layers"
            )
        network = make(
            *config.pop("sizes"),
            activation=Activation(*config.pop("activation")),
            init=_parameters.saved(arrays, PARAMETERS),
            **config,
        )
        network.metadata = json.loads(metadata["metadata"])
        if not isinstance(network.metadata, dict):
            raise TypeError("its metadata are no JSON object")
    return network
