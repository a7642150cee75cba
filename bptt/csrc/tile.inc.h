/* The register tile: M rows times N vectors of sums, kept in registers over the whole
 * of k. Every product in the library is made of it.
 *
 * Layouts. A packed (R, N) operand is cut into panels of PANEL = 2 VLEN columns:
 *
 *     element (r, c) at p[c / PANEL * panel + r * PANEL + c % PANEL]
 *
 *        panel 0        panel 1          `panel` = PANEL * rows of the buffer;
 *     r  c: 0..PANEL-1                    a row-major row is the case panel = PANEL
 *     0  [xxxxxxxxxxx]  [xxxxxxxxxxx]
 *     1  [xxxxxxxxxxx]  [xxxxxxxxxxx]
 *
 * so that one buffer serves as all three operands: left (rows broadcast along k), left
 * transposed (columns broadcast, k along the rows) and right (vectors of a row).
 *
 * tile(), for r < m and the vectors v < nv:
 *
 *     acc[r][v]  = start(r, v) or 0
 *     acc[r][v] += sum over k0 <= k < k1, ascending, of A(r, k) B(k, v)
 *     out(r, v)  = acc[r][v], or out(r, v) + acc[r][v] if `add`
 *
 * A(r, k) lies in the panels of a packed operand or, if trans, in row k of the left
 * operand of gemm_outer: at A[k / many * step + k % many * lda + (trans ? r : r *
 * PANEL)]. Row k of B is at B[k * PANEL] or, if trans, B[k / many * b_step + k % many *
 * PANEL]. m, nv and trans are compile-time constants. Only the last vector may be
 * partial: of it n columns of start exist and n_out columns of out are written, 1 <= n,
 * n_out <= VLEN. start may be out; A and B may not overlap it. What lies `ahead` reals
 * on in B (in A, if trans, where FETCH_COLUMNS says that the machine does not see that
 * stream by itself) is fetched into L2 on the way, a line for each k: it may be past
 * the end.
 */
#define PANEL         (2 * VLEN)
#define view          NAME(view)
#define tile          NAME(tile)
#define tile_fn       NAME(tile_fn)
#define tile_cols_fn  NAME(tile_cols_fn)
#define tile_rows_fns NAME(tile_rows_fns)
#define tile_cols_fns NAME(tile_cols_fns)
#define prefetch_tile NAME(prefetch_tile)
#define load_row      NAME(load_row)
#define store_row     NAME(store_row)

#ifndef UNROLL
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif
#if defined(__GNUC__)
#define PREFETCH(p)    __builtin_prefetch(p, 0, 2) /* into L2 */
#define PREFETCH_L1(p) __builtin_prefetch(p, 0, 3)
#else
#define PREFETCH(p)    ((void)(p))
#define PREFETCH_L1(p) ((void)(p))
#endif
#if defined(__GNUC__) && defined(__x86_64__) /* where it may be written */
#define PREFETCH_W(p) __asm__ volatile("prefetchw %0" : : "m"(*(const char *)(p)))
#elif defined(__GNUC__)
#define PREFETCH_W(p) __builtin_prefetch(p, 1, 3)
#else
#define PREFETCH_W(p) ((void)(p))
#endif
#define TILE_VECTORS 8
#endif

/* Element (r, c) at p[r * ld + c / PANEL * panel + c % PANEL]. */
typedef struct view {
    real *p;
    ptrdiff_t ld, panel;
} view;

/* Views by address: as values they would be stored as words and copied as vectors, and
 * such a load waits until all stores before it, of z or da, are done. */
typedef void tile_fn(const real *A, ptrdiff_t a_panel, const real *B, ptrdiff_t b_panel,
                     ptrdiff_t k0, ptrdiff_t k1, ptrdiff_t ahead, const view *start,
                     ptrdiff_t n, const view *out, ptrdiff_t n_out, int add);
typedef void tile_cols_fn(const real *A, ptrdiff_t lda, ptrdiff_t many, ptrdiff_t step,
                          const real *B, ptrdiff_t b_step, ptrdiff_t k0, ptrdiff_t k1,
                          ptrdiff_t ahead, const view *out, ptrdiff_t n_out, int add);

/* Fetch the m rows of a tile that will be wanted soon: three lines a row, for rows need
 * not begin where lines do. */
INLINE void prefetch_tile(view a, ptrdiff_t m)
{
    if (a.p == NULL || a.ld == 0)
        return;
    for (ptrdiff_t r = 0; r < m; r++) {
        PREFETCH(a.p + r * a.ld);
        PREFETCH(a.p + r * a.ld + VLEN);
        PREFETCH(a.p + r * a.ld + PANEL - 1);
    }
}

INLINE vreal load_row(const real *p, ptrdiff_t n)
{
    return n == VLEN ? v_load(p) : v_load_part(p, n);
}

INLINE void store_row(real *p, vreal a, ptrdiff_t n)
{
    if (n == VLEN)
        v_store(p, a);
    else
        v_store_part(p, a, n);
}

INLINE void tile(const int m, const int nv, const int trans, const real *A,
                 const ptrdiff_t lda, const ptrdiff_t many, ptrdiff_t step,
                 const real *B, ptrdiff_t b_panel, ptrdiff_t b_step, ptrdiff_t k0,
                 ptrdiff_t k1, ptrdiff_t ahead, const view *start, ptrdiff_t n,
                 const view *out, ptrdiff_t n_out, int add)
{
    vreal acc[TILE_ROWS][TILE_VECTORS];
    UNROLL
    for (int r = 0; r < m; r++) {
        UNROLL
        for (int v = 0; v < nv; v++) {
            const ptrdiff_t at = r * start->ld + v / 2 * start->panel + v % 2 * VLEN;
            acc[r][v] = start->p == NULL
                            ? v_zero()
                            : load_row(start->p + at, v < nv - 1 ? VLEN : n);
        }
    }

    const real *a = A + k0 / many * step + k0 % many * lda;
    const real *b = B + (trans ? k0 / many * b_step + k0 % many * PANEL : k0 * PANEL);
    ptrdiff_t end = k0 - k0 % many;
    for (ptrdiff_t k = k0; k < k1;) {
        end = k1 - end < many ? k1 : end + many;
        for (; k < end; k++) {
            vreal bv[TILE_VECTORS];
            if (!trans || FETCH_COLUMNS)
                PREFETCH((trans ? a : b) + ahead);
            UNROLL
            for (int v = 0; v < nv; v++)
                bv[v] = v_load(b + v / 2 * b_panel + v % 2 * VLEN);
            UNROLL
            for (int r = 0; r < m; r++) {
                vreal ar = v_set1(trans ? a[r] : a[r * PANEL]);
                UNROLL
                for (int v = 0; v < nv; v++)
                    acc[r][v] = v_fma(ar, bv[v], acc[r][v]);
            }
            a += lda;
            b += PANEL;
        }
        a += step - many * lda;
        if (trans)
            b += b_step - many * PANEL;
    }

    UNROLL
    for (int r = 0; r < m; r++) {
        UNROLL
        for (int v = 0; v < nv; v++) {
            real *o = out->p + r * out->ld + v / 2 * out->panel + v % 2 * VLEN;
            if (add)
                acc[r][v] = v_add(load_row(o, v < nv - 1 ? VLEN : n_out), acc[r][v]);
            store_row(o, acc[r][v], v < nv - 1 ? VLEN : n_out);
        }
    }
}

#define TILE(m, nv)                                                                    \
    static void NAME(tile_##m##_##nv)(const real *A, ptrdiff_t a_panel, const real *B, \
                                      ptrdiff_t b_panel, ptrdiff_t k0, ptrdiff_t k1,   \
                                      ptrdiff_t ahead, const view *start, ptrdiff_t n, \
                                      const view *out, ptrdiff_t n_out, int add)       \
    {                                                                                  \
        tile(m, nv, 0, A, 1, PANEL, a_panel, B, b_panel, 0, k0, k1, ahead, start, n,   \
             out, n_out, add);                                                         \
    }
#define TILE_COLS(m, nv)                                                               \
    static void NAME(tile_cols_##m##_##nv)(                                            \
        const real *A, ptrdiff_t lda, ptrdiff_t many, ptrdiff_t step, const real *B,   \
        ptrdiff_t b_step, ptrdiff_t k0, ptrdiff_t k1, ptrdiff_t ahead,                 \
        const view *out, ptrdiff_t n_out, int add)                                     \
    {                                                                                  \
        const view none = {NULL, 0, 0};                                                \
        tile(m, nv, 1, A, lda, many, step, B, 0, b_step, k0, k1, ahead, &none, 0, out, \
             n_out, add);                                                              \
    }
#define TILES(m)    \
    TILE(m, 1)      \
    TILE(m, 2)      \
    TILE_COLS(m, 1) \
    TILE_COLS(m, 2)
TILES(1)
TILES(2)
TILES(3)
TILES(4)
TILES(5)
TILES(6)
TILE(1, 4)
TILE(2, 4)
TILE(3, 4)
TILE(1, 8)
#if TILE_ROWS == 12
TILES(7)
TILES(8)
TILES(9)
TILES(10)
TILES(11)
TILES(12)
TILE(4, 4)
TILE(5, 4)
TILE(6, 4)
TILE(2, 8)
TILE(3, 8)
#endif
#undef TILE
#undef TILE_COLS
#undef TILES

/* By tile height, 1..TILE_ROWS, and width: 1, 2, 4 or 8 vectors; NULL where the sums
 * would not fit the registers. The wide ones serve few rows: FMA latency needs 8 sums.
 */
#define T(m, nv) NAME(tile_##m##_##nv)
#define FEW(m)   {T(m, 1), T(m, 2), T(m, 4), T(m, 8)}
#define SOME(m)  {T(m, 1), T(m, 2), T(m, 4), NULL}
#define MANY(m)  {T(m, 1), T(m, 2), NULL, NULL}
static tile_fn *const tile_rows_fns[TILE_ROWS + 1][4] = {
#if TILE_ROWS == 12
    {NULL},  FEW(1),  FEW(2),  FEW(3),   SOME(4),  SOME(5),  SOME(6),
    MANY(7), MANY(8), MANY(9), MANY(10), MANY(11), MANY(12),
#else
    {NULL}, FEW(1), SOME(2), SOME(3), MANY(4), MANY(5), MANY(6),
#endif
};
#undef T
#undef FEW
#undef SOME
#undef MANY

/* The same for a left operand read along its columns (gemm_outer). */
#define T(m) {NAME(tile_cols_##m##_1), NAME(tile_cols_##m##_2)}
static tile_cols_fn *const tile_cols_fns[TILE_ROWS + 1][2] = {
    {NULL}, T(1), T(2), T(3),  T(4),  T(5),  T(6),
#if TILE_ROWS == 12
    T(7),   T(8), T(9), T(10), T(11), T(12),
#endif
};
#undef T
