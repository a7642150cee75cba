# Two layers at once that do not ask what the other does: the two directions of one, or
# two halves of a batch.
#
# (a) Each has a half of the threads, or one after the other has all of them. Either way
#     each is what it is by itself, to the bit.
# (b) Where the rows are many (`plan_halves`), gradients are summed up in two halves of
#     the rows of each step, apart, and added at the end: an even number of threads then
#     walks through both halves at once, and a processor reads little that another one
#     has written. Others walk through all rows.
# (c) Python's signals are handled by the thread that called, which walks through the
#     first layer. It tells the second one to stop, and where it is done before that it
#     goes on to look for them.

cdef struct Pair:
    Layer *first
    Layer *second
    Body body
    double begun
    Barrier barrier              # where the leading threads of both say they are done


def side_by_side(B, H, work):
    """Return whether two runs of so many multiplications are better run at once, on
    half of the threads each, than one after the other."""
    return plan_side_by_side(B, H, work, _threads.get_num_threads())


def halves(B, H):
    """Return whether gradients are summed up in two halves of a batch, apart."""
    return plan_halves(B, H)


cdef int walk_both(_Call one, _Call other, bint apart) except -1:
    """Walk through two layers, of which neither needs what the other makes."""
    cdef Layer *first = &one.layer
    cdef Layer *second = &other.layer
    cdef int threads = _threads.get_num_threads()
    cdef double work = <double> first.H * (first.H + first.I) * (
        cells_before(first, first.T) + cells_before(second, second.T)) / 2
    cdef bint together = one.body == other.body and first.H == second.H
    if apart:
        # Nor would more threads share the rows of both better than those of each.
        together &= threads % 2 == 0 and plan_side_by_side(1, first.H, work, 2)
    else:
        together &= first.T == second.T and first.B == second.B and (
            first.I == second.I and plan_side_by_side(first.B, first.H, work, threads))
    if not together:
        walk(one)
        return walk(other)
    for call in (one, other):
        prepare(call, threads // 2)
        take_room(call)
    run_pair(first, second, one.body,
             2 * min(first.plan.threads, second.plan.threads), patience_for(2 * work))
    # The last one to come is the first to go: each finds its own in its cache.
    finish(other)
    finish(one)
    return 0


cdef int run_pair(
    Layer *first, Layer *second, Body body, int threads, double patience
) except -1:
    cdef Pair pair
    memset(&pair, 0, sizeof(pair))
    pair.first, pair.second, pair.body = first, second, body
    first.both = &pair.barrier
    with nogil:
        run_on_threads(walk_pair, &pair, threads, patience, INFINITY)
    if first.interrupted or second.interrupted:
        return -1                # and raise what a signal handler has set
    return 0


cdef void walk_pair(void *both, int tid, int n) noexcept nogil:
    """Walk through the first layer with a half of the threads, and through the second
    with the others."""
    cdef Pair *pair = <Pair *> both
    cdef Layer *first = pair.first
    cdef Layer *second = pair.second
    cdef int half = (n + 1) // 2
    if n == 1:
        pair.body(first, 0, 1)
        if not first.interrupted:
            pair.body(second, 0, 1)
    elif tid < half:
        if tid == 0:
            pair.begun = seconds()
        pair.body(first, tid, half)
        if tid == 0:
            arrive(&pair.barrier, 0)
            wait_for_second(pair)
    else:
        if tid == half:
            second.main_thread, second.both = False, &pair.barrier
        pair.body(second, tid - half, n - half)
        if tid == half:
            arrive(&pair.barrier, 1)


cdef void wait_for_second(Pair *pair) noexcept nogil:
    """Wait until the second layer is done. The wait is taken for what one thread alone
    would have saved: that there was more to do is no reason for the next call to go on
    without the others."""
    cdef Layer *first = pair.first
    cdef Layer *second = pair.second
    cdef double done = seconds(), before = longest_wait(), lost
    cdef double more = (1.0 + cells_before(second, second.T)) / (
        1.0 + cells_before(first, first.T))
    while not first.interrupted and not wait_until(
            &pair.barrier, 0, 2, seconds() + WATCH):
        watch(first, 1, 0)
    lost = seconds() - done - more * (done - pair.begun)
    wait_is(max(before, lost))


# -- The halves of a batch -------------------------------------------------------------

cdef inline Py_ssize_t rows_before(const Layer *l, int half) noexcept nogil:
    """Return how many rows of each step come before a half of them."""
    return l.B if half >= l.halves else (l.B + 1) // 2 * half


cdef int walk_halves(_Call call, int threads) except -1:
    """Walk through both halves at once, with so many threads each."""
    cdef Layer *l = &call.layer
    cdef Layer first, second
    cdef size_t size = 0
    l.steps = l.plan.steps
    take_rows(l, 0, rows_before(l, 1), &first)
    take_rows(l, rows_before(l, 1), l.B, &second)
    share_out(&first, threads)
    share_out(&second, threads)
    lay_out_halves(l, NULL, &size)
    size += lay_out(&first, call.backward, NULL) + lay_out(&second, call.backward, NULL)
    cdef char *block = reserve(call, size)
    size = 0
    lay_out_halves(l, block, &size)
    size += lay_out(&first, call.backward, block + size)
    lay_out(&second, call.backward, block + size)
    second.dW, second.dV, second.db = l.other_dW, l.other_dV, l.other_db
    second.dead = l.other_dead
    # One row less may be too little to share.
    return run_pair(&first, &second, call.body,
                    2 * min(first.plan.threads, second.plan.threads), l.plan.patience)


cdef void take_rows(
    const Layer *l, Py_ssize_t r0, Py_ssize_t r1, Layer *part
) noexcept nogil:
    """Make the rows of each step from r0 up to r1 a layer of their own."""
    part[0] = l[0]
    part.half, part.halves = True, 1
    part.B = part.next_rows = r1 - r0
    if l.x != NULL:
        part.x = at(l, l.x, r0 * l.x_row)
    if l.ids != NULL:
        part.ids += r0
    if l.z != NULL:
        part.z = at(l, l.z, r0 * l.z_row)
    if l.dz != NULL:
        part.dz = at(l, l.dz, r0 * l.dz_row)
    if l.dx != NULL:
        part.dx = at(l, l.dx, r0 * l.dx_row)
    if l.norms != NULL:
        part.norms += r0 * l.record_row
        part.saturated += r0 * l.record_row
    if l.dz_last != NULL:
        part.dz_last = at(l, l.dz_last, r0 * l.H)
    if l.dz0 != NULL:
        part.dz0 = at(l, l.dz0, r0 * l.H)
    if l.da_next != NULL:
        part.da_next = at(l, l.da_next, r0 * l.H)
    if l.da_first != NULL:
        part.da_first = at(l, l.da_first, r0 * l.H)


cdef void lay_out_halves(Layer *l, char *base, size_t *used) noexcept nogil:
    """Give the sums of the second half their part of the workspace."""
    if l.dV != NULL and not l.carries:
        l.other_dW = part(l, base, used, l.I * l.H)
        l.other_dV = part(l, base, used, l.H * l.H)
        l.other_db = NULL if l.db == NULL else part(l, base, used, l.H)
    if l.dead != NULL:
        l.other_dead = <int64_t *> part(l, base, used, 2 * l.H)
        if base != NULL:
            memset(l.other_dead, 0, l.H * sizeof(int64_t))


cdef void finish(_Call call) noexcept:
    """Add the sums of the second half to those of the first, and keep the workspace."""
    cdef Layer *l = &call.layer
    cdef Py_ssize_t h
    if l.halves == 2 and l.dV != NULL and not l.carries:
        add_reals(l, l.dW, l.other_dW, l.I * l.H)
        add_reals(l, l.dV, l.other_dV, l.H * l.H)
        if l.db != NULL:
            add_reals(l, l.db, l.other_db, l.H)
    if l.halves == 2 and l.dead != NULL:
        for h in range(l.H):
            l.dead[h] += l.other_dead[h]
    _idle.append(call.workspace)


cdef void add_reals(
    const Layer *l, void *sums, const void *others, Py_ssize_t count
) noexcept nogil:
    cdef Py_ssize_t i
    if l.itemsize == sizeof(float):
        for i in range(count):
            (<float *> sums)[i] += (<const float *> others)[i]
    else:
        for i in range(count):
            (<double *> sums)[i] += (<const double *> others)[i]
