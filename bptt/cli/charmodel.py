"""A network of characters: how well it predicts a text, and the text it writes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.cli.text import Alphabet
from bptt.losses import cross_entropy
from bptt.network import Network
from bptt.serialization import ModelFileError

Array = NDArray[Any]

# Streams that are read side by side, and steps that are read in one call.
_STREAMS, _STREAM_LENGTH, _STEPS = 64, 500, 200


def save(path: str | os.PathLike[str], network: Network, alphabet: Alphabet) -> None:
    """Write a network with its alphabet."""
    network.metadata["alphabet"] = alphabet.characters
    network.save(path)


def load(path: str | os.PathLike[str]) -> tuple[Network, Alphabet]:
    """Return the network and the alphabet of a file.

    What is loaded is finite, stateful, and predicts each character.

    Raises
    ------
    ModelFileError
        The file is no model of characters, or is damaged.
    """
    network = Network.load(path)
    characters = network.metadata.get("alphabet")
    kind = network.loss, network.readout, network.stateful
    if not isinstance(characters, str) or kind != ("cross_entropy", "every", True):
        raise ModelFileError(f"{os.fspath(path)} is not a model of characters")
    try:
        alphabet = Alphabet(characters)
    except ValueError as error:
        raise ModelFileError(f"{os.fspath(path)} is damaged: {error}") from None
    if {network.input_size, network.output_size} != {len(alphabet)}:
        raise ModelFileError(
            f"{os.fspath(path)} is damaged: its alphabet has {len(alphabet)} "
            f"characters, its network {network.output_size} outputs"
        )
    for name, p in network.params.items():
        if not np.isfinite(p).all():
            raise ModelFileError(
                f"{os.fspath(path)} is damaged: {name} holds a NaN or an infinity"
            )
    return network, alphabet


def read_length(length: int) -> int:
    """Return how many of so many ids `bits` reads."""
    streams = _streams(length)
    return (length - 1) // streams * streams + 1


def bits(network: Network, ids: Array) -> float:
    """Return the mean of -log2 p of a text: bits per character.

    The text is read as parallel streams, each from the state 0 on, which costs the
    network a little at the start of each.

    Parameters
    ----------
    network : Network
        A stateful one; its state is reset.
    ids : ndarray of int, of shape (N,)
        The text.

    Returns
    -------
    float
    """
    B = _streams(len(ids))
    count = read_length(len(ids))
    x, target = ids[: count - 1].reshape(B, -1).T, ids[1:count].reshape(B, -1).T
    nats = 0.0
    network.reset()
    for start in range(0, len(x), _STEPS):
        part = slice(start, start + _STEPS)
        loss, _ = cross_entropy(network.predict(x[part]), target[part])
        nats += loss * target[part].size
    network.reset()
    return nats / target.size / math.log(2)


def sample(
    network: Network,
    alphabet: Alphabet,
    *,
    prompt: str,
    length: int,
    temperature: float,
    seed: int | None,
) -> Iterator[str]:
    """Draw characters from a network after a prompt, one by one.

    Parameters
    ----------
    network : Network
        A stateful one; its state is reset.
    alphabet : Alphabet
        Of the network.
    prompt : str
        What the network reads first; at least one character.
    length : int
        Characters to draw.
    temperature : float
        Divides the logits: below 1 the text is safer, above 1 bolder; 0 takes the most
        probable character each time.
    seed : int or None
        Where the draws come from.

    Yields
    ------
    str

    Raises
    ------
    FloatingPointError
        The network overflows.
    """
    rng = np.random.default_rng(seed)
    network.reset()
    ids = alphabet.encode(prompt)
    for _ in range(length):
        logits = network.predict(ids)[-1].astype(np.float64)
        if not np.isfinite(logits).all():
            raise FloatingPointError("its weights are so large that it overflows")
        logits[alphabet.other] = -np.inf
        ids = np.array([_draw(logits, temperature, rng)])
        yield alphabet.decode(ids.tolist())
    network.reset()


def _draw(logits: Array, temperature: float, rng: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    # Subtract first: a tiny temperature must not make infinities of finite logits.
    with np.errstate(over="ignore", under="ignore"):
        p = np.exp((logits - logits.max()) / temperature)
    return int(rng.choice(len(p), p=p / p.sum()))


def _streams(length: int) -> int:
    if length < 2:
        raise ValueError(f"the held-out text must have 2 characters, got {length}")
    return max(1, min(_STREAMS, length // _STREAM_LENGTH))
