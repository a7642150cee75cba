"""Build the compiled kernels: plain C, one Cython module, for any CPU.

BPTT_NO_EXTENSION=1  install without them: the package then runs on NumPy alone.
BPTT_DEBUG=1         bounds checks and assertions on, no optimisation.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("BPTT_DEBUG") == "1"

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
    "embedsignature": False,
    "freethreading_compatible": True,
}

CSRC = Path("bptt/csrc")


class BuildExtension(build_ext):
    """build_ext that says what to do where there is no compiler."""

    def build_extensions(self):
        flags = {
            "msvc": ["/std:c11", "/Od" if DEBUG else "/O2"],
        }.get(
            self.compiler.compiler_type,
            # No contraction: a fused multiply-add only where the text asks for one.
            [
                "-std=c11",
                "-ffp-contract=off",
                *(["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3"]),
            ],
        )
        for extension in self.extensions:
            extension.extra_compile_args = flags
            if self.compiler.compiler_type != "msvc":
                extension.extra_link_args = ["-pthread"]
        try:
            super().build_extensions()
        except Exception:
            print(
                "bptt: the compiled kernels could not be built, which takes a C "
                "compiler. BPTT_NO_EXTENSION=1 installs bptt without them, slower.",
                file=sys.stderr,
            )
            raise


def extensions():
    if os.environ.get("BPTT_NO_EXTENSION") == "1":
        return []
    kernels = Extension(
        "bptt._kernels",
        ["bptt/_kernels.pyx", *map(str, sorted(CSRC.glob("*.c")))],
        include_dirs=["bptt/csrc"],
        depends=[*map(str, CSRC.glob("*.h")), *map(str, Path("bptt").glob("*.px[id]"))],
        define_macros=[] if DEBUG else [("NDEBUG", "1")],
    )
    return cythonize([kernels], build_dir="build", compiler_directives=DIRECTIVES)


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtension})
