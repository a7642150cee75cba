/* Elementary functions on vectors: one text for both types and every ISA. No branch on
 * data, so a lane's result depends on that lane alone; NaN gives NaN. Constants:
 * tools/fit_activations.py. Largest errors on any ISA, in ULP, as tests/csrc/test_ulp.c
 * finds them (float32: in all inputs, softplus in every seventh; float64: in 5
 * million):
 *
 *              tanh    sigmoid   exp    expm1   softplus
 *     float32  1.47    1.75      0.98   2.05    2.80
 *     float64  1.49    1.68      0.88   1.67    2.65
 *
 * tanh, sigmoid, exp and expm1 never step down from one float32 to the next, nor did
 * they in runs of float64; softplus does, by an ULP or two, where it is flat. Denormal
 * results are as good, unless the caller has set flush-to-zero. */
#ifndef REAL_BITS
#error "include simd_<isa>.h first"
#endif

#ifndef BPTT_VMATH_NAMES
#define BPTT_VMATH_NAMES
#include "vmath_constants.h"
#define INV_LN2         NAME(INV_LN2)
#define LN2_HI          NAME(LN2_HI)
#define LN2_LO          NAME(LN2_LO)
#define EXP_POLY        NAME(EXP_POLY)
#define EXP_POLY_LEN    NAME(EXP_POLY_LEN)
#define LOG1P_POLY      NAME(LOG1P_POLY)
#define LOG1P_POLY_LEN  NAME(LOG1P_POLY_LEN)
#define TANH_SPLIT      NAME(TANH_SPLIT)
#define TANH_POLY       NAME(TANH_POLY)
#define TANH_POLY_LEN   NAME(TANH_POLY_LEN)
#define v_estrin2       NAME(v_estrin2)
#define v_estrin4       NAME(v_estrin4)
#define v_estrin8       NAME(v_estrin8)
#define v_estrin        NAME(v_estrin)
#define v_poly          NAME(v_poly)
#define v_reduce_ln2    NAME(v_reduce_ln2)
#define v_expm1_reduced NAME(v_expm1_reduced)
#define v_exp_reduced   NAME(v_exp_reduced)
#define v_exp           NAME(v_exp)
#define v_expm1         NAME(v_expm1)
#define v_log1p_unit    NAME(v_log1p_unit)
#define v_softplus      NAME(v_softplus)
#define v_sigmoid       NAME(v_sigmoid)
#define v_tanh          NAME(v_tanh)
/* Beyond these the results are settled: e^x is inf and 0, expm1(x) is -1, tanh(x) is 1.
 * Clamping there keeps the exponents in the range of v_exp2i and v_ldexp. */
#define EXP_MAX       NAME(EXP_MAX)
#define EXP_MIN       NAME(EXP_MIN)
#define EXPM1_MIN     NAME(EXPM1_MIN)
#define TANH_MAX      NAME(TANH_MAX)
#define EXP2I_MIN     NAME(EXP2I_MIN)
#define EXP_MAX_f32   89.0f
#define EXP_MAX_f64   710.0
#define EXP_MIN_f32   -105.0f
#define EXP_MIN_f64   -747.0
#define EXPM1_MIN_f32 -20.0f
#define EXPM1_MIN_f64 -40.0
#define TANH_MAX_f32  10.0f
#define TANH_MAX_f64  20.0
#define EXP2I_MIN_f32 -126.0f
#define EXP2I_MIN_f64 -1022.0
#endif

/* pair + sum_k>=2 c[k] t^k, n <= 16, by Estrin's scheme: log2(n) dependent steps where
 * Horner has n. pair is c[0] + c[1] t, or what stands for it without rounding. n is a
 * constant where this is inlined. */
INLINE vreal v_estrin4(vreal pair, const vreal *c, int n, vreal t, vreal t2)
{
    return n > 3   ? v_fma(v_fma(c[3], t, c[2]), t2, pair)
           : n > 2 ? v_fma(c[2], t2, pair)
                   : pair;
}

INLINE vreal v_estrin2(const vreal *c, int n, vreal t)
{
    return n > 1 ? v_fma(c[1], t, c[0]) : c[0];
}

INLINE vreal v_estrin8(vreal pair, const vreal *c, int n, vreal t, vreal t2, vreal t4)
{
    vreal low = v_estrin4(pair, c, n, t, t2);
    if (n <= 4)
        return low;
    return v_fma(v_estrin4(v_estrin2(c + 4, n - 4, t), c + 4, n - 4, t, t2), t4, low);
}

INLINE vreal v_estrin(vreal pair, const vreal *c, int n, vreal t)
{
    vreal t2 = v_mul(t, t), t4 = v_mul(t2, t2), t8 = v_mul(t4, t4);
    vreal low = v_estrin8(pair, c, n, t, t2, t4);
    if (n <= 8)
        return low;
    return v_fma(v_estrin8(v_estrin2(c + 8, n - 8, t), c + 8, n - 8, t, t2, t4), t8,
                 low);
}

INLINE vreal v_poly(const real *coefficients, int n, vreal t)
{
    vreal c[16];
    for (int k = 0; k < n; k++)
        c[k] = v_set1(coefficients[k]);
    return v_estrin(v_estrin2(c, n, t), c, n, t);
}

/* x = n ln2 + r with n integral, |r| <= ln2 / 2. Returns n, and r as high - low: high
 * is exact, for n LN2_HI is, so that low carries all that rounding loses. */
INLINE vreal v_reduce_ln2(vreal x, vreal *high, vreal *low)
{
    vreal n = v_round(v_mul(x, v_set1(INV_LN2)));
    *high = v_fnma(n, v_set1(LN2_HI), x);
    *low = v_mul(n, v_set1(LN2_LO));
    return n;
}

/* e^r - 1 + extra, r = high - low and e^r - 1 = r + r^2 Q(r). The leading term is added
 * last and unrounded; extra is small, of the order of low. */
INLINE vreal v_expm1_reduced(vreal high, vreal low, vreal extra)
{
    vreal r = v_sub(high, low);
    vreal c[2 + EXP_POLY_LEN] = {v_zero(), v_zero()};
    for (int k = 0; k < EXP_POLY_LEN; k++)
        c[2 + k] = v_set1(EXP_POLY[k]);
    return v_add(high, v_estrin(v_sub(extra, low), c, 2 + EXP_POLY_LEN, r));
}

/* x = n ln2 + r, e^r = 1 + (e^r - 1): returns e^r, between 0.7 and 1.42. */
INLINE vreal v_exp_reduced(vreal x, vreal *n)
{
    vreal high, low;
    *n = v_reduce_ln2(x, &high, &low);
    return v_add(v_set1(1), v_expm1_reduced(high, low, v_zero()));
}

INLINE vreal v_exp(vreal x)
{
    vreal n;
    x = v_max(v_set1(EXP_MIN), v_min(v_set1(EXP_MAX), x));
    vreal p = v_exp_reduced(x, &n);
    return v_ldexp(p, n);
}

/* 2^n (e^r - 1) + (2^n - 1), exact in its second term where the first is small. For
 * large n one factor 2 waits until the end, since 2^n itself may overflow where e^x
 * does not. */
INLINE vreal v_expm1(vreal x)
{
    vreal high, low, one = v_set1(1);
    vreal y = v_max(v_set1(EXPM1_MIN), v_min(v_set1(EXP_MAX), x));
    vreal n = v_reduce_ln2(y, &high, &low);
    vmask large = v_gt(n, v_set1(64));
    vreal scale = v_exp2i(v_sub(n, v_select(large, one, v_zero())));
    vreal half = v_fma(scale, v_expm1_reduced(high, low, v_zero()), v_sub(scale, one));
    vreal result = v_mul(half, v_select(large, v_set1(2), one));
    return v_copysign(result, x); /* the reduction loses the sign of -0 */
}

/* log(1 + s) for 0 <= s <= 1. */
INLINE vreal v_log1p_unit(vreal s)
{
    vreal u = v_div(s, v_fma(s, v_set1((real)0.5), v_set1(1)));
    vreal w = v_mul(u, u);
    return v_fma(v_mul(u, w), v_poly(LOG1P_POLY, LOG1P_POLY_LEN, w), u);
}

/* log(1 + e^x) = max(x, 0) + log(1 + e^-|x|): no overflow, no cancellation. */
INLINE vreal v_softplus(vreal x)
{
    return v_add(v_max(v_zero(), x), v_log1p_unit(v_exp(v_neg(v_abs(x)))));
}

/* 1 / (1 + e^-x), e^-x = 2^n (1 + m). The divisor is formed between 1/2 and 5/2,
 *     n >= 0:  (1 + 2^-n) + m,     and the quotient scaled by 2^-n
 *     n <  0:  (1 + 2^n) + 2^n m
 * with one rounding, for the sum is exact where it matters: once 1 + 2^-n is 1, 2^-n is
 * added to m, which may still see it. */
INLINE vreal v_sigmoid(vreal x)
{
    vreal high, low, zero = v_zero(), one = v_set1(1);
    vreal y = v_max(v_set1(EXP_MIN), v_min(v_set1(-EXP_MIN), x));
    vreal n = v_reduce_ln2(v_neg(y), &high, &low);
    vreal scale = v_exp2i(v_max(v_set1(EXP2I_MIN), v_neg(v_abs(n))));
    vreal swallowed = v_select(v_gt(n, v_set1(REAL_MANT)), scale, zero);
    vreal m = v_expm1_reduced(high, low, swallowed);
    vreal weight = v_select(v_lt(n, zero), scale, one);
    vreal divisor = v_fma(weight, m, v_add(one, scale));
    return v_ldexp(v_div(one, divisor), v_min(zero, v_neg(n)));
}

#if V_HAS_LOOKUP
#include "tanh_table.inc.h"
#else
/* x + x^3 P(x^2) below TANH_SPLIT, 1 - 2 / (e^2|x| + 1) above; both are computed.
 * Written as 1 - something positive it cannot exceed 1, and is monotone where tanh is
 * flat. */
INLINE vreal v_tanh(vreal x)
{
    vreal n, one = v_set1(1);
    vreal y = v_min(v_set1(TANH_MAX), v_abs(x));
    vreal p = v_exp_reduced(v_add(y, y), &n);
    vreal divisor = v_fma(p, v_exp2i(n), one);
    vreal large = v_sub(one, v_div(v_set1(2), divisor));

    vreal w = v_mul(y, y);
    vreal small = v_fma(v_mul(y, w), v_poly(TANH_POLY, TANH_POLY_LEN, w), y);
    return v_copysign(v_select(v_lt(y, v_set1(TANH_SPLIT)), small, large), x);
}
#endif
