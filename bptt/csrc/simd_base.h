/* The vocabulary of simd.h without intrinsics: 16-byte compiler vectors (GCC and clang:
 * SSE2 on x86-64, NEON on aarch64), or a single lane where the compiler has none
 * (MSVC). Both read the same, since the operators are; BPTT_SCALAR asks for the single
 * lane, so that it can be tested anywhere. FMA only where the baseline has it
 * (aarch64). No include guard: included once per REAL_BITS. */
#ifndef REAL_BITS
#error "define REAL_BITS as 32 or 64 before including this file"
#endif

#ifndef VBYTES
#include <math.h>
#define V_HAS_LOOKUP 0
#define V_FEW        1
#if defined(__aarch64__)
#define V_REGISTERS 32
#else
#define V_REGISTERS 16
#endif
#define vbits       NAME(vbits) /* the bits of a vreal, as unsigned integers */
#define v_to_bits   NAME(v_to_bits)
#define v_from_bits NAME(v_from_bits)
#define V_SIGN      ((ureal)1 << (REAL_BITS - 1))
#define V_SQRT      NAME(V_SQRT)
#define V_SQRT_f32  sqrtf
#define V_SQRT_f64  sqrt
#if defined(__GNUC__) && !defined(BPTT_SCALAR)
#define VBYTES 16
typedef float vreal_f32 __attribute__((vector_size(VBYTES)));
typedef double vreal_f64 __attribute__((vector_size(VBYTES)));
typedef uint32_t vbits_f32 __attribute__((vector_size(VBYTES)));
typedef uint64_t vbits_f64 __attribute__((vector_size(VBYTES)));
#define V_TRUE(condition) ((vbits)(condition)) /* all bits of a true lane are set */
#else
#define VBYTES            (REAL_BITS / 8)
typedef float vreal_f32;
typedef double vreal_f64;
typedef uint32_t vbits_f32;
typedef uint64_t vbits_f64;
#define V_TRUE(condition) ((vbits)0 - (vbits)(condition))
#endif
typedef vbits_f32 vmask_f32;
typedef vbits_f64 vmask_f64;
#if defined(__aarch64__) && VBYTES == 16
#include <arm_neon.h>
#define V_FMA               NAME(V_FMA)
#define V_FNMA              NAME(V_FNMA)
#define V_NEON_f32(a)       ((float32x4_t)(a))
#define V_NEON_f64(a)       ((float64x2_t)(a))
#define V_FMA_f32(a, b, c)  vfmaq_f32(V_NEON_f32(c), V_NEON_f32(a), V_NEON_f32(b))
#define V_FMA_f64(a, b, c)  vfmaq_f64(V_NEON_f64(c), V_NEON_f64(a), V_NEON_f64(b))
#define V_FNMA_f32(a, b, c) vfmsq_f32(V_NEON_f32(c), V_NEON_f32(a), V_NEON_f32(b))
#define V_FNMA_f64(a, b, c) vfmsq_f64(V_NEON_f64(c), V_NEON_f64(a), V_NEON_f64(b))
#else
#define V_FMA(a, b, c)  ((a) * (b) + (c))
#define V_FNMA(a, b, c) ((c) - (a) * (b))
#endif
#endif

INLINE vbits v_to_bits(vreal a)
{
    vbits bits;
    memcpy(&bits, &a, sizeof bits);
    return bits;
}

INLINE vreal v_from_bits(vbits bits)
{
    vreal a;
    memcpy(&a, &bits, sizeof a);
    return a;
}

INLINE vreal v_set1(real s)
{
    vbits zero = {0};
    return s - v_from_bits(zero); /* s - 0 is s, also for -0: no instruction */
}

INLINE vreal v_zero(void)
{
    return v_set1(0);
}

INLINE vreal v_load(const real *p)
{
    vreal a;
    memcpy(&a, p, sizeof a);
    return a;
}

INLINE void v_store(real *p, vreal a)
{
    memcpy(p, &a, sizeof a);
}

INLINE vreal v_load_part(const real *p, ptrdiff_t n)
{
    real lane[VLEN] = {0};
    for (ptrdiff_t i = 0; i < n; i++)
        lane[i] = p[i];
    return v_load(lane);
}

INLINE void v_store_part(real *p, vreal a, ptrdiff_t n)
{
    real lane[VLEN];
    v_store(lane, a);
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = lane[i];
}

INLINE vreal v_load_few(const real *p)
{
    return v_set1(*p);
}

INLINE vreal v_few_of(vreal a, const int i)
{
    real lane[VLEN];
    v_store(lane, a);
    return v_set1(lane[i]);
}

INLINE vreal v_pick(vreal a, const int j)
{
    (void)j;
    return a;
}

INLINE vreal v_add(vreal a, vreal b)
{
    return a + b;
}

INLINE vreal v_sub(vreal a, vreal b)
{
    return a - b;
}

INLINE vreal v_mul(vreal a, vreal b)
{
    return a * b;
}

INLINE vreal v_div(vreal a, vreal b)
{
    return a / b;
}

INLINE vreal v_fma(vreal a, vreal b, vreal c)
{
    return (vreal)V_FMA(a, b, c);
}

INLINE vreal v_fnma(vreal a, vreal b, vreal c)
{
    return (vreal)V_FNMA(a, b, c);
}

INLINE vmask v_lt(vreal a, vreal b)
{
    return V_TRUE(a < b);
}

INLINE vmask v_le(vreal a, vreal b)
{
    return V_TRUE(a <= b);
}

INLINE vmask v_gt(vreal a, vreal b)
{
    return V_TRUE(a > b);
}

INLINE vmask v_eq(vreal a, vreal b)
{
    return V_TRUE(a == b);
}

INLINE vmask v_isnan(vreal a)
{
    return V_TRUE(a != a);
}

INLINE vreal v_select(vmask m, vreal a, vreal b)
{
    return v_from_bits((m & v_to_bits(a)) | (~m & v_to_bits(b)));
}

INLINE int v_count(vmask m)
{
    ureal lane[VLEN], sum = 0;
    memcpy(lane, &m, sizeof m);
    for (ptrdiff_t i = 0; i < VLEN; i++)
        sum += lane[i] & 1;
    return (int)sum;
}

INLINE int v_count2(vmask m, vmask n)
{
    return v_count(m) + v_count(n);
}

INLINE vreal v_min(vreal a, vreal b)
{
    return v_select(v_lt(a, b), a, b);
}

INLINE vreal v_max(vreal a, vreal b)
{
    return v_select(v_gt(a, b), a, b);
}

INLINE vreal v_abs(vreal a)
{
    return v_from_bits(v_to_bits(a) & ~V_SIGN);
}

INLINE vreal v_neg(vreal a)
{
    return v_from_bits(v_to_bits(a) ^ V_SIGN);
}

INLINE vreal v_copysign(vreal a, vreal b)
{
    return v_from_bits((v_to_bits(a) & ~V_SIGN) | (v_to_bits(b) & V_SIGN));
}

INLINE vreal v_sqrt(vreal a)
{
    real lane[VLEN];
    v_store(lane, a);
    for (ptrdiff_t i = 0; i < VLEN; i++)
        lane[i] = V_SQRT(lane[i]);
    return v_load(lane);
}

/* Adding REAL_MAGIC pushes the fraction out of the mantissa. */
INLINE vreal v_round(vreal a)
{
    return v_copysign((a + v_set1(REAL_MAGIC)) - v_set1(REAL_MAGIC), a);
}

/* n + REAL_MAGIC holds n in the low bits of its mantissa; n + bias moves up into the
 * exponent, what is above is shifted out. */
INLINE vreal v_exp2i(vreal n)
{
    vreal biased = n + v_set1(REAL_MAGIC + REAL_BIAS);
    return v_from_bits(v_to_bits(biased) << REAL_MANT);
}

/* In two steps, for 2^n itself may not be a normal number; the first is exact. */
INLINE vreal v_ldexp(vreal a, vreal n)
{
    vreal n1 = v_round(n * v_set1((real)0.5));
    return a * v_exp2i(n1) * v_exp2i(n - n1);
}

INLINE real v_reduce_add(vreal a)
{
    real lane[VLEN];
    v_store(lane, a);
    for (ptrdiff_t half = VLEN / 2; half > 0; half /= 2)
        for (ptrdiff_t i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}
