# Rows that end early or start anew, and the error on its way back: see `_parts.py`.


cdef enum:
    # Rows of a step for each thread from which its products are made by itself.
    OWN_ROWS = 8
    RECORDS_APART = 32          # rows, two lines of reals
    RECORD_ROWS = 128           # rows, about so many are added up together


cdef inline Py_ssize_t cells_before(const Layer *l, Py_ssize_t step) noexcept nogil:
    """Return how many cells, entries of x, lie before a step counted from 0."""
    return step * l.B if l.offsets == NULL else l.offsets[step]


cdef inline Py_ssize_t rows_of(const Layer *l, Py_ssize_t step) noexcept nogil:
    return l.B if l.offsets == NULL else l.offsets[step + 1] - l.offsets[step]


cdef inline Py_ssize_t state_before(const Layer *l, Py_ssize_t step) noexcept nogil:
    """Return the row of z at which the states begin that a step starts from."""
    if l.offsets == NULL:
        return step * l.B
    return l.B + l.offsets[step] - rows_of(l, step)


cdef Py_ssize_t first_event(
    const Py_ssize_t *events, Py_ssize_t count, Py_ssize_t step
) noexcept nogil:
    """Return the number of the first event at this step or later."""
    cdef Py_ssize_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) // 2
        if events[3 * middle] < step:
            low = middle + 1
        else:
            high = middle
    return low


cdef int point_at_layout(Layer *l, layout, const real[:, :, :] z) except -1:
    cdef const Py_ssize_t[::1] offsets = layout.offsets, place = layout.place
    cdef const Py_ssize_t[::1] first = layout.first, z_place = layout.z_place
    cdef const Py_ssize_t[:, ::1] restarts = layout.restarts, ends = layout.ends
    cdef const real[:, ::1] starts = layout.starts
    cdef real[:, ::1] da_starts = layout.da_starts
    if first is not None and first.shape[0] > 0:
        l.T, l.first, l.starts = z.shape[0], &first[0], &starts[0, 0]
    if offsets is not None:
        l.offsets = &offsets[0]
        l.T, l.B = offsets.shape[0] - 1, offsets[1] - offsets[0]
    if restarts is not None and restarts.shape[0] > 0:
        l.restarts, l.n_restarts = &restarts[0, 0], restarts.shape[0]
        l.starts = &starts[0, 0]
        if da_starts is not None:
            l.da_starts = &da_starts[0, 0]
    if ends is not None and ends.shape[0] > 0:
        l.ends, l.n_ends = &ends[0, 0], ends.shape[0]
    if place is not None and place.shape[0] > 0:
        l.place = l.z_place = &place[0]
    if z_place is not None and z_place.shape[0] > 0:
        l.z_place = &z_place[0]
    return 0


cdef int point_at_segment(
    Layer *l, Py_ssize_t steps, bint add, const real[:, ::1] da_next,
    real[:, ::1] da_first, beside,
) except -1:
    cdef real[:, ::1] dW, dV
    cdef real[::1] db
    l.steps, l.add = steps, add
    if beside is not None:
        dW, dV, db = beside
        l.other_dW, l.other_dV = &dW[0, 0], &dV[0, 0]
        l.other_db = NULL if db is None else &db[0]
        l.carries = True
    if da_next is not None and da_next.shape[0] > 0:
        l.da_next, l.next_rows = &da_next[0, 0], da_next.shape[0]
    if da_first is not None:
        l.da_first = &da_first[0, 0]
    return 0


cdef int point_at_flow(Layer *l, tuple flow) except -1:
    cdef double clip_norm, clip_value
    cdef double[:, :] norms
    cdef int32_t[:, :] saturated
    cdef int64_t[::1] dead
    clip_norm, clip_value, l.record.threshold, norms, saturated, dead = flow
    l.clips = clip_norm < INFINITY or clip_value < INFINITY
    l.flow.clip_norm, l.flow.clip_value = clip_norm, clip_value
    if norms is None:
        return 0
    l.norms, l.saturated, l.dead = &norms[0, 0], &saturated[0, 0], &dead[0]
    cdef Py_ssize_t step = norms.strides[0] // sizeof(double)
    cdef Py_ssize_t row = norms.strides[1] // sizeof(double)
    if saturated.strides[0] // sizeof(int32_t) != step or (
            saturated.strides[1] // sizeof(int32_t) != row):
        raise ValueError("what is recorded must stand in arrays of one order")
    # (T, B), or one cell after the other, (N, 1).
    if norms.shape[1] == 1:
        step, row = step * l.B, step
    l.record_step, l.record_row = step, row
    return 0


cdef inline bint own_products(const Layer *l, int n) noexcept nogil:
    """Whether each thread makes what its rows of a step need and what comes of them by
    itself, step by step, for the other ones have it not in their caches. A tile of few
    rows waits for the weights."""
    return l.plan.split == ROWS and n > 1 and l.B >= OWN_ROWS * n


cdef inline bint by_steps(const Layer *l, int n) noexcept nogil:
    """Whether products are made step by step: so too where the rows of one step do not
    follow those of the last."""
    return own_products(l, n) or l.half


cdef inline Share share_rows(
    const Layer *l, const Kernels *k, Py_ssize_t step, Py_ssize_t N, int tid, int n
) noexcept nogil:
    """Return this thread's rows of a step, and all their tiles in N columns."""
    cdef Py_ssize_t rows = rows_of(l, step)
    cdef Share share
    memset(&share, 0, sizeof(share))
    share.r0, share.r1 = split(rows, tid, n), split(rows, tid + 1, n)
    share.u1 = row_tiles(share.r1 - share.r0, k.tile_rows) * panels_of(N, k.panel)
    return share


cdef inline bint is_mine(
    const Layer *l, Share mine, Py_ssize_t row, int tid, int n
) noexcept nogil:
    """Whether this thread looks after a row of a step: its own, or all of them."""
    if l.plan.split == ROWS:
        return mine.r0 <= row < mine.r1
    return tid == 0 or n == 1


cdef Py_ssize_t restart_states(
    Layer *l, const Kernels *k, Py_ssize_t e, Py_ssize_t step, void *state,
    Share mine, int tid, int n,
) noexcept nogil:
    """Put the starts of a step into the packed state before it, from event e on."""
    cdef Py_ssize_t ended = l.B - rows_of(l, step), row
    while e < l.n_restarts and l.restarts[3 * e] == step:
        row = l.restarts[3 * e + 1]
        if is_mine(l, mine, row - ended, tid, n):
            k.pack(0, 1, l.H, at(l, l.starts, l.restarts[3 * e + 2] * l.H), l.H, 1,
                   at(l, state, row * k.panel), l.state_panel)
        e += 1
    if l.plan.split == COLUMNS:
        meet(l, tid, n)
    return e


cdef Py_ssize_t cut_errors(
    Layer *l, const Kernels *k, Py_ssize_t e, Py_ssize_t step, void *da,
    Py_ssize_t ended, Share mine, int tid, int n,
) noexcept nogil:
    """Put da of the rows that start anew at a step aside, from event e downwards, and
    zero in its place: no gradient goes further back. The share is that of the step
    before, of which so many rows have ended."""
    cdef Py_ssize_t row, p
    while e >= 0 and l.restarts[3 * e] == step:
        row = l.restarts[3 * e + 1]
        if is_mine(l, mine, row - ended, tid, n):
            if l.da_starts != NULL:
                k.unpack(0, 1, l.H, at(l, da, row * k.panel), l.state_panel,
                         at(l, l.da_starts, e * l.H))
            for p in range(panels_of(l.H, k.panel)):
                memset(at(l, da, p * l.state_panel + row * k.panel), 0,
                       k.panel * l.itemsize)
        e -= 1
    if l.plan.split == COLUMNS:
        meet(l, tid, n)
    return e


cdef Py_ssize_t gather_errors(
    Layer *l, Py_ssize_t f, Py_ssize_t step, Share mine, int tid, int n,
) noexcept nogil:
    """step_dz <- dz[t], and to it dz_last of each sequence that ends with this step,
    from event f downwards."""
    cdef Py_ssize_t rows = rows_of(l, step), cells = cells_before(l, step)
    cdef Py_ssize_t H = l.H, row, h, r0 = 0, r1 = rows
    cdef Py_ssize_t ahead = rows * -(-AHEAD // rows)
    cdef const void *source
    if l.plan.split == ROWS:
        r0, r1 = mine.r0, mine.r1
    if l.plan.split == ROWS or tid == 0 or n == 1:
        if l.dz == NULL:
            memset(at(l, l.step_dz, r0 * H), 0, (r1 - r0) * H * l.itemsize)
        else:
            for row in range(r0, r1):
                memcpy(at(l, l.step_dz, row * H), error_row(l, cells + row),
                       H * l.itemsize)
                # The same row of a step before, if it has as many, is among the next.
                if cells + row >= ahead:
                    fetch(error_row(l, cells + row - ahead), H * l.itemsize)
    while f >= 0 and l.ends[3 * f] == step:
        row = l.ends[3 * f + 1] - (l.B - rows)
        if is_mine(l, mine, row, tid, n):
            source = at(l, l.dz_last, l.ends[3 * f + 2] * H)
            if l.itemsize == sizeof(float):
                for h in range(H):
                    (<float *> l.step_dz)[row * H + h] += (<const float *> source)[h]
            else:
                for h in range(H):
                    (<double *> l.step_dz)[row * H + h] += (
                        <const double *> source)[h]
        f -= 1
    if l.plan.split == COLUMNS:
        meet(l, tid, n)
    return f


cdef inline bint lie_evenly(const Layer *l) noexcept nogil:
    """Whether z[t-1] and x of all cells, or of those of a step, lie the same distance
    apart, in the order of time: then products over time read them where they are."""
    return (l.first == NULL and l.place == NULL and l.offsets == NULL
            and l.n_restarts == 0 and (l.half or not l.back))


cdef void pack_states(
    Layer *l, const Kernels *k, Py_ssize_t c, Py_ssize_t low, Py_ssize_t high,
) noexcept nogil:
    """Pack z[t-1] of a chunk's cells from low to high, with starts in their place."""
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t H = l.H, P = k.panel, base = cells_before(l, t0)
    cdef Py_ssize_t row = l.cell.z_row
    cdef const void *z = states_of(l, c)
    cdef Py_ssize_t s = t0, u, a, b, e
    if l.back:
        pack_rows(l, k, low, high, cells_before(l, t1) - base, H,
                  state_after(l, z, t0 - 1), row, l.cell.z_step, l.packed_z)
        s = t1
    while s < t1:
        u = s + 1
        while u < t1 and (l.offsets == NULL or rows_of(l, u) == rows_of(l, s)):
            u = u + 1 if l.offsets != NULL else t1
        a, b = cells_before(l, s) - base, cells_before(l, u) - base
        if max(a, low) < min(b, high):
            k.pack(max(a, low), min(b, high), H,
                   at(l, z, (state_before(l, s) - a) * row), row, 1,
                   l.packed_z, l.chunk_panel)
        s = u
    e = first_event(l.restarts, l.n_restarts, t0)
    while e < l.n_restarts and l.restarts[3 * e] < t1:
        s = l.restarts[3 * e]
        a = cells_before(l, s) - base + l.restarts[3 * e + 1] - (l.B - rows_of(l, s))
        if low <= a < high:
            k.pack(0, 1, H, at(l, l.starts, l.restarts[3 * e + 2] * H), H, 1,
                   at(l, l.packed_z, a * P), l.chunk_panel)
        e += 1


cdef void treat_errors(
    Layer *l, const Kernels *k, Py_ssize_t step, const void *z_t, void *da,
    void *da_rows, const Record *record, Share mine, int tid, int n,
) noexcept nogil:
    """Measure and clip e[t], which stands in da, and multiply it with sigma'."""
    cdef Py_ssize_t rows = rows_of(l, step), cells = cells_before(l, step)
    cdef Py_ssize_t r0 = mine.r0, r1 = mine.r1
    if l.plan.split == COLUMNS:
        meet(l, tid, n)
        r0, r1 = split(rows, tid, n), split(rows, tid + 1, n)
    k.flow_backward(&l.cell, &l.flow, r0, r1, z_t, da, l.state_panel, da_rows,
                    l.chunk_panel, record)


cdef inline bint own_records(const Layer *l, int n) noexcept nogil:
    """Whether each thread measures whole rows of the steps, and adds up its own."""
    return n == 1 or l.plan.split == ROWS


cdef inline bint row_by_row(const Layer *l) noexcept nogil:
    """Whether results stand row by row, all steps of one row after each other, as they
    do for few rows: then no two threads write to one cache line."""
    return l.offsets == NULL and l.record_step == 1


cdef inline Py_ssize_t together(const Layer *l, Py_ssize_t rows) noexcept nogil:
    """Return of how many steps rows are added up together: whole vectors, and so few
    that they do not drive V out of the cache."""
    if not row_by_row(l):
        return 1 + RECORD_ROWS // (rows + 1)
    return max(16, RECORD_ROWS // rows // 16 * 16) if rows < 16 else 8


cdef inline void put_record(
    const Layer *l, Record *record, Py_ssize_t first, Py_ssize_t steps,
    Py_ssize_t step, Py_ssize_t r0, Py_ssize_t rows,
) noexcept nogil:
    """Say where the measures of rows from r0 on stand that a thread has of a step, one
    of so many that are added up together, whose measures begin at `first`."""
    record.apart = steps if row_by_row(l) else 1
    record.row = first + (step if row_by_row(l) else step * rows) - r0 * record.apart


cdef void add_up(
    Layer *l, const Kernels *k, Record *record, Py_ssize_t first, Py_ssize_t steps,
    Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t rows,
) noexcept nogil:
    """Add up the measures of rows from r0 on, put by `put_record`, of the steps from s0
    up to s1 of those that began at `first`. Step s0 is t."""
    cdef Py_ssize_t to = entry(l, t, l.record_step, l.record_row) + r0 * l.record_row
    cdef Py_ssize_t far = (
        l.record_step if l.offsets == NULL else rows_of(l, t) * l.record_row)
    put_record(l, record, first, steps, s0, 0, rows)
    if row_by_row(l):
        k.flow_record(record, l.H, rows, s1 - s0, steps, l.record_row, l.record_step,
                      l.norms + to, l.saturated + to)
    elif far == rows * l.record_row:
        k.flow_record(record, l.H, 1, (s1 - s0) * rows, 0, 0, l.record_row,
                      l.norms + to, l.saturated + to)
    else:
        k.flow_record(record, l.H, s1 - s0, rows, rows, far, l.record_row,
                      l.norms + to, l.saturated + to)


cdef void add_up_shared(
    Layer *l, const Kernels *k, Py_ssize_t c, Record *record, int tid, int n
) noexcept nogil:
    """Add up a part of the measures of a chunk, whose rows all threads have shared."""
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t x0 = cells_before(l, t0), cells = cells_before(l, t1) - x0
    cdef Py_ssize_t first = split(t1 - t0, tid, n)
    if l.offsets == NULL:
        add_up(l, k, record, 0, t1 - t0, first, split(t1 - t0, tid + 1, n), t0 + first,
               0, l.B)
        return
    first = record.row = split(cells, tid, n)
    k.flow_record(record, l.H, 1, split(cells, tid + 1, n) - first, 0, 0, l.record_row,
                  l.norms + (x0 + first) * l.record_row,
                  l.saturated + (x0 + first) * l.record_row)


cdef void lay_out_record(Layer *l, char *base, size_t *used) noexcept nogil:
    """Give what is measured its part of the workspace."""
    cdef Py_ssize_t panels = panels_of(l.H, l.panel), count
    # No two threads write to one cache line.
    l.record.stride = max(l.chunk_panel // l.panel, l.B * together(l, l.B)) + (
        l.plan.threads + 1) * RECORDS_APART
    l.record.stride -= l.record.stride % RECORDS_APART
    count = panels * l.record.stride
    l.record.squares = part(l, base, used, count)
    # A real has four bytes at least, a double eight.
    l.record.norms = <double *> part(l, base, used, 2 * count)
    l.record.counts = <int32_t *> part(l, base, used, count)
    l.dead_now = part(l, base, used, l.plan.threads * l.dead_stride)
    l.dead_sums = <int64_t *> part(l, base, used, 2 * l.plan.threads * l.H)


cdef void add_dead(Layer *l, int tid) noexcept nogil:
    """Add this thread's counts of a chunk, few enough for a real, to its sums."""
    cdef Py_ssize_t h
    cdef int64_t *sums = l.dead_sums + tid * l.H
    cdef void *now = at(l, l.dead_now, tid * l.dead_stride)
    for h in range(l.H):
        if l.itemsize == sizeof(float):
            sums[h] += <int64_t> (<float *> now)[h]
        else:
            sums[h] += <int64_t> (<double *> now)[h]
    memset(now, 0, l.dead_stride * l.itemsize)
