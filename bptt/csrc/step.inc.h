/* One text for both types: step.h includes it with REAL, NAME and MATH defined. */
#ifndef REAL
#error "step.inc.h is included by step.h"
#endif

typedef struct {
    int code;
    REAL alpha, beta;
} NAME(activation);

static inline REAL NAME(sigma)(NAME(activation) f, REAL a)
{
    switch (f.code) {
    case BPTT_IDENTITY:
        return a;
    case BPTT_SIGMOID: {
        REAL e = MATH(exp)(-MATH(fabs)(a));
        return (a < 0 ? e : 1) / (1 + e);
    }
    case BPTT_TANH:
        return MATH(tanh)(a);
    case BPTT_RELU:
        return a <= 0 ? 0 : a;
    case BPTT_LEAKY_RELU:
        return a < 0 ? f.alpha * a : a;
    case BPTT_ELU:
        return a < 0 ? f.alpha * MATH(expm1)(a) : a;
    case BPTT_SOFTPLUS:
        return (a < 0 ? 0 : a) + MATH(log1p)(MATH(exp)(-MATH(fabs)(a)));
    case BPTT_SOFTSIGN:
        return isinf(a) ? MATH(copysign)(1, a) : a / (1 + MATH(fabs)(a));
    case BPTT_HARD_SIGMOID: {
        REAL line = f.alpha * a + f.beta;
        return line <= 0 ? 0 : line >= 1 ? 1 : line;
    }
    case BPTT_SCALED_TANH:
        return f.alpha * MATH(tanh)(f.beta * a);
    case BPTT_THRESHOLDED_RELU:
        return a < f.alpha ? 0 : a;
    default: /* BPTT_AFFINE */
        return f.alpha * a + f.beta;
    }
}

/* sigma'(a) as a function of z = sigma(a); a NaN state has a NaN slope. */
static inline REAL NAME(dsigma)(NAME(activation) f, REAL z)
{
    switch (f.code) {
    case BPTT_IDENTITY:
        return 1;
    case BPTT_SIGMOID:
        return z * (1 - z);
    case BPTT_TANH:
        return 1 - z * z;
    case BPTT_RELU:
    case BPTT_THRESHOLDED_RELU:
        return isnan(z) ? z : z > 0 ? 1 : 0;
    case BPTT_LEAKY_RELU:
        return isnan(z) ? z : z > 0 ? 1 : f.alpha;
    case BPTT_ELU:
        return isnan(z) ? z : z > 0 ? 1 : z + f.alpha;
    case BPTT_SOFTPLUS:
        return -MATH(expm1)(-z);
    case BPTT_SOFTSIGN:
        return (1 - MATH(fabs)(z)) * (1 - MATH(fabs)(z));
    case BPTT_HARD_SIGMOID:
        return isnan(z) ? z : z > 0 && z < 1 ? f.alpha : 0;
    case BPTT_SCALED_TANH:
        return f.beta * (f.alpha - z * z / f.alpha);
    default: /* BPTT_AFFINE */
        return f.alpha;
    }
}

/* c (M, N) += a (M, K) b (K, N) */
static inline void NAME(add_product)(
    ptrdiff_t M,
    ptrdiff_t N,
    ptrdiff_t K,
    const REAL *restrict a, /* IN */
    const REAL *restrict b, /* IN */
    REAL *restrict c)       /* IN, OUT */
{
    for (ptrdiff_t m = 0; m < M; m++)
        for (ptrdiff_t k = 0; k < K; k++) {
            const REAL a_mk = a[m * K + k];
            for (ptrdiff_t n = 0; n < N; n++)
                c[m * N + n] += a_mk * b[k * N + n];
        }
}

/* c (K, N) += a (M, K)^T b (M, N) */
static inline void NAME(add_transposed_product)(
    ptrdiff_t M,
    ptrdiff_t N,
    ptrdiff_t K,
    const REAL *restrict a, /* IN */
    const REAL *restrict b, /* IN */
    REAL *restrict c)       /* IN, OUT */
{
    for (ptrdiff_t m = 0; m < M; m++)
        for (ptrdiff_t k = 0; k < K; k++) {
            const REAL a_mk = a[m * K + k];
            for (ptrdiff_t n = 0; n < N; n++)
                c[k * N + n] += a_mk * b[m * N + n];
        }
}

/* a (B, H) <- b, or zeros where there is no bias */
static inline void NAME(begin)(
    ptrdiff_t B,
    ptrdiff_t H,
    const REAL *restrict b, /* IN (H), may be NULL */
    REAL *restrict a)       /* OUT */
{
    for (ptrdiff_t r = 0; r < B; r++)
        for (ptrdiff_t n = 0; n < H; n++)
            a[r * H + n] = b ? b[n] : 0;
}

/* a (B, H) += W[ids], a row for each sequence */
static inline void NAME(add_rows)(
    ptrdiff_t B,
    ptrdiff_t H,
    const ptrdiff_t *restrict ids, /* IN (B) */
    const REAL *restrict W,        /* IN (I, H) */
    REAL *restrict a)              /* IN, OUT */
{
    for (ptrdiff_t r = 0; r < B; r++)
        for (ptrdiff_t n = 0; n < H; n++)
            a[r * H + n] += W[ids[r] * H + n];
}

/* dW[ids] += da, a row for each sequence: add_rows backwards */
static inline void NAME(scatter_rows)(
    ptrdiff_t B,
    ptrdiff_t H,
    const ptrdiff_t *restrict ids, /* IN (B) */
    const REAL *restrict da,       /* IN (B, H) */
    REAL *restrict dW)             /* IN, OUT (I, H) */
{
    for (ptrdiff_t r = 0; r < B; r++)
        for (ptrdiff_t n = 0; n < H; n++)
            dW[ids[r] * H + n] += da[r * H + n];
}

/* db (H) += the rows of da (B, H) */
static inline void
NAME(add_to_row)(ptrdiff_t B, ptrdiff_t H, const REAL *restrict da, REAL *restrict db)
{
    for (ptrdiff_t r = 0; r < B; r++)
        for (ptrdiff_t n = 0; n < H; n++)
            db[n] += da[r * H + n];
}

/* z[t] <- sigma(x[t] W + z[t-1] V + b); x[t] is features or, with x NULL, ids */
static inline void NAME(step_forward)(
    ptrdiff_t B,
    ptrdiff_t I,
    ptrdiff_t H,
    const REAL *restrict x,        /* IN (B, I)  x[t], or NULL */
    const ptrdiff_t *restrict ids, /* IN (B)     ids of x[t], or NULL */
    const REAL *restrict W,        /* IN (I, H) */
    const REAL *restrict V,        /* IN (H, H) */
    const REAL *restrict b,        /* IN (H)     or NULL */
    const REAL *restrict z_prev,   /* IN (B, H)  z[t-1] */
    REAL *restrict z,              /* OUT (B, H) z[t] */
    int code,
    REAL alpha,
    REAL beta)
{
    const NAME(activation) f = {code, alpha, beta};

    /* 1. z[t] <- x[t] W + b: a state's place holds its input until 2. */
    NAME(begin)(B, H, b, z);
    if (x)
        NAME(add_product)(B, H, I, x, W, z);
    else
        NAME(add_rows)(B, H, ids, W, z);

    /* 2. z[t] <- sigma(z[t] + z[t-1] V) */
    NAME(add_product)(B, H, H, z_prev, V, z);
    for (ptrdiff_t i = 0; i < B * H; i++)
        z[i] = NAME(sigma)(f, z[i]);
}

/* step_forward backwards: its gradients at t are added to dW, dV and db */
static inline void NAME(step_backward)(
    ptrdiff_t B,
    ptrdiff_t I,
    ptrdiff_t H,
    const REAL *restrict x,        /* IN (B, I)  x[t], or NULL */
    const ptrdiff_t *restrict ids, /* IN (B)     ids of x[t], or NULL */
    const REAL *restrict Wt,       /* IN (H, I)  W^T, with dx */
    const REAL *restrict Vt,       /* IN (H, H)  V^T */
    const REAL *restrict z_prev,   /* IN (B, H)  z[t-1] */
    const REAL *restrict z,        /* IN (B, H)  z[t] */
    const REAL *restrict dz,       /* IN (B, H)  or NULL */
    REAL *restrict e,  /* IN (B, H)  what flows back to z[t], OUT to z[t-1] */
    REAL *restrict da, /* OUT (B, H) scratch */
    REAL *restrict dW, /* IN, OUT (I, H) */
    REAL *restrict dV, /* IN, OUT (H, H) */
    REAL *restrict db, /* IN, OUT (H) or NULL */
    REAL *restrict dx, /* OUT (B, I) or NULL */
    int code,
    REAL alpha,
    REAL beta)
{
    const NAME(activation) f = {code, alpha, beta};

    /* 2. forward was z[t] <- sigma(.. + z[t-1] V), so now */
    for (ptrdiff_t i = 0; i < B * H; i++)
        da[i] = (dz ? e[i] + dz[i] : e[i]) * NAME(dsigma)(f, z[i]);
    memset(e, 0, (size_t)(B * H) * sizeof(REAL));
    NAME(add_product)(B, H, H, da, Vt, e);
    NAME(add_transposed_product)(B, H, H, z_prev, da, dV);

    /* 1. forward was z[t] <- x[t] W + b, so now */
    if (db)
        NAME(add_to_row)(B, H, da, db);
    if (x)
        NAME(add_transposed_product)(B, H, I, x, da, dW);
    else
        NAME(scatter_rows)(B, H, ids, da, dW);
    if (dx) {
        memset(dx, 0, (size_t)(B * I) * sizeof(REAL));
        NAME(add_product)(B, I, H, da, Wt, dx);
    }
}

#undef REAL
#undef NAME
#undef MATH
