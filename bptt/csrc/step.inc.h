/* One recurrent step: the tile with the activation as its epilogue.
 *
 *     forward     z[t]  = sigma(a[t] + z[t-1] V)        z[t]'s slot holds a[t] on entry
 *     backward    da[t] = (g[t] + da[t+1] V^T) * sigma'(z[t])
 *
 * The backward step is the forward step mirrored: the same product with V^T for V, and
 * sigma' of the stored state where sigma was.
 */
#define forward_job    NAME(forward_job)
#define backward_job   NAME(backward_job)
#define prefetch_step  NAME(prefetch_step)
#define activate       NAME(activate)
#define deactivate     NAME(deactivate)
#define step_forward   NAME(step_forward)
#define step_backward  NAME(step_backward)
#define state_backward NAME(state_backward)

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
 * kept compact: rows that lie far apart cost it up to a tenth. A single row would wait
 * for its own stores if it were read again, to be measured on the way or copied. */
INLINE void deactivate(const int code, const void *job, ptrdiff_t r0, ptrdiff_t c0,
                       ptrdiff_t m, ptrdiff_t n)
{
    const backward_job *x = job;
    const ptrdiff_t z_row = x->cell->z_row;
    if (x->record) {
        NAME(record_tile_fn) *const measure = NAME(record_tile_fns)[code];
        real *rows = x->da_rows + c0 / PANEL * x->rows_panel + r0 * PANEL;
        measure(x->cell, x->record, r0, c0, m, n, x->z + r0 * z_row + c0,
                x->da.p + c0 / PANEL * x->da.panel + r0 * PANEL, x->da.panel,
                m > 1 ? rows : NULL, x->rows_panel);
        if (m > 1)
            return;
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
            if (m == 1)
                v_store(rows, d);
        }
    }
    for (ptrdiff_t c = c0; m > 1 && c < c0 + n; c += PANEL)
        copy_panel(m, n - (c - c0), x->da.p + c / PANEL * x->da.panel + r0 * PANEL,
                   x->da_rows + c / PANEL * x->rows_panel + r0 * PANEL);
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

/* Fetch where the share's work on another step begins, for that has mostly been written
 * by another core or long ago: the columns of a single row, or the first tile. */
INLINE void prefetch_step(const bptt_cell *cell, const bptt_share *share, const real *p,
                          ptrdiff_t row)
{
    const ptrdiff_t H = cell->H;
    if (share->u0 >= share->u1)
        return;
    if (cell->B > 1) {
        ptrdiff_t c =
            share->u0 / bptt_row_tiles(share->r1 - share->r0, TILE_ROWS) * PANEL;
        view a = {(real *)(uintptr_t)(p + share->r0 * row + c), row, PANEL};
        prefetch_tile(a, share->r1 - share->r0 < TILE_ROWS ? share->r1 - share->r0
                                                           : TILE_ROWS);
        return;
    }
    ptrdiff_t end = share->u1 * PANEL < H ? share->u1 * PANEL : H;
    for (ptrdiff_t c = share->u0 * PANEL; c < end; c += VLEN)
        PREFETCH_L1(p + c);
}

static void step_forward(const bptt_cell *cell, const bptt_share *share,
                         const real *z_prev, ptrdiff_t prev_panel, real *z,
                         real *z_packed, ptrdiff_t packed_panel)
{
    prefetch_step(cell, share, z + (cell->B > 1 ? 1 : 2) * cell->z_step, cell->z_row);
    if (is_narrow(cell, share)) {
        NAME(narrow_forward_fns)
        [z_packed == NULL && prev_panel == PANEL][narrow_kind(cell)](
            cell, share->r0, share->r1, z_prev, prev_panel, z, z_packed, packed_panel);
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
static void step_backward(const bptt_cell *cell, const bptt_share *share,
                          const real *da_next, ptrdiff_t next_panel, const real *g,
                          const real *z, real *da, ptrdiff_t da_panel, real *da_rows,
                          ptrdiff_t rows_panel, const bptt_record *record)
{
    const ptrdiff_t steps = cell->B > 1 ? 1 : 2;
    prefetch_step(cell, share, z - steps * cell->z_step, cell->z_row);
    if (g)
        prefetch_step(cell, share, g - steps * cell->g_step, cell->g_row);
    if (is_narrow(cell, share)) {
        NAME(narrow_backward_fns)
        [next_panel == PANEL && da_panel ==
            PANEL][narrow_kind(cell)](cell, share->r0, share->r1, da_next, next_panel,
                                      g, z, da, da_panel, da_rows, rows_panel, record);
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

/* dz[0] = da[1] V^T */
static void state_backward(const bptt_cell *cell, const bptt_share *share,
                           const real *da, ptrdiff_t da_panel, real *dz0)
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
