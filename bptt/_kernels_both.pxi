# Two layers of the same sizes at once: the two directions of one.
#
# (a) Each has a half of the threads, or one after the other has all of them, as the
#     plan says. Either way each is what it is by itself, to the bit.
# (b) Python's signals are handled by the thread that called, which walks through the
#     first layer. It tells the second one to stop, and where it is done before that it
#     goes on to look for them.

cdef struct Pair:
    Layer *first
    Layer *second
    Body body
    Barrier barrier              # where the leading threads of both say they are done


def side_by_side(B, H, work):
    """Return whether two runs of so many multiplications are better run at once, on
    half of the threads each, than one after the other."""
    return plan_side_by_side(B, H, work, _threads.get_num_threads())


cdef int walk_both(_Call one, _Call other) except -1:
    """Walk through two layers, of which neither needs what the other makes."""
    cdef Layer *first = &one.layer
    cdef Layer *second = &other.layer
    cdef int threads = _threads.get_num_threads()
    cdef double work = <double> first.T * first.B * first.H * (first.H + first.I)
    cdef bint alike = one.body == other.body and (
        first.T == second.T and first.B == second.B
        and first.I == second.I and first.H == second.H)
    if not alike or not plan_side_by_side(first.B, first.H, work, threads):
        walk(one)
        return walk(other)
    prepare(one, threads // 2)
    prepare(other, threads // 2)
    cdef Pair pair
    memset(&pair, 0, sizeof(pair))
    pair.first, pair.second, pair.body = first, second, one.body
    first.both = &pair.barrier
    with nogil:
        run_on_threads(
            walk_halves, &pair, 2 * first.plan.threads, patience_for(2 * work))
    if first.interrupted or second.interrupted:
        return -1
    # The last one to come is the first to go: each finds its own in its cache.
    _idle.append(other.workspace)
    _idle.append(one.workspace)
    return 0


cdef void walk_halves(void *both, int tid, int n) noexcept nogil:
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
        pair.body(first, tid, half)
        if tid == 0:
            arrive(&pair.barrier, 0)
            while first.main_thread and not first.interrupted and not wait_until(
                    &pair.barrier, 0, 2, first.watched + WATCH):
                watch(first, 1, 0)
    else:
        if tid == half:
            second.main_thread, second.both = False, &pair.barrier
        pair.body(second, tid - half, n - half)
        if tid == half:
            arrive(&pair.barrier, 1)
