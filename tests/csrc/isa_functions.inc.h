/* Included once per type by isa_functions.c. */
#include "activation.inc.h"

INLINE vreal NAME(evaluate)(int f, vreal x)
{
    vreal one = v_set1(1);
    switch (f) {
    case TANH:
        return v_sigma(BPTT_TANH, x, one, one);
    case SIGMOID:
        return v_sigma(BPTT_SIGMOID, x, one, one);
    case EXP:
        return v_exp(x);
    case EXPM1:
        return v_expm1(x);
    case ELU:
        return v_sigma(BPTT_ELU, x, one, one);
    default:
        return v_sigma(BPTT_SOFTPLUS, x, one, one);
    }
}

#define EACH_FUNCTION(do_it) \
    switch (f) {             \
    case TANH:               \
        do_it(TANH);         \
        break;               \
    case SIGMOID:            \
        do_it(SIGMOID);      \
        break;               \
    case EXP:                \
        do_it(EXP);          \
        break;               \
    case EXPM1:              \
        do_it(EXPM1);        \
        break;               \
    case ELU:                \
        do_it(ELU);          \
        break;               \
    case SOFTPLUS:           \
        do_it(SOFTPLUS);     \
        break;               \
    default:                 \
        break;               \
    }

INLINE void NAME(apply_one)(int f, real *dst, const real *src, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + VLEN <= n; i += VLEN)
        v_store(dst + i, NAME(evaluate)(f, v_load(src + i)));
    v_store_part(dst + i, NAME(evaluate)(f, v_load_part(src + i, n - i)), n - i);
}

static void NAME(apply)(int f, real *dst, const real *src, ptrdiff_t n)
{
#define APPLY(g) NAME(apply_one)(g, dst, src, n)
    EACH_FUNCTION(APPLY)
#undef APPLY
}

static void NAME(sigma)(int code, real *dst, const real *src, ptrdiff_t n, real a,
                        real b)
{
    for (ptrdiff_t i = 0; i + VLEN <= n; i += VLEN)
        v_store(dst + i, v_sigma(code, v_load(src + i), v_set1(a), v_set1(b)));
}

static void NAME(dsigma)(int code, real *dst, const real *src, ptrdiff_t n, real a,
                         real b)
{
    for (ptrdiff_t i = 0; i + VLEN <= n; i += VLEN)
        v_store(dst + i, v_dsigma(code, v_load(src + i), v_set1(a), v_set1(b)));
}

#undef EACH_FUNCTION

#include "simd_ops.inc.h"

#define TABLE SIMD_CAT(ISA, _f, REAL_BITS)
extern const struct NAME(functions) TABLE;
const struct NAME(functions) TABLE = {
    ISA_NAME, NAME(apply), NAME(sigma), NAME(dsigma), NAME(simd),
};
#undef TABLE
