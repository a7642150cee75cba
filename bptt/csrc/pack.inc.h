/* Packing, and the rows that token ids select. The layout is drawn in tile.inc.h. */
#define pack    NAME(pack)
#define unpack  NAME(unpack)
#define gather  NAME(gather)
#define scatter NAME(scatter)

/* dst <- rows [r0, r1) of src (., N), element (r, c) at src[r * rs + c * cs]; the last
 * vector of a row is filled up with zeros. */
static void pack(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t N, const real *src, ptrdiff_t rs,
                 ptrdiff_t cs, real *dst, ptrdiff_t panel)
{
    for (ptrdiff_t c = 0; c < N; c += VLEN) {
        ptrdiff_t n = N - c < VLEN ? N - c : VLEN;
        const real *s = src + c * cs;
        real *d = dst + c / PANEL * panel + c % PANEL;
        if (cs == 1) {
            for (ptrdiff_t r = r0; r < r1; r++)
                v_store(d + r * PANEL, load_row(s + r * rs, n));
            continue;
        }
        for (ptrdiff_t r = r0; r < r1; r++) {
            for (ptrdiff_t i = 0; i < n; i++)
                d[r * PANEL + i] = s[r * rs + i * cs];
            for (ptrdiff_t i = n; i < VLEN; i++)
                d[r * PANEL + i] = 0;
        }
    }
}

/* Rows [r0, r1) of dst (., N), row-major, <- the packed src. */
static void unpack(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t N, const real *src,
                   ptrdiff_t panel, real *dst)
{
    for (ptrdiff_t r = r0; r < r1; r++) {
        for (ptrdiff_t c = 0; c < N; c += VLEN) {
            const real *s = src + c / PANEL * panel + r * PANEL + c % PANEL;
            store_row(dst + r * N + c, v_load(s), N - c < VLEN ? N - c : VLEN);
        }
    }
}

/* a[r] = W[ids[r]] + b: the product of a one-hot row with W. Element (i, h) of W at
 * W[i * rs + h * cs]. */
static void gather(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t H, const ptrdiff_t *ids,
                   const real *W, ptrdiff_t rs, ptrdiff_t cs, const real *bias, real *a)
{
    for (ptrdiff_t r = r0; r < r1; r++) {
        const real *w = W + ids[r] * rs;
        for (ptrdiff_t h = 0; h < H; h++)
            a[r * H + h] = bias ? w[h * cs] + bias[h] : w[h * cs];
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
