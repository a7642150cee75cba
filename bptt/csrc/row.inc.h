/* The step of a single row, the case B = 1. There is one sum per column and each FMA
 * waits for the one before it, so several runs of k are summed side by side:
 *
 *     V  [ run 0 ] -> part[0], from a[t] or g[t]
 *        [ run 1 ] -> part[1], from 0              out = (part[0] + part[1]) + part[2]
 * .. [  ...  ]
 *
 * which are the sums of rows_times() to the bit. Two runs of 8 vectors are 16 sums in
 * flight; 8 would do if every load were on time, and must where registers are few.
 * What holds it up otherwise is loads, one for each FMA and those of A. So entries of A
 * may be loaded a few at a time, and taken from the register; not where they have just
 * been stored as a vector, of which single ones are to be had earlier.
 */
#define ROW_VECTORS  8
#define RUNS_MAX     4
#define row_term     NAME(row_term)
#define row_few      NAME(row_few)
#define row_sums     NAME(row_sums)
#define row_sums_of  NAME(row_sums_of)
#define row_block    NAME(row_block)
#define row_step     NAME(row_step)
#define row_fn       NAME(row_fn)
#define row_fns      NAME(row_fns)
#define row_part_fn  NAME(row_part_fn)
#define row_part_fns NAME(row_part_fns)

/* part[v] += a b(v) */
INLINE void row_term(const int nv, vreal a, const real *b, ptrdiff_t b_panel,
                     vreal part[ROW_VECTORS])
{
    UNROLL
    for (int v = 0; v < nv; v++)
        part[v] = v_fma(a, v_load(b + v / 2 * b_panel + v % 2 * VLEN), part[v]);
}

/* V_FEW terms of each of the runs first <= i < end, which are len rows of b apart. */
INLINE void row_few(const int nv, const int first, const int end, const vreal *few,
                    const real *b, ptrdiff_t b_panel, ptrdiff_t len,
                    vreal part[][ROW_VECTORS])
{
    UNROLL
    for (int j = 0; j < V_FEW; j++) {
        UNROLL
        for (int i = first; i < end; i++)
            row_term(nv, v_pick(few[i], j), b + (j + i * len) * PANEL, b_panel,
                     part[i]);
    }
}

/* part[i][v] += A(k + i len) B(k + i len, v) for k0 <= k < k0 + n and runs first <= i <
 * end. None of the runs leaves its panel of A within the n terms. */
INLINE void row_block(const int nv, const int few_at_once, const int first,
                      const int end, const real *A, ptrdiff_t a_panel, const real *B,
                      ptrdiff_t b_panel, ptrdiff_t k0, ptrdiff_t n, ptrdiff_t len,
                      vreal part[][ROW_VECTORS])
{
    const real *a[RUNS_MAX];
    const real *b = B + k0 * PANEL;
    UNROLL
    for (int i = first; i < end; i++) {
        ptrdiff_t k = k0 + i * len;
        a[i] = A + k / PANEL * a_panel + k % PANEL;
    }
    ptrdiff_t e = 0;
    for (; few_at_once && e + V_FEW <= n; e += V_FEW, b += V_FEW * PANEL) {
        vreal few[RUNS_MAX];
        UNROLL
        for (int i = first; i < end; i++)
            few[i] = v_load_few(a[i] + e);
        row_few(nv, first, end, few, b, b_panel, len, part);
    }
    for (; e < n; e++, b += PANEL) {
        UNROLL
        for (int i = first; i < end; i++)
            row_term(nv, v_set1(a[i][e]), b + i * len * PANEL, b_panel, part[i]);
    }
}

/* Terms of k, at most n, before it leaves its panel of A, unless one panel of A follows
 * the other without a gap. */
INLINE ptrdiff_t NAME(within_panel)(ptrdiff_t k, ptrdiff_t n, ptrdiff_t a_panel)
{
    ptrdiff_t left = PANEL - k % PANEL;
    return n < left || a_panel == PANEL ? n : left;
}

/* sum[v] += A(k) B(k, v) over `runs` runs of len terms from k0, cut short at K. The
 * first run of all, k0 = 0, continues the sum; the others start from zero and are
 * added. */
INLINE void row_sums(const int nv, const int few_at_once, const int runs, const real *A,
                     ptrdiff_t a_panel, const real *B, ptrdiff_t b_panel, ptrdiff_t k0,
                     ptrdiff_t len, ptrdiff_t K, vreal *sum)
{
    vreal part[RUNS_MAX][ROW_VECTORS];
    UNROLL
    for (int i = 0; i < runs; i++) {
        UNROLL
        for (int v = 0; v < nv; v++)
            part[i][v] = i == 0 && k0 == 0 ? sum[v] : v_zero();
    }
    ptrdiff_t shortest = K - k0 - (runs - 1) * len;
    shortest = shortest < 0 ? 0 : shortest < len ? shortest : len;
    if (runs * nv > V_REGISTERS - 4)
        shortest = 0; /* one run after the other, or the sums leave the registers */
    for (ptrdiff_t k = k0; k < k0 + shortest;) {
        ptrdiff_t n = k0 + shortest - k;
        UNROLL
        for (int i = 0; i < runs; i++)
            n = NAME(within_panel)(k + i * len, n, a_panel);
        row_block(nv, few_at_once, 0, runs, A, a_panel, B, b_panel, k, n, len, part);
        k += n;
    }
    if (shortest < len) {
        UNROLL
        for (int i = 0; i < runs; i++) {
            ptrdiff_t end = k0 + (i + 1) * len < K ? k0 + (i + 1) * len : K;
            for (ptrdiff_t k = k0 + i * len + shortest; k < end;) {
                ptrdiff_t n = NAME(within_panel)(k, end - k, a_panel);
                row_block(nv, few_at_once, i, i + 1, A, a_panel, B, b_panel,
                          k - i * len, n, len, part);
                k += n;
            }
        }
    }
    UNROLL
    for (int v = 0; v < nv; v++) {
        sum[v] = k0 == 0 ? part[0][v] : v_add(sum[v], part[0][v]);
        UNROLL
        for (int i = 1; i < runs; i++)
            if (k0 + i * len < K) /* adding an empty run would turn -0 into +0 */
                sum[v] = v_add(sum[v], part[i][v]);
    }
}

/* The same of all runs of a row that is in registers, as wide as it is long. */
INLINE void row_sums_of(const int nv, const int runs, const vreal *A, const real *B,
                        vreal *sum)
{
    const int K = nv * VLEN, len = K / runs;
    vreal part[RUNS_MAX][ROW_VECTORS];
    UNROLL
    for (int i = 0; i < runs; i++) {
        UNROLL
        for (int v = 0; v < nv; v++)
            part[i][v] = i == 0 ? sum[v] : v_zero();
    }
    UNROLL
    for (int e = 0; e < len; e += V_FEW) {
        vreal few[RUNS_MAX];
        UNROLL
        for (int i = 0; i < runs; i++)
            few[i] = v_few_of(A[(i * len + e) / VLEN], (i * len + e) % VLEN / V_FEW);
        row_few(nv, 0, runs, few, B + e * PANEL, K * PANEL, len, part);
    }
    UNROLL
    for (int v = 0; v < nv; v++) {
        sum[v] = part[0][v];
        UNROLL
        for (int i = 1; i < runs; i++)
            sum[v] = v_add(sum[v], part[i][v]);
    }
}

/* sum = start + the terms [k0, k1) of A B, in nv vectors, the last of n columns; then
 * more is added, if there is any. */
typedef void row_part_fn(const real *A, const real *B, ptrdiff_t b_panel, ptrdiff_t k0,
                         ptrdiff_t k1, const real *start, const vreal *more, vreal *sum,
                         ptrdiff_t n);

#define ROW(nv)                                                                       \
    static void NAME(row_part_##nv)(const real *A, const real *B, ptrdiff_t b_panel,  \
                                    ptrdiff_t k0, ptrdiff_t k1, const real *start,    \
                                    const vreal *more, vreal *sum, ptrdiff_t n)       \
    {                                                                                 \
        vreal part[1][ROW_VECTORS];                                                   \
        UNROLL                                                                        \
        for (int v = 0; v < nv; v++)                                                  \
            part[0][v] =                                                              \
                start ? load_row(start + v * VLEN, v < nv - 1 ? VLEN : n) : v_zero(); \
        row_block(nv, 1, 0, 1, A, PANEL, B, b_panel, k0, k1 - k0, 0, part);           \
        UNROLL                                                                        \
        for (int v = 0; v < nv; v++)                                                  \
            sum[v] = more ? v_add(part[0][v], more[v]) : part[0][v];                  \
    }
ROW(1)
ROW(2)
ROW(3)
ROW(4)
ROW(5)
ROW(6)
ROW(7)
ROW(8)
#undef ROW
static row_part_fn *const row_part_fns[ROW_VECTORS + 1] = {
    NULL,
    NAME(row_part_1),
    NAME(row_part_2),
    NAME(row_part_3),
    NAME(row_part_4),
    NAME(row_part_5),
    NAME(row_part_6),
    NAME(row_part_7),
    NAME(row_part_8),
};

/* out = start + A B in nv vectors; A(K), of the last vector n columns. */
typedef void row_fn(ptrdiff_t K, ptrdiff_t len, const real *A, ptrdiff_t a_panel,
                    const real *B, const real *start, real *out, ptrdiff_t out_panel,
                    ptrdiff_t n, ptrdiff_t n_out);

#define ROW(nv)                                                                       \
    static void NAME(row_##nv)(ptrdiff_t K, ptrdiff_t len, const real *A,             \
                               ptrdiff_t a_panel, const real *B, const real *start,   \
                               real *out, ptrdiff_t out_panel, ptrdiff_t n,           \
                               ptrdiff_t n_out)                                       \
    {                                                                                 \
        vreal sum[ROW_VECTORS];                                                       \
        UNROLL                                                                        \
        for (int v = 0; v < nv; v++)                                                  \
            sum[v] =                                                                  \
                start ? load_row(start + v * VLEN, v < nv - 1 ? VLEN : n) : v_zero(); \
        if (nv <= 2 && len * 2 < K && len * 4 >= K)                                   \
            row_sums(nv, 0, 4, A, a_panel, B, K * PANEL, 0, len, K, sum);             \
        else                                                                          \
            for (ptrdiff_t k = 0; k < K; k += 2 * len)                                \
                row_sums(nv, 0, 2, A, a_panel, B, K * PANEL, k, len, K, sum);         \
        UNROLL                                                                        \
        for (int v = 0; v < nv; v++)                                                  \
            store_row(out + v / 2 * out_panel + v % 2 * VLEN, sum[v],                 \
                      v < nv - 1 ? VLEN : n_out);                                     \
    }
ROW(1)
ROW(2)
ROW(3)
ROW(4)
ROW(5)
ROW(6)
ROW(7)
ROW(8)
#undef ROW
static row_fn *const row_fns[ROW_VECTORS + 1] = {
    NULL,        NAME(row_1), NAME(row_2), NAME(row_3), NAME(row_4),
    NAME(row_5), NAME(row_6), NAME(row_7), NAME(row_8),
};
