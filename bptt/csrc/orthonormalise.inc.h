/* Gram-Schmidt on the rows of a packed (r1, H) operand, for tangents that are carried
 * along a trajectory: what a row grew by is the length of what is left of it.
 *
 *     for each row r:  twice, row[r] <- row[r] - sum over i < r of <q[i], row[r]> q[i]
 *                      length <- |row[r]|,  q[r] <- row[r] / length
 *
 * Twice is enough (Giraud, Langou, Rozloznik 2005): the rows are orthogonal to rounding
 * however alike they had become, and the products of a pass do not wait for each other.
 * Not so where a row lies in the span of those before it, as it may where units are
 * off: what is left then is rounding, in that span as well. So a pass that takes more
 * than it leaves is followed by another, and a row of which PASSES have left next to
 * nothing is taken for 0.
 */
#define orthonormalise NAME(orthonormalise)
#define project_out    NAME(project_out)
#define row_dot        NAME(row_dot)
#define row_scale      NAME(row_scale)
#define row_largest    NAME(row_largest)
#define PACKED(p, v)   ((p) + (v) / 2 * stride + (v) % 2 * VLEN)
/* Enough for a row of which 1e-40 is left, in float32. */
#undef PASSES
#define PASSES 8

/* Squares of what is smaller or larger than this could be lost. */
#define SQUARE_SMALL SIMD_CAT(SQUARE_SMALL_, REAL_BITS, )
#define SQUARE_LARGE SIMD_CAT(SQUARE_LARGE_, REAL_BITS, )
#ifndef SQUARE_SMALL_32
#define SQUARE_SMALL_32 1e-24F
#define SQUARE_LARGE_32 1e24F
#define SQUARE_SMALL_64 1e-200
#define SQUARE_LARGE_64 1e200
#endif

/* sums[i] = <q[i], row> for i < n <= 4 */
INLINE void row_dot(const int n, ptrdiff_t vectors, const real *q, const real *row,
                    ptrdiff_t stride, real *sums)
{
    vreal acc[4];
    UNROLL
    for (int i = 0; i < n; i++)
        acc[i] = v_zero();
    for (ptrdiff_t v = 0; v < vectors; v++) {
        vreal a = v_load(PACKED(row, v));
        UNROLL
        for (int i = 0; i < n; i++)
            acc[i] = v_fma(v_load(PACKED(q, v) + i * PANEL), a, acc[i]);
    }
    UNROLL
    for (int i = 0; i < n; i++)
        sums[i] = v_reduce_add(acc[i]);
}

/* One pass; returns the largest of the parts that it takes. */
INLINE real project_out(ptrdiff_t r, ptrdiff_t vectors, real *Q, ptrdiff_t stride,
                        real *work)
{
    real *row = Q + r * PANEL;
    ptrdiff_t i = 0;
    for (; i + 4 <= r; i += 4)
        row_dot(4, vectors, Q + i * PANEL, row, stride, work + i);
    for (; i < r; i++)
        row_dot(1, vectors, Q + i * PANEL, row, stride, work + i);
    for (ptrdiff_t v = 0; v < vectors; v++) {
        const real *q = PACKED(Q, v);
        vreal a = v_load(PACKED(row, v));
        for (i = 0; i < r; i++)
            a = v_fnma(v_set1(work[i]), v_load(q + i * PANEL), a);
        v_store(PACKED(row, v), a);
    }
    real taken = 0;
    for (i = 0; i < r; i++) {
        const real part = work[i] < 0 ? -work[i] : work[i];
        taken = part > taken ? part : taken;
    }
    return taken;
}

INLINE void row_scale(ptrdiff_t vectors, real *row, ptrdiff_t stride, real by)
{
    for (ptrdiff_t v = 0; v < vectors; v++)
        v_store(PACKED(row, v), v_mul(v_load(PACKED(row, v)), v_set1(by)));
}

INLINE real row_largest(ptrdiff_t vectors, const real *row, ptrdiff_t stride)
{
    real largest = 0;
    for (ptrdiff_t v = 0; v < vectors; v++) {
        real lanes[VLEN];
        v_store(lanes, v_abs(v_load(PACKED(row, v))));
        for (ptrdiff_t i = 0; i < VLEN; i++)
            largest = lanes[i] > largest ? lanes[i] : largest;
    }
    return largest;
}

static void orthonormalise(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t H, real *Q,
                           ptrdiff_t stride, real *work, double *logs)
{
    const ptrdiff_t vectors = (H + VLEN - 1) / VLEN;
    for (ptrdiff_t r = r0; r < r1; r++) {
        real *row = Q + r * PANEL, square, taken;
        int passes = 1;
        project_out(r, vectors, Q, stride, work);
        do {
            taken = project_out(r, vectors, Q, stride, work);
            row_dot(1, vectors, row, row, stride, &square);
            if (square < SQUARE_SMALL || square > SQUARE_LARGE) {
                const real largest = row_largest(vectors, row, stride);
                if (largest == 0)
                    break;
                row_scale(vectors, row, stride, 1 / largest);
                row_dot(1, vectors, row, row, stride, &square);
                logs[r] += log((double)largest);
                taken /= largest;
            }
        } while (square < taken * taken && ++passes < PASSES);
        if (passes == PASSES)
            square = 0;
        double length = sqrt((double)square);
        /* A row that vanished stays 0, and its sum is minus infinity for good. */
        logs[r] += log(length);
        row_scale(vectors, row, stride, square == 0 ? 0 : (real)(1 / length));
    }
}
#undef PACKED
