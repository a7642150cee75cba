/* Steps of rows that are few and narrow, one row after the other: the same bits as the
 * tile's. A row that is alone makes many steps in one call.
 *
 * Few narrow rows are bound by the latency of one step after the other, so nothing of
 * them goes through memory but z and da: sums, activation and stores are one function,
 * row by row, or for a row that is alone step by step: to come here takes 5 ns. What is
 * known of a row that is `alone` in its batch is known when this is compiled: at H = 16
 * a step of it takes 37 ns on Zen 3, and would take 49. Beyond NARROW_ROWS the tile
 * is as fast, and earlier where V does not stay in L1 from one row to the next, or
 * where sigma is a call. */
#define narrow_sums        NAME(narrow_sums)
#define narrow_forward     NAME(narrow_forward)
#define narrow_backward    NAME(narrow_backward)
#define narrow_forward_fn  NAME(narrow_forward_fn)
#define narrow_backward_fn NAME(narrow_backward_fn)
#define narrow_rows        NAME(narrow_rows)
#define sigma_row          NAME(sigma_row)
#define dsigma_row         NAME(dsigma_row)
#define narrow_kind        NAME(narrow_kind)
#define is_narrow          NAME(is_narrow)
#define walks              NAME(walks)
#define walk_forward       NAME(walk_forward)
#define walk_backward      NAME(walk_backward)

#define NARROW_ROWS (V_REGISTERS == 16 ? 24 : 8)
#define OTHER_ROWS  (V_REGISTERS == 16 ? 8 : 3)

/* Which of the functions below are a cell's. */
INLINE int narrow_kind(const bptt_cell *cell)
{
    return cell->activation <= BPTT_RELU ? cell->activation : ANY_OTHER;
}

INLINE ptrdiff_t narrow_rows(const bptt_cell *cell)
{
    const ptrdiff_t bytes = cell->H * cell->H * (ptrdiff_t)sizeof(real);
    const ptrdiff_t most = narrow_kind(cell) == ANY_OTHER ? OTHER_ROWS : NARROW_ROWS;
    return bytes <= 16 << 10 ? most : bytes <= 40 << 10 ? 3 : 1;
}

typedef void narrow_forward_fn(const bptt_cell *cell, ptrdiff_t r0, ptrdiff_t r1,
                               const real *z_prev, ptrdiff_t prev_panel, real *z,
                               real *z_packed, ptrdiff_t packed_panel);
typedef void narrow_backward_fn(const bptt_cell *cell, ptrdiff_t r0, ptrdiff_t r1,
                                const real *da_next, ptrdiff_t next_panel,
                                const real *g, const real *z, real *da,
                                ptrdiff_t da_panel, real *da_rows, ptrdiff_t rows_panel,
                                const bptt_record *record);

/* Runs of step_run() that a row of nv vectors is summed in. */
#define NARROW_RUNS(nv) ((nv) <= 2 ? 4 : 2)
/* Whole vectors that a row that is alone may be made of to go from step to step in
 * registers: beside V, which should stay in L1, and their sums. */
#define WHOLE_VECTORS (V_REGISTERS == 16 ? 2 : 4)
/* Whether entries of a row are loaded a few at a time: measured, with other numbers of
 * vectors that takes as long or longer. */
#define FEW_AT_ONCE(nv, alone) (V_REGISTERS > 16 && !(alone) && (nv) == 4)

INLINE void narrow_sums(const int nv, const int alone, const bptt_cell *cell,
                        const real *A, ptrdiff_t a_panel, vreal *sum)
{
    const ptrdiff_t H = cell->H, len = step_run(H);
    row_sums(nv, FEW_AT_ONCE(nv, alone), NARROW_RUNS(nv), A, a_panel, cell->V,
             H * PANEL, 0, len, H, sum);
}

/* a <- sigma(a) and z <- sigma' of it, in nv vectors. */
typedef void NAME(sigma_row_fn)(const bptt_cell *cell, int nv, vreal *a);
#define ROW(code)                                                                \
    static void NAME(sigma_row_##code)(const bptt_cell *cell, int nv, vreal *a)  \
    {                                                                            \
        const vreal alpha = v_set1((real)cell->alpha),                           \
                    beta = v_set1((real)cell->beta);                             \
        for (int v = 0; v < nv; v++)                                             \
            a[v] = v_sigma(code, a[v], alpha, beta);                             \
    }                                                                            \
    static void NAME(dsigma_row_##code)(const bptt_cell *cell, int nv, vreal *z) \
    {                                                                            \
        const vreal alpha = v_set1((real)cell->alpha),                           \
                    beta = v_set1((real)cell->beta);                             \
        for (int v = 0; v < nv; v++)                                             \
            z[v] = v_dsigma(code, z[v], alpha, beta);                            \
    }
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
EACH(ROW)
#undef ROW
#define ENTRY(code) NAME(sigma_row_##code),
static NAME(sigma_row_fn) *const
    NAME(sigma_row_fns)[BPTT_ACTIVATION_COUNT] = {EACH(ENTRY)};
#undef ENTRY
#define ENTRY(code) NAME(dsigma_row_##code),
static NAME(sigma_row_fn) *const
    NAME(dsigma_row_fns)[BPTT_ACTIVATION_COUNT] = {EACH(ENTRY)};
#undef ENTRY
#undef EACH

/* The same, where the code may be known. */
INLINE void sigma_row(const int code, const bptt_cell *cell, const int nv, vreal *a)
{
    const vreal alpha = v_set1((real)cell->alpha), beta = v_set1((real)cell->beta);
    if (code == ANY_OTHER)
        NAME(sigma_row_fns)[cell->activation](cell, nv, a);
    UNROLL
    for (int v = 0; code != ANY_OTHER && v < nv; v++)
        a[v] = v_sigma(code, a[v], alpha, beta);
}

INLINE void dsigma_row(const int code, const bptt_cell *cell, const int nv, vreal *z)
{
    const vreal alpha = v_set1((real)cell->alpha), beta = v_set1((real)cell->beta);
    if (code == ANY_OTHER)
        NAME(dsigma_row_fns)[cell->activation](cell, nv, z);
    UNROLL
    for (int v = 0; code != ANY_OTHER && v < nv; v++)
        z[v] = v_dsigma(code, z[v], alpha, beta);
}

/* whole: a row that is alone has whole vectors, and goes from step to step in them. */
INLINE void narrow_forward(const int code, const int nv, const int alone,
                           const int whole, const bptt_cell *cell, ptrdiff_t r0,
                           ptrdiff_t r1, const real *z_prev, ptrdiff_t prev_panel,
                           real *z, real *z_packed, ptrdiff_t packed_panel)
{
    const ptrdiff_t H = cell->H, last = whole ? VLEN : H - (nv - 1) * VLEN;
    vreal kept[ROW_VECTORS];
    UNROLL
    for (int v = 0; whole && v < nv; v++)
        kept[v] = v_load(z_prev + v * VLEN);
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
        if (whole)
            row_sums_of(nv, NARROW_RUNS(nv), kept, cell->V, a);
        else
            narrow_sums(nv, alone, cell, before, alone ? PANEL : prev_panel, a);
        sigma_row(code, cell, nv, a);
        UNROLL
        for (int v = 0; v < nv; v++) {
            kept[v] = a[v];
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
                            const int whole, const bptt_cell *cell, ptrdiff_t r0,
                            ptrdiff_t r1, const real *da_next, ptrdiff_t next_panel,
                            const real *g, const real *z, real *da, ptrdiff_t da_panel,
                            real *da_rows, ptrdiff_t rows_panel,
                            const bptt_record *record)
{
    const ptrdiff_t H = cell->H, last = whole ? VLEN : H - (nv - 1) * VLEN;
    const vreal low = v_set1(record ? (real)record->threshold : 0);
    const vmask lanes = tail_lanes(last);
    vreal least = v_set1((real)INFINITY), dead[ROW_VECTORS];
    /* Not of a row that is alone, where what has no register is stored at each step:
     * stores come one after the other, and those of rows wait for another core. */
    const measures known = measures_of(alone ? NULL : record);
    const int counted = FLAT(code) ? nv : 0;
    UNROLL
    for (int v = 0; v < counted; v++)
        dead[v] = record ? v_load((real *)record->dead + v * VLEN) : v_zero();
    vreal kept[ROW_VECTORS];
    UNROLL
    for (int v = 0; whole && v < nv; v++)
        kept[v] =
            da_next ? v_load(da_next + v / 2 * next_panel + v % 2 * VLEN) : v_zero();
    for (ptrdiff_t r = alone ? 0 : r0; r < r1; r++) {
        const ptrdiff_t packed = alone ? -r * PANEL : r * PANEL;
        const real *z_r = z + (alone ? -r * cell->z_step : r * cell->z_row);
        const real *g_r = g ? g + (alone ? -r * cell->g_step : r * cell->g_row) : NULL;
        const real *next = alone     ? (r ? da : da_next)
                           : da_next ? da_next + packed
                                     : NULL;
        real *da_r = alone ? da : da + packed, *rows = da_rows + packed;
        UNROLL
        for (int v = 0; !alone && v < nv; v++)
            PREFETCH_W(rows - cell->B * PANEL + v / 2 * rows_panel + v % 2 * VLEN);
        vreal e[ROW_VECTORS], d[ROW_VECTORS];
        UNROLL
        for (int v = 0; alone && v < nv; v++) {
            PREFETCH_L1(z_r - 2 * cell->z_step + v * VLEN);
            if (g)
                PREFETCH_L1(g_r - 2 * cell->g_step + v * VLEN);
        }
        UNROLL
        for (int v = 0; v < nv; v++)
            d[v] = load_row(z_r + v * VLEN, v < nv - 1 ? VLEN : last);
        dsigma_row(code, cell, nv, d);
        UNROLL
        for (int v = 0; v < nv; v++)
            e[v] = g ? load_row(g_r + v * VLEN, v < nv - 1 ? VLEN : last) : v_zero();
        if (next && whole)
            row_sums_of(nv, NARROW_RUNS(nv), kept, cell->V, e);
        else if (next)
            narrow_sums(nv, alone, cell, next, alone ? PANEL : next_panel, e);
        UNROLL
        for (int v = 0; v < nv; v++) {
            vreal a = v_mul(e[v], d[v]);
            kept[v] = a;
            v_store(da_r + v / 2 * (alone ? PANEL : da_panel) + v % 2 * VLEN, a);
            v_store(rows + v / 2 * rows_panel + v % 2 * VLEN, a);
        }
        if (record) /* behind da, for which the next step waits */
            record_row(code, nv, record, alone ? measures_of(record) : known,
                       record->row + (alone ? -r : r * record->apart), lanes, low, e, d,
                       dead, &least);
    }
    UNROLL
    for (int v = 0; record && v < counted; v++)
        v_store((real *)record->dead + v * VLEN, dead[v]);
    if (record && !FLAT(code) && v_count(v_eq(least, v_zero())) > 0) {
        const ptrdiff_t row = alone ? -cell->z_step : cell->z_row;
        const ptrdiff_t first = alone ? 0 : r0;
        NAME(record_dead_fn) *const look = NAME(record_dead_fns)[cell->activation];
        look(cell, 0, r1 - first, H, z + first * row, row, record->dead);
    }
}

/* One for each activation in everyday use, and for all others, to the same bits. How
 * many vectors a row has is known as well. */
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
#define MAY_BE_WHOLE(nv, alone)                   \
    (alone && V_FEW > 1 && nv <= WHOLE_VECTORS && \
     nv * VLEN / NARROW_RUNS(nv) % V_FEW == 0)
#define FORWARD(nv, code, alone)                                                    \
    case nv:                                                                        \
        if (MAY_BE_WHOLE(nv, alone) && cell->H == nv * VLEN)                        \
            narrow_forward(code, nv, alone, MAY_BE_WHOLE(nv, alone), cell, r0, r1,  \
                           z_prev, prev_panel, z, z_packed, packed_panel);          \
        else                                                                        \
            narrow_forward(code, nv, alone, 0, cell, r0, r1, z_prev, prev_panel, z, \
                           z_packed, packed_panel);                                 \
        break;
#define BACKWARD(nv, code, alone)                                                     \
    case nv:                                                                          \
        if (MAY_BE_WHOLE(nv, alone) && cell->H == nv * VLEN)                          \
            narrow_backward(code, nv, alone, MAY_BE_WHOLE(nv, alone), cell, r0, r1,   \
                            da_next, next_panel, g, z, da, da_panel, da_rows,         \
                            rows_panel, record);                                      \
        else                                                                          \
            narrow_backward(code, nv, alone, 0, cell, r0, r1, da_next, next_panel, g, \
                            z, da, da_panel, da_rows, rows_panel, record);            \
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
    NARROW(BPTT_RELU, alone)                                                       \
    NARROW(ANY_OTHER, alone)
NARROWS(0)
NARROWS(1)
#define ENTRY(alone, code) [alone][code] = NAME(narrow_forward_##alone##_##code)
#define ENTRIES(alone)                                                                \
    ENTRY(alone, BPTT_IDENTITY), ENTRY(alone, BPTT_SIGMOID), ENTRY(alone, BPTT_TANH), \
        ENTRY(alone, BPTT_RELU), ENTRY(alone, ANY_OTHER)
static narrow_forward_fn *const NAME(narrow_forward_fns)[2][ANY_OTHER + 1] = {
    ENTRIES(0), ENTRIES(1)};
#undef ENTRY
#define ENTRY(alone, code) [alone][code] = NAME(narrow_backward_##alone##_##code)
static narrow_backward_fn *const NAME(narrow_backward_fns)[2][ANY_OTHER + 1] = {
    ENTRIES(0), ENTRIES(1)};
#undef ENTRY
#undef ENTRIES
#undef NARROWS
#undef NARROW
#undef BACKWARD
#undef MAY_BE_WHOLE
#undef FORWARD
#undef WIDTHS

INLINE int is_narrow(const bptt_cell *cell, const bptt_share *share)
{
    const ptrdiff_t rows = share->r1 - share->r0;
    /* A division less: 2 ns of a step of 36. */
    const ptrdiff_t tiles = rows == 1 ? 1 : bptt_row_tiles(rows, TILE_ROWS);
    return rows > 0 && cell->H <= ROW_VECTORS * VLEN &&
           (rows == 1 || rows <= narrow_rows(cell)) && share->u0 == 0 &&
           share->u1 == tiles * bptt_panels(cell->H, PANEL);
}

/* Whether a row that is alone goes through steps in one call of the next two. */
static int walks(const bptt_cell *cell)
{
    return cell->H <= ROW_VECTORS * VLEN;
}

/* Steps of a row that is alone, from z - z_step on: z[t] = sigma(a[t] + z[t-1] V). */
static void walk_forward(const bptt_cell *cell, ptrdiff_t steps, real *z)
{
    NAME(narrow_forward_fns)
    [1][narrow_kind(cell)](cell, 0, steps, z - cell->z_step, PANEL, z, NULL, 0);
}

/* Steps back, where z, g and the chunk's rows are those of the first one made. */
static void walk_backward(const bptt_cell *cell, ptrdiff_t steps, const real *da_next,
                          const real *g, const real *z, real *da, real *da_rows,
                          ptrdiff_t rows_panel, const bptt_record *record)
{
    NAME(narrow_backward_fns)
    [1][narrow_kind(cell)](cell, 0, steps, da_next, PANEL, g, z, da, PANEL, da_rows,
                           rows_panel, record);
}
