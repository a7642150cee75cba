# Forward: the mirror of `_kernels_backward.pxi`.

def forward(x, W, V, b, z, activation, layout=None):
    """Run the layer: z[t] = sigma(x[t] W + z[t-1] V + b)."""
    walk(_forward_call(x, W, V, b, z, activation, layout))


def forward_both(first, second, apart=False):
    """Run two layers at once: `forward` with the arguments of each. They are the two
    directions of one, or halves of its rows that are apart."""
    walk_both(_forward_call(*first), _forward_call(*second), apart)


def _forward_call(x, W, V, b, z, activation, layout=None):
    """Return what `forward` has to do."""
    cdef _Call call = _Call()
    features = ids = rows = None
    if isinstance(x, list):
        rows = addresses_of(x, layout)
    elif x.ndim == 3:
        features = x
    else:
        ids = x
    if z.itemsize == sizeof(float):
        _forward[float](call, features, ids, rows, W, V, b, z, layout)
    else:
        _forward[double](call, features, ids, rows, W, V, b, z, layout)
    call.activation, call.made = activation, rows
    return call


cdef int _forward(
    _Call call,
    const real[:, :, :] x,              # (T, B, I)      IN, or None
    const Py_ssize_t[:, :] ids,         # (T, B)         IN, or None
    const Py_ssize_t[::1] rows,         # of x (N)       IN, or None
    const real[:, :] W,                 # (I, H)         IN
    const real[:, :] V,                 # (H, H)         IN
    const real[::1] b,                  # (H)            IN, or None
    real[:, :, :] z,                    # (T + 1, B, H)  IN z[0], OUT z[1..T]
    layout,
) except -1:
    cdef Layer *l = &call.layer
    point_at_weights(l, W, V, z.shape[0] - 1, z.shape[1])
    if layout is not None:
        point_at_layout[real](l, layout, z)
    if l.T == 0 or l.B == 0:
        return 0
    l.back = z.strides[0] < 0
    l.z_row = row_of(l, z, l.H)
    if x is not None:
        l.x, l.x_row = &x[0, 0, 0], row_of(l, x, l.I)
    if ids is not None:
        check_ids(l, ids)
        l.ids = &ids[0, 0]
    if rows is not None:
        l.x, l.x_rows = <const void *> rows[0], &rows[0]
    if b is not None:
        l.b = &b[0]
    l.z = &z[0, 0, 0]
    l.may_halve, l.may_block = l.offsets == NULL, layout is None
    if real is float:
        call.body = forward_f32
    else:
        call.body = forward_f64
    return 0


cdef void forward_f32(void *layer, int tid, int n) noexcept nogil:
    forward_loop(<Layer *> layer, _isa.f32, tid, n)


cdef void forward_f64(void *layer, int tid, int n) noexcept nogil:
    forward_loop(<Layer *> layer, _isa.f64, tid, n)


cdef void forward_loop(Layer *l, const Kernels *k, int tid, int n) noexcept nogil:
    cdef Py_ssize_t B = l.B, I = l.I, H = l.H, P = k.panel, c
    cdef Py_ssize_t chunks = l.plan.chunks

    pack_matrix(l, k, H, H, l.V, l.V_i, l.V_h, l.packed_V, H * P, tid, n)
    if l.x != NULL:
        pack_matrix(l, k, I, H, l.W, l.W_i, l.W_h, l.packed_W, I * P, tid, n)
    take_first(l, tid, n)
    if B > 1:
        k.pack(split(B, tid, n), split(B, tid + 1, n), H,
               states_of(l, 0), l.cell.z_row, 1, packed_state(l, 0, tid), l.state_panel)
    meet(l, tid, n)

    if l.plan.split == PIPELINE and n == 2:
        # While the first thread walks through a chunk, the second prepares the next;
        # nobody walks yet while they prepare the first.
        forward_products(l, k, 0, tid, n)
        for c in range(chunks):
            watch(l, c + 1, tid)
            if tid == 0:
                forward_steps(l, k, c, 0, 1)
            else:
                if c > 0:
                    put_states(l, c - 1, 0, 1)
                if c + 1 < chunks:
                    forward_products(l, k, c + 1, 0, 1)
            meet(l, tid, n)
            if stopped_at(&l.barrier, c + 1):
                return
        put_states(l, chunks - 1, tid, n)
    else:
        for c in range(chunks):
            watch(l, c + 1, tid)
            forward_products(l, k, c, tid, n)
            if stopped_at(&l.barrier, c + 1):
                return
            forward_steps(l, k, c, tid, n)
            if l.first != NULL:
                if not own_products(l, n):
                    meet(l, tid, n)
                put_states(l, c, tid, n)
                meet(l, tid, n)


cdef void forward_products(
    Layer *l, const Kernels *k, Py_ssize_t c, int tid, int n
) noexcept nogil:
    """1. z[t] <- x[t] W + b: a state's place holds its input until the step comes."""
    cdef Py_ssize_t I = l.I, H = l.H, P = k.panel
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t panel = l.chunk_panel, z_row = l.cell.z_row
    cdef Py_ssize_t x0 = cells_before(l, t0), R = cells_before(l, t1) - x0, r, t
    cdef Share mine = share_gemm(R, H, P, k.tile_rows, tid, n)
    cdef void *a = state_after(l, states_of(l, c), t1 - 1 if l.back else t0)

    if by_steps(l, n):
        for t in range(t0, t1):
            r = cells_before(l, t) - x0
            mine = share_rows(l, k, t, H, tid, n)
            a = state_after(l, states_of(l, c), t)
            if l.x != NULL:
                pack_inputs(l, k, c, r + mine.r0, r + mine.r1)
                multiply(l, k, &mine, H, I, at(l, l.packed_x, r * P), panel, l.packed_W,
                         l.b, a, z_row, tid)
            else:
                k.gather(mine.r0, mine.r1, H, l.ids + entry(l, t, l.ids_step),
                         l.W, l.W_i, l.W_h, l.b, a, z_row)
    elif l.x != NULL:
        if l.back:
            # Nothing is summed over rows here, so they come as they stand.
            k.pack(split(R, tid, n), split(R, tid + 1, n), I,
                   at(l, l.x, first_in_memory(l, c) * l.x_row), l.x_row, 1, l.packed_x,
                   panel)
        else:
            pack_inputs(l, k, c, split(R, tid, n), split(R, tid + 1, n))
        meet(l, tid, n)
        multiply(l, k, &mine, H, I, l.packed_x, panel, l.packed_W, l.b, a, z_row, tid)
    else:
        k.gather(split(R, tid, n), split(R, tid + 1, n), H,
                 l.ids + first_in_memory(l, c), l.W, l.W_i, l.W_h, l.b, a, z_row)
    meet(l, tid, n)


cdef void forward_steps(
    Layer *l, const Kernels *k, Py_ssize_t c, int tid, int n
) noexcept nogil:
    """2. z[t] <- sigma(z[t] + z[t-1] V)"""
    cdef Py_ssize_t P = k.panel, H = l.H, t, ended, rows
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t e = first_event(l.restarts, l.n_restarts, t0)
    cdef bint lots = l.takes_long
    cdef Cell cell = l.cell
    cdef Share mine
    cdef void *z = states_of(l, c)
    cdef const void *before
    cdef void *z_t
    cdef void *z_next
    cdef void *states[2]
    states[0], states[1] = packed_state(l, 0, tid), packed_state(l, 1, tid)
    cell.B = rows_of(l, t0)
    mine = share_step(&l.plan, cell.B, H, P, k.tile_rows, tid, n)
    let_begin(l, &mine, tid, n)

    if l.B == 1 and n == 1 and l.n_restarts == 0 and k.walks(&cell):
        k.walk_forward(&cell, t1 - t0, state_after(l, z, t0))
        t0 = t1
    for t in range(t0 + 1, t1 + 1):
        if l.B == 1:
            # A row is packed as it stands.
            before = state_after(l, z, t - 2)
            if e < l.n_restarts and l.restarts[3 * e] == t - 1:
                before = at(l, l.starts, l.restarts[3 * e + 2] * H)
                e += 1
            z_t = state_after(l, z, t - 1)
            if lots:
                step_forward(l, k, &cell, &mine, before, P, z_t, NULL, 0, tid)
            else:
                k.step_forward(&cell, &mine, before, P, z_t, NULL, 0)
        else:
            rows = rows_of(l, t - 1)
            if rows != cell.B:
                # The rows that are left are shared anew.
                meet(l, tid, n)
                cell.B, cell.z_step = rows, rows * cell.z_row
                mine = share_step(&l.plan, rows, H, P, k.tile_rows, tid, n)
            if e < l.n_restarts and l.restarts[3 * e] == t - 1:
                e = restart_states(l, k, e, t - 1, states[(t - 1) & 1], mine, tid, n)
            ended = (l.B - rows) * P
            before = at(l, states[(t - 1) & 1], ended)
            z_t = state_after(l, z, t - 1)
            z_next = at(l, states[t & 1], ended)
            if lots:
                step_forward(l, k, &cell, &mine, before, l.state_panel, z_t, z_next,
                             l.state_panel, tid)
            else:
                k.step_forward(&cell, &mine, before, l.state_panel, z_t, z_next,
                               l.state_panel)
        end_step(l, &mine, tid, n)
    if mine.others != NULL:
        wait_for(&l.barrier, tid, n)
    if l.first != NULL and l.B == 1 and tid == 0 and t1 < l.T:
        memcpy(at(l, states_of(l, c + 1), t1 * H), at(l, z, t1 * H), H * l.itemsize)
