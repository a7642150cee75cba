/* What is measured of the error of a step, where it is at hand. The contracts are in
 * README.md.
 *
 * Of a row of e, panel by panel, for columns are shared in panels:
 *
 *     squares   of the entries, summed lane by lane as reals, which errs no more than e
 *               itself has been rounded; then the lanes
 *     counts    units where |sigma'| is below the threshold
 *
 * and flow_record adds up the panels of whole rows. Where squares leave the range of
 * reals, or nearly so, a panel has its norm instead, and NaN for its squares.
 */
#define record_panel   NAME(record_panel)
#define record_row     NAME(record_row)
#define record_tile    NAME(record_tile)
#define record_dead    NAME(record_dead)
#define record_rows    NAME(record_rows)
#define count_dead     NAME(count_dead)
#define copy_panel     NAME(copy_panel)
#define record_outside NAME(record_outside)
#define norm_of_panels NAME(norm_of_panels)
#define tail_lanes     NAME(tail_lanes)
#define bits_of        NAME(bits_of)
#define is_trusted     NAME(is_trusted)
#define measures       NAME(measures)
#define measures_of    NAME(measures_of)
#define add_panels     NAME(add_panels)
#define flow_record    NAME(flow_record)
#define LANES          NAME(LANES)
#define SCALE          NAME(SCALE)
#define SUM_SMALL      NAME(SUM_SMALL)

#ifndef FLAT
#include <float.h>
/* Brings the smallest entries to where their squares are normal numbers, and its
 * inverse the largest to where they are finite. */
#define SCALE_f32 0x1p96
#define SCALE_f64 0x1p704
/* Of a sum of at least so much for each term, what is lost with squares that are no
 * normal numbers is less than its rounding. */
#define SUM_SMALL_f32 ((double)FLT_MIN / FLT_EPSILON)
#define SUM_SMALL_f64 (DBL_MIN / DBL_EPSILON)
/* Activations under which units may often be dead: sigma' is 0 on a whole piece. */
#define FLAT(code)                                             \
    ((code) == BPTT_RELU || (code) == BPTT_THRESHOLDED_RELU || \
     (code) == BPTT_HARD_SIGMOID || (code) == ANY_OTHER)
/* For a code that is only known when it runs. */
#define ANY_OTHER BPTT_ACTIVATION_COUNT
#endif

static const real LANES[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* The first n lanes, or all. */
INLINE vmask tail_lanes(ptrdiff_t n)
{
    return v_lt(v_load(LANES), v_set1((real)n));
}

/* The norm of a panel whose squares are not to be trusted. Nothing is called: what a
 * loop keeps in registers would all be put away for it. */
INLINE void record_outside(const bptt_record *x, ptrdiff_t at, vreal e0, vreal e1,
                           real squares)
{
    const double scale = squares < 1 ? SCALE : 1 / SCALE;
    const vreal factor = v_set1((real)scale);
    e0 = v_mul(e0, factor);
    e1 = v_mul(e1, factor);
    const real sum = v_reduce_add(v_fma(e1, e1, v_mul(e0, e0)));
    real root[VLEN];
    v_store(root, v_sqrt(v_set1(sum)));
    x->norms[at] = (double)root[0] / scale;
    ((real *)x->squares)[at] = (real)NAN;
}

INLINE ureal bits_of(real a)
{
    ureal bits;
    memcpy(&bits, &a, sizeof bits);
    return bits;
}

/* Whether the squares of a panel have added up to a number, and lost nothing. Numbers
 * that are not negative are in the order of their bits: one comparison. */
INLINE int is_trusted(real squares)
{
    const ureal least = bits_of((real)(2 * VLEN * SUM_SMALL));
    return bits_of(squares) - least < bits_of((real)INFINITY) - least;
}

/* Where a record has them: known to stand still while vectors are stored. */
typedef struct measures {
    real *squares;
    int32_t *counts;
    ptrdiff_t stride;
} measures;

INLINE measures measures_of(const bptt_record *x)
{
    measures to = {x ? (real *)x->squares : NULL, x ? x->counts : NULL,
                   x ? x->stride : 0};
    return to;
}

INLINE vreal count_dead(vreal dead, vreal d)
{
    return v_select(v_eq(d, v_zero()), v_add(dead, v_set1(1)), dead);
}

/* Of a panel of a row, whose measures stand at `at`: e and |sigma'| in nv vectors, 0
 * and infinity past the end. dead += 1 where sigma' is 0, if that is often so; else
 * the least |sigma'| is kept, and tells whether to look for them. */
INLINE void record_panel(const int code, const int nv, const bptt_record *x,
                         measures to, ptrdiff_t at, const vreal *e, const vreal *d,
                         vreal low, vreal *dead, vreal *least)
{
    vreal sum = v_mul(e[0], e[0]);
    if (nv == 2)
        sum = v_fma(e[1], e[1], sum);
    UNROLL
    for (int v = 0; v < nv; v++) {
        if (FLAT(code))
            dead[v] = count_dead(dead[v], d[v]);
        else
            *least = v_min(d[v], *least); /* in this order a NaN is passed over */
    }
    const real squares = v_reduce_add(sum);
    const vmask under = v_lt(d[0], low);
    to.counts[at] = nv == 2 ? v_count2(under, v_lt(d[1], low)) : v_count(under);
    if (is_trusted(squares))
        to.squares[at] = squares;
    else
        record_outside(x, at, e[0], nv == 2 ? e[1] : v_zero(), squares);
}

/* Of a row, the nv vectors of e and sigma', of the last one these lanes. */
INLINE void record_row(const int code, const int nv, const bptt_record *x, measures to,
                       ptrdiff_t at, vmask lanes, vreal low, vreal *e, vreal *d,
                       vreal *dead, vreal *least)
{
    UNROLL
    for (int v = 0; v < nv; v++)
        /* of the others sigma' is never negative */
        if (code != BPTT_TANH && code != BPTT_SIGMOID && code != BPTT_RELU)
            d[v] = v_abs(d[v]);
    e[nv - 1] = v_select(lanes, e[nv - 1], v_zero());
    d[nv - 1] = v_select(lanes, d[nv - 1], v_set1((real)INFINITY));
    UNROLL
    for (int v = 0; v < nv; v += 2)
        record_panel(code, nv - v == 1 ? 1 : 2, x, to, at + v / 2 * to.stride, e + v,
                     d + v, low, dead + v, least);
}

/* dead += 1 where sigma' is 0, of m rows of z, and n columns from c. */
INLINE void record_dead(const int code, const bptt_cell *cell, ptrdiff_t c0,
                        ptrdiff_t m, ptrdiff_t n, const real *z, ptrdiff_t z_row,
                        real *dead)
{
    const vreal alpha = v_set1((real)cell->alpha), beta = v_set1((real)cell->beta);
    for (ptrdiff_t c = c0; c < c0 + n; c += VLEN) {
        const ptrdiff_t last = c0 + n - c < VLEN ? c0 + n - c : VLEN;
        vreal sum = v_load(dead + c);
        for (ptrdiff_t r = 0; r < m; r++) {
            vreal d = v_dsigma(code, load_row(z + r * z_row + c, last), alpha, beta);
            sum = count_dead(sum, d);
        }
        v_store(dead + c, sum);
    }
}

typedef void NAME(record_dead_fn)(const bptt_cell *cell, ptrdiff_t c, ptrdiff_t m,
                                  ptrdiff_t n, const real *z, ptrdiff_t z_row,
                                  real *dead);
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define RECORD(code)                                                              \
    static void NAME(record_dead_##code)(const bptt_cell *cell, ptrdiff_t c,      \
                                         ptrdiff_t m, ptrdiff_t n, const real *z, \
                                         ptrdiff_t z_row, real *dead)             \
    {                                                                             \
        record_dead(code, cell, c, m, n, z, z_row, dead);                         \
    }
EACH(RECORD)
#undef RECORD
#define ENTRY(code) NAME(record_dead_##code),
static NAME(record_dead_fn) *const
    NAME(record_dead_fns)[BPTT_ACTIVATION_COUNT] = {EACH(ENTRY)};
#undef ENTRY

/* The vectors of n columns, of m rows of a panel of da, once more among those of the
 * chunk. The lines of these, which other cores have read, have been on their way since
 * the tile began: it pays to come to them last, and to them alone. */
INLINE void copy_panel(ptrdiff_t m, ptrdiff_t n, const real *da, real *rows)
{
    if (n > VLEN) {
        for (ptrdiff_t i = 0; i < m * PANEL; i += VLEN)
            v_store(rows + i, v_load(da + i));
    } else {
        for (ptrdiff_t i = 0; i < m * PANEL; i += PANEL)
            v_store(rows + i, v_load(da + i));
    }
}

/* Of m rows of e in a panel, in nv vectors whose last one has `last` columns. With
 * rows, da = e sigma'(z) on the way. */
INLINE void record_rows(const int code, const int nv, const bptt_cell *cell,
                        const bptt_record *x, ptrdiff_t at, ptrdiff_t m, ptrdiff_t last,
                        const real *z, real *e, real *rows, real *dead, vreal *least)
{
    const vreal alpha = v_set1((real)cell->alpha), beta = v_set1((real)cell->beta);
    const vreal low = v_set1((real)x->threshold);
    const vmask lanes = tail_lanes(last);
    const ptrdiff_t z_row = cell->z_row;
    const measures to = measures_of(x);
    vreal sum[2] = {v_load(dead), v_load(dead + VLEN)};
    for (ptrdiff_t r = 0; r < m; r++) {
        vreal a[2], d[2];
        UNROLL
        for (int v = 0; v < nv; v++) {
            real *e_v = e + r * PANEL + v * VLEN;
            a[v] = v_load(e_v);
            d[v] = load_row(z + r * z_row + v * VLEN, v < nv - 1 ? VLEN : last);
            d[v] = v_dsigma(code, d[v], alpha, beta);
            if (rows)
                v_store(e_v, v_mul(a[v], d[v]));
        }
        record_row(code, nv, x, to, at + r * x->apart, lanes, low, a, d, sum, least);
    }
    for (int v = 0; FLAT(code) && v < nv; v++)
        v_store(dead + v * VLEN, sum[v]);
    if (rows)
        copy_panel(m, (nv - 1) * VLEN + last, e, rows);
}

/* Of m rows from row r0 of a step on, n columns from c0, where a panel begins: e packed
 * and z from there. With rows, in the place of e and there then stands da. */
INLINE void record_tile(const int code, const bptt_cell *cell, const bptt_record *x,
                        ptrdiff_t r0, ptrdiff_t c0, ptrdiff_t m, ptrdiff_t n,
                        const real *z, real *e, ptrdiff_t e_panel, real *rows,
                        ptrdiff_t rows_panel)
{
    vreal least = v_set1((real)INFINITY);
    ptrdiff_t at = c0 / PANEL * x->stride + x->row + r0 * x->apart, left = n;
    real *dead = (real *)x->dead + c0;
    for (const real *z_c = z; left > 0; z_c += PANEL, left -= PANEL) {
        if (left > VLEN)
            record_rows(code, 2, cell, x, at, m, left < PANEL ? left - VLEN : VLEN, z_c,
                        e, rows, dead, &least);
        else
            record_rows(code, 1, cell, x, at, m, left, z_c, e, rows, dead, &least);
        at += x->stride;
        dead += PANEL;
        e += e_panel;
        rows = rows ? rows + rows_panel : NULL;
    }
    if (!FLAT(code) && v_count(v_eq(least, v_zero())) > 0)
        record_dead(code, cell, 0, m, n, z, cell->z_row, (real *)x->dead + c0);
}

typedef void NAME(record_tile_fn)(const bptt_cell *cell, const bptt_record *x,
                                  ptrdiff_t r, ptrdiff_t c, ptrdiff_t m, ptrdiff_t n,
                                  const real *z, real *e, ptrdiff_t e_panel, real *rows,
                                  ptrdiff_t rows_panel);
#define RECORD(code)                                                             \
    static void NAME(record_tile_##code)(                                        \
        const bptt_cell *cell, const bptt_record *x, ptrdiff_t r, ptrdiff_t c,   \
        ptrdiff_t m, ptrdiff_t n, const real *z, real *e, ptrdiff_t e_panel,     \
        real *rows, ptrdiff_t rows_panel)                                        \
    {                                                                            \
        record_tile(code, cell, x, r, c, m, n, z, e, e_panel, rows, rows_panel); \
    }
EACH(RECORD)
#undef RECORD
#define ENTRY(code) NAME(record_tile_##code),
static NAME(record_tile_fn) *const
    NAME(record_tile_fns)[BPTT_ACTIVATION_COUNT] = {EACH(ENTRY)};
#undef ENTRY
#undef EACH

/* The norm of a row of which a panel has left the range of squares, or all together. */
static double norm_of_panels(const bptt_record *x, ptrdiff_t panels, ptrdiff_t r)
{
    double most = 0, total = 0, sum = 0;
    for (int again = 0; again < 2; again++) {
        for (ptrdiff_t p = 0; p < panels; p++) {
            const double squares =
                (double)((const real *)x->squares)[p * x->stride + r];
            const double norm =
                squares != squares ? x->norms[p * x->stride + r] : sqrt(squares);
            if (again) {
                sum += norm / most * (norm / most);
            } else {
                most = norm > most ? norm : most;
                total += norm;
            }
        }
        if (most == 0 || most == INFINITY || total != total)
            return total;
    }
    return most * sqrt(sum);
}

/* Of n rows from row r of the record on, a vector or less: each ||e||, and saturated.
 */
INLINE void add_panels(const bptt_record *x, ptrdiff_t panels, ptrdiff_t r, ptrdiff_t n,
                       double *norm, int32_t *count)
{
    const real *squares = (const real *)x->squares + r;
    const int32_t *counts = x->counts + r;
    vreal sum = v_zero();
    real root[VLEN];
    memset(count, 0, VLEN * sizeof *count);
    for (ptrdiff_t p = 0; p < panels; p++) {
        sum = v_add(sum, load_row(squares + p * x->stride, n));
        for (ptrdiff_t i = 0; i < n; i++)
            count[i] += counts[p * x->stride + i];
    }
    v_store(root, v_sqrt(sum));
    for (ptrdiff_t i = 0; i < VLEN; i++)
        norm[i] = (double)root[i];
    if (v_count(v_lt(sum, v_set1((real)INFINITY))) < VLEN)
        for (ptrdiff_t i = 0; i < n; i++)
            if (!(root[i] < (real)INFINITY))
                norm[i] = norm_of_panels(x, panels, r + i);
}

static void flow_record(const bptt_record *x, ptrdiff_t H, ptrdiff_t runs,
                        ptrdiff_t length, ptrdiff_t pitch, ptrdiff_t far,
                        ptrdiff_t near, double *norms, int32_t *saturated)
{
    const ptrdiff_t panels = bptt_panels(H, PANEL);
    for (ptrdiff_t i = 0; i < runs; i++, norms += far, saturated += far) {
        for (ptrdiff_t j = 0; j < length; j += VLEN) {
            const ptrdiff_t r = x->row + i * pitch + j;
            const ptrdiff_t n = length - j < VLEN ? length - j : VLEN;
            double norm[VLEN];
            int32_t count[VLEN];
            if (n == VLEN)
                add_panels(x, panels, r, VLEN, norm, count);
            else
                add_panels(x, panels, r, n, norm, count);
            if (near == 1 && n == VLEN) {
                memcpy(norms + j, norm, sizeof norm);
                memcpy(saturated + j, count, sizeof count);
                continue;
            }
            for (ptrdiff_t k = 0; k < n; k++) {
                norms[(j + k) * near] = norm[k];
                saturated[(j + k) * near] = count[k];
            }
        }
    }
}
