# Zeros for the padding of an array that was written before.

# Steps that a thread clears one after another, and bytes that are worth a second one.
cdef enum:
    STEPS_TOGETHER = 16
    WORTH_CLEARING = 1 << 18


cdef struct Padding:
    char *rows                   # (T, S), each of so many bytes
    Py_ssize_t T, S, bytes
    const Py_ssize_t *lengths    # (S)
    const Py_ssize_t *written    # (S)


def clear(rows, lengths, written):
    """rows[lengths[s] : written[s], s] <- 0"""
    many = (np.minimum(written, len(rows)) - lengths).clip(0).sum()
    if many:
        _clear(rows.view(np.int8), lengths, written, many * rows[0, 0].nbytes)


cdef int _clear(
    char[:, :, ::1] rows,               # (T, S, bytes)  OUT
    const Py_ssize_t[::1] lengths,      # (S)            IN
    const Py_ssize_t[::1] written,      # (S)            IN
    double work,
) except -1:
    cdef Padding p
    cdef int threads = _threads.get_num_threads() if work > WORTH_CLEARING else 1
    p.rows, p.lengths, p.written = &rows[0, 0, 0], &lengths[0], &written[0]
    p.T, p.S, p.bytes = rows.shape[0], rows.shape[1], rows.shape[2]
    with nogil:
        run_on_threads(clear_steps, &p, threads, patience_for(work), INFINITY)
    return 0


cdef void clear_steps(void *padding, int tid, int n) noexcept nogil:
    cdef Padding *p = <Padding *> padding
    cdef Py_ssize_t t, s
    # In turns, for the later a step the more of it is padding.
    for t in range(p.T):
        if t // STEPS_TOGETHER % n != tid:
            continue
        for s in range(p.S):
            if p.lengths[s] <= t < p.written[s]:
                memset(p.rows + (t * p.S + s) * p.bytes, 0, p.bytes)
