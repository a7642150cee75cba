/* A layer, and the two walks through time that bptt/_kernels.pyx makes on it: the same
 * functions, in C, for one type. Included by driver.c once per REAL_BITS. */
#define layer             NAME(layer)
#define chunk             NAME(chunk)
#define chunk_at          NAME(chunk_at)
#define watch             NAME(watch)
#define stopped           NAME(stopped)
#define meet              NAME(meet)
#define let_begin         NAME(let_begin)
#define end_step          NAME(end_step)
#define forward_products  NAME(forward_products)
#define forward_steps     NAME(forward_steps)
#define forward_loop      NAME(forward_loop)
#define backward_products NAME(backward_products)
#define backward_steps    NAME(backward_steps)
#define backward_loop     NAME(backward_loop)
#define new_reals         NAME(new_reals)
#define lay_out           NAME(lay_out)
#define clear_out         NAME(clear_out)
#define walk              NAME(walk)

typedef struct layer {
    ptrdiff_t T, B, I, H;
    real *x;                   /* (T, B, I), or NULL */
    ptrdiff_t *ids;            /* (T, B), where x is NULL */
    real *W;                   /* (I, H), element (i, h) at W[i * W_i + h * W_h] */
    real *V;                   /* (H, H), likewise */
    real *b;                   /* (H), or NULL */
    real *z;                   /* (T + 1, B, H) */
    real *dz;                  /* (T, B, H), or NULL */
    real *dz_last;             /* (B, H), or NULL; in place of dz[T-1] */
    real *dW, *dV;             /* (I, H), (H, H) */
    real *db;                  /* (H), or NULL */
    real *dz0;                 /* (B, H) */
    real *dx;                  /* (T, B, I), or NULL */
    int records;               /* whether e is measured: */
    double *norms;             /* (T, B) */
    int32_t *saturated, *dead; /* (T, B), (H) */
    ptrdiff_t W_i, W_h, V_i, V_h;
    const NAME(bptt_kernels) * k;
    bptt_cell cell;
    bptt_record record;
    bptt_plan plan;
    bptt_barrier barrier;
    ptrdiff_t chunk_panel, state_panel; /* strides of packed operands */
    ptrdiff_t stop; /* in this turn, as an interrupt does; 0: never */
    real *packed_V, *packed_W, *packed_x, *packed_z, *packed_dV, *packed_dW;
    real *packed_da[2], *packed_state[2];
    real *dead_now[MOST_THREADS];
} layer;

/* Exactly so many, that a sanitizer sees the first one too far; NaN to begin with. */
static real *new_reals(ptrdiff_t n)
{
    size_t bytes = (size_t)n * sizeof(real);
    real *p = malloc(bytes ? bytes : 1);
    if (!p)
        exit(2);
    memset(p, 255, bytes);
    return p;
}

static void lay_out(layer *l)
{
    const ptrdiff_t P = l->k->panel;
    const ptrdiff_t Hp = bptt_panels(l->H, P) * P, Ip = bptt_panels(l->I, P) * P;
    const ptrdiff_t R = (l->plan.steps < l->T ? l->plan.steps : l->T) * l->B;
    l->chunk_panel = (R | 1) * P;
    l->state_panel = (l->B | 1) * P;
    /* Of the last panel only what is needed. */
    const ptrdiff_t chunk_H = (Hp / P - 1) * l->chunk_panel + R * P;
    const ptrdiff_t chunk_I = (Ip / P - 1) * l->chunk_panel + R * P;
    const ptrdiff_t state_H = (Hp / P - 1) * l->state_panel + l->B * P;
    l->packed_V = new_reals(l->H * Hp);
    l->packed_W = new_reals(l->I * Hp > l->H * Ip ? l->I * Hp : l->H * Ip);
    l->packed_x = new_reals(chunk_I);
    l->packed_z = new_reals(chunk_H);
    l->packed_dV = new_reals(l->H * Hp);
    l->packed_dW = new_reals(l->I * Hp);
    for (int i = 0; i < 2; i++) {
        l->packed_state[i] = new_reals(state_H);
        l->packed_da[i] = new_reals(chunk_H);
    }
    l->record.stride = R;
    l->record.squares = new_reals(Hp / P * R);
    l->record.norms = malloc((size_t)(Hp / P * R) * sizeof(double) + 1);
    l->record.counts = malloc((size_t)(Hp / P * R) * sizeof(int32_t) + 1);
    if (!l->record.norms || !l->record.counts)
        exit(2);
    for (int i = 0; i < MOST_THREADS; i++) {
        l->dead_now[i] = new_reals(Hp);
        for (ptrdiff_t h = 0; h < Hp; h++)
            l->dead_now[i][h] = 0;
    }
    l->cell.B = l->B;
    l->cell.H = l->H;
    l->cell.V = l->packed_V;
    l->cell.z_row = l->cell.g_row = l->H;
    l->cell.z_step = l->cell.g_step = l->B * l->H;
}

static void clear_out(layer *l)
{
    real *all[] = {l->packed_V,        l->packed_W,      l->packed_x,
                   l->packed_z,        l->packed_dV,     l->packed_dW,
                   l->packed_da[0],    l->packed_da[1],  l->packed_state[0],
                   l->packed_state[1], l->record.squares};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(l->record.norms);
    free(l->record.counts);
    for (int i = 0; i < MOST_THREADS; i++)
        free(l->dead_now[i]);
}

/* Chunk c of time: steps [t0, t1). */
typedef struct chunk {
    ptrdiff_t t0, t1;
} chunk;

static chunk chunk_at(const layer *l, ptrdiff_t c)
{
    const ptrdiff_t t0 = c * l->plan.steps, t1 = t0 + l->plan.steps;
    return (chunk){t0, t1 < l->T ? t1 : l->T};
}

static void watch(layer *l, ptrdiff_t turn, int tid)
{
    if (tid == 0 && turn == l->stop)
        bptt_barrier_stop(&l->barrier, turn);
}

static void meet(layer *l, int tid, int n)
{
    if (n > 1)
        bptt_barrier_wait(&l->barrier, tid, n);
}

/* A step of a single row begins before the others have ended the last one. */
static void let_begin(layer *l, bptt_share *mine, int tid, int n)
{
    if (l->plan.split == BPTT_COLUMNS && l->B == 1 && n > 1) {
        mine->others = &l->barrier;
        mine->tid = tid;
        mine->n = n;
    }
}

static void end_step(layer *l, const bptt_share *mine, int tid, int n)
{
    if (mine->others)
        bptt_barrier_arrive(&l->barrier, tid);
    else if (l->plan.split == BPTT_COLUMNS)
        meet(l, tid, n);
}

/* 1. z[t] <- x[t] W + b */
static void forward_products(layer *l, chunk at, int tid, int n)
{
    const NAME(bptt_kernels) *k = l->k;
    const ptrdiff_t B = l->B, I = l->I, H = l->H, P = k->panel;
    const ptrdiff_t R = (at.t1 - at.t0) * B, panel = l->chunk_panel;
    const ptrdiff_t r0 = bptt_split(R, tid, n), r1 = bptt_split(R, tid + 1, n);
    real *a = l->z + (at.t0 + 1) * B * H;
    if (l->x) {
        k->pack(r0, r1, I, l->x + at.t0 * B * I, I, 1, l->packed_x, panel);
        meet(l, tid, n);
        const bptt_share mine = bptt_share_gemm(R, H, P, k->tile_rows, tid, n);
        k->gemm(&mine, H, I, l->packed_x, panel, l->packed_W, l->b, a, H);
    } else {
        k->gather(r0, r1, H, l->ids + at.t0 * B, l->W, l->W_i, l->W_h, l->b, a, H);
    }
    meet(l, tid, n);
}

/* 2. z[t] <- sigma(z[t] + z[t-1] V) */
static void forward_steps(layer *l, chunk at, int tid, int n)
{
    const NAME(bptt_kernels) *k = l->k;
    const ptrdiff_t B = l->B, H = l->H, P = k->panel;
    bptt_share mine = bptt_share_step(&l->plan, B, H, P, k->tile_rows, tid, n);
    let_begin(l, &mine, tid, n);
    if (B == 1 && n == 1 && k->walks(&l->cell)) {
        k->walk_forward(&l->cell, at.t1 - at.t0, l->z + (at.t0 + 1) * H);
        return;
    }
    for (ptrdiff_t t = at.t0 + 1; t <= at.t1; t++) {
        real *z = l->z + t * B * H;
        if (B == 1)
            k->step_forward(&l->cell, &mine, z - H, P, z, NULL, 0);
        else
            k->step_forward(&l->cell, &mine, l->packed_state[(t - 1) & 1],
                            l->state_panel, z, l->packed_state[t & 1], l->state_panel);
        end_step(l, &mine, tid, n);
    }
    if (mine.others)
        bptt_barrier_wait(&l->barrier, tid, n);
}

static void forward_loop(void *ctx, int tid, int n)
{
    layer *l = ctx;
    const NAME(bptt_kernels) *k = l->k;
    const ptrdiff_t B = l->B, I = l->I, H = l->H, P = k->panel;
    const ptrdiff_t chunks = l->plan.chunks;

    k->pack(bptt_split(H, tid, n), bptt_split(H, tid + 1, n), H, l->V, l->V_i, l->V_h,
            l->packed_V, H * P);
    if (l->x)
        k->pack(bptt_split(I, tid, n), bptt_split(I, tid + 1, n), H, l->W, l->W_i,
                l->W_h, l->packed_W, I * P);
    if (B > 1)
        k->pack(bptt_split(B, tid, n), bptt_split(B, tid + 1, n), H, l->z, H, 1,
                l->packed_state[0], l->state_panel);
    meet(l, tid, n);

    if (l->plan.split == BPTT_PIPELINE && n == 2) {
        forward_products(l, chunk_at(l, 0), tid, n);
        for (ptrdiff_t c = 0; c < chunks; c++) {
            watch(l, c + 1, tid);
            if (tid == 0)
                forward_steps(l, chunk_at(l, c), 0, 1);
            else if (c + 1 < chunks)
                forward_products(l, chunk_at(l, c + 1), 0, 1);
            meet(l, tid, n);
            if (bptt_barrier_stopped(&l->barrier, c + 1))
                return;
        }
        return;
    }
    for (ptrdiff_t c = 0; c < chunks; c++) {
        watch(l, c + 1, tid);
        forward_products(l, chunk_at(l, c), tid, n);
        if (bptt_barrier_stopped(&l->barrier, c + 1))
            return;
        forward_steps(l, chunk_at(l, c), tid, n);
    }
}

/* 2. forward was z[t] <- sigma(a[t]), a[t] = .. + z[t-1] V, so now
 *    da[t] <- (dz[t] + da[t+1] V^T) sigma'(z[t]) */
static void backward_steps(layer *l, chunk at, real *da, int tid, int n)
{
    const NAME(bptt_kernels) *k = l->k;
    const ptrdiff_t T = l->T, B = l->B, H = l->H, P = k->panel;
    bptt_share mine = bptt_share_step(&l->plan, B, H, P, k->tile_rows, tid, n);
    let_begin(l, &mine, tid, n);
    const int walks = B == 1 && n == 1 && k->walks(&l->cell);
    const int own = l->plan.split == BPTT_ROWS && n > 1;
    bptt_record record = l->record;
    record.dead = l->dead_now[tid];
    /* Measures stand step by step, or where nobody has rows of his own row by row. */
    const ptrdiff_t steps = at.t1 - at.t0;
    const int by_rows = !own && B > 1;
    record.apart = by_rows ? steps : 1;
    for (ptrdiff_t t = at.t1; t > at.t0; t--) {
        const ptrdiff_t r = (t - 1 - at.t0) * B;
        const real *dz = l->dz ? l->dz + (t - 1) * B * H : NULL;
        record.row = by_rows ? t - 1 - at.t0 : r;
        if (t == T && l->dz_last)
            dz = l->dz_last;
        if (walks && t < T) {
            k->walk_backward(&l->cell, t - at.t0, l->packed_state[(t + 1) & 1], dz,
                             l->z + t * H, l->packed_state[(at.t0 + 1) & 1], da + r * P,
                             l->chunk_panel, l->records ? &record : NULL);
            break;
        }
        k->step_backward(&l->cell, &mine, t == T ? NULL : l->packed_state[(t + 1) & 1],
                         l->state_panel, dz, l->z + t * B * H, l->packed_state[t & 1],
                         l->state_panel, da + r * P, l->chunk_panel,
                         l->records ? &record : NULL);
        record.row += mine.r0;
        if (l->records && own)
            k->flow_record(&record, H, 1, mine.r1 - mine.r0, 0, 0, 1,
                           l->norms + (t - 1) * B + mine.r0,
                           l->saturated + (t - 1) * B + mine.r0);
        end_step(l, &mine, tid, n);
    }
    if (mine.others)
        bptt_barrier_wait(&l->barrier, tid, n);
    if (l->records && !own) {
        const ptrdiff_t s0 = bptt_split(steps, tid, n),
                        s1 = bptt_split(steps, tid + 1, n);
        record.row = s0;
        k->flow_record(&record, H, by_rows ? B : 1, s1 - s0, steps, 1, B,
                       l->norms + (at.t0 + s0) * B, l->saturated + (at.t0 + s0) * B);
    }
}

/* 2. and dV <- dV + z[t-1]^T da[t]. 1. forward was x[t] W + b, so now
 *    dW <- dW + x[t]^T da[t], db <- db + da[t], dx[t] <- da[t] W^T */
static void backward_products(layer *l, chunk at, const real *da, int tid, int n)
{
    const NAME(bptt_kernels) *k = l->k;
    const ptrdiff_t B = l->B, I = l->I, H = l->H, P = k->panel;
    const ptrdiff_t R = (at.t1 - at.t0) * B, panel = l->chunk_panel;
    const ptrdiff_t r0 = bptt_split(R, tid, n), r1 = bptt_split(R, tid + 1, n);
    const ptrdiff_t panels = bptt_panels(H, P);
    const ptrdiff_t p0 = bptt_split(panels, tid, n),
                    p1 = bptt_split(panels, tid + 1, n);
    const int direct = l->plan.chunks == 1, add = at.t1 < l->T;
    ptrdiff_t units = k->outer_tiles(H) * panels;

    /* Rows that lie evenly need not be packed. */
    const int even = n % 2;
    /* Nor does it matter in what lots they come. */
    const ptrdiff_t lot = n < 3 ? R : n == 3 ? B : 1;
    const real *z = even ? l->z + at.t0 * B * H : l->packed_z;
    const real *x = even && l->x ? l->x + at.t0 * B * I : l->packed_x;
    if (!even) {
        k->pack(r0, r1, H, l->z + at.t0 * B * H, H, 1, l->packed_z, panel);
        if (l->x)
            k->pack(r0, r1, I, l->x + at.t0 * B * I, I, 1, l->packed_x, panel);
    }
    meet(l, tid, n);
    k->gemm_outer(bptt_split(units, tid, n), bptt_split(units, tid + 1, n), H, H, R, z,
                  even ? H : P, lot, lot * (even ? H : P), even ? P : panel, da,
                  lot * P, panel, direct ? l->dV : l->packed_dV, direct ? H : P,
                  direct ? P : H * P, add);
    if (l->x) {
        units = k->outer_tiles(I) * panels;
        k->gemm_outer(bptt_split(units, tid, n), bptt_split(units, tid + 1, n), I, H, R,
                      x, even ? I : P, lot, lot * (even ? I : P), even ? P : panel, da,
                      lot * P, panel, direct ? l->dW : l->packed_dW, direct ? H : P,
                      direct ? P : I * P, add);
    } else {
        k->scatter(p0, p1, H, R, l->ids + at.t0 * B, da, panel, l->dW);
    }
    if (l->db)
        k->sum_rows(p0, p1, H, R, da, lot, lot * P, panel, l->db);
    if (l->dx) {
        const bptt_share mine = bptt_share_gemm(R, I, P, k->tile_rows, tid, n);
        k->gemm(&mine, I, H, da, panel, l->packed_W, NULL, l->dx + at.t0 * B * I, I);
    }
    meet(l, tid, n);
}

static void backward_loop(void *ctx, int tid, int n)
{
    layer *l = ctx;
    const NAME(bptt_kernels) *k = l->k;
    const ptrdiff_t B = l->B, I = l->I, H = l->H, P = k->panel;
    const ptrdiff_t chunks = l->plan.chunks;

    k->pack(bptt_split(H, tid, n), bptt_split(H, tid + 1, n), H, l->V, l->V_h, l->V_i,
            l->packed_V, H * P);
    if (l->dx)
        k->pack(bptt_split(H, tid, n), bptt_split(H, tid + 1, n), I, l->W, l->W_h,
                l->W_i, l->packed_W, H * P);
    if (tid == 0 && l->db)
        memset(l->db, 0, (size_t)H * sizeof(real));
    if (tid == 0 && !l->x)
        memset(l->dW, 0, (size_t)(I * H) * sizeof(real));
    meet(l, tid, n);

    if (l->plan.split == BPTT_PIPELINE && n == 2) {
        for (ptrdiff_t c = chunks - 1; c >= 0; c--) {
            watch(l, c + 1, tid);
            if (tid == 0)
                backward_steps(l, chunk_at(l, c), l->packed_da[c & 1], 0, 1);
            else if (c + 1 < chunks)
                backward_products(l, chunk_at(l, c + 1), l->packed_da[(c + 1) & 1], 0,
                                  1);
            meet(l, tid, n);
            if (bptt_barrier_stopped(&l->barrier, c + 1))
                return;
        }
        backward_products(l, chunk_at(l, 0), l->packed_da[0], tid, n);
    } else {
        for (ptrdiff_t c = chunks - 1; c >= 0; c--) {
            watch(l, c + 1, tid);
            backward_steps(l, chunk_at(l, c), l->packed_da[0], tid, n);
            meet(l, tid, n);
            if (bptt_barrier_stopped(&l->barrier, c + 1))
                return;
            backward_products(l, chunk_at(l, c), l->packed_da[0], tid, n);
        }
    }

    if (chunks > 1) {
        k->unpack(bptt_split(H, tid, n), bptt_split(H, tid + 1, n), H, l->packed_dV,
                  H * P, l->dV);
        if (l->x)
            k->unpack(bptt_split(I, tid, n), bptt_split(I, tid + 1, n), H, l->packed_dW,
                      I * P, l->dW);
    }
    const bptt_share mine = bptt_share_gemm(B, H, P, k->tile_rows, tid, n);
    k->state_backward(&l->cell, &mine, l->packed_state[1], l->state_panel, l->dz0);
}

/* A training step. */
static void walk(layer *l)
{
    bptt_body *const loops[] = {forward_loop, backward_loop};
    lay_out(l);
    for (int i = 0; i < 2; i++) {
        memset(&l->barrier, 0, sizeof l->barrier);
        bptt_pool_run(loops[i], l, l->plan.threads, HUGE_VAL, HUGE_VAL);
    }
    for (ptrdiff_t h = 0; l->records && h < l->H; h++) {
        l->dead[h] = 0;
        for (int i = 0; i < MOST_THREADS; i++)
            l->dead[h] += (int32_t)l->dead_now[i][h];
    }
    clear_out(l);
}
