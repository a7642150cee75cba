"""Which implementation runs the time loops, and why: decided once, at import.

``BPTT_BACKEND`` forces one: ``compiled`` or ``numpy``. Without it the compiled kernels
are taken where they are installed; where they are absent the NumPy reference takes
their place, with one warning. A compiled module that is there and does not load is an
error. ``BPTT_ISA`` forces the instruction set of the compiled kernels.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np

from bptt import _threads

CHOICES = ("compiled", "numpy")


def _choose() -> tuple[str, str]:
    """Return the name of the backend, and the reason for it."""
    forced = os.environ.get("BPTT_BACKEND")
    if forced:
        if forced not in CHOICES:
            raise ImportError(
                f"BPTT_BACKEND must be one of {', '.join(CHOICES)}; got {forced!r}"
            )
        return forced, f"forced by BPTT_BACKEND={forced}"
    if importlib.util.find_spec("bptt._kernels") is None:
        warnings.warn(
            "bptt runs without its compiled kernels, which are not installed: every "
            f"result is the same, but much slower; {_advice()}",
            RuntimeWarning,
            stacklevel=2,
        )
        return "numpy", "the compiled kernels are not installed"
    return "compiled", "the compiled kernels are installed"


def _advice() -> str:
    folder = Path(__file__).parent.parent
    if (folder / "setup.py").exists():
        return (
            f"{folder} is the source folder, which hides an installed bptt: "
            "`pip install -e .` builds them here, or run from another folder"
        )
    return "install bptt where there is a C compiler, without BPTT_NO_EXTENSION"


def _load(name: str) -> ModuleType:
    module = "bptt._kernels" if name == "compiled" else "bptt._reference"
    return importlib.import_module(module)


backend, reason = _choose()
kernels = _load(backend)


def config() -> dict[str, str]:
    """Return what runs here, as `show_config` prints it."""
    from bptt import __version__

    compiled = kernels.config() if backend == "compiled" else {}
    return {
        "bptt": __version__,
        "backend": f"{backend} ({reason})",
        **compiled,
        "threads": f"{_threads.get_num_threads()} ({_threads.reason})",
        "numpy": np.__version__,
        "python": f"{platform.python_version()} ({sys.implementation.name})",
        "machine": f"{platform.system()} {platform.machine()}",
    }


def show_config() -> None:
    """Print what runs here and why: backend, instruction set, threads, versions.

    Examples
    --------
    >>> import bptt
    >>> bptt.show_config()  # doctest: +ELLIPSIS
    bptt ...
    backend ...
    ...
    numpy ...
    python ...
    machine ...
    """
    for key, value in config().items():
        print(f"{key:9} {value}")
