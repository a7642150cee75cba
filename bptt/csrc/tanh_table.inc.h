/* tanh where the ISA permutes a table of 16 in registers: one polynomial for each half
 * octave of |x|, its coefficients looked up one by one. No exponential, no division: on
 * Zen 5 a result takes 37 cycles instead of 56 (AVX-512, float32; float64: 50 instead
 * of 66), and the recurrence of a single sequence waits for it once a step. Not so on
 * AVX2, where a lookup takes two permutations and a blend: on Zen 3 a step of 32 rows
 * of 128 took 18.2 us with it and 16.1 without.
 *
 *     |x| = centre + t       tanh |x| = c0 + t q(t)
 *
 * c0 is tanh(centre) without error (the centres are chosen for it), so the result is
 * rounded once, and stays monotone: |t| <= |x| / 4, so the noise of t q(t) is below the
 * step that tanh makes from one number to the next. Below the table's start the first
 * polynomial has centre 0 and c0 = 0; from TANH_TABLE_MAX on the last one is the
 * constant 1. */
#ifndef BPTT_TANH_TABLE_NAMES
#define BPTT_TANH_TABLE_NAMES
#define TANH_TABLE      NAME(TANH_TABLE)
#define TANH_TABLE_LEN  NAME(TANH_TABLE_LEN)
#define TANH_TABLE_MIN  NAME(TANH_TABLE_MIN)
#define TANH_TABLE_MAX  NAME(TANH_TABLE_MAX)
#define v_tanh_quotient NAME(v_tanh_quotient)
#endif

/* q(t) from c[0..n). Near 0, where q is close to 1, each addition to the leading terms
 * costs half an ULP; so the upper terms are added among themselves first. */
INLINE vreal v_tanh_quotient(const vreal *c, int n, vreal t)
{
    vreal t2 = v_mul(t, t), t4 = v_mul(t2, t2), t8 = v_mul(t4, t4);
    vreal low = v_estrin4(v_estrin2(c, 4, t), c, 4, t, t2);
    vreal middle = v_estrin4(v_estrin2(c + 4, n - 4, t), c + 4, n - 4, t, t2);
    if (n <= 8)
        return v_fma(middle, t4, low);
    vreal high = v_estrin8(v_estrin2(c + 8, n - 8, t), c + 8, n - 8, t, t2, t4);
    return v_add(low, v_fma(high, t8, v_mul(middle, t4)));
}

INLINE vreal v_tanh(vreal x)
{
    vreal y = v_min(v_set1(TANH_TABLE_MAX), v_abs(x));
    vindex i = v_half_octave(v_abs(x), TANH_TABLE_MIN, TANH_TABLE_MAX);
    vreal t = v_sub(y, v_lookup(TANH_TABLE[0], i));
    vreal c[TANH_TABLE_LEN];
    for (int k = 0; k < TANH_TABLE_LEN; k++)
        c[k] = v_lookup(TANH_TABLE[1 + k], i);
    vreal q = v_tanh_quotient(c + 1, TANH_TABLE_LEN - 1, t);
    return v_copysign(v_fma(t, q, c[0]), x);
}
