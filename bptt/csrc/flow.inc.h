/* The error of a step clipped, rows of it at a time, between the product that makes it
 * and sigma', and measured before. The contracts are in README.md.
 *
 * Squares are summed as in record.inc.h. A sum that leaves the range, or nearly so, is
 * taken again of scaled entries.
 */
#define flow_norm     NAME(flow_norm)
#define flow_clip     NAME(flow_clip)
#define flow_finish   NAME(flow_finish)
#define flow_backward NAME(flow_backward)
#define sum_squares   NAME(sum_squares)
#define is_in_range   NAME(is_in_range)

#ifndef FACTOR_SMALL
#define FACTOR_SMALL 1e-30
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

#define FLOW(code)                                                                 \
    static void NAME(flow_finish_##code)(const bptt_cell *cell, const real *z,     \
                                         real *da, ptrdiff_t da_panel, real *rows, \
                                         ptrdiff_t rows_panel)                     \
    {                                                                              \
        flow_finish(code, cell, z, da, da_panel, rows, rows_panel);                \
    }
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
EACH(FLOW)
typedef void NAME(flow_finish_fn)(const bptt_cell *cell, const real *z, real *da,
                                  ptrdiff_t da_panel, real *rows, ptrdiff_t rows_panel);
#define ENTRY(code) NAME(flow_finish_##code),
static NAME(flow_finish_fn) *const
    NAME(flow_finish_fns)[BPTT_ACTIVATION_COUNT] = {EACH(ENTRY)};
#undef ENTRY
#undef EACH
#undef FLOW

static void flow_backward(const bptt_cell *cell, const bptt_flow *flow, ptrdiff_t r0,
                          ptrdiff_t r1, const real *z, real *da, ptrdiff_t da_panel,
                          real *da_rows, ptrdiff_t rows_panel,
                          const bptt_record *record)
{
    const ptrdiff_t H = cell->H;
    const int by_norm = flow->clip_norm < INFINITY;
    const int by_value = flow->clip_value < INFINITY;
    for (ptrdiff_t r = r0; r < r1; r++) {
        real *e = da + r * PANEL;
        if (record) {
            NAME(record_tile_fn) *const measure =
                NAME(record_tile_fns)[cell->activation];
            measure(cell, record, r, 0, 1, H, z + r * cell->z_row, e, da_panel, NULL,
                    0);
        }
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
