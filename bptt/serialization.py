"""Arrays and metadata in one file: safetensors, or npz without pickle.

The suffix chooses what is written, the content what is read. A file is data, never
code, and nothing in it is trusted: whatever is wrong with it, `read` raises one
`ModelFileError` that names the file. A file is either written completely or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]
Metadata = dict[str, str]

SUFFIXES = (".safetensors", ".npz")

# The name of the metadata in either format: one text, as the order of several is not
# kept by safetensors, and equal networks are to make equal files.
_METADATA = "bptt"

# Beside the metadata: safetensors, unlike zip, would not notice a changed byte.
_CHECKSUM = "crc32"


class ModelFileError(ValueError):
    """A file is not a model, or is damaged."""


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
) -> None:
    """Write arrays and metadata to one file, completely or not at all.

    The bytes go to a new file beside the old one, which they replace at the end. Of a
    symbolic link, what it points to is replaced.

    Parameters
    ----------
    path : str or path
        Ends in ``.safetensors`` or ``.npz``.
    arrays : dict of ndarray
        Arrays of numbers, by name.
    metadata : dict of str
        Texts, by name.

    Raises
    ------
    ValueError
        Another suffix.
    ImportError
        The suffix is ``.safetensors`` and that package is not installed.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(folder + "/a.npz", {"V": np.eye(1)}, {"made by": "me"})
    ...     read(folder + "/a.npz")
    ({'V': array([[1.]])}, {'made by': 'me'})
    """
    path = _check_suffix("path", path)
    arrays = {name: np.asarray(a, order="C") for name, a in arrays.items()}
    encode = _encode_npz if path.suffix == ".npz" else _encode_safetensors
    _replace(path, encode(arrays, dict(metadata)))


def read(path: str | os.PathLike[str]) -> tuple[Arrays, Metadata]:
    """Read the arrays and the metadata of a file.

    Parameters
    ----------
    path : str or path
        A safetensors or npz file, whatever its name.

    Returns
    -------
    arrays : dict of ndarray
        May be read-only.
    metadata : dict of str

    Raises
    ------
    ModelFileError
        The file is of another kind, truncated or damaged, or holds Python objects.
    ImportError
        It is a safetensors file and that package is not installed.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    data = path.read_bytes()
    decode = _decode_npz if data[:2] == b"PK" else _decode_safetensors
    with reading(path):
        return decode(data)


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make one ModelFileError, which names the file, of any error in a block."""
    try:
        yield
    except (ImportError, ModelFileError):
        raise
    # Any exception: what foreign bytes may cause is not for a parser to promise.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelFileError(
            f"{os.fspath(path)} is not a model file, or is damaged: {reason}"
        ) from None


def check_path(name: str, path: str | os.PathLike[str]) -> Path:
    """Return a path after a try whether it can be written: now, not after training.

    Raises
    ------
    ValueError
        Its suffix is not a known one.
    OSError
        It is a folder, or is in one that does not exist or cannot be written to.
    """
    path = _check_suffix(name, path)
    if not path.parent.is_dir():
        raise _os_error(errno.ENOENT, path.parent)
    if path.is_dir():
        raise _os_error(errno.EISDIR, path)
    with _new_file(path):
        pass
    return path


def _check_suffix(name: str, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{name} must end in {' or '.join(SUFFIXES)}, got {str(path)!r}"
        )
    return path


def _encode_npz(arrays: Arrays, metadata: Metadata) -> bytes:
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    np.savez(buffer, **{**arrays, _METADATA: text})  # type: ignore[arg-type]
    return buffer.getvalue()


def _decode_npz(data: bytes) -> tuple[Arrays, Metadata]:
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            # A compressed entry may unfold to any size; `write` makes none.
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"entry {entry.filename!r} is compressed")
            # All bytes first, for only then has the checksum been compared.
            stream = io.BytesIO(archive.read(entry))
            name = entry.filename.removesuffix(".npy")
            arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    if _METADATA not in arrays:
        raise ValueError("it was not written by bptt")
    metadata = json.loads(arrays.pop(_METADATA).tobytes())
    return arrays, _as_texts(metadata)


def _encode_safetensors(arrays: Arrays, metadata: Metadata) -> bytes:
    metadata = {**metadata, _CHECKSUM: _checksum(arrays, metadata)}
    encoded: bytes = _safetensors().save(arrays, {_METADATA: json.dumps(metadata)})
    return encoded


def _decode_safetensors(data: bytes) -> tuple[Arrays, Metadata]:
    # The length of a JSON text, then that text: else no need to ask for the package.
    end = 8 + int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or end > len(data):
        raise ValueError("it is neither npz nor safetensors")
    arrays: Arrays = _safetensors().load(data)
    texts = json.loads(data[8:end]).get("__metadata__", {})
    if _METADATA not in texts:
        raise ValueError("it was not written by bptt")
    metadata = _as_texts(json.loads(texts[_METADATA]))
    if metadata.pop(_CHECKSUM, None) != _checksum(arrays, metadata):
        raise ValueError("its checksum is wrong")
    return arrays, metadata


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "a safetensors file needs the package safetensors: "
            "pip install 'bptt[train]', or use a name that ends in .npz"
        ) from None
    return safetensors.numpy


def _checksum(arrays: Arrays, metadata: Metadata) -> str:
    crc = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.tobytes(), crc)
    return f"{crc:08x}"


def _as_texts(metadata: Any) -> Metadata:
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise TypeError("its metadata are not texts")
    return metadata


def _replace(path: Path, data: bytes) -> None:
    with _new_file(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        file.close()  # Windows moves no open file
        Path(file.name).replace(_target(path))


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file beside path; unless it is moved, it is gone afterwards."""
    temporary = _target(path).with_name(f".bptt-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
    except OSError as error:
        # The caller knows the name path, and not that of the temporary file.
        raise _os_error(error.errno, path) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _os_error(number: int | None, path: Path) -> OSError:
    number = errno.EIO if number is None else number
    return OSError(number, os.strerror(number), str(path))
