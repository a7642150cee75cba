# Backward: the steps of `_kernels_forward.pxi`, in reverse.

def backward(
    x, W, V, z, activation, dz, dz_last, dW, dV, db, dz0, dx,
    layout=None, segment=None, flow=None,
):
    """Run the layer backwards: all gradients, from dz and dz_last."""
    walk(_backward_call(
        x, W, V, z, activation, dz, dz_last, dW, dV, db, dz0, dx,
        layout, segment, flow))


def backward_both(first, second, apart=False):
    """Run two layers backwards at once: `backward` with the arguments of each. They are
    the two directions of one, or halves of its rows that are apart."""
    walk_both(_backward_call(*first), _backward_call(*second), apart)


def _backward_call(
    x, W, V, z, activation, dz, dz_last, dW, dV, db, dz0, dx,
    layout=None, segment=None, flow=None,
):
    """Return what `backward` has to do."""
    cdef _Call call = _Call()
    features = ids = rows = dz_rows = None
    if isinstance(x, list):
        rows = addresses_of(x, layout)
    elif x.ndim == 3:
        features = x
    else:
        ids = x
    if isinstance(dz, list):
        dz, dz_rows = None, addresses_of(dz, layout)
    if layout is None:
        if z.shape[0] == 1 or z.shape[1] == 0:
            # No step: the last state is the initial one, and nothing else had a part.
            dz0[...] = 0 if dz_last is None else dz_last
            for gradient in (dW, dV, db):
                if gradient is not None:
                    gradient[...] = 0
            return call
    if dz is not None and dz_last is not None and (
        layout is None or layout.ends is None
    ):
        if layout is None or layout.place is None:
            dz_last = dz_last + dz[len(dz) - 1]
        else:
            last = layout.place[len(layout.place) - len(dz_last):]
            dz_last = dz_last + dz[np.divmod(last, dz.shape[1])]
    if z.itemsize == sizeof(float):
        _backward[float](
            call, features, ids, rows, W, V, z, dz, dz_rows, dz_last, dW, dV, db, dz0,
            dx, layout, segment, flow)
    else:
        _backward[double](
            call, features, ids, rows, W, V, z, dz, dz_rows, dz_last, dW, dV, db, dz0,
            dx, layout, segment, flow)
    call.activation, call.made, call.backward = (
        activation, (rows, dz_rows, dz_last), True)
    return call


cdef int _backward(
    _Call call,
    const real[:, :, :] x,              # (T, B, I)      IN, or None
    const Py_ssize_t[:, :] ids,         # (T, B)         IN, or None
    const Py_ssize_t[::1] rows,         # of x (N)       IN, or None
    const real[:, :] W,                 # (I, H)         IN
    const real[:, :] V,                 # (H, H)         IN
    const real[:, :, :] z,              # (T + 1, B, H)  IN
    const real[:, :, :] dz,             # (T, B, H)      IN, or None
    const Py_ssize_t[::1] dz_rows,      # of dz (N)      IN, or None
    const real[:, ::1] dz_last,         # (B, H)         IN, or None; for dz[T-1]
    real[:, ::1] dW,                    # (I, H)         OUT, or None with dV
    real[:, ::1] dV,                    # (H, H)         OUT, or None
    real[::1] db,                       # (H)            OUT, or None
    real[:, ::1] dz0,                   # (B, H)         OUT
    real[:, :, :] dx,                   # (T, B, I)      OUT, or None
    layout, segment, flow,
) except -1:
    cdef Layer *l = &call.layer
    point_at_weights(l, W, V, z.shape[0] - 1, z.shape[1])
    if layout is not None:
        point_at_layout[real](l, layout, z)
    if segment is not None:
        point_at_segment[real](
            l, segment.steps, segment.add, segment.da_next, segment.da_first,
            segment.beside)
    if flow is not None:
        point_at_flow(l, <tuple> flow)
    l.back = z.strides[0] < 0
    l.z_row = row_of(l, z, l.H)
    if x is not None:
        l.x, l.x_row = &x[0, 0, 0], row_of(l, x, l.I)
    if ids is not None:
        check_ids(l, ids)
        l.ids = &ids[0, 0]
    if rows is not None:
        l.x, l.x_rows = <const void *> rows[0], &rows[0]
    if dz_rows is not None:
        l.dz, l.dz_rows = <const void *> dz_rows[0], &dz_rows[0]
    l.z = <void *> &z[0, 0, 0]
    if dz is not None:
        l.dz, l.dz_row = &dz[0, 0, 0], row_of(l, dz, l.H)
    if dz_last is not None:
        l.dz_last = &dz_last[0, 0]
    l.dz0 = &dz0[0, 0]
    l.may_halve = l.offsets == NULL and (segment is None or l.carries)
    l.may_block = layout is None
    if dV is not None:
        l.dW, l.dV = &dW[0, 0], &dV[0, 0]
    if db is not None:
        l.db = &db[0]
    if dx is not None:
        l.dx, l.dx_row = &dx[0, 0, 0], row_of(l, dx, l.I)
    if real is float:
        call.body = backward_f32
    else:
        call.body = backward_f64
    return 0


cdef void backward_f32(void *layer, int tid, int n) noexcept nogil:
    backward_loop(<Layer *> layer, _isa.f32, tid, n)


cdef void backward_f64(void *layer, int tid, int n) noexcept nogil:
    backward_loop(<Layer *> layer, _isa.f64, tid, n)


cdef void backward_loop(Layer *l, const Kernels *k, int tid, int n) noexcept nogil:
    cdef Py_ssize_t B = l.B, I = l.I, H = l.H, P = k.panel, c, h
    cdef Py_ssize_t chunks = l.plan.chunks
    cdef int half
    cdef Share mine
    cdef void *da[2]
    da[0] = l.packed_da
    da[1] = at(l, da[0], panels_of(H, P) * l.chunk_panel)

    pack_matrix(l, k, H, H, l.V, l.V_h, l.V_i, l.packed_V, H * P, tid, n)
    if l.dx != NULL:
        pack_matrix(l, k, H, I, l.W, l.W_h, l.W_i, l.packed_W, H * P, tid, n)
    for half in range(l.halves):
        begin_sums(l, k, half, tid, n)
    if l.norms != NULL:
        memset(at(l, l.dead_now, tid * l.dead_stride), 0, l.dead_stride * l.itemsize)
        memset(l.dead_sums + tid * H, 0, H * sizeof(int64_t))
    if tid == 0 and (l.da_next != NULL or l.offsets != NULL):
        # Of rows that end before the others no error comes back.
        memset(l.packed_state, 0, 2 * panels_of(H, P) * l.state_panel * l.itemsize)
        if l.da_next != NULL:
            for c in range(n):
                k.pack(split(l.next_rows, c, n), split(l.next_rows, c + 1, n), H,
                       l.da_next, H, 1, at(l, packed_state(l, l.T + 1, c),
                                           (B - l.next_rows) * P), l.state_panel)
    meet(l, tid, n)

    if l.plan.split == PIPELINE and n == 2:
        # While the first thread walks through a chunk, the second sums up the last;
        # nobody walks any more while they sum up chunk 0.
        for c in range(chunks - 1, -1, -1):
            watch(l, c + 1, tid)
            if tid == 0:
                backward_steps(l, k, c, da[c & 1], 0, 1)
            elif c + 1 < chunks:
                backward_products(l, k, c + 1, da[(c + 1) & 1], 0, 1)
            meet(l, tid, n)
            if stopped_at(&l.barrier, c + 1):
                return
        backward_products(l, k, 0, da[0], tid, n)
    else:
        for c in range(chunks - 1, -1, -1):
            watch(l, c + 1, tid)
            backward_steps(l, k, c, da[0], tid, n)
            meet(l, tid, n)
            if stopped_at(&l.barrier, c + 1):
                return
            backward_products(l, k, c, da[0], tid, n)

    for half in range(l.halves):
        end_sums(l, k, half, tid, n)
    # da[1] was left where the step of t = 1 puts it.
    da[1] = packed_state(l, 1, tid)
    mine = share_step(&l.plan, B, H, P, k.tile_rows, tid, n)
    if l.n_restarts and l.restarts[0] == 0:
        meet(l, tid, n)
        cut_errors(l, k, first_event(l.restarts, l.n_restarts, 1) - 1, 0, da[1], 0,
                   mine, tid, n)
        meet(l, tid, n)
    if l.da_first != NULL:
        k.unpack(split(B, tid, n), split(B, tid + 1, n), H, da[1], l.state_panel,
                 l.da_first)
    states_backward(l, k, &mine, da[1], tid)
    if l.norms != NULL:
        meet(l, tid, n)
        if tid == 0:
            for c in range(n):
                for h in range(H):
                    l.dead[h] += l.dead_sums[c * H + h]


cdef void backward_steps(
    Layer *l, const Kernels *k, Py_ssize_t c, void *da, int tid, int n
) noexcept nogil:
    """2. forward was z[t] <- sigma(a[t]), a[t] = .. + z[t-1] V, so now
    da[t] <- (dz[t] + da[t+1] V^T) sigma'(z[t])"""
    cdef Py_ssize_t T = l.T, H = l.H, P = k.panel, t, rows, cells, ended
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t x0 = cells_before(l, t0)
    cdef Py_ssize_t e = first_event(l.restarts, l.n_restarts, t1 + 1) - 1
    cdef Py_ssize_t f = first_event(l.ends, l.n_ends, t1) - 1
    cdef bint scattered = l.place != NULL, lots = l.takes_long, alone
    cdef Py_ssize_t many, kept = 0, fit
    cdef Record record = l.record
    cdef Record *measured = NULL if l.norms == NULL else &record
    cdef bint own = measured != NULL and own_records(l, n)
    cdef Py_ssize_t place = 0
    cdef Cell cell = l.cell
    cdef Share mine
    cdef const void *z = states_of(l, c)
    cdef const void *dz_t
    cdef const void *z_t
    cdef void *da_next
    cdef void *da_t
    cdef void *da_rows
    cdef void *states[2]
    states[0], states[1] = packed_state(l, 0, tid), packed_state(l, 1, tid)
    record.dead = at(l, l.dead_now, tid * l.dead_stride)
    if l.first != NULL:
        get_states(l, c, tid, n)
        meet(l, tid, n)
    cell.B = rows_of(l, t1 - 1)
    fit = together(l, cell.B) if own else t1 - t0
    mine = share_step(&l.plan, cell.B, H, P, k.tile_rows, tid, n)
    if l.clips:
        cell.activation = IDENTITY
    elif l.n_restarts == 0 and l.n_ends == 0 and not scattered:
        let_begin(l, &mine, tid, n)

    # A row that is alone makes many steps at a time, where nothing comes in between.
    alone = (l.B == 1 and n == 1 and not l.clips and l.n_restarts == 0
             and l.n_ends == 0 and not scattered and k.walks(&cell))
    t = t1
    while t > t0:
        many = 1
        rows, cells = rows_of(l, t - 1), cells_before(l, t - 1)
        if rows != cell.B:
            # The rows that come in are shared anew.
            meet(l, tid, n)
            cell.B, cell.z_step = rows, rows * cell.z_row
            mine = share_step(&l.plan, rows, H, P, k.tile_rows, tid, n)
            if own:
                fit = together(l, rows)
        dz_t = NULL
        if l.dz != NULL:
            dz_t = at(l, l.dz, entry(l, t - 1, l.dz_step, l.dz_row))
        cell.g_row = l.dz_row
        if t == T and l.dz_last != NULL and l.n_ends == 0:
            dz_t, cell.g_row = l.dz_last, H
        elif (f >= 0 and l.ends[3 * f] == t - 1) or (scattered and l.dz != NULL):
            f = gather_errors(l, f, t - 1, mine, tid, n)
            dz_t, cell.g_row = l.step_dz, H
        da_next = NULL if t == T and l.da_next == NULL else states[(t + 1) & 1]
        if e >= 0 and l.restarts[3 * e] == t:
            e = cut_errors(l, k, e, t, da_next, l.B - rows, mine, tid, n)
            if l.B == 1:
                da_next = NULL
        ended = (l.B - rows) * P
        if da_next != NULL:
            da_next = at(l, da_next, ended)
        da_t = at(l, states[t & 1], ended)
        da_rows = at(l, da, (cells - x0) * P)
        z_t = state_after(l, z, t - 1)
        if own:
            place = mine.r0 * fit + RECORDS_APART * tid
            put_record(l, &record, place, fit, fit - kept - 1, mine.r0,
                       mine.r1 - mine.r0)
        elif measured != NULL and l.offsets == NULL:
            put_record(l, &record, 0, fit, t - 1 - t0, 0, rows)
        else:
            record.row, record.apart = cells - x0, 1
        if alone and t < T:
            many = t - t0 if measured == NULL else min(t - t0, fit - kept)
            da_t = states[(t - many + 1) & 1]
            k.walk_backward(&cell, many, da_next, dz_t, z_t, da_t, da_rows,
                            l.chunk_panel, measured)
        elif lots:
            step_backward(l, k, &cell, &mine, da_next, dz_t, z_t, da_t, da_rows,
                          NULL if l.clips else measured, tid)
        else:
            k.step_backward(&cell, &mine, da_next, l.state_panel, dz_t, z_t, da_t,
                            l.state_panel, da_rows, l.chunk_panel,
                            NULL if l.clips else measured)
        if l.clips:
            treat_errors(l, k, t - 1, z_t, da_t, da_rows, measured, mine, tid, n)
        if own:
            kept += many
            if (kept == fit or t - many == t0
                    or rows_of(l, t - many - 1) != rows):
                add_up(l, k, measured, place, fit, fit - kept, fit, t - many, mine.r0,
                       mine.r1 - mine.r0)
                kept = 0
        end_step(l, &mine, tid, n)
        t -= many
    if mine.others != NULL:
        wait_for(&l.barrier, tid, n)
    if measured != NULL:
        if not own:
            add_up_shared(l, k, c, measured, tid, n)
        add_dead(l, tid)


cdef void backward_products(
    Layer *l, const Kernels *k, Py_ssize_t c, const void *da, int tid, int n
) noexcept nogil:
    """2. and dV <- dV + z[t-1]^T da[t]. 1. forward was x[t] W + b, so now
    dW <- dW + x[t]^T da[t], db <- db + da[t], dx[t] <- da[t] W^T"""
    cdef Py_ssize_t I = l.I, H = l.H, P = k.panel, r, t
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t x0 = cells_before(l, t0), panel = l.chunk_panel
    cdef Py_ssize_t R = cells_before(l, t1) - cells_before(l, t0)
    cdef bint steps = by_steps(l, n), packed = l.dV != NULL and not lie_evenly(l)
    cdef int half
    cdef Share mine

    if steps:
        for t in range(t0, t1):
            r = cells_before(l, t) - x0
            mine = share_rows(l, k, t, I, tid, n)
            if packed:
                pack_operands(l, k, c, r + mine.r0, r + mine.r1)
            if l.dx != NULL and l.place == NULL:
                multiply(l, k, &mine, I, H, at(l, da, r * P), panel, l.packed_W, NULL,
                         at(l, l.dx, entry(l, t, l.dx_step, l.dx_row)), l.dx_row, tid)
            elif l.dx != NULL:
                multiply(l, k, &mine, I, H, at(l, da, r * P), panel, l.packed_W, NULL,
                         at(l, l.cells_dx, r * I), I, tid)
                put_dx(l, x0, r + mine.r0, r + mine.r1)
    elif packed:
        pack_operands(l, k, c, split(R, tid, n), split(R, tid + 1, n))
    meet(l, tid, n)
    for half in range(l.halves):
        sum_up(l, k, c, half, da, tid, n)
    if l.dx != NULL and not steps:
        find_dx(l, k, c, da, tid, n)
    meet(l, tid, n)


cdef void pack_operands(
    Layer *l, const Kernels *k, Py_ssize_t c, Py_ssize_t r0, Py_ssize_t r1
) noexcept nogil:
    """Pack z[t-1] and x of a chunk's cells from r0 to r1."""
    pack_states(l, k, c, r0, r1)
    if l.x != NULL:
        pack_inputs(l, k, c, r0, r1)


cdef void find_dx(
    Layer *l, const Kernels *k, Py_ssize_t c, const void *da, int tid, int n
) noexcept nogil:
    """dx[t] <- da[t] W^T of a chunk, or where each cell has a place."""
    cdef Py_ssize_t I = l.I, H = l.H, P = k.panel, t0 = start_of(l, c), r = 0
    cdef Py_ssize_t x0 = cells_before(l, t0)
    cdef Py_ssize_t R = cells_before(l, start_of(l, c + 1)) - x0
    cdef Py_ssize_t many = R if l.place != NULL else rows_together(l, R)
    cdef Share mine = share_gemm(many, I, P, k.tile_rows, tid, n)
    if l.place != NULL:
        multiply(l, k, &mine, I, H, da, l.chunk_panel, l.packed_W, NULL, l.cells_dx, I,
                 tid)
        meet(l, tid, n)
        put_dx(l, x0, split(R, tid, n), split(R, tid + 1, n))
        return
    while r < R:
        multiply(l, k, &mine, I, H, at(l, da, r * P), l.chunk_panel, l.packed_W, NULL,
                 at(l, l.dx, entry(l, t0 + r // l.B, l.dx_step, l.dx_row)),
                 -l.dx_row if l.back and l.B == 1 else l.dx_row, tid)
        r += many
