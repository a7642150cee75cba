/* Products of packed operands, from the tile. The contracts are in README.md.
 *
 * Order of every sum: k ascending in runs of `run` terms; the first run starts from
 * what is given (bias, a[t], g[t]), each later one from zero and is then added. A run
 * depends on the length of the sum alone, never on the tile, B or the threads.
 */
/* Most terms of a run: 48 KiB of a panel of AVX-512. Shorter ones load and store the
 * sums more often. */
#define GEMM_RUN        (1536 / (REAL_BITS / 8))
#define even_run        NAME(even_run)
#define step_run        NAME(step_run)
#define product         NAME(product)
#define epilogue_fn     NAME(epilogue_fn)
#define rows_times      NAME(rows_times)
#define tiles_of_panel  NAME(tiles_of_panel)
#define gemm            NAME(gemm)
#define gemm_outer      NAME(gemm_outer)
#define row_times       NAME(row_times)
#define row_times_early NAME(row_times_early)
#define can_begin       NAME(can_begin)
#define group_times     NAME(group_times)
#define prefetch_rows   NAME(prefetch_rows)
#define outer_tiles     NAME(outer_tiles)
#define outer_tile      NAME(outer_tile)
#define outer_tile_at   NAME(outer_tile_at)
#define sum_lot         NAME(sum_lot)
#define sum_rows        NAME(sum_rows)

/* Terms in each of the fewest runs, of whole panels, that a sum of K is cut into. */
INLINE ptrdiff_t even_run(ptrdiff_t K, ptrdiff_t runs)
{
    ptrdiff_t fewest = (K + GEMM_RUN - 1) / GEMM_RUN;
    runs = runs < fewest ? fewest : runs;
    return bptt_panels((K + runs - 1) / runs, PANEL) * PANEL;
}

/* Terms in a run of the recurrent sum, from H alone. A single row needs some 8 sums at
 * once to hide the latency of FMA, so a narrow layer cuts its sum into more runs; a
 * wider one has two at least, of whole panels, as two threads share it. */
INLINE ptrdiff_t step_run(ptrdiff_t H)
{
    if (H > ROW_VECTORS * VLEN)
        return even_run(H, 2);
    ptrdiff_t runs = H <= 2 * VLEN ? 4 : 2;
    return (H + runs - 1) / runs;
}

/* Vectors of a row whose sums may wait for the others. */
#define EARLY_VECTORS 64

/* What is done to a finished tile: rows m, columns n from column c of row r. */
typedef void epilogue_fn(const void *job, ptrdiff_t r, ptrdiff_t c, ptrdiff_t m,
                         ptrdiff_t n);

/* out = start + A B, then the epilogue. A (R, K) and B (K, N) packed. */
typedef struct product {
    ptrdiff_t N, K, run;
    const real *A;
    ptrdiff_t a_panel;
    const real *B;
    view start, out;
    int out_full; /* out has room for whole vectors */
    view soon[2]; /* what is touched when a tile is finished */
    epilogue_fn *epilogue;
    const void *job;
} product;

INLINE view NAME(view_at)(view a, ptrdiff_t r, ptrdiff_t c)
{
    if (a.p)
        a.p += r * a.ld + c / PANEL * a.panel;
    return a;
}

/* Rows that are worked on together: as many as keep a left operand (rows, K) in half
 * of the L2 that the ISA mostly comes with. */
#define GROUP_BYTES ((ptrdiff_t)VBYTES << 13)

/* Tiles i0 <= i < i1 of the `tiles` that rows [r0, r1) are cut into, all at the nv
 * vectors from column c, for one run of k. The run of a panel of B serves all rows from
 * L1, while that of the next panel and what the next tile starts from are on their way.
 */
INLINE void tiles_of_panel(const product *x, ptrdiff_t r0, ptrdiff_t r1,
                           ptrdiff_t tiles, ptrdiff_t i0, ptrdiff_t i1, ptrdiff_t c,
                           int nv, ptrdiff_t k, ptrdiff_t k1)
{
    int width = nv == 8 ? 3 : nv / 2;
    ptrdiff_t n = x->N - c < nv * VLEN ? x->N - c : nv * VLEN;
    ptrdiff_t last = n - (nv - 1) * VLEN;
    ptrdiff_t b_panel = x->K * PANEL;
    ptrdiff_t first = r0 + bptt_split(r1 - r0, i0, tiles);
    for (ptrdiff_t i = i0; i < i1; i++) {
        ptrdiff_t r = r0 + bptt_split(r1 - r0, i, tiles);
        ptrdiff_t m = r0 + bptt_split(r1 - r0, i + 1, tiles) - r;
        ptrdiff_t ahead = i < i0 + 2 ? b_panel + (i - i0) * VLEN : 0;
        view start = {NULL, 0, 0};
        view out = NAME(view_at)(x->out, r, c);
        if (k == 0) {
            start = NAME(view_at)(x->start, r, c);
            prefetch_tile(NAME(view_at)(x->soon[0], r, c), m);
            prefetch_tile(NAME(view_at)(x->soon[1], r, c), m);
            if (i + 1 < i1)
                prefetch_tile(NAME(view_at)(x->start, r + m, c), m);
            else if (x->N - c > nv * VLEN)
                prefetch_tile(NAME(view_at)(x->start, first, c + nv * VLEN), m);
        }
        tile_rows_fns[m][width](x->A + r * PANEL, x->a_panel,
                                x->B + c / PANEL * b_panel, b_panel, k, k1, ahead,
                                &start, last, &out, x->out_full ? VLEN : last, k > 0);
        if (k1 == x->K && x->epilogue)
            x->epilogue(x->job, r, c, m, n);
    }
}

/* A row is computed in as few groups of vectors as there can be, whole panels but for
 * the last one: returns how many vectors of `columns` columns make a group. */
INLINE ptrdiff_t NAME(row_width)(ptrdiff_t columns)
{
    ptrdiff_t vectors = (columns + VLEN - 1) / VLEN;
    ptrdiff_t groups = (vectors + ROW_VECTORS - 1) / ROW_VECTORS;
    return (vectors + 2 * groups - 1) / (2 * groups) * 2;
}

/* Whether two threads share a step of one row so that each can begin with the run of k
 * whose terms it has made itself, and has sums enough to hide the latency of FMA. */
INLINE int can_begin(const product *x, const bptt_share *s)
{
    ptrdiff_t vectors = (s->u1 - s->u0) * 2;
    return s->n == 2 && x->K == x->N && vectors >= ROW_VECTORS / 2 &&
           vectors <= EARLY_VECTORS && (s->u0 == 0 ? s->u1 : s->u0) * PANEL == x->run &&
           2 * x->run >= x->K;
}

/* One row of a step, in columns [c0, end) as in k: own terms first, while the others
 * are on their way. Of the two runs, which are added in either order, the first one
 * starts from `start`. */
static void row_times_early(const product *x, ptrdiff_t c0, ptrdiff_t end,
                            const bptt_share *s)
{
    vreal early[EARLY_VECTORS];
    const ptrdiff_t width = NAME(row_width)(end - c0), b_panel = x->K * PANEL;
    for (int late = 0; late < 2; late++) {
        const ptrdiff_t k0 = !late ? c0 : c0 == 0 ? end : 0;
        const ptrdiff_t k1 = !late ? end : c0 == 0 ? x->K : c0;
        if (late)
            bptt_barrier_await(s->others, s->tid, s->n);
        for (ptrdiff_t c = c0; c < end; c += width * VLEN) {
            ptrdiff_t nv = (end - c + VLEN - 1) / VLEN;
            nv = nv < width ? nv : width;
            ptrdiff_t n = end - c - (nv - 1) * VLEN;
            n = n < VLEN ? n : VLEN;
            vreal *sum = early + (c - c0) / VLEN;
            row_part_fns[nv](x->A, x->B + c * x->K, b_panel, k0, k1,
                             k0 == 0 && x->start.p ? x->start.p + c : NULL,
                             late ? sum : NULL, sum, n);
            real *out = x->out.p + c / PANEL * x->out.panel;
            for (ptrdiff_t v = 0; late && v < nv; v++)
                store_row(out + v / 2 * x->out.panel + v % 2 * VLEN, sum[v],
                          v < nv - 1 || x->out_full ? VLEN : n);
        }
    }
}

/* One row, the panels of the share. */
static void row_times(const product *x, const bptt_share *s)
{
    ptrdiff_t p0 = s->u0, end = s->u1 * PANEL < x->N ? s->u1 * PANEL : x->N;
    if (s->others && can_begin(x, s)) {
        row_times_early(x, p0 * PANEL, end, s);
        if (x->epilogue)
            x->epilogue(x->job, 0, p0 * PANEL, 1, end - p0 * PANEL);
        return;
    }
    if (s->others)
        bptt_barrier_await(s->others, s->tid, s->n);
    if (end <= p0 * PANEL)
        return;
    ptrdiff_t width = NAME(row_width)(end - p0 * PANEL);
    for (ptrdiff_t c = p0 * PANEL; c < end; c += width * VLEN) {
        ptrdiff_t nv = (end - c + VLEN - 1) / VLEN;
        nv = nv < width ? nv : width;
        ptrdiff_t n = end - c - (nv - 1) * VLEN;
        n = n < VLEN ? n : VLEN;
        row_fns[nv](x->K, x->run, x->A, x->a_panel, x->B + c * x->K,
                    x->start.p ? x->start.p + c : NULL,
                    x->out.p + c / PANEL * x->out.panel, x->out.panel, n,
                    x->out_full ? VLEN : n);
    }
    if (x->epilogue)
        x->epilogue(x->job, 0, p0 * PANEL, 1, end - p0 * PANEL);
}

/* Fetch the rows of A of a first tile, for another core may just have written them;
 * each tile fetches those of the next. */
INLINE void prefetch_rows(const product *x, ptrdiff_t r)
{
    for (ptrdiff_t k = 0; k < x->K; k += PANEL)
        for (ptrdiff_t i = 0; i < TILE_ROWS * PANEL; i += VLEN)
            PREFETCH(x->A + k / PANEL * x->a_panel + r * PANEL + i);
}

/* Tiles g0 <= i < g1 of `tiles`, of which those are computed whose number, counted
 * panel by panel, is in [u0, u1). When one row tile is all there is, neighbouring
 * panels are taken together as far as the registers go. */
static void group_times(const product *x, ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t tiles,
                        ptrdiff_t g0, ptrdiff_t g1, ptrdiff_t u0, ptrdiff_t u1)
{
    ptrdiff_t group = g1 - g0;
    if (u0 < u1)
        prefetch_rows(x, r0 + bptt_split(r1 - r0, g0 + u0 % group, tiles));
    ptrdiff_t k = 0;
    do {
        ptrdiff_t k1 = x->K - k < x->run ? x->K : k + x->run;
        for (ptrdiff_t u = u0; u < u1;) {
            ptrdiff_t c = u / group * PANEL;
            ptrdiff_t vectors = (x->N - c + VLEN - 1) / VLEN;
            ptrdiff_t i = u % group;
            ptrdiff_t n = group - i < u1 - u ? group - i : u1 - u;
            int nv = vectors > 1 ? 2 : 1;
            if (tiles == 1) {
                vectors = vectors < 2 * (u1 - u) ? vectors : 2 * (u1 - u);
                if (vectors >= 8 && tile_rows_fns[r1 - r0][3])
                    nv = 8;
                else if (vectors >= 4 && tile_rows_fns[r1 - r0][2])
                    nv = 4;
            }
            tiles_of_panel(x, r0, r1, tiles, g0 + i, g0 + i + n, c, nv, k, k1);
            u += nv > 2 ? nv / 2 : n;
        }
        k = k1;
    } while (k < x->K);
}

/* The share's tiles, a group of rows after the other. */
static void rows_times(const product *x, const bptt_share *s)
{
    ptrdiff_t tiles = bptt_row_tiles(s->r1 - s->r0, TILE_ROWS);
    ptrdiff_t panels = bptt_panels(x->N, PANEL);
    ptrdiff_t most =
        GROUP_BYTES / (TILE_ROWS * (x->K + 1) * (ptrdiff_t)sizeof(real)) + 1;
    if (s->r0 == 0 && s->r1 == 1) {
        row_times(x, s);
        return;
    }
    if (s->others)
        bptt_barrier_await(s->others, s->tid, s->n);
    for (ptrdiff_t g = 0, u = 0; g < tiles; g += most) {
        ptrdiff_t g1 = tiles - g < most ? tiles : g + most;
        ptrdiff_t next = u + (g1 - g) * panels;
        ptrdiff_t u0 = s->u0 > u ? s->u0 - u : 0;
        ptrdiff_t u1 = (s->u1 < next ? s->u1 : next) - u;
        group_times(x, s->r0, s->r1, tiles, g, g1, u0, u1);
        u = next;
    }
}

static void gemm(const bptt_share *share, ptrdiff_t N, ptrdiff_t K, const real *A,
                 ptrdiff_t a_panel, const real *B, const real *bias, real *C,
                 ptrdiff_t ldc)
{
    product x = {N,
                 K,
                 even_run(K, 1),
                 A,
                 a_panel,
                 B,
                 {(real *)(uintptr_t)bias, 0, PANEL},
                 {C, ldc, PANEL},
                 0,
                 {{C, ldc, PANEL}, {NULL, 0, 0}},
                 NULL,
                 NULL};
    rows_times(&x, share);
}

/* Row tiles of gemm_outer: M is cut panel by panel, for A is read along its columns. */
static ptrdiff_t outer_tiles(ptrdiff_t M)
{
    return M / PANEL * bptt_row_tiles(PANEL, TILE_ROWS) +
           bptt_row_tiles(M % PANEL, TILE_ROWS);
}

typedef struct outer_tile {
    ptrdiff_t r, m; /* first row and height */
} outer_tile;

INLINE outer_tile outer_tile_at(ptrdiff_t M, ptrdiff_t i)
{
    ptrdiff_t parts = bptt_row_tiles(PANEL, TILE_ROWS);
    ptrdiff_t r = i / parts * PANEL;
    ptrdiff_t rows = M - r < PANEL ? M - r : PANEL;
    i %= parts;
    parts = bptt_row_tiles(rows, TILE_ROWS);
    ptrdiff_t r0 = bptt_split(rows, i, parts);
    return (outer_tile){r + r0, bptt_split(rows, i + 1, parts) - r0};
}

/* Panel of B by panel of B, in each run by run: the run of B stays in L1, the column of
 * C in L2, A streams by. */
static void gemm_outer(ptrdiff_t u0, ptrdiff_t u1, ptrdiff_t M, ptrdiff_t N,
                       ptrdiff_t R, const real *A, ptrdiff_t lda, ptrdiff_t many,
                       ptrdiff_t step, ptrdiff_t a_panel, const real *B,
                       ptrdiff_t b_step, ptrdiff_t b_panel, real *C, ptrdiff_t ldc,
                       ptrdiff_t c_panel, int add)
{
    ptrdiff_t tiles = outer_tiles(M), run = even_run(R, 1);
    ptrdiff_t i1;
    for (ptrdiff_t u = u0; u < u1; u += i1 - u % tiles) {
        ptrdiff_t p = u / tiles;
        i1 = tiles - u % tiles < u1 - u ? tiles : u % tiles + u1 - u;
        int nv = N - p * PANEL > VLEN ? 2 : 1;
        ptrdiff_t last = N - p * PANEL - (nv - 1) * VLEN;
        last = last < VLEN ? last : VLEN;
        ptrdiff_t k = 0;
        do {
            ptrdiff_t k1 = R - k < run ? R : k + run;
            for (ptrdiff_t i = u % tiles; i < i1; i++) {
                outer_tile at = outer_tile_at(M, i);
                view out = {C + at.r * ldc + p * c_panel, ldc, 0};
                /* two tiles of a panel of A fetch both halves of the next one's run */
                ptrdiff_t half = at.r % PANEL / at.m;
                ptrdiff_t ahead = half < 2 ? a_panel + half * VLEN - at.r % PANEL : 0;
                if (add || k > 0)
                    prefetch_tile(out, at.m);
                tile_cols_fns[at.m][nv - 1](A + at.r / PANEL * a_panel + at.r % PANEL,
                                            lda, many, step, B + p * b_panel, b_step, k,
                                            k1, ahead, &out, last, add || k > 0);
            }
            k = k1;
        } while (k < R);
    }
}

/* Add m rows of a vector, the first of which is row r. */
INLINE void sum_lot(ptrdiff_t m, const real *a, ptrdiff_t r, vreal *sums)
{
    vreal part[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        part[i] = sums[(r + i) % 4];
    ptrdiff_t k = 0;
    for (; k + 4 <= m; k += 4) {
        UNROLL
        for (int i = 0; i < 4; i++)
            part[i] = v_add(part[i], v_load(a + (k + i) * PANEL));
    }
    UNROLL
    for (int i = 0; i < 3; i++)
        if (k + i < m)
            part[i] = v_add(part[i], v_load(a + (k + i) * PANEL));
    UNROLL
    for (int i = 0; i < 4; i++)
        sums[(r + i) % 4] = part[i];
}

/* Four interleaved sums, row r in the one of r % 4, for the latency of an add is four
 * adds long. */
static void sum_rows(ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t N, ptrdiff_t R,
                     const real *A, ptrdiff_t many, ptrdiff_t step, ptrdiff_t a_panel,
                     real *sum)
{
    for (ptrdiff_t c = p0 * PANEL; c < N && c < p1 * PANEL; c += VLEN) {
        const real *a = A + c / PANEL * a_panel + c % PANEL;
        const ptrdiff_t n = N - c < VLEN ? N - c : VLEN;
        vreal sums[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        for (ptrdiff_t r = 0; r < R; r += many, a += step)
            sum_lot(R - r < many ? R - r : many, a, r, sums);
        vreal all = v_add(v_add(sums[0], sums[1]), v_add(sums[2], sums[3]));
        store_row(sum + c, v_add(load_row(sum + c, n), all), n);
    }
}
