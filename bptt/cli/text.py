"""Text as token ids: where it comes from, its alphabet, and what is held out of it."""

from __future__ import annotations

import codecs
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Stands for every character that the alphabet has not.
OTHER = "\ufffd"

# A run of the default length sees each character about seven times.
STANDARD_LIBRARY_CHARACTERS = 2_000_000


class Alphabet:
    """The characters of a model, each with its id.

    Parameters
    ----------
    characters : str
        Distinct characters; the place of each is its id. OTHER must be one of them.

    Examples
    --------
    >>> alphabet = Alphabet("ab" + OTHER)
    >>> ids = alphabet.encode("abc")
    >>> ids.tolist(), alphabet.decode([1, 0])
    ([0, 1, 2], 'ba')
    """

    def __init__(self, characters: str) -> None:
        if OTHER not in characters or len(set(characters)) != len(characters):
            raise ValueError("the alphabet must hold distinct characters and U+FFFD")
        self.characters = characters
        self.other = characters.index(OTHER)
        self._ids = np.full(sys.maxunicode + 1, self.other, np.intp)
        self._ids[_code_points(characters)] = np.arange(len(characters))

    def __len__(self) -> int:
        return len(self.characters)

    @classmethod
    def of(cls, text: str, size: int) -> Alphabet:
        """Return the alphabet of the most frequent characters, size with OTHER."""
        counts = Counter(text)
        del counts[OTHER]
        ranked = sorted(counts, key=lambda character: (-counts[character], character))
        return cls("".join(sorted(ranked[: size - 1])) + OTHER)

    def encode(self, text: str) -> Array:
        """Return the id of each character."""
        ids: Array = self._ids[_code_points(text)]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the characters of ids."""
        return "".join(self.characters[i] for i in ids)


def read_texts(names: Sequence[str], note: Callable[[str], None]) -> list[str]:
    """Return the text of each file, of stdin for "-", newlines made uniform.

    Without names: Python source of the standard library, see `standard_library`. Files
    are in UTF-8, or in UTF-16 with a byte order mark; note is told of what is neither.
    """
    if not names:
        return standard_library()
    texts = []
    for name in names:
        text, wrong = _decode(_read(name))
        if wrong:
            note(f"{wrong:,} bytes of {_name(name)} are not UTF-8")
        texts.append(text)
    return texts


def naming(names: Sequence[str]) -> str:
    """Return the files as a message names them."""
    return ", ".join(map(_name, names)) or "the standard library"


def standard_library(characters: int = STANDARD_LIBRARY_CHARACTERS) -> list[str]:
    """Return the source of modules of the standard library, up to so many characters.

    The single-file modules that every installation has, in the order of their names:
    the same text for the same version of Python.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    texts, left = [], characters
    for name in sorted(sys.stdlib_module_names):
        path = folder / f"{name}.py"
        if left <= 0:
            break
        if name.startswith("_") or not path.is_file():
            continue
        text = _decode(path.read_bytes())[0][:left]
        texts.append(text)
        left -= len(text)
    if not texts:
        raise ValueError(f"there is no Python source in {folder}; name files to read")
    return texts


def split(texts: Sequence[str], held_out: float) -> tuple[str, str]:
    """Return the texts to train on and the ones held out: the end of each text."""
    cuts = [round(len(text) * (1 - held_out)) for text in texts]
    train = "".join(text[:cut] for text, cut in zip(texts, cuts, strict=True))
    rest = "".join(text[cut:] for text, cut in zip(texts, cuts, strict=True))
    return train, rest


def _read(name: str) -> bytes:
    if name != "-":
        return Path(name).read_bytes()
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer.read()


def _name(name: str) -> str:
    return "standard input" if name == "-" else name


def _decode(data: bytes) -> tuple[str, int]:
    """Return a text, and how many of its bytes were not UTF-8."""
    wrong = 0
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", errors="replace")
    else:
        text = data.decode("utf-8-sig", errors="surrogateescape")
        text, wrong = re.subn("[\udc80-\udcff]", OTHER, text)
    return text.replace("\r\n", "\n").replace("\r", "\n"), wrong


def _code_points(text: str) -> Array:
    # A lone surrogate has a code point too, but no encoding that would not refuse it.
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
