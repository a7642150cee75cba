/* The compute layer of bptt: what the time loops call. No Python, no allocation.
 *
 * One table of functions per type and ISA (bptt_kernels_f32, bptt_kernels_f64);
 * README.md holds the contract of every member. Sizes are ptrdiff_t; T time, B batch, I
 * input, H hidden. `f32`/`f64` twins differ in the type only.
 */
#ifndef BPTT_KERNELS_H
#define BPTT_KERNELS_H

#include "activation.h"

#include <stddef.h>
#include <stdint.h>

/* Which part of a (rows, columns) result a thread computes: rows [r0, r1), and of their
 * tiles, counted panel by panel, those numbered [u0, u1). Where `others` is not NULL,
 * what other threads make of the left operand of a step is there when
 * bptt_barrier_await(others, tid, n) returns, and the step calls that. */
typedef struct bptt_share {
    ptrdiff_t r0, r1;
    ptrdiff_t u0, u1;
    struct bptt_barrier *others;
    int tid, n;
} bptt_share;

/* What one recurrent step needs besides its arrays. */
typedef struct bptt_cell {
    ptrdiff_t B, H;
    ptrdiff_t z_row, g_row;   /* reals from one row of z, of g to the next */
    ptrdiff_t z_step, g_step; /* to the same row of the next step, to prefetch it */
    const void *V;            /* packed (H, H): V forwards, V^T backwards */
    int activation;
    double alpha, beta;
} bptt_cell;

/* What is done with the error of a step: see flow.inc.h. */
typedef struct bptt_flow {
    double clip_norm, clip_value; /* infinity: not at all */
} bptt_flow;

/* What is measured of the error of a step, for each panel of each row: record.inc.h. */
typedef struct bptt_record {
    double threshold; /* of |sigma'| of a saturated unit */
    ptrdiff_t row;    /* the first row of the step, in the next three */
    ptrdiff_t apart;  /* from there to the next row */
    ptrdiff_t stride; /* of a panel */
    void *squares;    /* reals: of e, added up; or NaN, and then */
    double *norms;
    int32_t *counts; /* of saturated units */
    void *dead;      /* reals, (H) in whole panels: rows where sigma' is 0 */
} bptt_record;

#define BPTT_DECLARE(real, F)                                                          \
    typedef struct bptt_kernels_##F {                                                  \
        ptrdiff_t vlen, panel, tile_rows;                                              \
        void (*pack)(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t N, const real *src,         \
                     ptrdiff_t rs, ptrdiff_t cs, real *dst, ptrdiff_t panel);          \
        void (*unpack)(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t N, const real *src,       \
                       ptrdiff_t panel, real *dst);                                    \
        void (*gemm)(const bptt_share *share, ptrdiff_t N, ptrdiff_t K, const real *A, \
                     ptrdiff_t a_panel, const real *B, const real *bias, real *C,      \
                     ptrdiff_t ldc);                                                   \
        ptrdiff_t (*outer_tiles)(ptrdiff_t M);                                         \
        void (*gemm_outer)(ptrdiff_t u0, ptrdiff_t u1, ptrdiff_t M, ptrdiff_t N,       \
                           ptrdiff_t R, const real *A, ptrdiff_t lda, ptrdiff_t many,  \
                           ptrdiff_t step, ptrdiff_t a_panel, const real *B,           \
                           ptrdiff_t b_step, ptrdiff_t b_panel, real *C,               \
                           ptrdiff_t ldc, ptrdiff_t c_panel, int add);                 \
        void (*sum_rows)(ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t N, ptrdiff_t R,         \
                         const real *A, ptrdiff_t many, ptrdiff_t step,                \
                         ptrdiff_t a_panel, real *sum);                                \
        void (*step_forward)(const bptt_cell *cell, const bptt_share *share,           \
                             const real *z_prev, ptrdiff_t prev_panel, real *z,        \
                             real *z_packed, ptrdiff_t packed_panel);                  \
        void (*step_backward)(const bptt_cell *cell, const bptt_share *share,          \
                              const real *da_next, ptrdiff_t next_panel,               \
                              const real *g, const real *z, real *da,                  \
                              ptrdiff_t da_panel, real *da_rows, ptrdiff_t rows_panel, \
                              const bptt_record *record);                              \
        int (*walks)(const bptt_cell *cell);                                           \
        void (*walk_forward)(const bptt_cell *cell, ptrdiff_t steps, real *z);         \
        void (*walk_backward)(const bptt_cell *cell, ptrdiff_t steps,                  \
                              const real *da_next, const real *g, const real *z,       \
                              real *da, real *da_rows, ptrdiff_t rows_panel,           \
                              const bptt_record *record);                              \
        void (*state_backward)(const bptt_cell *cell, const bptt_share *share,         \
                               const real *da, ptrdiff_t da_panel, real *dz0);         \
        void (*gather)(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t H, const ptrdiff_t *ids,  \
                       const real *W, ptrdiff_t rs, ptrdiff_t cs, const real *bias,    \
                       real *a, ptrdiff_t lda);                                        \
        void (*scatter)(ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t H, ptrdiff_t R,          \
                        const ptrdiff_t *ids, const real *da, ptrdiff_t da_panel,      \
                        real *dW);                                                     \
        void (*flow_backward)(const bptt_cell *cell, const bptt_flow *flow,            \
                              ptrdiff_t r0, ptrdiff_t r1, const real *z, real *da,     \
                              ptrdiff_t da_panel, real *da_rows, ptrdiff_t rows_panel, \
                              const bptt_record *record);                              \
        void (*flow_record)(const bptt_record *record, ptrdiff_t H, ptrdiff_t runs,    \
                            ptrdiff_t length, ptrdiff_t pitch, ptrdiff_t far,          \
                            ptrdiff_t near, double *norms, int32_t *saturated);        \
        void (*orthonormalise)(ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t H, real *Q,       \
                               ptrdiff_t stride, real *work, double *logs);            \
    } bptt_kernels_##F;

BPTT_DECLARE(float, f32)
BPTT_DECLARE(double, f64)
#undef BPTT_DECLARE

/* Have bytes from p on in the L2 cache soon, to be read or written. */
static inline void bptt_fetch(const void *p, ptrdiff_t bytes)
{
#if defined(__GNUC__)
    for (ptrdiff_t i = -(ptrdiff_t)((uintptr_t)p & 63); i < bytes; i += 64)
        __builtin_prefetch((const char *)p + i, 0, 2);
#else
    (void)p, (void)bytes;
#endif
}

/* Reals in a packed (R, N) operand, and distance from one panel to the next. */
static inline ptrdiff_t bptt_panels(ptrdiff_t N, ptrdiff_t panel)
{
    return (N + panel - 1) / panel;
}

/* Tiles that R rows are cut into, as even as they come. */
static inline ptrdiff_t bptt_row_tiles(ptrdiff_t R, ptrdiff_t tile_rows)
{
    return (R + tile_rows - 1) / tile_rows;
}

/* The i-th of n nearly equal parts of 0..size begins here. */
static inline ptrdiff_t bptt_split(ptrdiff_t size, ptrdiff_t i, ptrdiff_t n)
{
    return size / n * i + (size % n < i ? size % n : i);
}

#endif
