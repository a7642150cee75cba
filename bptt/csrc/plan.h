/* How a call is cut up: time into chunks, a step among threads. */
#ifndef BPTT_PLAN_H
#define BPTT_PLAN_H

#include "kernels.h"

/* What the threads of a recurrent step share. */
enum bptt_sharing {
    BPTT_ROWS,    /* each takes rows of the batch through the whole chunk */
    BPTT_COLUMNS, /* each takes columns; they meet after each step */
    BPTT_PIPELINE /* nothing: the first walks through time, the second works on the
                     products of the next chunk (forwards) or the last (backwards) */
};

typedef struct bptt_plan {
    ptrdiff_t chunks;  /* of time: chunk c is steps c * steps up to those of c + 1, the
                          last one shorter */
    ptrdiff_t steps;   /* a function of the sizes, the type and the ISA alone, for
                          gradients are summed chunk by chunk */
    ptrdiff_t room[2]; /* for so many rows of a step, with packed x beside the states
                          and without; so too */
    int threads;       /* worth using, at most those asked for */
    int split;         /* enum bptt_sharing */
    double patience;   /* seconds worth waiting for one to come */
    double answer;     /* beyond so many seconds from a question to the answer of
                          another thread, one alone is faster */
} bptt_plan;

/* T steps of B rows, I inputs, H units; itemsize bytes a real; panel, tile_rows of the
 * kernels. */
bptt_plan bptt_plan_make(ptrdiff_t T, ptrdiff_t B, ptrdiff_t I, ptrdiff_t H,
                         ptrdiff_t itemsize, ptrdiff_t panel, ptrdiff_t tile_rows,
                         int threads);

/* Whether a batch of B rows and H units goes through time as two halves, neither of
 * which asks what the other does: their gradients are summed apart, and added at the
 * end. */
int bptt_plan_halves(ptrdiff_t B, ptrdiff_t H);

/* Seconds worth waiting for a thread that is to help with so many multiplications. */
double bptt_patience(double products);

/* Whether two runs of B rows and H units should have half of the threads each, side by
 * side, and not all of them one after the other; work is what a run multiplies. */
int bptt_plan_side_by_side(ptrdiff_t B, ptrdiff_t H, double work, int threads);

/* What thread tid of n computes of a step (B, H) under the plan. */
bptt_share bptt_share_step(const bptt_plan *plan, ptrdiff_t B, ptrdiff_t H,
                           ptrdiff_t panel, ptrdiff_t tile_rows, int tid, int n);

/* What it computes of a product of R rows and N columns. */
bptt_share bptt_share_gemm(ptrdiff_t R, ptrdiff_t N, ptrdiff_t panel,
                           ptrdiff_t tile_rows, int tid, int n);

#endif
