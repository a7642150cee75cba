/* The error of a step as a whole row, between the product that makes it and sigma':
 * clipped, measured, and then multiplied. The contract is in README.md.
 *
 * Squares are summed in double, in eight sums that the compiler may keep in vectors.
 * Only a sum of squares of doubles can leave the range, and is then taken again of the
 * entries over their largest.
 */
#define flow_norm     NAME(flow_norm)
#define flow_clip     NAME(flow_clip)
#define flow_finish   NAME(flow_finish)
#define flow_count    NAME(flow_count)
#define flow_backward NAME(flow_backward)
#define sum_squares   NAME(sum_squares)

#ifndef FLOW_LANES
#include <float.h>
#define FLOW_LANES    8
#define SQUARES_SMALL 1e-280
#define SQUARES_LARGE 1e280
#define FACTOR_SMALL  1e-30
#endif

/* The sum of (e scale)^2 over a packed row. */
INLINE double sum_squares(ptrdiff_t H, const real *e, ptrdiff_t panel, double scale)
{
    double sum[FLOW_LANES] = {0};
    for (ptrdiff_t c = 0; c < H; c += PANEL) {
        const real *p = e + c / PANEL * panel;
        ptrdiff_t n = H - c < PANEL ? H - c : PANEL, i = 0;
        for (; i + FLOW_LANES <= n; i += FLOW_LANES) {
            UNROLL
            for (int j = 0; j < FLOW_LANES; j++) {
                double s = (double)p[i + j] * scale;
                sum[j] += s * s;
            }
        }
        for (int j = 0; i + j < n; j++) {
            double s = (double)p[i + j] * scale;
            sum[j] += s * s;
        }
    }
    double all = 0;
    for (int j = 0; j < FLOW_LANES; j++)
        all += sum[j];
    return all;
}

/* ||e||; *half is the root of what e is to be multiplied with to have norm h, were it
 * longer: twice a root, for the factor of a huge error may be no normal number. */
static double flow_norm(ptrdiff_t H, const real *e, ptrdiff_t panel, double h,
                        double *half)
{
    double squares = sum_squares(H, e, panel, 1), largest = 1;
    if (REAL_BITS == 64 && !(squares >= SQUARES_SMALL && squares <= SQUARES_LARGE)) {
        largest = 0;
        for (ptrdiff_t c = 0; c < H; c++) {
            double a = fabs((double)e[c / PANEL * panel + c % PANEL]);
            largest = a > largest ? a : largest;
        }
        if (largest == 0)
            largest = 1;
        if (largest > DBL_MAX) {
            *half = 0;
            return largest;
        }
        /* 1 / largest may be infinite, or no normal number: by halves as well. */
        double root = 1 / sqrt(largest), sum = 0;
        for (ptrdiff_t c = 0; c < H; c++) {
            double s = (double)e[c / PANEL * panel + c % PANEL] * root * root;
            sum += s * s;
        }
        squares = sum;
    }
    double norm = sqrt(squares);
    *half = sqrt(h) / sqrt(norm) / sqrt(largest);
    return norm * largest;
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

/* da = e sigma'(z), into both places, and counts: of units where |sigma'| is below the
 * threshold, in all, and where it is 0, one by one. */
INLINE void flow_finish(const int code, const int count, const bptt_cell *cell,
                        const bptt_flow *flow, const real *z, real *da,
                        ptrdiff_t da_panel, real *rows, ptrdiff_t rows_panel,
                        int32_t *saturated, real *dead)
{
    const ptrdiff_t H = cell->H;
    const vreal alpha = v_set1((real)cell->alpha), beta = v_set1((real)cell->beta);
    const vreal zero = v_zero(), one = v_set1(1);
    const vreal threshold = v_set1((real)flow->threshold);
    vreal sum = v_zero();
    for (ptrdiff_t c = 0; c < H; c += VLEN) {
        const ptrdiff_t n = H - c < VLEN ? H - c : VLEN;
        const ptrdiff_t at = c / PANEL * da_panel + c % PANEL;
        vreal d = v_dsigma(code, load_row(z + c, n), alpha, beta);
        vreal a = v_mul(v_load(da + at), d);
        v_store(da + at, a);
        v_store(rows + c / PANEL * rows_panel + c % PANEL, a);
        if (count) {
            vreal s = v_select(v_lt(v_abs(d), threshold), one, zero);
            real lanes[VLEN];
            if (n < VLEN) {
                v_store(lanes, s);
                s = v_load_part(lanes, n);
            }
            sum = v_add(sum, s);
            s = v_select(v_eq(d, zero), one, zero);
            store_row(dead + c, v_add(load_row(dead + c, n), s), n);
        }
    }
    if (count)
        *saturated = (int32_t)v_reduce_add(sum);
}

#define FLOW(code)                                                                     \
    static void NAME(flow_##code)(const bptt_cell *cell, const bptt_flow *flow,        \
                                  const real *z, real *da, ptrdiff_t da_panel,         \
                                  real *rows, ptrdiff_t rows_panel, int32_t *satur,    \
                                  real *dead)                                          \
    {                                                                                  \
        if (satur)                                                                     \
            flow_finish(code, 1, cell, flow, z, da, da_panel, rows, rows_panel, satur, \
                        dead);                                                         \
        else                                                                           \
            flow_finish(code, 0, cell, flow, z, da, da_panel, rows, rows_panel, NULL,  \
                        NULL);                                                         \
    }
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
EACH(FLOW)
typedef void NAME(flow_fn)(const bptt_cell *cell, const bptt_flow *flow, const real *z,
                           real *da, ptrdiff_t da_panel, real *rows,
                           ptrdiff_t rows_panel, int32_t *saturated, real *dead);
#define ENTRY(code) NAME(flow_##code),
static NAME(flow_fn) *const NAME(flow_fns)[BPTT_ACTIVATION_COUNT] = {EACH(ENTRY)};
#undef ENTRY
#undef EACH
#undef FLOW

static void flow_backward(const bptt_cell *cell, const bptt_flow *flow, ptrdiff_t r0,
                          ptrdiff_t r1, const real *z, real *da, ptrdiff_t da_panel,
                          real *da_rows, ptrdiff_t rows_panel, double *norms,
                          int32_t *saturated, real *dead)
{
    const int by_norm = flow->clip_norm < INFINITY;
    const int by_value = flow->clip_value < INFINITY;
    for (ptrdiff_t r = r0; r < r1; r++) {
        real *e = da + r * PANEL;
        double half = 1;
        if (by_norm || norms) {
            double norm = flow_norm(cell->H, e, da_panel, flow->clip_norm, &half);
            half = norm > flow->clip_norm ? half : 1;
            if (norms)
                norms[r] = norm;
        }
        if (half != 1 || by_value)
            flow_clip(cell->H, e, da_panel, half, flow->clip_value);
        NAME(flow_fns)
        [cell->activation](cell, flow, z + r *cell->z_row, e, da_panel,
                           da_rows + r *PANEL, rows_panel,
                           saturated ? saturated + r : NULL, dead);
    }
}
