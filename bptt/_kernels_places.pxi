# Where the rows of each step stand in the arrays of the caller.
#
# (a) One step follows another, rows some distance apart, or comes before it in memory.
#     Whatever is summed over rows is summed in the order of time all the same.
# (b) Or each cell has a place of its own (`Layout.place`). Then z of a chunk is in a
#     buffer, cell after cell, and copied from and to its places.

# How many rows ahead those of the caller's arrays are fetched, which lie far apart.
cdef enum:
    AHEAD = 32


cdef Py_ssize_t row_of(
    const Layer *l, const real[:, :, :] array, Py_ssize_t width
) except -1:
    """Return the distance of two rows of an array (T, B, width), with one step after
    another in memory, or one before another if all are so."""
    if array.shape[2] > 1 and array.strides[2] != sizeof(real):
        raise ValueError("a row of the kernels must be contiguous")
    return distance(l, array.strides, array.shape, sizeof(real), width)


cdef int check_ids(const Layer *l, const Py_ssize_t[:, :] ids) except -1:
    """Refuse token ids (T, B) that do not stand one beside the other."""
    if distance(l, ids.strides, ids.shape, sizeof(Py_ssize_t), 1) != 1:
        raise ValueError("token ids of the kernels must be contiguous")
    return 0


cdef Py_ssize_t distance(
    const Layer *l, const Py_ssize_t *strides, const Py_ssize_t *shape,
    Py_ssize_t size, Py_ssize_t alone,
) except -1:
    """Return the distance of two rows in entries, which is given for one alone."""
    cdef Py_ssize_t T = shape[0], B = shape[1], step = strides[0], row = strides[1]
    if T > 1 and (step < 0) != l.back:
        raise ValueError("the kernels' arrays must all run one way in time")
    if B == 1 and T < 2:
        return alone
    if B == 1:
        row = -step if l.back else step
    elif T > 1 and step != (-row if l.back else row) * B:
        raise ValueError("a step of the kernels' arrays must follow another")
    if row <= 0 or row % size:
        raise ValueError("rows of the kernels' arrays must follow one another")
    return row // size


cdef inline Py_ssize_t first_in_memory(const Layer *l, Py_ssize_t c) noexcept nogil:
    """Return how many rows after those of step 0 the first one of chunk c stands."""
    if l.back:
        return -(start_of(l, c + 1) - 1) * l.B
    return cells_before(l, start_of(l, c))


cdef inline Py_ssize_t rows_together(const Layer *l, Py_ssize_t R) noexcept nogil:
    """Return how many of R rows of a chunk are the same distance apart: those of a step
    where steps of several rows stand before each other or have others in between, or
    else all."""
    return l.B if l.half or (l.back and l.B > 1) else R


cdef inline Py_ssize_t entry(
    const Layer *l, Py_ssize_t t, Py_ssize_t step, Py_ssize_t row=1
) noexcept nogil:
    """Return where a step begins in an array, whose steps are `step` apart if all have
    as many rows, and else its rows `row`."""
    return t * step if l.offsets == NULL else l.offsets[t] * row


cdef void pack_rows(
    Layer *l, const Kernels *k, Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t R,
    Py_ssize_t N, const void *array, Py_ssize_t row, Py_ssize_t step, void *packed,
) noexcept nogil:
    """Pack the rows from r0 to r1, of R of a chunk, that begin with a step's first."""
    cdef Py_ssize_t many = rows_together(l, R), first = r0 // many * many
    cdef Py_ssize_t apart = -row if l.back and l.B == 1 else row
    while first < r1:
        # Row r is r - first after the first of its step.
        k.pack(max(r0, first), min(r1, first + many), N,
               at(l, array, first // many * step - first * row), apart, 1, packed,
               l.chunk_panel)
        first += many


cdef inline void *state_after(
    const Layer *l, const void *z, Py_ssize_t step
) noexcept nogil:
    """Return the address of the states after a step, counted from 0; -1 is before."""
    if l.offsets == NULL:
        return at(l, z, (step + 1) * l.cell.z_step)
    if step < 0:
        return <void *> z
    return at(l, z, (l.B + l.offsets[step]) * l.cell.z_row)


def place_cells(
    const Py_ssize_t[::1] lengths,      # (S)            IN
    const Py_ssize_t[::1] start,        # (S)            IN
    const Py_ssize_t[::1] row,          # (S)            IN
    const Py_ssize_t[::1] offsets,      # (T + 1)        IN
    const Py_ssize_t[::1] first,        # (S)            IN
    Py_ssize_t stride,
    Py_ssize_t[::1] place,              # (N)            OUT
    Py_ssize_t[::1] sequence,           # (N)            OUT
):
    """Find the cells of sequences that begin at a step, in a row of step 0: entry i of
    sequence s has its place in row first[s] + i * stride."""
    cdef Py_ssize_t s, i, step, cell
    if offsets.shape[0] < 2:
        return
    for s in range(lengths.shape[0]):
        for i in range(lengths[s]):
            step = start[s] + i
            # Of the rows of step 0 the first ones have ended.
            cell = offsets[step + 1] - offsets[1] + row[s]
            place[cell], sequence[cell] = first[s] + i * stride, s


def halve(
    const Py_ssize_t[::1] offsets,      # (T + 1)            IN
    int half,
    Py_ssize_t[::1] own,                # (T + 1)            OUT
    Py_ssize_t[::1] cells,              # (N)                OUT
):
    """Find the cells of a half of the rows, 0 1 1 0 0 1 1 0 .. from the last row of a
    step; return how many steps it has. Its own offsets and cells may be fewer."""
    cdef Py_ssize_t t, q, count = 0
    own[0] = 0
    for t in range(offsets.shape[0] - 1):
        for q in range(offsets[t + 1] - offsets[t] - 1, -1, -1):
            if (q + 1) // 2 % 2 == half:
                cells[count] = offsets[t + 1] - 1 - q
                count += 1
        if count == own[t]:
            return t
        own[t + 1] = count
    return offsets.shape[0] - 1


cdef addresses_of(arrays, layout):
    """Return where in memory each cell's row of a list of arrays (T, K) is."""
    counts = np.array([len(array) for array in arrays])
    first = np.array([array.ctypes.data for array in arrays], np.intp)
    size = max(array.shape[1] * array.itemsize for array in arrays)
    # Of row 0, were all arrays one after another where this one is.
    first -= (np.cumsum(counts) - counts) * size
    return first[layout.sequence] + layout.place * size


cdef inline Py_ssize_t place_of(const Layer *l, Py_ssize_t cell) noexcept nogil:
    """Return in which row of the caller's arrays a cell stands."""
    if l.place != NULL:
        return l.place[cell]
    return -cell if l.back else cell


cdef void pack_inputs(
    Layer *l, const Kernels *k, Py_ssize_t c, Py_ssize_t r0, Py_ssize_t r1
) noexcept nogil:
    """Pack x of a chunk's cells from r0 to r1, in the order of time."""
    cdef Py_ssize_t I = l.I, x0 = cells_before(l, start_of(l, c)), r
    cdef Py_ssize_t R = cells_before(l, start_of(l, c + 1)) - x0
    if l.place == NULL:
        pack_rows(l, k, r0, r1, R, I,
                  at(l, l.x, entry(l, start_of(l, c), l.x_step, l.x_row)), l.x_row,
                  l.x_step, l.packed_x)
        return
    for r in range(r0, r1):
        if r + AHEAD < r1:
            fetch(input_row(l, x0 + r + AHEAD), I * l.itemsize)
        k.pack(0, 1, I, input_row(l, x0 + r), I, 1,
               at(l, l.packed_x, r * k.panel), l.chunk_panel)


cdef inline const void *input_row(const Layer *l, Py_ssize_t cell) noexcept nogil:
    """Return a row of x that has a place."""
    if l.x_rows != NULL:
        return <const void *> l.x_rows[cell]
    return at(l, l.x, l.place[cell] * l.x_row)


cdef void *states_of(const Layer *l, Py_ssize_t c) noexcept nogil:
    """Return where z[0] is; of states that have places only those of chunk c and of
    the step before it are in a buffer, which is that of a longer array."""
    cdef Py_ssize_t buffer = c & (l.plan.split == PIPELINE)
    if l.first == NULL:
        return l.z
    buffer *= l.B + l.chunk_panel // l.panel
    return at(l, l.cells_z, (buffer - cells_before(l, start_of(l, c))) * l.H)


cdef const void *state_row(const Layer *l, Py_ssize_t cell) noexcept nogil:
    """Return a row of z that has a place; the initial ones have numbers from -B on."""
    if cell < 0:
        return at(l, l.starts, l.first[l.B + cell] * l.H)
    return at(l, l.z, l.z_place[cell] * l.z_row)


cdef void take_first(Layer *l, int tid, int n) noexcept nogil:
    """Copy the initial states into the buffer of chunk 0."""
    cdef Py_ssize_t r
    if l.first != NULL:
        for r in range(split(l.B, tid, n), split(l.B, tid + 1, n)):
            memcpy(at(l, states_of(l, 0), r * l.H), state_row(l, r - l.B),
                   l.H * l.itemsize)


cdef void put_states(Layer *l, Py_ssize_t c, int tid, int n) noexcept nogil:
    """Copy the states of a chunk from the buffer to their places: those of its own rows
    a thread has in its cache."""
    cdef Py_ssize_t t, t0 = start_of(l, c), t1 = start_of(l, c + 1)
    if l.first == NULL:
        return
    if own_products(l, n):
        for t in range(t0, t1):
            copy_states(l, c, cells_before(l, t), rows_of(l, t), tid, n, True)
    else:
        copy_states(l, c, cells_before(l, t0),
                    cells_before(l, t1) - cells_before(l, t0), tid, n, True)


cdef void get_states(Layer *l, Py_ssize_t c, int tid, int n) noexcept nogil:
    """Copy the states of a chunk, and of the step before it, into the buffer."""
    cdef Py_ssize_t t, t0 = start_of(l, c), t1 = start_of(l, c + 1)
    cdef Py_ssize_t before = state_before(l, t0) - l.B
    if own_products(l, n):
        copy_states(l, c, before, cells_before(l, t0) - before, tid, n, False)
        for t in range(t0, t1):
            copy_states(l, c, cells_before(l, t), rows_of(l, t), tid, n, False)
    else:
        copy_states(l, c, before, cells_before(l, t1) - before, tid, n, False)


cdef void copy_states(
    Layer *l, Py_ssize_t c, Py_ssize_t c0, Py_ssize_t R, int tid, int n, bint put,
) noexcept nogil:
    """Copy this thread's share of the states of R cells from c0 on, between the buffer
    of chunk c and their places."""
    cdef Py_ssize_t H = l.H, r, end = c0 + split(R, tid + 1, n)
    cdef Py_ssize_t last = cells_before(l, start_of(l, c + 1))
    # Some steps ahead, a row of its own is one too, of as many as it has.
    cdef Py_ssize_t ahead = R * -(-AHEAD // R) if own_products(l, n) else AHEAD
    cdef void *held
    for r in range(c0 + split(R, tid, n), end):
        held = at(l, states_of(l, c), (l.B + r) * H)
        if r + ahead < last:
            fetch(state_row(l, r + ahead), H * l.itemsize)
        if put:
            memcpy(<void *> state_row(l, r), held, H * l.itemsize)
        else:
            memcpy(held, state_row(l, r), H * l.itemsize)


cdef void put_dx(
    Layer *l, Py_ssize_t x0, Py_ssize_t r0, Py_ssize_t r1,
) noexcept nogil:
    """Copy dx of cells r0 to r1 of a chunk, whose first cell is x0, to its places."""
    cdef Py_ssize_t r
    for r in range(r0, r1):
        if r + AHEAD < r1:
            fetch(at(l, l.dx, l.place[x0 + r + AHEAD] * l.dx_row), l.I * l.itemsize)
        memcpy(at(l, l.dx, l.place[x0 + r] * l.dx_row), at(l, l.cells_dx, r * l.I),
               l.I * l.itemsize)


cdef inline const void *error_row(const Layer *l, Py_ssize_t cell) noexcept nogil:
    """Return a row of dz that has a place, or is some distance from the next."""
    if l.dz_rows != NULL:
        return <const void *> l.dz_rows[cell]
    return at(l, l.dz, place_of(l, cell) * l.dz_row)
