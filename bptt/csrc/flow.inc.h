/* The error of a step, rows of it at a time: measured, and clipped between the product
 * that makes it and sigma'. The contracts are in README.md.
 *
 * Squares are summed as reals, lane by lane, which errs no more than e itself has been
 * rounded. A sum that leaves the range, or nearly so, is taken again of scaled entries.
 */
#define flow_norm     NAME(flow_norm)
#define flow_clip     NAME(flow_clip)
#define flow_finish   NAME(flow_finish)
#define flow_backward NAME(flow_backward)
#define flow_record   NAME(flow_record)
#define record_column NAME(record_column)
#define record_rows   NAME(record_rows)
#define add_dead      NAME(add_dead)
#define sum_squares   NAME(sum_squares)
#define is_in_range   NAME(is_in_range)
#define LANES         NAME(LANES)
#define SCALE         NAME(SCALE)
#define SUM_SMALL     NAME(SUM_SMALL)

#ifndef RECORD_ROWS
#include <float.h>
/* Rows that are measured together. */
#define RECORD_ROWS 4
/* Brings the smallest entries to where their squares are normal numbers, and its
 * inverse the largest to where they are finite. */
#define SCALE_f32 0x1p96
#define SCALE_f64 0x1p704
/* Of a sum of at least so much for each term, what is lost with squares that are no
 * normal numbers is less than its rounding. */
#define SUM_SMALL_f32 ((double)FLT_MIN / FLT_EPSILON)
#define SUM_SMALL_f64 (DBL_MIN / DBL_EPSILON)
#define FACTOR_SMALL  1e-30
/* Activations under which units are often dead: sigma' is 0 on a whole piece. */
#define FLAT(code)                                             \
    ((code) == BPTT_RELU || (code) == BPTT_THRESHOLDED_RELU || \
     (code) == BPTT_HARD_SIGMOID)
#endif

/* The sum of (scale e)^2 over a packed row. */
INLINE double sum_squares(ptrdiff_t H, const real *e, ptrdiff_t panel, double scale)
{
    const vreal factor = v_set1((real)scale);
    vreal sum = v_zero();
    for (ptrdiff_t c = 0; c < H; c += VLEN) {
        const real *p = e + c / PANEL * panel + c % PANEL;
        vreal a = v_mul(load_row(p, H - c < VLEN ? H - c : VLEN), factor);
        sum = v_fma(a, a, sum);
    }
    return (double)v_reduce_add(sum);
}

/* Whether a sum of H squares has lost nothing at either end of the range. */
INLINE int is_in_range(double squares, ptrdiff_t H)
{
    return squares >= (double)H * SUM_SMALL && squares < INFINITY;
}

/* *scale times ||e||: of the sum of squares that was taken first, if it is in range. */
static double flow_norm(ptrdiff_t H, const real *e, ptrdiff_t panel, double squares,
                        double *scale)
{
    *scale = 1;
    if (!is_in_range(squares, H)) {
        *scale = squares < 1 ? SCALE : 1 / SCALE;
        squares = sum_squares(H, e, panel, *scale);
    }
    return sqrt(squares);
}

/* e <- e factor factor, within +-bound. A NaN stays one. */
INLINE void flow_clip(ptrdiff_t H, real *e, ptrdiff_t panel, double factor,
                      double bound)
{
    const double once = factor * factor;
    const vreal f = v_set1((real)(once < FACTOR_SMALL ? factor : once));
    const vreal g = v_set1((real)(once < FACTOR_SMALL ? factor : 1));
    const vreal high = v_set1((real)bound), low = v_neg(high);
    for (ptrdiff_t c = 0; c < H; c += VLEN) {
        real *p = e + c / PANEL * panel + c % PANEL;
        vreal a = v_mul(v_mul(v_load(p), f), g);
        v_store(p, v_min(high, v_max(low, a)));
    }
}

/* da = e sigma'(z), into both places. */
INLINE void flow_finish(const int code, const bptt_cell *cell, const real *z, real *da,
                        ptrdiff_t da_panel, real *rows, ptrdiff_t rows_panel)
{
    const ptrdiff_t H = cell->H;
    const vreal alpha = v_set1((real)cell->alpha), beta = v_set1((real)cell->beta);
    for (ptrdiff_t c = 0; c < H; c += VLEN) {
        const ptrdiff_t at = c / PANEL * da_panel + c % PANEL;
        const ptrdiff_t n = H - c < VLEN ? H - c : VLEN;
        vreal d = v_dsigma(code, load_row(z + c, n), alpha, beta);
        vreal a = v_mul(v_load(da + at), d);
        v_store(da + at, a);
        v_store(rows + c / PANEL * rows_panel + c % PANEL, a);
    }
}

static const real LANES[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* Of m rows, in the n columns from c: squares added to sums, and units where |sigma'|
 * is below the threshold to counts. Where sigma' is 0: added to dead if that is often
 * so; else the least |sigma'| is kept, and tells whether to look for them. */
INLINE void record_column(const int code, const int m, const bptt_cell *cell,
                          double threshold, ptrdiff_t c, ptrdiff_t n, const real *z,
                          const real *e, ptrdiff_t panel, vreal *sum, int32_t *count,
                          vreal *least, real *dead)
{
    const vreal alpha = v_set1((real)cell->alpha), beta = v_set1((real)cell->beta);
    const vreal low = v_set1((real)threshold), none = v_set1((real)INFINITY);
    vreal dead_c = FLAT(code) ? load_row(dead + c, n) : v_zero();
    UNROLL
    for (int r = 0; r < m; r++) {
        vreal a = load_row(e + c / PANEL * panel + r * PANEL + c % PANEL, n);
        vreal d = v_dsigma(code, load_row(z + r * cell->z_row + c, n), alpha, beta);
        if (code != BPTT_TANH && code != BPTT_SIGMOID) /* never negative */
            d = v_abs(d);
        if (n < VLEN)
            d = v_select(v_lt(v_load(LANES), v_set1((real)n)), d, none);
        sum[r] = v_fma(a, a, sum[r]);
        count[r] += v_count(v_lt(d, low));
        if (FLAT(code))
            dead_c = v_add(dead_c, v_select(v_eq(d, v_zero()), v_set1(1), v_zero()));
        else
            *least = v_min(d, *least); /* in this order a NaN is passed over */
    }
    if (FLAT(code))
        store_row(dead + c, dead_c, n);
}

/* dead += 1 where sigma' is 0, of m rows. */
INLINE void add_dead(const int code, const int m, const bptt_cell *cell, const real *z,
                     real *dead)
{
    const ptrdiff_t H = cell->H;
    const vreal alpha = v_set1((real)cell->alpha), beta = v_set1((real)cell->beta);
    const vreal zero = v_zero(), one = v_set1(1);
    for (ptrdiff_t c = 0; c < H; c += VLEN) {
        const ptrdiff_t n = H - c < VLEN ? H - c : VLEN;
        vreal sum = load_row(dead + c, n);
        UNROLL
        for (int r = 0; r < m; r++) {
            vreal d = v_dsigma(code, load_row(z + r * cell->z_row + c, n), alpha, beta);
            sum = v_add(sum, v_select(v_eq(d, zero), one, zero));
        }
        store_row(dead + c, sum, n);
    }
}

INLINE void record_rows(const int code, const int m, const bptt_cell *cell,
                        double threshold, const real *z, const real *e, ptrdiff_t panel,
                        double *norms, int32_t *saturated, real *dead)
{
    const ptrdiff_t H = cell->H, whole = H / VLEN * VLEN;
    vreal sum[RECORD_ROWS], least = v_set1(1);
    int32_t count[RECORD_ROWS] = {0};
    UNROLL
    for (int r = 0; r < m; r++)
        sum[r] = v_zero();
    for (ptrdiff_t c = 0; c < whole; c += VLEN)
        record_column(code, m, cell, threshold, c, VLEN, z, e, panel, sum, count,
                      &least, dead);
    if (whole < H)
        record_column(code, m, cell, threshold, whole, H - whole, z, e, panel, sum,
                      count, &least, dead);
    UNROLL
    for (int r = 0; r < m; r++) {
        double squares = (double)v_reduce_add(sum[r]), scale;
        if (is_in_range(squares, H))
            norms[r] = sqrt(squares);
        else
            norms[r] = flow_norm(H, e + r * PANEL, panel, squares, &scale) / scale;
        saturated[r] = count[r];
    }
    if (!FLAT(code) && v_count(v_eq(least, v_zero())) > 0)
        add_dead(code, m, cell, z, dead);
}

#define FLOW(code)                                                                    \
    static void NAME(flow_finish_##code)(const bptt_cell *cell, const real *z,        \
                                         real *da, ptrdiff_t da_panel, real *rows,    \
                                         ptrdiff_t rows_panel)                        \
    {                                                                                 \
        flow_finish(code, cell, z, da, da_panel, rows, rows_panel);                   \
    }                                                                                 \
    static void NAME(flow_record_##code)(                                             \
        const bptt_cell *cell, double threshold, ptrdiff_t r0, ptrdiff_t r1,          \
        const real *z, const real *e, ptrdiff_t panel, double *norms,                 \
        int32_t *saturated, real *dead)                                               \
    {                                                                                 \
        ptrdiff_t r = r0;                                                             \
        for (; r + RECORD_ROWS <= r1; r += RECORD_ROWS)                               \
            record_rows(code, RECORD_ROWS, cell, threshold, z + r * cell->z_row,      \
                        e + r * PANEL, panel, norms + r, saturated + r, dead);        \
        for (; r < r1; r++)                                                           \
            record_rows(code, 1, cell, threshold, z + r * cell->z_row, e + r * PANEL, \
                        panel, norms + r, saturated + r, dead);                       \
    }
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
EACH(FLOW)
typedef void NAME(flow_finish_fn)(const bptt_cell *cell, const real *z, real *da,
                                  ptrdiff_t da_panel, real *rows, ptrdiff_t rows_panel);
typedef void NAME(flow_record_fn)(const bptt_cell *cell, double threshold, ptrdiff_t r0,
                                  ptrdiff_t r1, const real *z, const real *e,
                                  ptrdiff_t panel, double *norms, int32_t *saturated,
                                  real *dead);
#define ENTRY(code) NAME(flow_finish_##code),
static NAME(flow_finish_fn) *const
    NAME(flow_finish_fns)[BPTT_ACTIVATION_COUNT] = {EACH(ENTRY)};
#undef ENTRY
#define ENTRY(code) NAME(flow_record_##code),
static NAME(flow_record_fn) *const
    NAME(flow_record_fns)[BPTT_ACTIVATION_COUNT] = {EACH(ENTRY)};
#undef ENTRY
#undef EACH
#undef FLOW

static void flow_backward(const bptt_cell *cell, const bptt_flow *flow, ptrdiff_t r0,
                          ptrdiff_t r1, const real *z, real *da, ptrdiff_t da_panel,
                          real *da_rows, ptrdiff_t rows_panel)
{
    const ptrdiff_t H = cell->H;
    const int by_norm = flow->clip_norm < INFINITY;
    const int by_value = flow->clip_value < INFINITY;
    for (ptrdiff_t r = r0; r < r1; r++) {
        real *e = da + r * PANEL;
        /* The root of what e is multiplied with: the factor of a huge error may be no
         * normal number. */
        double half = 1;
        if (by_norm) {
            double scale, squares = sum_squares(H, e, da_panel, 1);
            double norm = flow_norm(H, e, da_panel, squares, &scale);
            if (norm / scale > flow->clip_norm)
                half = sqrt(flow->clip_norm) / sqrt(norm) * sqrt(scale);
        }
        if (half != 1 || by_value)
            flow_clip(H, e, da_panel, half, flow->clip_value);
        NAME(flow_finish_fns)
        [cell->activation](cell, z + r *cell->z_row, e, da_panel, da_rows + r *PANEL,
                           rows_panel);
    }
}

static void flow_record(const bptt_cell *cell, const bptt_flow *flow, ptrdiff_t r0,
                        ptrdiff_t r1, const real *z, const real *e, ptrdiff_t panel,
                        double *norms, int32_t *saturated, real *dead)
{
    NAME(flow_record_fns)
    [cell->activation](cell, flow->threshold, r0, r1, z, e, panel, norms, saturated,
                       dead);
}
