/* Time chunks, threads and shares. The thresholds are measured: see the ladder. */
#include "plan.h"

#include <math.h>

/* A chunk should be long, for each one reads and writes dW and dV once, and short
 * enough that its packed x, z and da stay in cache until their products are done. Those
 * of a single sequence are short, that there may be several to pipeline. */
#define CHUNK_ROWS       512
#define CHUNK_ROWS_ALONE 128
#define CHUNK_BYTES_MAX  ((ptrdiff_t)24 << 20)

/* Multiplications of a call below which a second thread does not pay for its wake-up.
 */
#define WORTH_A_THREAD 4e5
/* What one thread makes of them in a second, at least, and the share of that time for
 * which another is waited for. */
#define PER_SECOND 2e10
#define WAIT_SHARE .125
/* Bytes of V from which the columns of a single row's step are shared. */
#define WORTH_MEETING ((ptrdiff_t)40 << 10)
/* Units from which the columns of a step are shared, of however many rows. */
#define WIDE 512
/* Rows from which each half has enough for the tiles. */
#define WORTH_HALVING 16
/* Seconds from a question to its answer beyond which it takes longer to read what other
 * threads have written than they save: for each unit of the layer, where they meet once
 * a chunk, at each step of one row, at each step of several. */
#define ANSWER_TO_CHUNKS 2e-9
#define ANSWER_TO_A_ROW  2.4e-9
#define ANSWER_TO_ROWS   1.4e-9
/* And for few units. */
#define ANSWER_AT_LEAST 2e-7

static ptrdiff_t at_least(ptrdiff_t low, ptrdiff_t a)
{
    return a < low ? low : a;
}

static ptrdiff_t at_most(ptrdiff_t high, ptrdiff_t a)
{
    return a > high ? high : a;
}

double bptt_patience(double products)
{
    return WAIT_SHARE * products / PER_SECOND;
}

bptt_plan bptt_plan_make(ptrdiff_t T, ptrdiff_t B, ptrdiff_t I, ptrdiff_t H,
                         ptrdiff_t itemsize, ptrdiff_t panel, ptrdiff_t tile_rows,
                         int threads)
{
    bptt_plan plan = {1, 1, {1, 1}, 1, BPTT_ROWS, 0, HUGE_VAL};
    ptrdiff_t x_row = bptt_panels(I, panel) * panel * itemsize;
    ptrdiff_t z_row = at_least(1, bptt_panels(H, panel)) * panel * itemsize;
    plan.room[0] = at_least(1, CHUNK_BYTES_MAX / (x_row + 3 * z_row));
    plan.room[1] = at_least(1, CHUNK_BYTES_MAX / (3 * z_row));
    ptrdiff_t rows = at_most(B == 1 ? CHUNK_ROWS_ALONE : CHUNK_ROWS, plan.room[0]);
    ptrdiff_t steps = at_least(1, rows / at_least(1, B));
    plan.chunks = (T + steps - 1) / steps;
    plan.steps = T > 0 ? (T + plan.chunks - 1) / plan.chunks : 1;
    plan.chunks = (T + plan.steps - 1) / plan.steps;
    double products = (double)T * (double)B * (double)H * (double)(H + I);
    if (products < WORTH_A_THREAD)
        return plan;

    plan.threads = threads;
    plan.patience = bptt_patience(products);
    plan.answer = ANSWER_AT_LEAST + ANSWER_TO_CHUNKS * (double)H;
    if (B == 1 && H * H * itemsize < WORTH_MEETING) {
        plan.split = BPTT_PIPELINE;
        plan.threads = (int)at_most(2, threads);
    } else if (B == 1 || (B < 4 * (ptrdiff_t)threads && H > 4 * panel) || H >= WIDE) {
        /* Narrow rows go one by one (narrow.inc.h), and are not shared. */
        plan.split = BPTT_COLUMNS;
        plan.answer = (B == 1 ? ANSWER_TO_A_ROW : ANSWER_TO_ROWS) * (double)H;
        ptrdiff_t units = bptt_row_tiles(B, tile_rows) * bptt_panels(H, panel);
        plan.threads = (int)at_most(at_least(1, units), threads);
    } else {
        plan.threads = (int)at_most(B, threads);
        if (bptt_plan_halves(B, H))
            plan.answer = HUGE_VAL; /* each has its own */
    }
    return plan;
}

int bptt_plan_halves(ptrdiff_t B, ptrdiff_t H)
{
    return B >= WORTH_HALVING && H <= WIDE;
}

int bptt_plan_side_by_side(ptrdiff_t B, ptrdiff_t H, double work, int threads)
{
    /* Many threads share many rows well, and the columns of a wide layer. */
    int shared = B >= 4 * (ptrdiff_t)threads || (threads > 2 && H >= WIDE);
    return threads > 1 && !shared && 2 * work >= WORTH_A_THREAD;
}

bptt_share bptt_share_step(const bptt_plan *plan, ptrdiff_t B, ptrdiff_t H,
                           ptrdiff_t panel, ptrdiff_t tile_rows, int tid, int n)
{
    if (plan->split != BPTT_ROWS)
        return bptt_share_gemm(B, H, panel, tile_rows, tid, n);
    bptt_share share = {.r0 = bptt_split(B, tid, n), .r1 = bptt_split(B, tid + 1, n)};
    share.u1 = bptt_row_tiles(share.r1 - share.r0, tile_rows) * bptt_panels(H, panel);
    return share;
}

bptt_share bptt_share_gemm(ptrdiff_t R, ptrdiff_t N, ptrdiff_t panel,
                           ptrdiff_t tile_rows, int tid, int n)
{
    ptrdiff_t units = bptt_row_tiles(R, tile_rows) * bptt_panels(N, panel);
    return (bptt_share){
        .r1 = R,
        .u0 = bptt_split(units, tid, n),
        .u1 = bptt_split(units, tid + 1, n),
    };
}
