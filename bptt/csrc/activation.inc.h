/* The activations and their derivatives. A code is a compile-time constant where these
 * are inlined, so that a switch costs nothing. Adding one: a row here, in the enum, in
 * Python's list and in the table of the tests.
 *
 *     z = v_sigma(code, a, alpha, beta)          elementwise; NaN gives NaN
 *     s = v_dsigma(code, z, alpha, beta)         sigma'(a), from z = sigma(a) alone;
 *                                                NaN of NaN where it is a branch of z
 *
 * alpha and beta are the parameters of ONNX, broadcast; unused ones are ignored. */
#include "vmath.inc.h"

#ifndef BPTT_ACTIVATION_NAMES
#define BPTT_ACTIVATION_NAMES
#include "activation.h"
#include <math.h>
#define v_sigma  NAME(v_sigma)
#define v_dsigma NAME(v_dsigma)
#define v_step   NAME(v_step)
#endif

INLINE vreal v_sigma(int code, vreal a, vreal alpha, vreal beta)
{
    const vreal zero = v_zero(), one = v_set1(1);
    switch (code) {
    case BPTT_SIGMOID:
        return v_sigmoid(a);
    case BPTT_TANH:
        return v_tanh(a);
    case BPTT_RELU:
        return v_max(zero, a); /* in this order a NaN is kept */
    case BPTT_LEAKY_RELU:
        return v_select(v_lt(a, zero), v_mul(alpha, a), a);
    case BPTT_ELU:
        return v_select(v_lt(a, zero), v_mul(alpha, v_expm1(a)), a);
    case BPTT_SOFTPLUS:
        return v_softplus(a);
    case BPTT_SOFTSIGN:
        /* Infinity over infinity is 1 here, as it is in the limit. */
        return v_select(v_eq(v_abs(a), v_set1((real)INFINITY)), v_copysign(one, a),
                        v_div(a, v_add(one, v_abs(a))));
    case BPTT_HARD_SIGMOID:
        return v_max(zero, v_min(one, v_fma(alpha, a, beta)));
    case BPTT_SCALED_TANH:
        return v_mul(alpha, v_tanh(v_mul(beta, a)));
    case BPTT_THRESHOLDED_RELU:
        return v_select(v_lt(a, alpha), zero, a);
    case BPTT_AFFINE:
        return v_fma(alpha, a, beta);
    default: /* BPTT_IDENTITY */
        return a;
    }
}

/* above where z > 0, else below; a NaN is neither. */
INLINE vreal v_step(vreal z, vreal above, vreal below)
{
    return v_select(v_isnan(z), z, v_select(v_gt(z, v_zero()), above, below));
}

INLINE vreal v_dsigma(int code, vreal z, vreal alpha, vreal beta)
{
    const vreal zero = v_zero(), one = v_set1(1);
    switch (code) {
    case BPTT_SIGMOID:
        return v_mul(z, v_sub(one, z));
    case BPTT_TANH:
        return v_fnma(z, z, one);
    case BPTT_RELU:
    case BPTT_THRESHOLDED_RELU:
        return v_step(z, one, zero);
    case BPTT_LEAKY_RELU:
        return v_step(z, one, alpha);
    case BPTT_ELU:
        return v_step(z, one, v_add(z, alpha));
    case BPTT_SOFTPLUS:
        return v_neg(v_expm1(v_neg(z)));
    case BPTT_SOFTSIGN: {
        vreal gap = v_sub(one, v_abs(z));
        return v_mul(gap, gap);
    }
    case BPTT_HARD_SIGMOID:
        return v_step(z, v_select(v_lt(z, one), alpha, zero), zero);
    case BPTT_SCALED_TANH:
        return v_mul(beta, v_sub(alpha, v_div(v_mul(z, z), alpha)));
    case BPTT_AFFINE:
        return alpha;
    default: /* BPTT_IDENTITY */
        return one;
    }
}
