"""The recurrence over time, compiled: `_reference.py`, function by function.

(a) `forward` and `backward` take typed memoryviews, put their addresses into a `Layer`,
    and let a pool of threads walk through time on it, without the GIL.
(b) The loops are those of the reference with two additions. Time goes in chunks, so
    that the products over a chunk find their operands in cache; and every product is
    shared among the threads, which `meet` where one needs what another has made.
(c) The arithmetic is C, in csrc/: a table of functions for each type and instruction
    set, `kernels.h`. `csrc/README.md` has their contracts and the packed layout.
(d) What a call may have beside its arrays is in `_parts.py`: rows that end early or
    start anew, a part of a longer run, what is done with the error. A plain call asks
    once a step whether there is any of it.

Arguments come checked from `recurrence.py`. The chunks depend on the sizes alone, never
on the threads, and so do the results.
"""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import os
import threading

import numpy as np

from bptt import _threads

# How often, in seconds, Python may handle its signals.
cdef double WATCH = 0.05


# -- The instruction set, chosen once --------------------------------------------------

cdef const Isa *_find_isa() except NULL:
    forced = os.environ.get("BPTT_ISA", "")
    cdef const Isa *found = isa_find(os.fsencode(forced))
    if found == NULL:
        raise ImportError(
            f"BPTT_ISA must be one of {', '.join(supported_isas())} on this machine; "
            f"got {forced!r}")
    return found


def supported_isas():
    """Return the names of the instruction sets this machine can run, best first."""
    names, i = [], 0
    while isa_at(i) != NULL:
        if isa_find(isa_at(i).name) != NULL:
            names.append(isa_at(i).name.decode())
        i += 1
    return names


cdef const Isa *_isa = _find_isa()


def config():
    """Return what the kernels run with: instruction set, caches, compiler."""
    caches = [f"{cache_size(level) // 1024} KiB" for level in (1, 2, 3)]
    return {
        "isa": f"{_isa.name.decode()} (of {', '.join(supported_isas())})",
        "caches": ", ".join(caches),
        "compiler": compiler().decode(),
    }


def chunk_steps(T, B, I, H, itemsize):
    """Return how many steps the chunks of a run have, but for the last one."""
    cdef Py_ssize_t panel, tile_rows
    if itemsize == sizeof(float):
        panel, tile_rows = _isa.f32.panel, _isa.f32.tile_rows
    else:
        panel, tile_rows = _isa.f64.panel, _isa.f64.tile_rows
    return make_plan(T, B, I, H, itemsize, panel, tile_rows, 1).steps


include "_kernels_layer.pxi"
include "_kernels_lots.pxi"
include "_kernels_both.pxi"
include "_kernels_blocks.pxi"
include "_kernels_places.pxi"
include "_kernels_parts.pxi"
include "_kernels_forward.pxi"
include "_kernels_backward.pxi"
include "_kernels_sums.pxi"
include "_kernels_states.pxi"
include "_kernels_tangents.pxi"
include "_kernels_padding.pxi"
