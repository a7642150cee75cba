# What a call needs beside its arrays: memory, threads, signals.

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


cdef enum:
    APART = 16                  # rows, some lines more than a core fetches ahead

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
    cdef bint packed = not (backward and lie_evenly(l))
    cdef size_t used = 0
    cdef int h
    l.packed_V = part(l, base, &used, l.H * Hp)
    l.packed_state = part(l, base, &used, 2 * H_panels * l.state_panel)
    l.packed_x = part(l, base, &used, chunk_I if l.x != NULL and packed else 0)
    if backward:
        l.packed_W = part(l, base, &used, 0 if l.dx == NULL else l.H * Ip)
        l.packed_z = part(l, base, &used, chunk_H if packed else 0)
        l.packed_da = part(l, base, &used, (1 + (l.plan.split == PIPELINE)) * chunk_H)
        for h in range(l.halves if l.plan.chunks > 1 else 0):
            l.packed_dV[h] = part(l, base, &used, l.H * Hp)
            l.packed_dW[h] = part(l, base, &used, 0 if l.x == NULL else l.I * Hp)
        if l.halves == 2:
            lay_out_halves(l, base, &used)
        if l.n_ends or l.place != NULL:
            l.step_dz = part(l, base, &used, l.B * l.H)
        if l.place != NULL and l.dx != NULL:
            l.cells_dx = part(l, base, &used, l.chunk_panel // P * l.I)
    else:
        l.packed_W = part(l, base, &used, 0 if l.x == NULL else l.I * Hp)
    l.cell.V = l.packed_V
    if l.first != NULL:
        l.cells_z = part(l, base, &used, (1 + (l.plan.split == PIPELINE))
                         * (l.B + l.chunk_panel // P) * l.H)
    if l.norms != NULL:
        lay_out_record(l, base, &used)
    return used


cdef void keep_apart(Layer *l) noexcept nogil:
    """Set the panels of the packed state, an odd number of rows, and how far rows of
    two threads lie apart: what a core fetches ahead the other one may be writing."""
    # Ragged rows go from thread to thread.
    l.apart = APART if l.plan.split == ROWS and l.offsets == NULL else 0
    l.state_panel = (l.B + l.apart * (l.plan.threads - 1) | 1) * l.panel


cdef inline void *packed_state(const Layer *l, Py_ssize_t t, int tid) noexcept nogil:
    """Return where the packed state of step t is, for the rows of this thread."""
    return at(l, l.packed_state, (t & 1) * panels_of(l.H, l.panel) * l.state_panel
              + tid * l.apart * l.panel)


cdef void *part(Layer *l, char *base, size_t *used, size_t count) noexcept nogil:
    cdef size_t start = used[0]
    # Whole cache lines, and one to spare: no part ends where the next begins.
    used[0] += (count * l.itemsize + 127) // 64 * 64
    return base + start


@cython.freelist(2)
cdef class _Call:
    """What is to be done on a layer, and what has to live until it is done."""

    cdef Layer layer
    cdef Body body               # or NULL: there is nothing to do
    cdef bint backward
    cdef object activation
    cdef object made             # arrays that the caller does not have
    cdef _Workspace workspace


cdef int walk(_Call call) except -1:
    """Walk through time with the threads of the pool."""
    cdef Layer *l = &call.layer
    cdef int threads = _threads.get_num_threads()
    if call.body == NULL:
        return 0
    prepare(call, threads)
    if in_blocks(l, call.backward):
        walk_blocks(call, threads)
    elif l.halves == 2 and l.plan.threads > 1 and threads % 2 == 0 and (
            l.n_restarts == 0 and l.n_ends == 0):
        walk_halves(call, threads // 2)
    else:
        take_room(call)
        run_alone(call, l)
    finish(call)
    return 0


cdef int run_alone(_Call call, Layer *l) except -1:
    with nogil:
        run_on_threads(call.body, l, l.plan.threads, l.plan.patience, l.plan.answer)
    if l.interrupted:
        return -1                # and raise what a signal handler has set
    return 0


cdef int prepare(_Call call, int threads) except -1:
    """Make a plan for so many threads."""
    cdef Layer *l = &call.layer
    # Strides of 0 can make a matrix look larger than any memory.
    if <double> l.H * (l.H + l.I) * l.itemsize > 2.0 ** 60:
        raise MemoryError(f"a matrix of {l.H} x {l.H + l.I} is not to be packed")
    if l.itemsize == sizeof(float):
        l.panel = _isa.f32.panel
    else:
        l.panel = _isa.f64.panel
    l.halves = 2 if l.may_halve and plan_halves(l.B, l.H) else 1
    l.x_step, l.ids_step = step_of(l, l.x_row), step_of(l, 1)
    l.dz_step, l.dx_step = step_of(l, l.dz_row), step_of(l, l.dx_row)
    l.cell.H = l.H
    l.cell.z_row = l.H if l.first != NULL else l.z_row
    l.cell.g_row = l.dz_row
    l.cell.z_step, l.cell.g_step = step_of(l, l.cell.z_row), l.dz_step
    l.cell.activation = call.activation.code
    l.cell.alpha, l.cell.beta = call.activation.alpha, call.activation.beta
    begin_watch(l)
    share_out(l, threads)
    return 0


cdef void share_out(Layer *l, int threads) noexcept nogil:
    """Make the plan of the rows that a layer has; chunks may be given."""
    cdef Py_ssize_t tile_rows
    if l.itemsize == sizeof(float):
        tile_rows = _isa.f32.tile_rows
    else:
        tile_rows = _isa.f64.tile_rows
    l.plan = make_plan(
        l.T, l.B, l.I, l.H, l.itemsize, l.panel, tile_rows, threads)
    if l.steps:
        l.plan.steps = l.steps
        l.plan.chunks = (l.T + l.steps - 1) // l.steps
    l.dead_stride = l.H + 64     # no two threads write to one cache line
    # Odd numbers of rows, for panels a power of two apart would meet in the caches.
    l.chunk_panel = (min(l.plan.steps, l.T) * l.B | 1) * l.panel
    l.cell.B = l.B
    l.takes_long = chunks_take_long(l, <double> min(l.plan.steps, l.T) * l.B)
    keep_apart(l)


cdef int take_room(_Call call) except -1:
    """Lay out a workspace."""
    cdef Layer *l = &call.layer
    lay_out(l, call.backward, reserve(call, lay_out(l, call.backward, NULL)))
    return 0


cdef char *reserve(_Call call, size_t size) except NULL:
    """Return a block that begins with a cache line."""
    call.workspace = take_workspace()
    return <char *> ((<size_t> call.workspace.reserve(size + 64) + 63) // 64 * 64)


cdef inline Py_ssize_t step_of(const Layer *l, Py_ssize_t row) noexcept nogil:
    """Return how far the rows of one step are from those of the next."""
    return l.B * (-row if l.back else row)


# Who handles Python's signals. `threading` could be asked for it, in 100 ns.
cdef unsigned long _main = threading.main_thread().ident


def _after_fork():
    """Of all threads the one that forked is left, and is the main one then."""
    global _main
    _main = threading.get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


cdef bint in_main_thread() noexcept:
    return PyThread_get_thread_ident() == _main


cdef void begin_watch(Layer *l) noexcept:
    l.main_thread = in_main_thread()
    l.watched = seconds()
    l.outside = ftz_state()


# What stands for the turn at which all are to stop: none, and the next one to begin.
cdef enum:
    NO_TURN = 0
    NEXT_TURN = -1


cdef void watch(Layer *l, Py_ssize_t turn, int tid) noexcept nogil:
    """Let Python handle its signals now and then; where one raises, or has raised since
    the last turn, stop this turn."""
    if tid == 0 and is_called_off(l):
        stop_at(&l.barrier, turn)


cdef bint is_called_off(Layer *l) noexcept nogil:
    """Let Python handle its signals now and then; return whether one has raised, in
    this layer or in the one beside it."""
    cdef unsigned int inside
    if l.main_thread and not l.interrupted and seconds() - l.watched > WATCH:
        # A handler computes as the program does, with denormals.
        inside = ftz_state()
        ftz_end(l.outside)
        with gil:
            l.interrupted = PyErr_CheckSignals() != 0
        ftz_end(inside)
        if l.interrupted and l.both != NULL:
            stop_at(l.both, 1)
        l.watched = seconds()
    return l.interrupted or (l.both != NULL and stopped_at(l.both, 1))


cdef inline void *at(const Layer *l, const void *array, Py_ssize_t i) noexcept nogil:
    """Return the address of an array's element i."""
    return <char *> array + i * l.itemsize


cdef inline Py_ssize_t start_of(const Layer *l, Py_ssize_t c) noexcept nogil:
    """Return how many steps lie before chunk c."""
    return min(l.T, c * l.plan.steps)


cdef void meet(Layer *l, int tid, int n) noexcept nogil:
    """Wait for all threads; one that works by itself has nobody to wait for."""
    if n > 1:
        barrier_wait(&l.barrier, tid, n)


cdef void let_begin(Layer *l, Share *mine, int tid, int n) noexcept nogil:
    """Let a step of a single row begin before the others have ended the last one: it
    waits for them where it needs what they made."""
    if l.plan.split == COLUMNS and l.B == 1 and n > 1:
        mine.others, mine.tid, mine.n = &l.barrier, tid, n


cdef void end_step(Layer *l, const Share *mine, int tid, int n) noexcept nogil:
    """Meet after a step whose columns are shared, or say that one's own are done."""
    if mine.others != NULL:
        arrive(&l.barrier, tid)
    elif l.plan.split == COLUMNS:
        meet(l, tid, n)


cdef void point_at_weights(
    Layer *l, const real[:, :] W, const real[:, :] V, Py_ssize_t steps, Py_ssize_t rows,
) noexcept:
    l.T, l.B, l.I, l.H = steps, rows, W.shape[0], W.shape[1]
    l.W, l.V = &W[0, 0], &V[0, 0]
    l.itemsize = sizeof(real)
    l.W_i, l.W_h = W.strides[0] // l.itemsize, W.strides[1] // l.itemsize
    l.V_i, l.V_h = V.strides[0] // l.itemsize, V.strides[1] // l.itemsize
    l.z_row = l.dz_row = l.H
    l.x_row = l.dx_row = l.I
