# Calls whose chunks take long: signals are looked for inside of a chunk as well.
#
# (a) Products and steps are cut into lots. A lot has some of the tiles of a share, each
#     of which is computed whole, so that it changes no bit.
# (b) Before each lot the calling thread looks for signals, and the others look whether
#     it has been told to stop. Then no more lots are computed, but all threads go on to
#     where a turn ends and meet as often as ever: where they were need not be agreed.
# (c) Not cut are the steps of a single row, whose threads wait for each other inside;
#     what moves the rows of a chunk and computes nothing; and narrow rows, which are
#     far too small.
# (d) The loops of other calls are what they are without all this.

cdef enum:
    LONG = 250000000            # multiplications, from which a chunk takes long
    LOT = 100000000             # of a lot, some milliseconds
    MOVED = 32                  # of which a real takes the time that is moved


cdef bint chunks_take_long(const Layer *l, double rows) noexcept nogil:
    """Whether so many rows of a chunk, and packing the weights, take long."""
    # Tokens are not multiplied.
    return l.plan.split != PIPELINE and LONG < (
        (rows + MOVED) * l.H * (l.H + (0 if l.ids != NULL else l.I)))


cdef bint goes_on(Layer *l, int tid) noexcept nogil:
    """Look for signals; return whether a lot is still to be computed."""
    if tid == 0 and stopped_at(&l.barrier, NO_TURN) and is_called_off(l):
        stop_at(&l.barrier, NEXT_TURN)
    return stopped_at(&l.barrier, NO_TURN)


cdef inline Py_ssize_t lot_of(double products) noexcept nogil:
    """Return how many units, each of so many multiplications, are a lot."""
    return 1 + <Py_ssize_t> (LOT / products)


cdef bint next_lot(
    Layer *l, const Kernels *k, const Share *mine, Py_ssize_t K, Share *lot, int tid
) noexcept nogil:
    """Go from one lot of a share's tiles, of sums over K, to the next; return whether
    it is to be computed."""
    cdef Py_ssize_t units = lot_of(<double> k.tile_rows * k.panel * (K + 1))
    lot.u0 = lot.u1
    lot.u1 = mine.u1 if mine.others != NULL else min(mine.u1, lot.u0 + units)
    return lot.u0 < mine.u1 and goes_on(l, tid)


cdef inline Share before_lots(const Share *mine) noexcept nogil:
    cdef Share lot = mine[0]
    lot.u1 = lot.u0
    return lot


cdef void multiply(
    Layer *l, const Kernels *k, const Share *mine, Py_ssize_t N, Py_ssize_t K,
    const void *A, Py_ssize_t panel, const void *B, const void *bias, void *C,
    Py_ssize_t row, int tid,
) noexcept nogil:
    cdef Share lot
    if not l.takes_long:
        k.gemm(mine, N, K, A, panel, B, bias, C, row)
        return
    lot = before_lots(mine)
    while next_lot(l, k, mine, K, &lot, tid):
        k.gemm(&lot, N, K, A, panel, B, bias, C, row)


cdef void multiply_outer(
    Layer *l, const Kernels *k, Py_ssize_t u0, Py_ssize_t u1, Py_ssize_t M,
    Py_ssize_t R, const void *A, Py_ssize_t lda, Py_ssize_t many, Py_ssize_t step,
    Py_ssize_t panel, const void *da, void *C, Py_ssize_t row, Py_ssize_t c_panel,
    bint add, int tid,
) noexcept nogil:
    cdef Py_ssize_t P = k.panel, units
    if not l.takes_long:
        k.gemm_outer(u0, u1, M, l.H, R, A, lda, many, step, panel, da, l.B * P,
                     l.chunk_panel, C, row, c_panel, add)
        return
    units = lot_of(<double> k.tile_rows * P * (R + 1))
    while u0 < u1 and goes_on(l, tid):
        k.gemm_outer(u0, min(u1, u0 + units), M, l.H, R, A, lda, many, step, panel, da,
                     l.B * P, l.chunk_panel, C, row, c_panel, add)
        u0 += units


cdef void step_forward(
    Layer *l, const Kernels *k, const Cell *cell, const Share *mine, const void *before,
    Py_ssize_t before_panel, void *z, void *packed, Py_ssize_t panel, int tid,
) noexcept nogil:
    """A step of a call that takes long, as the next one."""
    cdef Share lot = before_lots(mine)
    while next_lot(l, k, mine, l.H, &lot, tid):
        k.step_forward(cell, &lot, before, before_panel, z, packed, panel)


cdef void step_backward(
    Layer *l, const Kernels *k, const Cell *cell, const Share *mine,
    const void *da_next, const void *dz, const void *z, void *da, void *da_rows,
    const Record *record, int tid,
) noexcept nogil:
    cdef Share lot = before_lots(mine)
    while next_lot(l, k, mine, l.H, &lot, tid):
        k.step_backward(cell, &lot, da_next, l.state_panel, dz, z, da, l.state_panel,
                        da_rows, l.chunk_panel, record)


cdef void states_backward(
    Layer *l, const Kernels *k, const Share *mine, const void *da, int tid
) noexcept nogil:
    cdef Share lot
    if l.dz0 == NULL:
        return
    if not l.takes_long:
        k.state_backward(&l.cell, mine, da, l.state_panel, l.dz0)
        return
    lot = before_lots(mine)
    while next_lot(l, k, mine, l.H, &lot, tid):
        k.state_backward(&l.cell, &lot, da, l.state_panel, l.dz0)


cdef void orthonormalise(
    Layer *l, const Kernels *k, Py_ssize_t rows, void *Q, void *work, double *logs,
    int tid,
) noexcept nogil:
    """Gram-Schmidt on so many rows of Q."""
    # Twice a row has all rows before it multiplied with it, and taken off.
    cdef Py_ssize_t many = lot_of(4.0 * rows * l.H), r = 0
    while r < rows and goes_on(l, tid):
        k.orthonormalise(r, min(rows, r + many), l.H, Q, l.state_panel, work, logs)
        r += many


cdef void pack_matrix(
    Layer *l, const Kernels *k, Py_ssize_t R, Py_ssize_t N, const void *matrix,
    Py_ssize_t row, Py_ssize_t column, void *packed, Py_ssize_t panel, int tid, int n,
) noexcept nogil:
    """Pack this thread's rows of a matrix (R, N)."""
    cdef Py_ssize_t r0 = split(R, tid, n), r1 = split(R, tid + 1, n), rows
    if not l.takes_long:
        k.pack(r0, r1, N, matrix, row, column, packed, panel)
        return
    rows = lot_of(<double> MOVED * N)
    while r0 < r1 and goes_on(l, tid):
        k.pack(r0, min(r1, r0 + rows), N, matrix, row, column, packed, panel)
        r0 += rows


cdef void unpack_matrix(
    Layer *l, const Kernels *k, Py_ssize_t R, Py_ssize_t N, const void *packed,
    Py_ssize_t panel, void *matrix, int tid, int n,
) noexcept nogil:
    """Put this thread's rows of a matrix (R, N) where it belongs."""
    cdef Py_ssize_t r0 = split(R, tid, n), r1 = split(R, tid + 1, n), rows
    if not l.takes_long:
        k.unpack(r0, r1, N, packed, panel, matrix)
        return
    rows = lot_of(<double> MOVED * N)
    while r0 < r1 and goes_on(l, tid):
        k.unpack(r0, min(r1, r0 + rows), N, packed, panel, matrix)
        r0 += rows
