# Rows that end early or start anew, and the error on its way back: see `_parts.py`.


cdef enum:
    # Rows of a step for each thread from which its products are made by itself.
    OWN_ROWS = 8
    RECORDS_APART = 32          # rows, two lines of reals
    RECORD_ROWS = 128           # rows, at most so many more than those of a step


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


cdef void point_at_flow(
    Layer *l, double clip_norm, double clip_value, double threshold,
    double[:, ::1] norms, int32_t[:, ::1] saturated, int64_t[::1] dead,
) noexcept:
    l.clips = clip_norm < INFINITY or clip_value < INFINITY
    l.flow.clip_norm, l.flow.clip_value = clip_norm, clip_value
    l.record.threshold = threshold
    if norms is not None:
        l.norms, l.saturated, l.dead = &norms[0, 0], &saturated[0, 0], &dead[0]


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
    return n == 1 or (l.plan.split == ROWS and not in_pieces(l, n))


cdef inline bint in_pieces(const Layer *l, int n) noexcept nogil:
    """Whether it measures so few rows that its results would share lines with those of
    others: then each adds up some steps of a chunk, when all are measured."""
    return l.plan.split == ROWS and n > 1 and not (
        own_products(l, n) or l.offsets != NULL)


cdef inline Py_ssize_t piece(
    const Layer *l, Py_ssize_t steps, int tid, int n
) noexcept nogil:
    """Where the measures of a thread's own rows of so many steps stand."""
    return split(l.B, tid, n) * steps + RECORDS_APART * tid


cdef inline Py_ssize_t together(Py_ssize_t rows) noexcept nogil:
    """Return of how many steps rows are added up together: more than a few, for those
    are a vector, and so few that they do not drive V out of the cache."""
    return 1 + RECORD_ROWS // (rows + 1)


cdef inline Py_ssize_t own_record(
    Share mine, Py_ssize_t steps, Py_ssize_t step, int tid
) noexcept nogil:
    """Where the measures of a thread's own rows of a step stand, later ones behind, of
    so many steps that are added up together."""
    return mine.r0 * steps + (mine.r1 - mine.r0) * step + RECORDS_APART * tid


cdef void add_up(
    Layer *l, const Kernels *k, const Record *record, Py_ssize_t t, Py_ssize_t rows,
    Py_ssize_t steps, Share mine,
) noexcept nogil:
    """Add up the measures of a thread's own rows, of so many steps from t on."""
    cdef Py_ssize_t m = mine.r1 - mine.r0, first = entry(l, t, l.record_step) + mine.r0
    if m > 0:
        k.flow_record(record, l.H, 0, steps * m, m,
                      rows if l.offsets != NULL else l.record_step,
                      l.norms + first, l.saturated + first)


cdef void add_up_pieces(
    Layer *l, const Kernels *k, Py_ssize_t c, int tid, int n
) noexcept nogil:
    """Add up the measures of all rows, of a share of the steps of a chunk."""
    cdef Record record = l.record
    cdef Py_ssize_t t0 = start_of(l, c), steps = start_of(l, c + 1) - t0
    cdef Py_ssize_t first = split(steps, tid, n), end = split(steps, tid + 1, n)
    cdef Py_ssize_t r0, m, at
    cdef int of
    for of in range(n):
        r0, m = split(l.B, of, n), split(l.B, of + 1, n) - split(l.B, of, n)
        record.row = piece(l, steps, of, n) + m * first
        at = (t0 + first) * l.record_step + r0
        k.flow_record(&record, l.H, 0, m * (end - first), m, l.record_step,
                      l.norms + at, l.saturated + at)


cdef void lay_out_record(Layer *l, char *base, size_t *used) noexcept nogil:
    """Give what is measured its part of the workspace."""
    cdef Py_ssize_t panels = panels_of(l.H, l.panel), count
    # No two threads write to one cache line.
    l.record.stride = (l.chunk_panel // l.panel + RECORD_ROWS
                       + (l.plan.threads + 1) * RECORDS_APART)
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
