/* Packing, and the rows that token ids select. The layout is drawn in tile.inc.h. */
#define pack        NAME(pack)
#define pack_vector NAME(pack_vector)
#define unpack      NAME(unpack)
#define gather      NAME(gather)
#define scatter     NAME(scatter)

/* Rows that are copied together: what one panel has of them are neighbours, and what
 * the source has are as many streams. */
#define PACK_ROWS 16

/* m rows of n <= VLEN columns, the rest of a vector filled up with zeros. */
INLINE void pack_vector(ptrdiff_t m, ptrdiff_t n, const real *s, ptrdiff_t rs,
                        ptrdiff_t cs, real *d)
{
    for (ptrdiff_t r = 0; r < m; r++, s += rs, d += PANEL) {
        if (cs == 1) {
            v_store(d, load_row(s, n));
            continue;
        }
        real row[VLEN] = {0};
        for (ptrdiff_t i = 0; i < n; i++)
            row[i] = s[i * cs];
        v_store(d, v_load(row));
    }
}

/* dst <- rows [r0, r1) of src (., N), element (r, c) at src[r * rs + c * cs]; the last
 * vector of a row is filled up with zeros. */
static void pack(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t N, const real *src, ptrdiff_t rs,
                 ptrdiff_t cs, real *dst, ptrdiff_t panel)
{
    const int by_rows = cs == 1;
    ptrdiff_t rows = (r1 - r0 + PACK_ROWS - 1) / PACK_ROWS;
    ptrdiff_t vectors = (N + VLEN - 1) / VLEN;
    ptrdiff_t outer = by_rows ? rows : vectors, inner = by_rows ? vectors : rows;
    for (ptrdiff_t i = 0; i < outer; i++) {
        for (ptrdiff_t j = 0; j < inner; j++) {
            ptrdiff_t r = r0 + (by_rows ? i : j) * PACK_ROWS;
            ptrdiff_t c = (by_rows ? j : i) * VLEN;
            ptrdiff_t m = r1 - r < PACK_ROWS ? r1 - r : PACK_ROWS;
            const real *s = src + r * rs + c * cs;
            real *d = dst + c / PANEL * panel + r * PANEL + c % PANEL;
            if (N - c >= VLEN)
                pack_vector(m, VLEN, s, rs, cs, d);
            else
                pack_vector(m, N - c, s, rs, cs, d);
        }
    }
}

/* Rows [r0, r1) of row-major dst (., N) <- the packed src. */
static void unpack(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t N, const real *src,
                   ptrdiff_t panel, real *dst)
{
    for (ptrdiff_t first = r0; first < r1; first += PACK_ROWS) {
        ptrdiff_t end = r1 - first < PACK_ROWS ? r1 : first + PACK_ROWS;
        for (ptrdiff_t c = 0; c < N; c += VLEN) {
            const real *s = src + c / PANEL * panel + c % PANEL;
            ptrdiff_t n = N - c < VLEN ? N - c : VLEN;
            for (ptrdiff_t r = first; r < end; r++)
                store_row(dst + r * N + c, v_load(s + r * PANEL), n);
        }
    }
}

/* a[r] = W[ids[r]] + b: the product of a one-hot row with W. Element (i, h) of W at
 * W[i * rs + h * cs]; rows of a are lda apart. */
static void gather(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t H, const ptrdiff_t *ids,
                   const real *W, ptrdiff_t rs, ptrdiff_t cs, const real *bias, real *a,
                   ptrdiff_t lda)
{
    for (ptrdiff_t r = r0; r < r1; r++) {
        const real *w = W + ids[r] * rs;
        for (ptrdiff_t h = 0; h < H; h++)
            a[r * lda + h] = bias ? w[h * cs] + bias[h] : w[h * cs];
    }
}

/* dW[ids[r]] += da[r], r ascending, in the columns of panels [p0, p1). */
static void scatter(ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t H, ptrdiff_t R,
                    const ptrdiff_t *ids, const real *da, ptrdiff_t da_panel, real *dW)
{
    for (ptrdiff_t r = 0; r < R; r++) {
        for (ptrdiff_t c = p0 * PANEL; c < H && c < p1 * PANEL; c += VLEN) {
            ptrdiff_t n = H - c < VLEN ? H - c : VLEN;
            const real *d = da + c / PANEL * da_panel + r * PANEL + c % PANEL;
            real *w = dW + ids[r] * H + c;
            store_row(w, v_add(load_row(w, n), v_load(d)), n);
        }
    }
}
