# Tangents along a trajectory: `_reference_tangents.py`, compiled.
#
# (a) The step forwards of a tangent is the step backwards of an error with V in place
#     of V^T, so that `step_backward` serves: (g + dz[t-1] V) sigma'(z[t]).
# (b) What the inputs and the parameters contribute is one product over a chunk, of the
#     operands side by side: [dx, x, z] with [W; dW; dV] below each other, plus db. Each
#     of them begins at a panel; what pads it is 0 on either side.
# (c) The loops of `jvp` are those of `forward`: a tangent's place holds its input until
#     the step comes.

cdef struct Tangent:
    Layer layer                  # x, z and the plan; its I is the length K of the sums
    Py_ssize_t inputs            # I
    const void *dx               # (T, B, I), or NULL
    const void *dW               # (I, H), or NULL
    const void *dV               # (H, H), or NULL
    const void *db               # (H), or NULL
    void *dz                     # (T + 1, B, H)


# -- One direction ---------------------------------------------------------------------

def jvp(x, W, V, z, activation, dx, dW, dV, db, dz):
    """Carry the tangent dz[0] through the layer, with those of x and the parameters."""
    if z.shape[0] == 1 or z.shape[1] == 0:
        return
    if x.ndim == 2 and dW is not None:
        # A token's row of dW is the tangent of an input that goes in as it is.
        dx, W, dW = dW[x], np.eye(len(V), dtype=z.dtype), None
    features = x if x.ndim == 3 and dW is not None else None
    if z.itemsize == sizeof(float):
        _jvp[float](features, W, V, z, activation, dx, dW, dV, db, dz)
    else:
        _jvp[double](features, W, V, z, activation, dx, dW, dV, db, dz)


cdef int _jvp(
    const real[:, :, ::1] x,            # (T, B, I)      IN, or None
    const real[:, :] W,                 # (I, H)         IN
    const real[:, :] V,                 # (H, H)         IN
    const real[:, :, ::1] z,            # (T + 1, B, H)  IN
    activation,
    const real[:, :, ::1] dx,           # (T, B, I)      IN, or None
    const real[:, ::1] dW,              # (I, H)         IN, or None
    const real[:, ::1] dV,              # (H, H)         IN, or None
    const real[::1] db,                 # (H)            IN, or None
    real[:, :, ::1] dz,                 # (T + 1, B, H)  IN dz[0], OUT dz[1..T]
) except -1:
    cdef Tangent t
    memset(&t, 0, sizeof(t))
    point_at_weights(&t.layer, W, V, z.shape[0] - 1, z.shape[1])
    t.inputs = t.layer.I
    t.layer.z = <void *> &z[0, 0, 0]
    t.dz = &dz[0, 0, 0]
    if dx is not None:
        t.dx = &dx[0, 0, 0]
    if x is not None:
        t.layer.x = &x[0, 0, 0]
        t.dW = &dW[0, 0]
    if dV is not None:
        t.dV = &dV[0, 0]
    if db is not None:
        t.db = &db[0]
    if real is float:
        return run_tangent(&t, activation, jvp_f32)
    else:
        return run_tangent(&t, activation, jvp_f64)


cdef int run_tangent(Tangent *t, activation, Body body) except -1:
    """Walk through time with the threads of the pool."""
    cdef Layer *l = &t.layer
    cdef Py_ssize_t P, tile_rows
    if l.itemsize == sizeof(float):
        P, tile_rows = _isa.f32.panel, _isa.f32.tile_rows
    else:
        P, tile_rows = _isa.f64.panel, _isa.f64.tile_rows
    l.panel = P
    cdef Py_ssize_t Ip = panels_of(t.inputs, P) * P, Hp = panels_of(l.H, P) * P
    l.I = (t.dx != NULL) * Ip + (t.dW != NULL) * Ip + (t.dV != NULL) * Hp
    if <double> l.H * (Hp + l.I) * l.itemsize > 2.0 ** 60:
        raise MemoryError(f"a matrix of {l.H} x {l.H + l.I} is not to be packed")
    l.plan = make_plan(
        l.T, l.B, max(1, l.I), l.H, l.itemsize, P, tile_rows,
        _threads.get_num_threads())
    l.chunk_panel = (l.plan.steps * l.B | 1) * P
    l.takes_long = chunks_take_long(l, <double> l.plan.steps * l.B)
    keep_apart(l)
    begin_watch(l)

    cdef _Workspace workspace = take_workspace()
    cdef char *block = workspace.reserve(lay_out_tangent(l, NULL) + 64)
    block = <char *> ((<size_t> block + 63) // 64 * 64)
    lay_out_tangent(l, block)
    # The columns that pad an operand are never written again.
    memset(l.packed_x, 0, panels_of(l.I, P) * l.chunk_panel * l.itemsize)
    memset(l.packed_W, 0, l.I * Hp * l.itemsize)
    l.cell.B, l.cell.H, l.cell.V = l.B, l.H, l.packed_V
    l.cell.z_row = l.cell.g_row = l.H
    l.cell.z_step = l.cell.g_step = l.B * l.H
    l.cell.activation = activation.code
    l.cell.alpha, l.cell.beta = activation.alpha, activation.beta
    with nogil:
        run_on_threads(body, t, l.plan.threads, l.plan.patience, l.plan.answer)
    if l.interrupted:
        return -1
    _idle.append(workspace)
    return 0


cdef size_t lay_out_tangent(Layer *l, char *base) noexcept nogil:
    """Give each packed operand its part of the block at base; return their size."""
    cdef Py_ssize_t P = l.panel, H_panels = panels_of(l.H, P)
    cdef size_t used = 0
    l.packed_V = part(l, base, &used, l.H * H_panels * P)
    l.packed_state = part(l, base, &used, 2 * H_panels * l.state_panel)
    l.packed_x = part(l, base, &used, panels_of(l.I, P) * l.chunk_panel)
    l.packed_W = part(l, base, &used, l.I * H_panels * P)
    l.packed_da = part(l, base, &used, H_panels * l.chunk_panel)
    return used


cdef void jvp_f32(void *tangent, int tid, int n) noexcept nogil:
    jvp_loop(<Tangent *> tangent, _isa.f32, tid, n)


cdef void jvp_f64(void *tangent, int tid, int n) noexcept nogil:
    jvp_loop(<Tangent *> tangent, _isa.f64, tid, n)


cdef void jvp_loop(Tangent *t, const Kernels *k, int tid, int n) noexcept nogil:
    cdef Layer *l = &t.layer
    cdef Py_ssize_t B = l.B, H = l.H, P = k.panel, row = 0, c
    cdef Py_ssize_t Ip = panels_of(t.inputs, P) * P, chunks = l.plan.chunks

    pack_matrix(l, k, H, H, l.V, l.V_i, l.V_h, l.packed_V, H * P, tid, n)
    k.pack(split(B, tid, n), split(B, tid + 1, n), H,
           t.dz, H, 1, packed_state(l, 0, tid), l.state_panel)
    if t.dx != NULL:
        pack_matrix(l, k, t.inputs, H, l.W, l.W_i, l.W_h, at(l, l.packed_W, row * P),
                    l.I * P, tid, n)
        row += Ip
    if t.dW != NULL:
        pack_matrix(l, k, t.inputs, H, t.dW, H, 1, at(l, l.packed_W, row * P), l.I * P,
                    tid, n)
        row += Ip
    if t.dV != NULL:
        pack_matrix(l, k, H, H, t.dV, H, 1, at(l, l.packed_W, row * P), l.I * P, tid, n)
    meet(l, tid, n)

    if l.plan.split == PIPELINE and n == 2:
        for c in range(chunks + 1):
            watch(l, c + 1, tid)
            if tid == 1 and c < chunks:
                jvp_products(t, k, c, 0, 1)
            if tid == 0 and c > 0:
                jvp_steps(t, k, c - 1, 0, 1)
            meet(l, tid, n)
            if stopped_at(&l.barrier, c + 1):
                return
    else:
        for c in range(chunks):
            watch(l, c + 1, tid)
            jvp_products(t, k, c, tid, n)
            meet(l, tid, n)
            if stopped_at(&l.barrier, c + 1):
                return
            jvp_steps(t, k, c, tid, n)


cdef void jvp_products(
    Tangent *t, const Kernels *k, Py_ssize_t c, int tid, int n
) noexcept nogil:
    """1. dz[t] <- dx[t] W + x[t] dW + z[t-1] dV + db"""
    cdef Layer *l = &t.layer
    cdef Py_ssize_t B = l.B, I = t.inputs, H = l.H, P = k.panel, column = 0, r
    cdef Py_ssize_t Ip = panels_of(I, P) * P
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t R = (t1 - t0) * B, panel = l.chunk_panel
    cdef Py_ssize_t r0 = split(R, tid, n), r1 = split(R, tid + 1, n)
    cdef void *out = at(l, t.dz, (t0 + 1) * B * H)

    if l.I == 0:
        for r in range(r0, r1):
            if t.db != NULL:
                memcpy(at(l, out, r * H), t.db, H * l.itemsize)
        return
    if t.dx != NULL:
        k.pack(r0, r1, I, at(l, t.dx, t0 * B * I), I, 1, l.packed_x, panel)
        column += Ip
    if t.dW != NULL:
        k.pack(r0, r1, I, at(l, l.x, t0 * B * I), I, 1,
               at(l, l.packed_x, column // P * panel), panel)
        column += Ip
    if t.dV != NULL:
        k.pack(r0, r1, H, at(l, l.z, t0 * B * H), H, 1,
               at(l, l.packed_x, column // P * panel), panel)
    meet(l, tid, n)
    mine = share_gemm(R, H, P, k.tile_rows, tid, n)
    multiply(l, k, &mine, H, l.I, l.packed_x, panel, l.packed_W, t.db, out, H, tid)


cdef void jvp_steps(
    Tangent *t, const Kernels *k, Py_ssize_t c, int tid, int n
) noexcept nogil:
    """2. dz[t] <- sigma'(z[t]) (dz[t] + dz[t-1] V)"""
    cdef Layer *l = &t.layer
    cdef Py_ssize_t B = l.B, H = l.H, P = k.panel, s
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Share mine = share_step(&l.plan, B, H, P, k.tile_rows, tid, n)
    cdef bint driven = l.I > 0 or t.db != NULL
    cdef void *states[2]
    states[0], states[1] = packed_state(l, 0, tid), packed_state(l, 1, tid)

    for s in range(t0 + 1, t1 + 1):
        if l.takes_long:
            step_backward(l, k, &l.cell, &mine, states[(s - 1) & 1],
                          at(l, t.dz, s * B * H) if driven else NULL,
                          at(l, l.z, s * B * H), states[s & 1],
                          at(l, l.packed_da, (s - 1 - t0) * B * P), NULL, tid)
        else:
            k.step_backward(&l.cell, &mine, states[(s - 1) & 1], l.state_panel,
                            at(l, t.dz, s * B * H) if driven else NULL,
                            at(l, l.z, s * B * H), states[s & 1], l.state_panel,
                            at(l, l.packed_da, (s - 1 - t0) * B * P), l.chunk_panel,
                            NULL)
        if l.plan.split == COLUMNS:
            meet(l, tid, n)
    meet(l, tid, n)
    unpack_matrix(l, k, (t1 - t0) * B, H, l.packed_da, l.chunk_panel,
                  at(l, t.dz, (t0 + 1) * B * H), tid, n)


# -- Many directions, kept orthonormal -------------------------------------------------

cdef struct Frame:
    Layer layer                  # of k rows, which share the states of one sequence
    Py_ssize_t sequences         # B
    void *Q                      # (B, k, H)
    double *logs                 # (B, k)
    size_t bytes                 # of a thread's part of the workspace
    char *block


def lyapunov(V, z, activation, Q, logs):
    """Carry orthonormal rows along a trajectory, and sum up what they grow by."""
    if z.shape[0] == 1 or z.shape[1] == 0:
        return
    if z.itemsize == sizeof(float):
        _lyapunov[float](V, z, activation, Q, logs)
    else:
        _lyapunov[double](V, z, activation, Q, logs)


cdef int _lyapunov(
    const real[:, :] V,                 # (H, H)         IN
    const real[:, :, ::1] z,            # (T + 1, B, H)  IN
    activation,
    real[:, :, ::1] Q,                  # (B, k, H)      IN OUT
    double[:, ::1] logs,                # (B, k)         IN OUT
) except -1:
    cdef Frame f
    cdef Py_ssize_t P, Hp
    cdef Layer *l = &f.layer
    memset(&f, 0, sizeof(f))
    point_at_weights(l, V, V, z.shape[0] - 1, Q.shape[1])
    l.z = <void *> &z[0, 0, 0]
    if <double> l.H * (l.H + l.B) * l.itemsize > 2.0 ** 60:
        raise MemoryError(f"a matrix of {l.H} x {l.H + l.B} is not to be packed")
    f.sequences, f.Q, f.logs = z.shape[1], &Q[0, 0, 0], &logs[0, 0]
    l.panel = P = _isa.f32.panel if real is float else _isa.f64.panel
    l.state_panel = l.chunk_panel = (l.B | 1) * P
    l.takes_long = chunks_take_long(l, l.B)
    Hp = panels_of(l.H, P)
    # V once; for each thread two packed frames, one to spare, z[t] for each row, sums.
    cdef size_t shared = 0
    part(l, NULL, &shared, l.H * Hp * P)
    part(l, NULL, &f.bytes, 3 * Hp * l.state_panel)
    part(l, NULL, &f.bytes, l.B * l.H)
    part(l, NULL, &f.bytes, l.B)
    cdef double products = <double> l.T * l.B * l.H * l.H * f.sequences
    cdef int threads = <int> min(
        f.sequences, 1 if products < 6e5 else _threads.get_num_threads())
    begin_watch(l)
    cdef _Workspace workspace = take_workspace()
    f.block = workspace.reserve(shared + threads * f.bytes + 64)
    f.block = <char *> ((<size_t> f.block + 63) // 64 * 64)
    l.packed_V = f.block
    f.block += shared
    l.cell.B, l.cell.H, l.cell.V = l.B, l.H, l.packed_V
    l.cell.z_row = l.cell.g_row = l.H
    l.cell.z_step = l.cell.g_step = l.B * l.H
    l.cell.activation = activation.code
    l.cell.alpha, l.cell.beta = activation.alpha, activation.beta
    with nogil:
        if real is float:
            run_on_threads(
                lyapunov_f32, &f, threads, patience_for(products), INFINITY)
        else:
            run_on_threads(
                lyapunov_f64, &f, threads, patience_for(products), INFINITY)
    if l.interrupted:
        return -1
    _idle.append(workspace)
    return 0


cdef void lyapunov_f32(void *frame, int tid, int n) noexcept nogil:
    lyapunov_loop(<Frame *> frame, _isa.f32, tid, n)


cdef void lyapunov_f64(void *frame, int tid, int n) noexcept nogil:
    lyapunov_loop(<Frame *> frame, _isa.f64, tid, n)


cdef void lyapunov_loop(Frame *f, const Kernels *k, int tid, int n) noexcept nogil:
    cdef Layer *l = &f.layer
    cdef Py_ssize_t rows = l.B, H = l.H, P = k.panel, B = f.sequences, b, t, r
    cdef size_t used = 0
    cdef char *mine = f.block + tid * f.bytes
    cdef void *frames = part(l, mine, &used, 3 * panels_of(H, P) * l.state_panel)
    cdef void *z_rows = part(l, mine, &used, rows * H)
    cdef void *work = part(l, mine, &used, rows)
    cdef void *spare = at(l, frames, 2 * panels_of(H, P) * l.state_panel)
    cdef Share every = share_gemm(rows, H, P, k.tile_rows, 0, 1)
    # Signals wait for a million multiplications, a fraction of a millisecond.
    cdef Py_ssize_t turns = 1 + 1000000 // (rows * H * (rows + H))
    cdef void *states[2]
    states[0] = frames
    states[1] = at(l, frames, panels_of(H, P) * l.state_panel)

    pack_matrix(l, k, H, H, l.V, l.V_i, l.V_h, l.packed_V, H * P, tid, n)
    meet(l, tid, n)
    for b in range(split(B, tid, n), split(B, tid + 1, n)):
        k.pack(0, rows, H, at(l, f.Q, b * rows * H), H, 1, states[0], l.state_panel)
        for t in range(1, l.T + 1):
            if t % turns == 0:
                watch(l, 1, tid)
                if stopped_at(&l.barrier, 1):
                    return
            for r in range(rows):
                memcpy(at(l, z_rows, r * H), at(l, l.z, (t * B + b) * H),
                       H * l.itemsize)
            if l.takes_long:
                step_backward(l, k, &l.cell, &every, states[(t - 1) & 1], NULL, z_rows,
                              states[t & 1], spare, NULL, tid)
                orthonormalise(l, k, rows, states[t & 1], work, f.logs + b * rows, tid)
                if not goes_on(l, tid):
                    return
            else:
                k.step_backward(&l.cell, &every, states[(t - 1) & 1], l.state_panel,
                                NULL, z_rows, states[t & 1], l.state_panel, spare,
                                l.state_panel, NULL)
                k.orthonormalise(0, rows, H, states[t & 1], l.state_panel, work,
                                 f.logs + b * rows)
        k.unpack(0, rows, H, states[l.T & 1], l.state_panel,
                 at(l, f.Q, b * rows * H))
