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
 * A(r, k) lies in the panels of a packed operand or, if trans, at A[k * a_panel + r].
 * m, nv and trans are compile-time constants. Only the last vector may be partial: of
 * it n columns of start exist and n_out columns of out are written, 1 <= n, n_out <=
 * VLEN. start may be out; A and B may not overlap it. What lies `ahead` reals on in B
 * (in A, if trans, where FETCH_COLUMNS says that the machine does not see that stream
 * by itself) is fetched into L2 on the way, a line for each k: it may be past the end.
 */
#define PANEL         (2 * VLEN)
#define view          NAME(view)
#define tile          NAME(tile)
#define tile_fn       NAME(tile_fn)
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
                 ptrdiff_t a_panel, const real *B, ptrdiff_t b_panel, ptrdiff_t k0,
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

    for (ptrdiff_t k = k0; k < k1;) {
        ptrdiff_t end = (k / PANEL + 1) * PANEL;
        const real *a = A + (trans ? k * a_panel : k / PANEL * a_panel + k % PANEL);
        const real *b = B + k * PANEL;
        end = trans || k1 < end ? k1 : end;
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
            a += trans ? a_panel : 1;
            b += PANEL;
        }
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

#define TILE(m, nv, trans)                                                           \
    static void NAME(tile_##m##_##nv##_##trans)(                                     \
        const real *A, ptrdiff_t a_panel, const real *B, ptrdiff_t b_panel,          \
        ptrdiff_t k0, ptrdiff_t k1, ptrdiff_t ahead, const view *start, ptrdiff_t n, \
        const view *out, ptrdiff_t n_out, int add)                                   \
    {                                                                                \
        tile(m, nv, trans, A, a_panel, B, b_panel, k0, k1, ahead, start, n, out,     \
             n_out, add);                                                            \
    }
#define TILES(m)  \
    TILE(m, 1, 0) \
    TILE(m, 2, 0) \
    TILE(m, 1, 1) \
    TILE(m, 2, 1)
TILES(1)
TILES(2)
TILES(3)
TILES(4)
TILES(5)
TILES(6)
TILE(1, 4, 0)
TILE(2, 4, 0)
TILE(3, 4, 0)
TILE(1, 8, 0)
#if TILE_ROWS == 12
TILES(7)
TILES(8)
TILES(9)
TILES(10)
TILES(11)
TILES(12)
TILE(4, 4, 0)
TILE(5, 4, 0)
TILE(6, 4, 0)
TILE(2, 8, 0)
TILE(3, 8, 0)
#endif
#undef TILE
#undef TILES

/* By tile height, 1..TILE_ROWS, and width: 1, 2, 4 or 8 vectors; NULL where the sums
 * would not fit the registers. The wide ones serve few rows: FMA latency needs 8 sums.
 */
#define T(m, nv) NAME(tile_##m##_##nv##_0)
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
#define T(m) {NAME(tile_##m##_1_1), NAME(tile_##m##_2_1)}
static tile_fn *const tile_cols_fns[TILE_ROWS + 1][2] = {
    {NULL}, T(1), T(2), T(3),  T(4),  T(5),  T(6),
#if TILE_ROWS == 12
    T(7),   T(8), T(9), T(10), T(11), T(12),
#endif
};
#undef T
