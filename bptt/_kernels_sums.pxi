# Sums over time: dV, dW and db, chunk by chunk from the last one, of all rows of a
# batch, or of each half of them apart.

cdef inline void *sums_of(void *first, void *second, int half) noexcept nogil:
    return second if half else first


cdef void begin_sums(
    Layer *l, const Kernels *k, int half, int tid, int n
) noexcept nogil:
    """Clear sums that are added to, or take those that are carried."""
    cdef Py_ssize_t I = l.I, H = l.H, P = k.panel
    cdef void *dW = sums_of(l.dW, l.other_dW, half)
    cdef void *dV = sums_of(l.dV, l.other_dV, half)
    cdef void *db = sums_of(l.db, l.other_db, half)
    if tid == 0 and db != NULL and not l.add:
        memset(db, 0, H * l.itemsize)
    if tid == 0 and l.x == NULL and dV != NULL and not l.add:
        memset(dW, 0, I * H * l.itemsize)
    if l.add and l.plan.chunks > 1 and dV != NULL:
        pack_matrix(l, k, H, H, dV, H, 1, l.packed_dV[half], H * P, tid, n)
        if l.x != NULL:
            pack_matrix(l, k, I, H, dW, H, 1, l.packed_dW[half], I * P, tid, n)


cdef void end_sums(Layer *l, const Kernels *k, int half, int tid, int n) noexcept nogil:
    """Put sums that are packed where they belong."""
    cdef Py_ssize_t I = l.I, H = l.H, P = k.panel
    if l.plan.chunks == 1 or l.dV == NULL:
        return
    unpack_matrix(l, k, H, H, l.packed_dV[half], H * P,
                  sums_of(l.dV, l.other_dV, half), tid, n)
    if l.x != NULL:
        unpack_matrix(l, k, I, H, l.packed_dW[half], I * P,
                      sums_of(l.dW, l.other_dW, half), tid, n)


cdef void sum_up(
    Layer *l, const Kernels *k, Py_ssize_t c, int half, const void *da, int tid, int n
) noexcept nogil:
    """dV <- dV + z[t-1]^T da[t], dW <- dW + x[t]^T da[t], db <- db + da[t] of the rows
    of a chunk that belong to a half."""
    cdef Py_ssize_t P = k.panel, panels = panels_of(l.H, P)
    cdef Py_ssize_t t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t r0 = rows_before(l, half), m = rows_before(l, half + 1) - r0
    # Rows in lots, of a step or of all steps, follow one another.
    cdef Py_ssize_t R = cells_before(l, t1) - cells_before(l, t0), many = R
    cdef void *dV = sums_of(l.dV, l.other_dV, half)
    cdef void *dW = sums_of(l.dW, l.other_dW, half)
    cdef void *db = sums_of(l.db, l.other_db, half)
    if l.half or l.halves == 2:
        R, many = (t1 - t0) * m, m
    da = at(l, da, r0 * P)
    if dV != NULL and lie_evenly(l):
        add_outer(l, k, c, l.H, at(l, l.z, t0 * l.cell.z_step + r0 * l.cell.z_row),
                  l.cell.z_row, l.cell.z_step, P, R, many, da, dV, l.packed_dV[half],
                  tid, n)
    elif dV != NULL:
        add_outer(l, k, c, l.H, at(l, l.packed_z, r0 * P), P, l.B * P, l.chunk_panel,
                  R, many, da, dV, l.packed_dV[half], tid, n)
    if dV != NULL and l.x == NULL:
        add_tokens(l, k, c, r0, m, da, dW, split(panels, tid, n),
                   split(panels, tid + 1, n))
    elif dV != NULL and lie_evenly(l):
        add_outer(l, k, c, l.I, at(l, l.x, t0 * l.x_step + r0 * l.x_row),
                  l.x_row, l.x_step, P, R, many, da, dW, l.packed_dW[half], tid, n)
    elif dV != NULL:
        add_outer(l, k, c, l.I, at(l, l.packed_x, r0 * P), P, l.B * P, l.chunk_panel,
                  R, many, da, dW, l.packed_dW[half], tid, n)
    if db != NULL:
        k.sum_rows(split(panels, tid, n), split(panels, tid + 1, n), l.H, R, da, many,
                   l.B * P, l.chunk_panel, db)


cdef void add_outer(
    Layer *l, const Kernels *k, Py_ssize_t c, Py_ssize_t M, const void *A,
    Py_ssize_t lda, Py_ssize_t step, Py_ssize_t panel, Py_ssize_t R, Py_ssize_t many,
    const void *da, void *sums, void *packed, int tid, int n,
) noexcept nogil:
    """Add A^T da of a chunk to sums, which stay packed from chunk to chunk, unless one
    chunk is all there is."""
    cdef Py_ssize_t P = k.panel, units = k.outer_tiles(M) * panels_of(l.H, P)
    cdef bint direct = l.plan.chunks == 1, add = start_of(l, c + 1) < l.T or l.add
    multiply_outer(l, k, split(units, tid, n), split(units, tid + 1, n), M, R,
                   A, lda, many, step, panel, da,
                   sums if direct else packed, l.H if direct else P,
                   P if direct else M * P, add, tid)


cdef void add_tokens(
    Layer *l, const Kernels *k, Py_ssize_t c, Py_ssize_t r0, Py_ssize_t m,
    const void *da, void *dW, Py_ssize_t p0, Py_ssize_t p1,
) noexcept nogil:
    """dW[id] <- dW[id] + da[t] of a chunk's tokens, m of each step from r0 on."""
    cdef Py_ssize_t P = k.panel, t0 = start_of(l, c), t1 = start_of(l, c + 1), t
    if not l.half and l.halves == 1 and not l.back:
        k.scatter(p0, p1, l.H, cells_before(l, t1) - cells_before(l, t0),
                  l.ids + cells_before(l, t0), da, l.chunk_panel, dW)
        return
    for t in range(t0, t1):
        k.scatter(p0, p1, l.H, m, l.ids + t * l.ids_step + r0,
                  at(l, da, (t - t0) * l.B * P), l.chunk_panel, dW)
