"""Build the compiled kernels: plain C, one Cython module, for any CPU.

BPTT_NO_EXTENSION=1  install without them: the package then runs on NumPy alone.
BPTT_DEBUG=1         bounds checks and assertions on, no optimisation.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
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
    "auto_pickle": False,
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
                *(["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]),
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

    def build_extension(self, ext):
        made = Path(self.get_ext_fullpath(ext.name))
        if made.exists() and not self.force:
            built = made.stat().st_mtime
            if all(Path(f).stat().st_mtime < built for f in ext.sources + ext.depends):
                return

        def compiled(source):
            return self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                macros=ext.define_macros,
                include_dirs=ext.include_dirs,
                extra_postargs=ext.extra_compile_args,
            )

        # Side by side, for each instruction set takes the most part of a minute.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [o for each in pool.map(compiled, ext.sources) for o in each]
        # Objects just made are what the library is to be newer than.
        ext.sources, ext.depends, ext.extra_objects = [], objects, objects
        super().build_extension(ext)


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
