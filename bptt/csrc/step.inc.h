/* One recurrent step: the tile with the activation as its epilogue.
 *
 *     forward     z[t]  = sigma(a[t] + z[t-1] V)        z[t]'s slot holds a[t] on entry
 *     backward    da[t] = (g[t] + da[t+1] V^T) * sigma'(z[t])
 *
 * The backward step is the forward step mirrored: the same product with V^T for V, and
 * sigma' of the stored state where sigma was.
 */
#define forward_job        NAME(forward_job)
#define backward_job       NAME(backward_job)
#define step_run           NAME(step_run)
#define narrow_sums        NAME(narrow_sums)
#define narrow_forward     NAME(narrow_forward)
#define narrow_backward    NAME(narrow_backward)
#define narrow_forward_fn  NAME(narrow_forward_fn)
#define narrow_backward_fn NAME(narrow_backward_fn)
#define narrow_rows        NAME(narrow_rows)
#define is_narrow          NAME(is_narrow)
#define prefetch_step      NAME(prefetch_step)
#define activate           NAME(activate)
#define deactivate         NAME(deactivate)
#define step_forward       NAME(step_forward)
#define step_backward      NAME(step_backward)
#define walks              NAME(walks)
#define walk_forward       NAME(walk_forward)
#define walk_backward      NAME(walk_backward)
#define state_backward     NAME(state_backward)

/* Terms in a run of the recurrent sum, from H alone. A single row needs some 8 sums at
 * once to hide the latency of FMA, so a narrow layer cuts its sum into more runs; a
 * wider one has two at least, of whole panels, as two threads share it. */
INLINE ptrdiff_t step_run(ptrdiff_t H)
{
    if (H > ROW_VECTORS * VLEN)
        return even_run(H, 2);
    ptrdiff_t runs = H <= 2 * VLEN ? 4 : 2;
    return (H + runs - 1) / runs;
}

typedef struct forward_job {
    const bptt_cell *cell;
    real *z, *z_packed;
    ptrdiff_t packed_panel;
} forward_job;

typedef struct backward_job {
    const bptt_cell *cell;
    const real *z;
    view da;
    real *da_rows;
    ptrdiff_t rows_panel;
    const bptt_record *record;
} backward_job;

/* Few narrow rows are bound by the latency of one step after the other, so nothing of
 * them goes through memory but z and da: sums, activation and stores are one function,
 * row by row, or for a row that is alone step by step: to come here takes 5 ns. What is
 * known of a row that is `alone` in its batch is known when this is compiled: at H = 16
 * a step of it takes 37 ns on Zen 3, and would take 49. From NARROW_ROWS on the tile is
 * as fast, and earlier where V does not stay in L1 from one row to the next. */
#define NARROW_ROWS (V_REGISTERS == 16 ? 24 : 8)

INLINE ptrdiff_t narrow_rows(ptrdiff_t H)
{
    const ptrdiff_t bytes = H * H * (ptrdiff_t)sizeof(real);
    return bytes <= 16 << 10 ? NARROW_ROWS : bytes <= 40 << 10 ? 3 : 1;
}

typedef void narrow_forward_fn(const bptt_cell *cell, ptrdiff_t r0, ptrdiff_t r1,
                               const real *z_prev, ptrdiff_t prev_panel, real *z,
                               real *z_packed, ptrdiff_t packed_panel);
typedef void narrow_backward_fn(const bptt_cell *cell, ptrdiff_t r0, ptrdiff_t r1,
                                const real *da_next, ptrdiff_t next_panel,
                                const real *g, const real *z, real *da,
                                ptrdiff_t da_panel, real *da_rows, ptrdiff_t rows_panel,
                                const bptt_record *record);

INLINE void narrow_sums(const int nv, const bptt_cell *cell, const real *A,
                        ptrdiff_t a_panel, vreal *sum)
{
    const ptrdiff_t H = cell->H, len = step_run(H);
    row_sums(nv, nv <= 2 ? 4 : 2, A, a_panel, cell->V, H * PANEL, 0, len, H, sum);
}

INLINE void narrow_forward(const int code, const int nv, const int alone,
                           const bptt_cell *cell, ptrdiff_t r0, ptrdiff_t r1,
                           const real *z_prev, ptrdiff_t prev_panel, real *z,
                           real *z_packed, ptrdiff_t packed_panel)
{
    const ptrdiff_t H = cell->H, last = H - (nv - 1) * VLEN;
    const vreal alpha = v_set1((real)cell->alpha);
    const vreal beta = v_set1((real)cell->beta);
    for (ptrdiff_t r = alone ? 0 : r0; r < r1; r++) {
        real *z_r = z + r * (alone ? cell->z_step : cell->z_row);
        const real *before = z_prev + r * (alone ? cell->z_step : PANEL);
        vreal a[ROW_VECTORS];
        UNROLL
        for (int v = 0; alone && v < nv; v++)
            PREFETCH_L1(z_r + 2 * cell->z_step + v * VLEN);
        UNROLL
        for (int v = 0; v < nv; v++)
            a[v] = load_row(z_r + v * VLEN, v < nv - 1 ? VLEN : last);
        narrow_sums(nv, cell, before, alone ? PANEL : prev_panel, a);
        UNROLL
        for (int v = 0; v < nv; v++) {
            a[v] = v_sigma(code, a[v], alpha, beta);
            store_row(z_r + v * VLEN, a[v], v < nv - 1 ? VLEN : last);
        }
        if (!alone) {
            real *packed = z_packed + r * PANEL;
            UNROLL
            for (int v = 0; v < nv; v++)
                v_store(packed + v / 2 * packed_panel + v % 2 * VLEN, a[v]);
        }
    }
}

INLINE void narrow_backward(const int code, const int nv, const int alone,
                            const bptt_cell *cell, ptrdiff_t r0, ptrdiff_t r1,
                            const real *da_next, ptrdiff_t next_panel, const real *g,
                            const real *z, real *da, ptrdiff_t da_panel, real *da_rows,
                            ptrdiff_t rows_panel, const bptt_record *record)
{
    const ptrdiff_t H = cell->H, last = H - (nv - 1) * VLEN;
    const vreal alpha = v_set1((real)cell->alpha);
    const vreal beta = v_set1((real)cell->beta);
    vreal least = v_set1((real)INFINITY);
    for (ptrdiff_t r = alone ? 0 : r0; r < r1; r++) {
        const ptrdiff_t packed = alone ? -r * PANEL : r * PANEL;
        const real *z_r = z + (alone ? -r * cell->z_step : r * cell->z_row);
        const real *g_r = g ? g + (alone ? -r * cell->g_step : r * cell->g_row) : NULL;
        const real *next = alone     ? (r ? da : da_next)
                           : da_next ? da_next + packed
                                     : NULL;
        real *da_r = alone ? da : da + packed, *rows = da_rows + packed;
        vreal e[ROW_VECTORS], d[ROW_VECTORS];
        UNROLL
        for (int v = 0; alone && v < nv; v++) {
            PREFETCH_L1(z_r - 2 * cell->z_step + v * VLEN);
            if (g)
                PREFETCH_L1(g_r - 2 * cell->g_step + v * VLEN);
        }
        UNROLL
        for (int v = 0; v < nv; v++) {
            const ptrdiff_t n = v < nv - 1 ? VLEN : last;
            e[v] = g ? load_row(g_r + v * VLEN, n) : v_zero();
            d[v] = v_dsigma(code, load_row(z_r + v * VLEN, n), alpha, beta);
        }
        if (next)
            narrow_sums(nv, cell, next, alone ? PANEL : next_panel, e);
        UNROLL
        for (int v = 0; v < nv; v++) {
            vreal a = v_mul(e[v], d[v]);
            v_store(da_r + v / 2 * (alone ? PANEL : da_panel) + v % 2 * VLEN, a);
            v_store(rows + v / 2 * rows_panel + v % 2 * VLEN, a);
        }
        if (record) /* behind da, for which the next step waits */
            record_row(code, nv, record, record->row + (alone ? -r : r), last, e, d,
                       &least);
    }
    if (record && !FLAT(code) && v_count(v_eq(least, v_zero())) > 0) {
        const ptrdiff_t row = alone ? -cell->z_step : cell->z_row;
        const ptrdiff_t first = alone ? 0 : r0;
        NAME(record_dead_fn) *const look = NAME(record_dead_fns)[code];
        look(cell, 0, r1 - first, H, z + first * row, row, record->dead);
    }
}

#define ACTIVATE(code)                                                             \
    static void NAME(activate_##code)(const void *job, ptrdiff_t r, ptrdiff_t c,   \
                                      ptrdiff_t m, ptrdiff_t n)                    \
    {                                                                              \
        activate(code, job, r, c, m, n);                                           \
    }                                                                              \
    static void NAME(deactivate_##code)(const void *job, ptrdiff_t r, ptrdiff_t c, \
                                        ptrdiff_t m, ptrdiff_t n)                  \
    {                                                                              \
        deactivate(code, job, r, c, m, n);                                         \
    }

/* z = sigma(a), in place and once more into the packed state that the next step reads.
 */
INLINE void activate(const int code, const void *job, ptrdiff_t r0, ptrdiff_t c0,
                     ptrdiff_t m, ptrdiff_t n)
{
    const forward_job *x = job;
    const ptrdiff_t z_row = x->cell->z_row;
    vreal alpha = v_set1((real)x->cell->alpha), beta = v_set1((real)x->cell->beta);
    for (ptrdiff_t c = c0; c < c0 + n; c += VLEN) {
        ptrdiff_t last = c0 + n - c < VLEN ? c0 + n - c : VLEN;
        real *z = x->z + r0 * z_row + c;
        real *packed = NULL;
        if (x->z_packed)
            packed = x->z_packed + c / PANEL * x->packed_panel + r0 * PANEL + c % PANEL;
        for (ptrdiff_t r = 0; r < m; r++) {
            vreal s = v_sigma(code, load_row(z + r * z_row, last), alpha, beta);
            store_row(z + r * z_row, s, last);
            if (packed)
                v_store(packed + r * PANEL, s);
        }
    }
}

/* da = e sigma'(z), where the product has left e in da, which may be measured there;
 * once more into da_rows, for the products of the chunk. What the next step reads is
 * kept compact: rows that lie far apart cost it up to a tenth. */
INLINE void deactivate(const int code, const void *job, ptrdiff_t r0, ptrdiff_t c0,
                       ptrdiff_t m, ptrdiff_t n)
{
    const backward_job *x = job;
    const ptrdiff_t z_row = x->cell->z_row;
    if (x->record) {
        NAME(record_tile_fn) *const measure = NAME(record_tile_fns)[code];
        measure(x->cell, x->record, r0, c0, m, n, x->z + r0 * z_row + c0,
                x->da.p + c0 / PANEL * x->da.panel + r0 * PANEL, x->da.panel);
    }
    vreal alpha = v_set1((real)x->cell->alpha), beta = v_set1((real)x->cell->beta);
    for (ptrdiff_t c = c0; c < c0 + n; c += VLEN) {
        ptrdiff_t last = c0 + n - c < VLEN ? c0 + n - c : VLEN;
        const real *z = x->z + r0 * z_row + c;
        real *da = x->da.p + c / PANEL * x->da.panel + r0 * PANEL + c % PANEL;
        real *rows = x->da_rows + c / PANEL * x->rows_panel + r0 * PANEL + c % PANEL;
        for (ptrdiff_t r = 0; r < m; r++) {
            vreal d = v_dsigma(code, load_row(z + r * z_row, last), alpha, beta);
            d = v_mul(v_load(da + r * PANEL), d);
            v_store(da + r * PANEL, d);
            v_store(rows + r * PANEL, d);
        }
    }
}

#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
EACH(ACTIVATE)
#define ENTRY(code) NAME(activate_##code),
static epilogue_fn *const NAME(activate_fns)[BPTT_ACTIVATION_COUNT] = {EACH(ENTRY)};
#undef ENTRY
#define ENTRY(code) NAME(deactivate_##code),
static epilogue_fn *const NAME(deactivate_fns)[BPTT_ACTIVATION_COUNT] = {EACH(ENTRY)};
#undef ENTRY
#undef EACH
#undef ACTIVATE

/* Of the activations in everyday use; the others take the general path, to the same
 * bits. How many vectors a row has is known as well. */
#define WIDTHS(CASE, code, alone)          \
    switch ((cell->H + VLEN - 1) / VLEN) { \
        CASE(1, code, alone)               \
        CASE(2, code, alone)               \
        CASE(3, code, alone)               \
        CASE(4, code, alone)               \
        CASE(5, code, alone)               \
        CASE(6, code, alone)               \
        CASE(7, code, alone)               \
        CASE(8, code, alone)               \
    }
#define FORWARD(nv, code, alone)                                                       \
    case nv:                                                                           \
        narrow_forward(code, nv, alone, cell, r0, r1, z_prev, prev_panel, z, z_packed, \
                       packed_panel);                                                  \
        break;
#define BACKWARD(nv, code, alone)                                                     \
    case nv:                                                                          \
        narrow_backward(code, nv, alone, cell, r0, r1, da_next, next_panel, g, z, da, \
                        da_panel, da_rows, rows_panel, record);                       \
        break;
#define NARROW(code, alone)                                                     \
    static void NAME(narrow_forward_##alone##_##code)(                          \
        const bptt_cell *cell, ptrdiff_t r0, ptrdiff_t r1, const real *z_prev,  \
        ptrdiff_t prev_panel, real *z, real *z_packed, ptrdiff_t packed_panel)  \
    {                                                                           \
        WIDTHS(FORWARD, code, alone)                                            \
    }                                                                           \
    static void NAME(narrow_backward_##alone##_##code)(                         \
        const bptt_cell *cell, ptrdiff_t r0, ptrdiff_t r1, const real *da_next, \
        ptrdiff_t next_panel, const real *g, const real *z, real *da,           \
        ptrdiff_t da_panel, real *da_rows, ptrdiff_t rows_panel,                \
        const bptt_record *record)                                              \
    {                                                                           \
        WIDTHS(BACKWARD, code, alone)                                           \
    }
#define NARROWS(alone)                                                             \
    NARROW(BPTT_IDENTITY, alone) /* what ends with the error itself: flow.inc.h */ \
    NARROW(BPTT_SIGMOID, alone)                                                    \
    NARROW(BPTT_TANH, alone)                                                       \
    NARROW(BPTT_RELU, alone)
NARROWS(0)
NARROWS(1)
#define ENTRY(alone, code) [alone][code] = NAME(narrow_forward_##alone##_##code)
#define ENTRIES(alone)                                                                \
    ENTRY(alone, BPTT_IDENTITY), ENTRY(alone, BPTT_SIGMOID), ENTRY(alone, BPTT_TANH), \
        ENTRY(alone, BPTT_RELU)
static narrow_forward_fn *const NAME(narrow_forward_fns)[2][BPTT_ACTIVATION_COUNT] = {
    ENTRIES(0), ENTRIES(1)};
#undef ENTRY
#define ENTRY(alone, code) [alone][code] = NAME(narrow_backward_##alone##_##code)
static narrow_backward_fn *const NAME(narrow_backward_fns)[2][BPTT_ACTIVATION_COUNT] = {
    ENTRIES(0), ENTRIES(1)};
#undef ENTRY
#undef ENTRIES
#undef NARROWS
#undef NARROW
#undef BACKWARD
#undef FORWARD
#undef WIDTHS

INLINE int is_narrow(const bptt_cell *cell, bptt_share share)
{
    const ptrdiff_t rows = share.r1 - share.r0;
    /* A division less: 2 ns of a step of 36. */
    const ptrdiff_t tiles = rows == 1 ? 1 : bptt_row_tiles(rows, TILE_ROWS);
    return NAME(narrow_forward_fns)[0][cell->activation] && rows > 0 &&
           cell->H <= ROW_VECTORS * VLEN &&
           (rows == 1 || rows <= narrow_rows(cell->H)) && share.u0 == 0 &&
           share.u1 == tiles * bptt_panels(cell->H, PANEL);
}

/* Fetch where the share's work on another step begins, for that has mostly been written
 * by another core or long ago: the columns of a single row, or the first tile. */
INLINE void prefetch_step(const bptt_cell *cell, bptt_share share, const real *p,
                          ptrdiff_t row)
{
    const ptrdiff_t H = cell->H;
    if (share.u0 >= share.u1)
        return;
    if (cell->B > 1) {
        ptrdiff_t c = share.u0 / bptt_row_tiles(share.r1 - share.r0, TILE_ROWS) * PANEL;
        view a = {(real *)(uintptr_t)(p + share.r0 * row + c), row, PANEL};
        prefetch_tile(a, share.r1 - share.r0 < TILE_ROWS ? share.r1 - share.r0
                                                         : TILE_ROWS);
        return;
    }
    ptrdiff_t end = share.u1 * PANEL < H ? share.u1 * PANEL : H;
    for (ptrdiff_t c = share.u0 * PANEL; c < end; c += VLEN)
        PREFETCH_L1(p + c);
}

static void step_forward(const bptt_cell *cell, bptt_share share, const real *z_prev,
                         ptrdiff_t prev_panel, real *z, real *z_packed,
                         ptrdiff_t packed_panel)
{
    prefetch_step(cell, share, z + (cell->B > 1 ? 1 : 2) * cell->z_step, cell->z_row);
    if (is_narrow(cell, share)) {
        NAME(narrow_forward_fns)
        [z_packed == NULL && prev_panel == PANEL][cell->activation](
            cell, share.r0, share.r1, z_prev, prev_panel, z, z_packed, packed_panel);
        return;
    }
    forward_job job = {cell, z, z_packed, packed_panel};
    view slot = {z, cell->z_row, PANEL};
    product x = {cell->H,
                 cell->H,
                 step_run(cell->H),
                 z_prev,
                 prev_panel,
                 cell->V,
                 slot,
                 slot,
                 0,
                 {{z_packed, PANEL, packed_panel}, {NULL, 0, 0}},
                 NAME(activate_fns)[cell->activation],
                 &job};
    rows_times(&x, share);
}

/* da_next NULL: the last step, e[t] = g[t]. g NULL: g[t] = 0. record NULL: nobody
 * asks. */
static void step_backward(const bptt_cell *cell, bptt_share share, const real *da_next,
                          ptrdiff_t next_panel, const real *g, const real *z, real *da,
                          ptrdiff_t da_panel, real *da_rows, ptrdiff_t rows_panel,
                          const bptt_record *record)
{
    const ptrdiff_t steps = cell->B > 1 ? 1 : 2;
    prefetch_step(cell, share, z - steps * cell->z_step, cell->z_row);
    if (g)
        prefetch_step(cell, share, g - steps * cell->g_step, cell->g_row);
    if (is_narrow(cell, share)) {
        NAME(narrow_backward_fns)
        [next_panel == PANEL && da_panel ==
            PANEL][cell->activation](cell, share.r0, share.r1, da_next, next_panel, g,
                                     z, da, da_panel, da_rows, rows_panel, record);
        return;
    }
    view out = {da, PANEL, da_panel};
    backward_job job = {cell, z, out, da_rows, rows_panel, record};
    product x = {
        cell->H,
        da_next ? cell->H : 0,
        step_run(cell->H),
        da_next ? da_next : da,
        next_panel,
        cell->V,
        {(real *)(uintptr_t)g, cell->g_row, PANEL},
        out,
        1,
        {{(real *)(uintptr_t)z, cell->z_row, PANEL}, {da_rows, PANEL, rows_panel}},
        NAME(deactivate_fns)[cell->activation],
        &job};
    rows_times(&x, share);
}

/* Whether a row that is alone goes through steps in one call of the next two. */
static int walks(const bptt_cell *cell)
{
    return NAME(narrow_forward_fns)[1][cell->activation] &&
           cell->H <= ROW_VECTORS * VLEN;
}

/* Steps of a row that is alone, from z - z_step on: z[t] = sigma(a[t] + z[t-1] V). */
static void walk_forward(const bptt_cell *cell, ptrdiff_t steps, real *z)
{
    NAME(narrow_forward_fns)
    [1][cell->activation](cell, 0, steps, z - cell->z_step, PANEL, z, NULL, 0);
}

/* Steps back, where z, g and the chunk's rows are those of the first one made. */
static void walk_backward(const bptt_cell *cell, ptrdiff_t steps, const real *da_next,
                          const real *g, const real *z, real *da, real *da_rows,
                          ptrdiff_t rows_panel, const bptt_record *record)
{
    NAME(narrow_backward_fns)
    [1][cell->activation](cell, 0, steps, da_next, PANEL, g, z, da, PANEL, da_rows,
                          rows_panel, record);
}

/* dz[0] = da[1] V^T */
static void state_backward(const bptt_cell *cell, bptt_share share, const real *da,
                           ptrdiff_t da_panel, real *dz0)
{
    product x = {cell->H,
                 cell->H,
                 step_run(cell->H),
                 da,
                 da_panel,
                 cell->V,
                 {NULL, 0, PANEL},
                 {dz0, cell->H, PANEL},
                 0,
                 {{dz0, cell->H, PANEL}, {NULL, 0, 0}},
                 NULL,
                 NULL};
    rows_times(&x, share);
}
