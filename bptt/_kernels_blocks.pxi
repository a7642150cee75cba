# Batches of which one step is too much for a chunk: rows in blocks, one by one.
#
# (a) Forwards a block of rows goes through all of time.
# (b) Backwards, where sums over time and rows are carried, each chunk has all blocks:
#     the segments of a run add up in its order. What a block hands to the chunk before,
#     da, waits in dz0, which nobody needs until the end.
# (c) Of a batch that is summed up in two halves there is a block of each at a time, and
#     an even number of threads walks through both at once.

cdef inline bint in_blocks(const Layer *l, bint backward) noexcept nogil:
    """Whether rows go in blocks. One block of them all comes to the same bits."""
    # Products over time read x where it is, unless its steps run backwards in memory.
    return l.may_block and l.B > l.plan.room[backward and not l.back]


cdef int walk_blocks(_Call call, int threads) except -1:
    """Walk through time block by block."""
    cdef Layer *l = &call.layer
    cdef Layer blocks[2]
    cdef Py_ssize_t chunks = l.plan.chunks if call.backward else 1, c
    # Two rows at least, or a half that has one less would lack them in a block.
    cdef Py_ssize_t room = max(2, l.plan.room[call.backward] // l.halves)
    cdef Py_ssize_t many = row_tiles(rows_before(l, 1), room), q
    cdef int half
    cdef bint both = l.halves == 2 and threads % 2 == 0
    cdef size_t sums = 0, size = 0
    cdef char *base
    if both:
        threads //= 2
    lay_out_halves(l, NULL, &sums)
    for half in range(l.halves):
        for q in (0, many - 1):  # nearly equal parts have the size of either
            take_block(call, 0, q, many, half, &blocks[0])
            share_out(&blocks[0], threads)
            size = max(size, lay_out(&blocks[0], call.backward, NULL))
    base = reserve(call, sums + l.halves * size)
    sums = 0
    lay_out_halves(l, base, &sums)
    for c in range(chunks - 1, -1, -1):
        for q in range(many):
            for half in range(l.halves):
                take_block(call, c, q, many, half, &blocks[half])
                share_out(&blocks[half], threads)
                lay_out(&blocks[half], call.backward, base + sums + half * size)
            if both:
                run_pair(&blocks[0], &blocks[1], call.body,
                         2 * min(blocks[0].plan.threads, blocks[1].plan.threads),
                         blocks[0].plan.patience)
            else:
                for half in range(l.halves):
                    run_alone(call, &blocks[half])
            l.watched = blocks[0].watched
    return 0


cdef void take_block(
    _Call call, Py_ssize_t c, Py_ssize_t q, Py_ssize_t many, int half, Layer *block
) noexcept:
    """Make block q of so many of a half a layer of its own, backwards in chunk c."""
    cdef const Layer *l = &call.layer
    cdef Py_ssize_t r0 = rows_before(l, half), m = rows_before(l, half + 1) - r0
    take_rows(l, r0 + split(m, q, many), r0 + split(m, q + 1, many), block)
    if call.backward:
        take_chunk(l, c, q, half, block)


cdef void take_chunk(
    const Layer *l, Py_ssize_t c, Py_ssize_t q, int half, Layer *block
) noexcept nogil:
    """Leave block q of a half the steps of chunk c, backwards."""
    cdef Py_ssize_t t0 = start_of(l, c)
    cdef void *waiting = block.dz0
    block.steps, block.T = l.plan.steps, start_of(l, c + 1) - t0
    block.add = l.add or c < l.plan.chunks - 1 or q > 0
    block.dW = sums_of(l.dW, l.other_dW, half)
    block.dV = sums_of(l.dV, l.other_dV, half)
    block.db = sums_of(l.db, l.other_db, half)
    block.dead = l.other_dead if half else l.dead
    if c < l.plan.chunks - 1:
        block.dz_last, block.da_next = NULL, waiting
    if c > 0:
        block.dz0, block.da_first = NULL, waiting
    if l.x != NULL:
        block.x = at(l, block.x, t0 * l.x_step)
    if l.ids != NULL:
        block.ids += t0 * l.ids_step
    if l.z != NULL:
        block.z = at(l, block.z, t0 * l.cell.z_step)
    if l.dz != NULL:
        block.dz = at(l, block.dz, t0 * l.dz_step)
    if l.dx != NULL:
        block.dx = at(l, block.dx, t0 * l.dx_step)
    if l.norms != NULL:
        block.norms += t0 * l.record_step
        block.saturated += t0 * l.record_step
