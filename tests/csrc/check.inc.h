/* Layers of random numbers, what their results must be, and that they are. Included by
 * driver.c after layer.inc.h, once per REAL_BITS. */
#define random_reals NAME(random_reals)
#define new_layer    NAME(new_layer)
#define free_layer   NAME(free_layer)
#define x_of         NAME(x_of)
#define near_to      NAME(near_to)
#define check_z      NAME(check_z)
#define check_grads  NAME(check_grads)
#define fingerprint  NAME(fingerprint)
#define rewalk       NAME(rewalk)
#define check_alone  NAME(check_alone)
#define check_shape  NAME(check_shape)
#define EPS          NAME(EPS)
#define TINY         NAME(TINY)
#define EPS_f32      0x1p-23
#define EPS_f64      0x1p-52
/* What flushed denormals may add up to. */
#define TINY_f32 1e-32
#define TINY_f64 1e-300

static real *random_reals(ptrdiff_t n, double scale)
{
    real *p = new_reals(n);
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = (real)(scale * (2 * uniform() - 1));
    return p;
}

/* `variant` decides what is there and how it lies. The rows of |V| add up to about 1,
 * so that bounds neither die out nor explode in a long sequence. */
static layer new_layer(const NAME(bptt_kernels) * k, const shape *s, unsigned variant)
{
    const ptrdiff_t T = s->T, B = s->B, I = s->I, H = s->H;
    layer l = {.T = T, .B = B, .I = I, .H = H, .k = k};
    l.cell.activation = s->activation;
    l.cell.alpha = s->activation == BPTT_SCALED_TANH ? 1.1 : 0.3;
    l.cell.beta = s->activation == BPTT_SCALED_TANH ? 0.8 : 0.4;
    if (variant % 5 == 4) {
        l.ids = malloc((size_t)(T * B + 1) * sizeof *l.ids);
        for (ptrdiff_t r = 0; l.ids && r < T * B; r++)
            l.ids[r] = (ptrdiff_t)(uniform() * (double)I);
    } else {
        l.x = random_reals(T * B * I, 1);
        l.dx = variant % 7 == 6 ? NULL : new_reals(T * B * I);
    }
    l.W = random_reals(I * H, 2 / sqrt((double)I));
    l.V = random_reals(H * H, 2 / (double)H);
    l.b = variant % 4 == 3 ? NULL : random_reals(H, 1);
    l.z = random_reals((T + 1) * B * H, 0.5);
    l.dz = variant % 3 == 2 ? NULL : random_reals(T * B * H, 1);
    l.dz_last = variant % 3 == 0 ? NULL : random_reals(B * H, 1);
    l.dW = new_reals(I * H);
    l.dV = new_reals(H * H);
    l.db = l.b ? new_reals(H) : NULL;
    l.dz0 = new_reals(B * H);
    l.record.threshold = 0.35;
    l.norms = malloc((size_t)(T * B + 1) * sizeof *l.norms);
    l.saturated = malloc((size_t)(T * B + 1) * sizeof *l.saturated);
    l.dead = malloc((size_t)H * sizeof *l.dead);
    if (!l.norms || !l.saturated || !l.dead)
        exit(2);
    int transposed = variant & 1; /* as torch keeps them */
    l.W_i = transposed ? 1 : H;
    l.W_h = transposed ? I : 1;
    l.V_i = transposed ? 1 : H;
    l.V_h = transposed ? H : 1;
    return l;
}

static void free_layer(layer *l)
{
    real *all[] = {l->x,       l->W,  l->V,  l->b,  l->z,   l->dz,
                   l->dz_last, l->dW, l->dV, l->db, l->dz0, l->dx};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(l->ids), free(l->norms), free(l->saturated), free(l->dead);
}

/* x (row, i), of token ids the one-hot rows they stand for. */
static double x_of(const layer *l, ptrdiff_t row, ptrdiff_t i)
{
    return l->x ? (double)l->x[row * l->I + i] : l->ids[row] == i;
}

static int near_to(const char *what, double got, double low, double high)
{
    if (got >= low && got <= high)
        return 1;
    printf("%s: %.17g is not within %.17g .. %.17g\n", what, got, low, high);
    return 0;
}

/* z[t] from the z[t-1] that was computed. A sum of K products errs by (K + 2) eps times
 * that of their magnitudes, in double as well; every sigma rises with a. */
static int check_z(const layer *l)
{
    const ptrdiff_t B = l->B, I = l->I, H = l->H;
    const double alpha = (double)(real)l->cell.alpha, beta = (double)(real)l->cell.beta;
    for (ptrdiff_t r = 0; r < l->T * B; r++)
        for (ptrdiff_t h = 0; h < H; h++) {
            double a = l->b ? (double)l->b[h] : 0, size = fabs(a);
            for (ptrdiff_t i = 0; i < I; i++) {
                double term = x_of(l, r, i) * (double)l->W[i * l->W_i + h * l->W_h];
                a += term, size += fabs(term);
            }
            for (ptrdiff_t i = 0; i < H; i++) {
                double term =
                    (double)l->z[r * H + i] * (double)l->V[i * l->V_i + h * l->V_h];
                a += term, size += fabs(term);
            }
            double d = 2 * (double)(I + H + 4) * EPS * size;
            double low = sigma(l->cell.activation, a - d, alpha, beta);
            double high = sigma(l->cell.activation, a + d, alpha, beta);
            double s = 2 * ulps * EPS * fmax(fabs(low), fabs(high)) + TINY;
            if (!near_to("z", (double)l->z[(r + B) * H + h], low - s, high + s))
                return 0;
        }
    return 1;
}

/* The gradients from the z that was computed, each with a bound of its error that is
 * carried along: of da, (e + error of e) (slope + error of slope). Slopes are of the
 * order of 1. And what was measured of e, where squares may leave the range of none. */
static int check_grads(const layer *l)
{
    const ptrdiff_t T = l->T, B = l->B, I = l->I, H = l->H;
    const double alpha = (double)(real)l->cell.alpha, beta = (double)(real)l->cell.beta;
    const double sum_eps = 2 * (double)(H + 4) * EPS;
    const double rows_eps = 2 * (double)(T * B + 4) * EPS;
    sum *dW = new_sums(I * H), *dV = new_sums(H * H), *db = new_sums(H);
    sum *e = new_sums(B * H), *da = new_sums(H);
    count *dead = calloc((size_t)H, sizeof *dead);
    if (!dead)
        exit(2);
    int good = 1;
    for (ptrdiff_t r = T * B - 1; r >= 0; r--) {
        sum *eb = e + r % B * H;
        double squares = 0, norm_error = 0;
        count saturated = {0, 0};
        for (ptrdiff_t h = 0; h < H; h++) {
            const real *g = l->dz ? l->dz + r * H : NULL;
            if (r / B == T - 1 && l->dz_last)
                g = l->dz_last + r % B * H;
            double s =
                dsigma(l->cell.activation, (double)l->z[(r + B) * H + h], alpha, beta);
            double s_error = 4 * ulps * EPS * (fabs(s) + 1);
            double gh = g ? (double)g[h] : 0, eh = eb[h].value + gh;
            double e_error = eb[h].error + sum_eps * fabs(gh);
            squares += eh * eh, norm_error += e_error;
            saturated.low += fabs(s) + s_error < l->record.threshold;
            saturated.high += fabs(s) - s_error < l->record.threshold;
            dead[h].low += s == 0;
            dead[h].high += fabs(s) <= s_error;
            da[h].value = eh * s;
            da[h].error = fabs(eh) * s_error + (fabs(s) + s_error) * e_error + TINY;
            add(&db[h], 1, da[h], rows_eps);
            eb[h] = (sum){0, 0};
        }
        norm_error += sum_eps * sqrt(squares) + TINY;
        good &= within("norm", l->norms[r], (sum){sqrt(squares), norm_error});
        good &= counted("saturated", l->saturated[r], saturated);
        for (ptrdiff_t i = 0; i < H; i++)
            for (ptrdiff_t h = 0; h < H; h++) {
                add(&dV[i * H + h], (double)l->z[r * H + i], da[h], rows_eps);
                add(&eb[i], (double)l->V[i * l->V_i + h * l->V_h], da[h], sum_eps);
            }
        for (ptrdiff_t i = 0; i < I; i++) {
            sum dx = {0, 0};
            for (ptrdiff_t h = 0; h < H; h++) {
                add(&dW[i * H + h], x_of(l, r, i), da[h], rows_eps);
                add(&dx, (double)l->W[i * l->W_i + h * l->W_h], da[h], sum_eps);
            }
            if (l->dx)
                good &= within("dx", (double)l->dx[r * I + i], dx);
        }
    }
    for (ptrdiff_t i = 0; i < I * H; i++)
        good &= within("dW", (double)l->dW[i], dW[i]);
    for (ptrdiff_t i = 0; i < H * H; i++)
        good &= within("dV", (double)l->dV[i], dV[i]);
    for (ptrdiff_t i = 0; l->db && i < H; i++)
        good &= within("db", (double)l->db[i], db[i]);
    for (ptrdiff_t i = 0; i < B * H; i++)
        good &= within("dz0", (double)l->dz0[i], e[i]);
    for (ptrdiff_t h = 0; h < H; h++)
        good &= counted("dead", l->dead[h], dead[h]);
    free(dW), free(dV), free(db), free(e), free(da), free(dead);
    return good;
}

/* The bits of all results, folded. */
static uint64_t fingerprint(const layer *l)
{
    const ptrdiff_t T = l->T, B = l->B, I = l->I, H = l->H;
    uint64_t f = 1469598103934665603u;
    f = fold(f, l->z, sizeof(real) * (size_t)((T + 1) * B * H));
    f = fold(f, l->dW, sizeof(real) * (size_t)(I * H));
    f = fold(f, l->dV, sizeof(real) * (size_t)(H * H));
    f = fold(f, l->dz0, sizeof(real) * (size_t)(B * H));
    if (l->db)
        f = fold(f, l->db, sizeof(real) * (size_t)H);
    if (l->dx)
        f = fold(f, l->dx, sizeof(real) * (size_t)(T * B * I));
    f = fold(f, l->norms, sizeof *l->norms * (size_t)(T * B));
    f = fold(f, l->saturated, sizeof *l->saturated * (size_t)(T * B));
    f = fold(f, l->dead, sizeof *l->dead * (size_t)H);
    return f;
}

/* A step under the plan, in `chunks` of time unless 0, however the work is shared.
 * Every other one keeps what the last one has measured: gradients are the same. */
static void rewalk(layer *l, ptrdiff_t chunks, int sharing, int threads)
{
    l->records = threads % 2;
    if (l->records) {
        memset(l->norms, 255, sizeof *l->norms * (size_t)(l->T * l->B));
        memset(l->saturated, 255, sizeof *l->saturated * (size_t)(l->T * l->B));
    }
    l->plan = bptt_plan_make(l->T, l->B, l->I, l->H, (ptrdiff_t)sizeof(real),
                             l->k->panel, l->k->tile_rows, threads);
    if (chunks) {
        l->plan.steps = (l->T + chunks - 1) / chunks;
        l->plan.chunks = (l->T + l->plan.steps - 1) / l->plan.steps;
    }
    if (sharing >= 0) {
        l->plan.split = sharing;
        l->plan.threads = sharing == BPTT_PIPELINE && threads > 2 ? 2 : threads;
    }
    walk(l);
}

/* The last sequence of the batch has the same bits when it is alone. */
static int check_alone(const layer *l, const shape *s)
{
    const ptrdiff_t T = l->T, B = l->B, I = l->I, H = l->H, last = B - 1;
    const size_t row = sizeof(real) * (size_t)H;
    const shape alone = {T, 1, I, H, s->activation, 0, s->variant};
    layer one = new_layer(l->k, &alone, s->variant);
    int same = 1;
    memcpy(one.W, l->W, sizeof(real) * (size_t)(I * H));
    memcpy(one.V, l->V, sizeof(real) * (size_t)(H * H));
    memcpy(one.z, l->z + last * H, row);
    if (one.b)
        memcpy(one.b, l->b, row);
    if (one.dz_last)
        memcpy(one.dz_last, l->dz_last + last * H, row);
    for (ptrdiff_t t = 0, r = last; t < T; t++, r += B) {
        if (one.x)
            memcpy(one.x + t * I, l->x + r * I, sizeof(real) * (size_t)I);
        else
            one.ids[t] = l->ids[r];
        if (one.dz)
            memcpy(one.dz + t * H, l->dz + r * H, row);
    }
    rewalk(&one, 0, -1, 3);
    for (ptrdiff_t t = 0, r = last; t < T; t++, r += B) {
        same &= !memcmp(one.z + (t + 1) * H, l->z + (r + B) * H, row);
        same &= !memcmp(one.norms + t, l->norms + r, sizeof *l->norms);
        if (one.dx)
            same &= !memcmp(one.dx + t * I, l->dx + r * I, sizeof(real) * (size_t)I);
    }
    same &= !memcmp(one.dz0, l->dz0 + last * H, row);
    free_layer(&one);
    return same;
}

/* One shape: right, and the same bits however it is shared; returns failures. */
static int check_shape(const NAME(bptt_kernels) * k, const char *isa, const shape *s)
{
    layer l = new_layer(k, s, s->variant);
    uint64_t first = 0;
    int failures = 0;
    for (int sharing = -1; sharing <= BPTT_PIPELINE; sharing++)
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            const char *wrong = NULL;
            rewalk(&l, s->chunks, sharing, threads);
            if (sharing < 0 && threads == 1) {
                first = fingerprint(&l);
                if (!check_z(&l) || !check_grads(&l))
                    wrong = "not what it must be";
            } else if (fingerprint(&l) != first) {
                wrong = "other bits";
            }
            if (wrong) {
                printf("FAIL %s f%d ", isa, REAL_BITS);
                print_shape(s);
                printf(" sharing %d, %d threads: %s\n", sharing, threads, wrong);
                failures++;
            }
        }
    if (s->B > 1 && !check_alone(&l, s)) {
        printf("FAIL %s f%d ", isa, REAL_BITS);
        print_shape(s);
        printf(": other bits alone than in the batch\n");
        failures++;
    }
    /* An interrupt ends it, and the next step is as if nothing had been. */
    l.stop = (s->chunks ? s->chunks : 1) / 2 + 1;
    rewalk(&l, s->chunks, BPTT_COLUMNS, MOST_THREADS);
    l.stop = 0;
    rewalk(&l, s->chunks, BPTT_COLUMNS, MOST_THREADS);
    if (fingerprint(&l) != first) {
        printf("FAIL %s f%d ", isa, REAL_BITS);
        print_shape(s);
        printf(": other bits after an interrupt\n");
        failures++;
    }
    free_layer(&l);
    return failures;
}
