"""The recurrence over time, compiled: `_reference.py`, function by function.

(a) `forward` and `backward` take typed memoryviews, put their addresses into a `Layer`,
    and let a pool of threads walk through time on it, without the GIL.
(b) The loops are those of the reference with two additions. Time goes in chunks, so
    that the products over a chunk find their operands in cache; and every product is
    shared among the threads, which `meet` where one needs what another has made.
(c) The arithmetic is C, in csrc/: a table of functions for each type and instruction
    set, `kernels.h`. `csrc/README.md` has their contracts and the packed layout.

Arguments come checked from `recurrence.py`. The chunks depend on the sizes alone, never
on the threads, and so do the results.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memset

import os
import threading

import numpy as np

from bptt import _threads

# How often, in seconds, Python may handle its signals.
cdef double WATCH = 0.05


# -- The instruction set, chosen once --------------------------------------------------

cdef const Isa *_find_isa() except NULL:
    forced = os.environ.get("BPTT_ISA", "")
    cdef const Isa *found = isa_find(forced.encode())
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


# -- What a call needs beside its arrays ----------------------------------------------

cdef class _Workspace:
    """A block of memory that grows; one for each call that runs at the same time."""

    cdef char *block
    cdef size_t size

    def __dealloc__(self):
        free(self.block)

    cdef char *reserve(self, size_t size) except NULL:
        if size > self.size:
            free(self.block)
            self.size = 0
            self.block = <char *> malloc(size)
            if self.block == NULL:
                raise MemoryError(f"a workspace of {size} bytes is not to be had")
            self.size = size
        return self.block


cdef list _idle = []             # workspaces kept for the next call


cdef _Workspace take_workspace():
    # Not a look and then a pop: another thread may come between.
    try:
        return _idle.pop()
    except IndexError:
        return _Workspace()


cdef size_t lay_out(Layer *l, bint backward, char *base) noexcept nogil:
    """Give each packed operand its part of the block at base; return their size."""
    cdef Py_ssize_t P = l.panel, H_panels = panels_of(l.H, P)
    cdef Py_ssize_t Hp = H_panels * P, Ip = panels_of(l.I, P) * P
    cdef Py_ssize_t chunk_I = panels_of(l.I, P) * l.chunk_panel
    cdef Py_ssize_t chunk_H = H_panels * l.chunk_panel
    cdef size_t used = 0
    l.packed_V = part(l, base, &used, l.H * Hp)
    l.packed_state = part(l, base, &used, 2 * H_panels * l.state_panel)
    l.packed_x = part(l, base, &used, 0 if l.x == NULL else chunk_I)
    if backward:
        l.packed_W = part(l, base, &used, 0 if l.dx == NULL else l.H * Ip)
        l.packed_z = part(l, base, &used, chunk_H)
        l.packed_da = part(l, base, &used, (1 + (l.plan.split == PIPELINE)) * chunk_H)
        if l.plan.chunks > 1:
            l.packed_dV = part(l, base, &used, l.H * Hp)
            l.packed_dW = part(l, base, &used, 0 if l.x == NULL else l.I * Hp)
    else:
        l.packed_W = part(l, base, &used, 0 if l.x == NULL else l.I * Hp)
    return used


cdef void *part(Layer *l, char *base, size_t *used, size_t count) noexcept nogil:
    cdef size_t start = used[0]
    # Whole cache lines, and one to spare: no part ends where the next begins.
    used[0] += (count * l.itemsize + 127) // 64 * 64
    return base + start


cdef int run(Layer *l, activation, Body body, bint backward) except -1:
    """Walk through time with the threads of the pool."""
    # Strides of 0 can make a matrix look larger than any memory.
    if <double> l.H * (l.H + l.I) * l.itemsize > 2.0 ** 60:
        raise MemoryError(f"a matrix of {l.H} x {l.H + l.I} is not to be packed")
    cdef Py_ssize_t tile_rows
    if l.itemsize == sizeof(float):
        l.panel, tile_rows = _isa.f32.panel, _isa.f32.tile_rows
    else:
        l.panel, tile_rows = _isa.f64.panel, _isa.f64.tile_rows
    l.plan = make_plan(
        l.T, l.B, l.I, l.H, l.itemsize, l.panel, tile_rows, _threads.get_num_threads())
    # Odd numbers of rows, for panels a power of two apart would meet in the caches.
    l.chunk_panel = (l.plan.steps * l.B | 1) * l.panel
    l.state_panel = (l.B | 1) * l.panel
    l.main_thread = threading.current_thread() is threading.main_thread()
    l.watched = seconds()

    cdef _Workspace workspace = take_workspace()
    cdef size_t size = lay_out(l, backward, NULL)
    cdef char *block = workspace.reserve(size + 64)
    lay_out(l, backward, <char *> ((<size_t> block + 63) // 64 * 64))
    l.cell.B, l.cell.H, l.cell.V = l.B, l.H, l.packed_V
    l.cell.activation = activation.code
    l.cell.alpha, l.cell.beta = activation.alpha, activation.beta
    with nogil:
        run_on_threads(body, l, l.plan.threads)
    if l.interrupted:
        return -1                # and raise what a signal handler has set
    _idle.append(workspace)
    return 0


cdef void watch(Layer *l, Py_ssize_t turn, int tid) noexcept nogil:
    """Let Python handle its signals now and then; where one raises, stop this turn."""
    if tid == 0 and l.main_thread and seconds() - l.watched > WATCH:
        with gil:
            l.interrupted = PyErr_CheckSignals() != 0
        if l.interrupted:
            stop_at(&l.barrier, turn)
        l.watched = seconds()


cdef inline void *at(const Layer *l, const void *array, Py_ssize_t i) noexcept nogil:
    """Return the address of an array's element i."""
    return <char *> array + i * l.itemsize


cdef inline Py_ssize_t start_of(const Layer *l, Py_ssize_t c) noexcept nogil:
    """Return how many steps lie before chunk c."""
    return split(l.T, c, l.plan.chunks)


cdef void meet(Layer *l, int tid, int n) noexcept nogil:
    """Wait for all threads; one that works by itself has nobody to wait for."""
    if n > 1:
        barrier_wait(&l.barrier, tid, n)


cdef void point_at_weights(
    Layer *l, const real[:, :] W, const real[:, :] V, Py_ssize_t steps, Py_ssize_t rows,
) noexcept:
    l.T, l.B, l.I, l.H = steps, rows, W.shape[0], W.shape[1]
    l.W, l.V = &W[0, 0], &V[0, 0]
    l.itemsize = sizeof(real)
    l.W_i, l.W_h = W.strides[0] // l.itemsize, W.strides[1] // l.itemsize
    l.V_i, l.V_h = V.strides[0] // l.itemsize, V.strides[1] // l.itemsize


# -- Forward ---------------------------------------------------------------------------

def forward(x, W, V, b, z, activation):
    """Run the layer: z[t] = sigma(x[t] W + z[t-1] V + b)."""
    features, ids = (x, None) if x.ndim == 3 else (None, x)
    if z.itemsize == sizeof(float):
        _forward[float](features, ids, W, V, b, z, activation)
    else:
        _forward[double](features, ids, W, V, b, z, activation)


cdef int _forward(
    const real[:, :, ::1] x,            # (T, B, I)      IN, or None
    const Py_ssize_t[:, ::1] ids,       # (T, B)         IN, or None
    const real[:, :] W,                 # (I, H)         IN
    const real[:, :] V,                 # (H, H)         IN
    const real[::1] b,                  # (H)            IN, or None
    real[:, :, ::1] z,                  # (T + 1, B, H)  IN z[0], OUT z[1..T]
    activation,
) except -1:
    cdef Layer l
    memset(&l, 0, sizeof(l))
    point_at_weights(&l, W, V, z.shape[0] - 1, z.shape[1])
    if l.T == 0 or l.B == 0:
        return 0
    if x is not None:
        l.x = &x[0, 0, 0]
    if ids is not None:
        l.ids = &ids[0, 0]
    if b is not None:
        l.b = &b[0]
    l.z = &z[0, 0, 0]
    if real is float:
        return run(&l, activation, forward_f32, False)
    else:
        return run(&l, activation, forward_f64, False)


cdef void forward_f32(void *layer, int tid, int n) noexcept nogil:
    forward_loop(<Layer *> layer, _isa.f32, tid, n)


cdef void forward_f64(void *layer, int tid, int n) noexcept nogil:
    forward_loop(<Layer *> layer, _isa.f64, tid, n)


cdef void forward_loop(Layer *l, const Kernels *k, int tid, int n) noexcept nogil:
    cdef Py_ssize_t B = l.B, I = l.I, H = l.H, P = k.panel, c
    cdef Py_ssize_t chunks = l.plan.chunks

    k.pack(split(H, tid, n), split(H, tid + 1, n), H,
           l.V, l.V_i, l.V_h, l.packed_V, H * P)
    if l.x != NULL:
        k.pack(split(I, tid, n), split(I, tid + 1, n), H,
               l.W, l.W_i, l.W_h, l.packed_W, I * P)
    if B > 1:
        k.pack(split(B, tid, n), split(B, tid + 1, n), H,
               l.z, H, 1, l.packed_state, l.state_panel)
    meet(l, tid, n)

    if l.plan.split == PIPELINE and n == 2:
        # While the first thread walks through a chunk, the second prepares the next.
        for c in range(chunks + 1):
            watch(l, c + 1, tid)
            if tid == 1 and c < chunks:
                forward_products(l, k, c, 0, 1)
            if tid == 0 and c > 0:
                forward_steps(l, k, c - 1, 0, 1)
            meet(l, tid, n)
            if stopped_at(&l.barrier, c + 1):
                return
    else:
        for c in range(chunks):
            watch(l, c + 1, tid)
            forward_products(l, k, c, tid, n)
            if stopped_at(&l.barrier, c + 1):
                return
            forward_steps(l, k, c, tid, n)


cdef void forward_products(
    Layer *l, const Kernels *k, Py_ssize_t c, int tid, int n
) noexcept nogil:
    """1. z[t] <- x[t] W + b: a state's place holds its input until the step comes."""
    cdef Py_ssize_t B = l.B, I = l.I, H = l.H, P = k.panel
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t R = (t1 - t0) * B, panel = l.chunk_panel
    cdef Share mine = share_gemm(R, H, P, k.tile_rows, tid, n)
    cdef void *a = at(l, l.z, (t0 + 1) * B * H)

    if l.x != NULL:
        k.pack(split(R, tid, n), split(R, tid + 1, n), I,
               at(l, l.x, t0 * B * I), I, 1, l.packed_x, panel)
        meet(l, tid, n)
        k.gemm(mine, H, I, l.packed_x, panel, l.packed_W, l.b, a, H)
    else:
        k.gather(split(R, tid, n), split(R, tid + 1, n), H,
                 l.ids + t0 * B, l.W, l.W_i, l.W_h, l.b, a)
    meet(l, tid, n)


cdef void forward_steps(
    Layer *l, const Kernels *k, Py_ssize_t c, int tid, int n
) noexcept nogil:
    """2. z[t] <- sigma(z[t] + z[t-1] V)"""
    cdef Py_ssize_t B = l.B, H = l.H, P = k.panel, t
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Share mine = share_step(&l.plan, B, H, P, k.tile_rows, tid, n)
    cdef void *states[2]
    states[0] = l.packed_state
    states[1] = at(l, states[0], panels_of(H, P) * l.state_panel)

    for t in range(t0 + 1, t1 + 1):
        if B == 1:
            # A row is packed as it stands.
            k.step_forward(&l.cell, mine, at(l, l.z, (t - 1) * H), P,
                           at(l, l.z, t * H), NULL, 0)
        else:
            k.step_forward(&l.cell, mine, states[(t - 1) & 1], l.state_panel,
                           at(l, l.z, t * B * H), states[t & 1], l.state_panel)
        if l.plan.split == COLUMNS:
            meet(l, tid, n)


# -- Backward --------------------------------------------------------------------------

def backward(x, W, V, z, activation, dz, dz_last, dW, dV, db, dz0, dx):
    """Run the layer backwards: all gradients, from dz and dz_last."""
    features, ids = (x, None) if x.ndim == 3 else (None, x)
    if z.shape[0] == 1 or z.shape[1] == 0:
        # No step: the last state is the initial one, and nothing else had a part.
        dz0[...] = 0 if dz_last is None else dz_last
        for gradient in (dW, dV, db):
            if gradient is not None:
                gradient[...] = 0
        return
    if dz is not None and dz_last is not None:
        dz_last = dz_last + dz[len(dz) - 1]
    if z.itemsize == sizeof(float):
        _backward[float](
            features, ids, W, V, z, activation, dz, dz_last, dW, dV, db, dz0, dx)
    else:
        _backward[double](
            features, ids, W, V, z, activation, dz, dz_last, dW, dV, db, dz0, dx)


cdef int _backward(
    const real[:, :, ::1] x,            # (T, B, I)      IN, or None
    const Py_ssize_t[:, ::1] ids,       # (T, B)         IN, or None
    const real[:, :] W,                 # (I, H)         IN
    const real[:, :] V,                 # (H, H)         IN
    const real[:, :, ::1] z,            # (T + 1, B, H)  IN
    activation,
    const real[:, :, ::1] dz,           # (T, B, H)      IN, or None
    const real[:, ::1] dz_last,         # (B, H)         IN, or None; for dz[T-1]
    real[:, ::1] dW,                    # (I, H)         OUT
    real[:, ::1] dV,                    # (H, H)         OUT
    real[::1] db,                       # (H)            OUT, or None
    real[:, ::1] dz0,                   # (B, H)         OUT
    real[:, :, ::1] dx,                 # (T, B, I)      OUT, or None
) except -1:
    cdef Layer l
    memset(&l, 0, sizeof(l))
    point_at_weights(&l, W, V, z.shape[0] - 1, z.shape[1])
    if x is not None:
        l.x = &x[0, 0, 0]
    if ids is not None:
        l.ids = &ids[0, 0]
    l.z = <void *> &z[0, 0, 0]
    if dz is not None:
        l.dz = &dz[0, 0, 0]
    if dz_last is not None:
        l.dz_last = &dz_last[0, 0]
    l.dW, l.dV, l.dz0 = &dW[0, 0], &dV[0, 0], &dz0[0, 0]
    if db is not None:
        l.db = &db[0]
    if dx is not None:
        l.dx = &dx[0, 0, 0]
    if real is float:
        return run(&l, activation, backward_f32, True)
    else:
        return run(&l, activation, backward_f64, True)


cdef void backward_f32(void *layer, int tid, int n) noexcept nogil:
    backward_loop(<Layer *> layer, _isa.f32, tid, n)


cdef void backward_f64(void *layer, int tid, int n) noexcept nogil:
    backward_loop(<Layer *> layer, _isa.f64, tid, n)


cdef void backward_loop(Layer *l, const Kernels *k, int tid, int n) noexcept nogil:
    cdef Py_ssize_t B = l.B, I = l.I, H = l.H, P = k.panel, c
    cdef Py_ssize_t chunks = l.plan.chunks
    cdef void *da[2]
    da[0] = l.packed_da
    da[1] = at(l, da[0], panels_of(H, P) * l.chunk_panel)

    k.pack(split(H, tid, n), split(H, tid + 1, n), H,
           l.V, l.V_h, l.V_i, l.packed_V, H * P)
    if l.dx != NULL:
        k.pack(split(H, tid, n), split(H, tid + 1, n), I,
               l.W, l.W_h, l.W_i, l.packed_W, H * P)
    if tid == 0 and l.db != NULL:
        memset(l.db, 0, H * l.itemsize)
    if tid == 0 and l.x == NULL:
        memset(l.dW, 0, I * H * l.itemsize)
    meet(l, tid, n)

    if l.plan.split == PIPELINE and n == 2:
        # While the first thread walks through a chunk, the second sums up the last.
        for c in range(chunks, -1, -1):
            watch(l, c + 1, tid)
            if tid == 0 and c > 0:
                backward_steps(l, k, c - 1, da[(c - 1) & 1], 0, 1)
            if tid == 1 and c < chunks:
                backward_products(l, k, c, da[c & 1], 0, 1)
            meet(l, tid, n)
            if stopped_at(&l.barrier, c + 1):
                return
    else:
        for c in range(chunks - 1, -1, -1):
            watch(l, c + 1, tid)
            backward_steps(l, k, c, da[0], tid, n)
            meet(l, tid, n)
            if stopped_at(&l.barrier, c + 1):
                return
            backward_products(l, k, c, da[0], tid, n)

    if l.plan.chunks > 1:
        k.unpack(split(H, tid, n), split(H, tid + 1, n), H,
                 l.packed_dV, H * P, l.dV)
        if l.x != NULL:
            k.unpack(split(I, tid, n), split(I, tid + 1, n), H,
                     l.packed_dW, I * P, l.dW)
    # da[1] was left where the step of t = 1 puts it.
    k.state_backward(&l.cell, share_gemm(B, H, P, k.tile_rows, tid, n),
                     at(l, l.packed_state, panels_of(H, P) * l.state_panel),
                     l.state_panel, l.dz0)


cdef void backward_steps(
    Layer *l, const Kernels *k, Py_ssize_t c, void *da, int tid, int n
) noexcept nogil:
    """2. forward was z[t] <- sigma(a[t]), a[t] = .. + z[t-1] V, so now
    da[t] <- (dz[t] + da[t+1] V^T) sigma'(z[t])"""
    cdef Py_ssize_t T = l.T, B = l.B, H = l.H, P = k.panel, t
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Share mine = share_step(&l.plan, B, H, P, k.tile_rows, tid, n)
    cdef const void *dz_t
    cdef const void *da_next
    cdef void *states[2]
    states[0] = l.packed_state
    states[1] = at(l, states[0], panels_of(H, P) * l.state_panel)

    for t in range(t1, t0, -1):
        dz_t = NULL if l.dz == NULL else at(l, l.dz, (t - 1) * B * H)
        if t == T and l.dz_last != NULL:
            dz_t = l.dz_last
        da_next = NULL if t == T else states[(t + 1) & 1]
        k.step_backward(&l.cell, mine, da_next, l.state_panel, dz_t,
                        at(l, l.z, t * B * H), states[t & 1], l.state_panel,
                        at(l, da, (t - 1 - t0) * B * P), l.chunk_panel)
        if l.plan.split == COLUMNS:
            meet(l, tid, n)


cdef void backward_products(
    Layer *l, const Kernels *k, Py_ssize_t c, const void *da, int tid, int n
) noexcept nogil:
    """2. and dV <- dV + z[t-1]^T da[t]. 1. forward was x[t] W + b, so now
    dW <- dW + x[t]^T da[t], db <- db + da[t], dx[t] <- da[t] W^T"""
    cdef Py_ssize_t B = l.B, I = l.I, H = l.H, P = k.panel
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t R = (t1 - t0) * B, panel = l.chunk_panel
    cdef Py_ssize_t panels = panels_of(H, P)
    cdef Py_ssize_t units = k.outer_tiles(H) * panels
    cdef Py_ssize_t p0 = split(panels, tid, n), p1 = split(panels, tid + 1, n)
    # Sums stay packed from chunk to chunk, unless one chunk is all there is.
    cdef bint direct = l.plan.chunks == 1, add = t1 < l.T

    k.pack(split(R, tid, n), split(R, tid + 1, n), H,
           at(l, l.z, t0 * B * H), H, 1, l.packed_z, panel)
    if l.x != NULL:
        k.pack(split(R, tid, n), split(R, tid + 1, n), I,
               at(l, l.x, t0 * B * I), I, 1, l.packed_x, panel)
    meet(l, tid, n)
    k.gemm_outer(split(units, tid, n), split(units, tid + 1, n), H, H, R,
                 l.packed_z, panel, da, panel, l.dV if direct else l.packed_dV,
                 H if direct else P, P if direct else H * P, add)
    if l.x != NULL:
        units = k.outer_tiles(I) * panels
        k.gemm_outer(split(units, tid, n), split(units, tid + 1, n), I, H, R,
                     l.packed_x, panel, da, panel, l.dW if direct else l.packed_dW,
                     H if direct else P, P if direct else I * P, add)
    else:
        k.scatter(p0, p1, H, R, l.ids + t0 * B, da, panel, l.dW)
    if l.db != NULL:
        k.sum_rows(p0, p1, H, R, da, panel, l.db)
    if l.dx != NULL:
        k.gemm(share_gemm(R, I, P, k.tile_rows, tid, n), I, H, da, panel,
               l.packed_W, NULL, at(l, l.dx, t0 * B * I), I)
    meet(l, tid, n)


include "_tangents.pxi"
