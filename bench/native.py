"""Build the C and C++ drivers of this directory, once, outside the repository."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BUILDS = {
    "peak.c": (
        ("CC", "cc", "gcc", "clang"),
        ("-std=gnu11", "-ffp-contract=fast"),
        ("-pthread",),
    ),
    "onednn_rnn.cpp": (("CXX", "c++", "g++", "clang++"), ("-std=c++17",), ("-ldnnl",)),
}


class UnbuiltError(Exception):
    """A driver could not be built."""


def build(source):
    """Return the path of the shared library of a source file, built if need be.

    Parameters
    ----------
    source : str
        Name of a file of this directory.

    Raises
    ------
    UnbuiltError
        There is no compiler, or it fails, as it does where libdnnl is missing.
    """
    compilers, flags, libraries = BUILDS[source]
    path = HERE / source
    compiler = _first(compilers)
    command = [compiler, "-O3", "-shared", "-fPIC", *flags, str(path), *libraries]
    digest = hashlib.sha256(path.read_bytes() + " ".join(command).encode())
    target = _cache() / f"{path.stem}-{digest.hexdigest()[:16]}.so"
    if not target.exists():
        # The name is taken only by a finished file: builds may run side by side.
        with tempfile.TemporaryDirectory(dir=target.parent) as directory:
            fresh = Path(directory) / target.name
            done = subprocess.run(
                [*command, "-o", str(fresh)], capture_output=True, text=True
            )
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if "error" in line]
                raise UnbuiltError((errors or ["the compiler failed"])[0])
            fresh.replace(target)
    return target


def _first(names):
    """Return the compiler that an environment variable names, or the first there is."""
    variable, *rest = names
    for name in (os.environ.get(variable), *rest):
        if name and shutil.which(name):
            return name
    raise UnbuiltError(f"no compiler: none of {', '.join(rest)} is installed")


def _cache():
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "bptt-bench"
    path.mkdir(parents=True, exist_ok=True)
    return path
