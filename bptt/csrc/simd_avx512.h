/* The vocabulary of simd.h on AVX-512 (F, DQ, BW, VL). One text for both types: MM(add)
 * is _mm512_add_ps or _mm512_add_pd. No include guard: included once per REAL_BITS. */
#ifndef REAL_BITS
#error "define REAL_BITS as 32 or 64 before including this file"
#endif

#ifndef VBYTES
#define VBYTES            64
#define V_REGISTERS       32
#define V_HAS_LOOKUP      1
#define V_FEW             (128 / REAL_BITS)
#define MM_CAT_(op, type) _mm512_##op##_##type
#define MM_CAT(op, type)  MM_CAT_(op, type)
#define MM_TYPE           SIMD_CAT(MM_TYPE_, REAL_BITS, )
#define MM_TYPE_32        ps
#define MM_TYPE_64        pd
#define MM_FEW            SIMD_CAT(MM_FEW_, REAL_BITS, ) /* 16 bytes */
#define MM_FEW_32         f32x4
#define MM_FEW_64         f64x2
#define MM_INT            SIMD_CAT(MM_INT_, REAL_BITS, )
#define MM_INT_32         epi32
#define MM_INT_64         epi64
#define MM(op)            MM_CAT(op, MM_TYPE) /* _mm512_op_ps    | _mm512_op_pd    */
#define MMI(op)           MM_CAT(op, MM_INT)  /* _mm512_op_epi32 | _mm512_op_epi64 */
#define MM_MASK(op)       SIMD_CAT(MM(op), _, mask)
#define MM_TO_INT         SIMD_CAT(MM_TO_INT_, REAL_BITS, ) /* the bits of a vreal */
#define MM_TO_INT_32      _mm512_castps_si512
#define MM_TO_INT_64      _mm512_castpd_si512
typedef __m512 vreal_f32;
typedef __m512d vreal_f64;
typedef __mmask16 vmask_f32;
typedef __mmask8 vmask_f64;
typedef __m512i vindex_f32;
typedef __m512i vindex_f64;
#endif

INLINE vreal v_zero(void)
{
    return MM(setzero)();
}

INLINE vreal v_set1(real s)
{
    return MM(set1)(s);
}

INLINE vreal v_load(const real *p)
{
    return MM(loadu)(p);
}

INLINE void v_store(real *p, vreal a)
{
    MM(storeu)(p, a);
}

INLINE vreal v_load_part(const real *p, ptrdiff_t n)
{
    return MM(maskz_loadu)((vmask)((1u << n) - 1u), p);
}

INLINE void v_store_part(real *p, vreal a, ptrdiff_t n)
{
    MM(mask_storeu)(p, (vmask)((1u << n) - 1u), a);
}

INLINE vreal v_load_few(const real *p)
{
    return MM_CAT(broadcast, MM_FEW)(SIMD_CAT(_mm_loadu_, MM_TYPE, )(p));
}

INLINE vreal v_few_of(vreal a, const int i)
{
    switch (i) {
    case 0:
        return MM_CAT(shuffle, MM_FEW)(a, a, 0x00);
    case 1:
        return MM_CAT(shuffle, MM_FEW)(a, a, 0x55);
    case 2:
        return MM_CAT(shuffle, MM_FEW)(a, a, 0xaa);
    default:
        return MM_CAT(shuffle, MM_FEW)(a, a, 0xff);
    }
}

INLINE vreal v_pick(vreal a, const int j)
{
    switch (j) {
    case 0:
        return MM(permute)(a, 0x00);
#if REAL_BITS == 32
    case 1:
        return MM(permute)(a, 0x55);
    case 2:
        return MM(permute)(a, 0xaa);
#endif
    default:
        return MM(permute)(a, 0xff);
    }
}

INLINE vreal v_add(vreal a, vreal b)
{
    return MM(add)(a, b);
}

INLINE vreal v_sub(vreal a, vreal b)
{
    return MM(sub)(a, b);
}

INLINE vreal v_mul(vreal a, vreal b)
{
    return MM(mul)(a, b);
}

INLINE vreal v_div(vreal a, vreal b)
{
    return MM(div)(a, b);
}

INLINE vreal v_fma(vreal a, vreal b, vreal c)
{
    return MM(fmadd)(a, b, c);
}

INLINE vreal v_fnma(vreal a, vreal b, vreal c)
{
    return MM(fnmadd)(a, b, c);
}

INLINE vreal v_min(vreal a, vreal b)
{
    return MM(min)(a, b);
}

INLINE vreal v_max(vreal a, vreal b)
{
    return MM(max)(a, b);
}

INLINE vreal v_abs(vreal a)
{
    return MM(andnot)(MM(set1)((real)-0.0), a);
}

INLINE vreal v_neg(vreal a)
{
    return MM(xor)(MM(set1)((real)-0.0), a);
}

INLINE vreal v_sqrt(vreal a)
{
    return MM(sqrt)(a);
}

INLINE vreal v_copysign(vreal a, vreal b)
{
    enum { SIGN_FROM_B = 0xd8 }; /* bit by bit: sign ? b : a, of (a, b, sign) */
    __m512i sign = MM_TO_INT(MM(set1)((real)-0.0));
    return MM(castsi512)(
        MMI(ternarylogic)(MM_TO_INT(a), MM_TO_INT(b), sign, SIGN_FROM_B));
}

INLINE vmask v_lt(vreal a, vreal b)
{
    return MM_MASK(cmp)(a, b, _CMP_LT_OQ);
}

INLINE vmask v_le(vreal a, vreal b)
{
    return MM_MASK(cmp)(a, b, _CMP_LE_OQ);
}

INLINE vmask v_gt(vreal a, vreal b)
{
    return MM_MASK(cmp)(a, b, _CMP_GT_OQ);
}

INLINE vmask v_eq(vreal a, vreal b)
{
    return MM_MASK(cmp)(a, b, _CMP_EQ_OQ);
}

INLINE vmask v_isnan(vreal a)
{
    return MM_MASK(cmp)(a, a, _CMP_UNORD_Q);
}

INLINE vreal v_select(vmask m, vreal a, vreal b)
{
    return MM(mask_blend)(m, b, a);
}

INLINE int v_count(vmask m)
{
    return POPCOUNT(m);
}

INLINE int v_count2(vmask m, vmask n)
{
#if REAL_BITS == 32
    return POPCOUNT(_mm512_kunpackw(n, m));
#else
    return POPCOUNT(_mm512_kunpackb(n, m));
#endif
}

INLINE vreal v_round(vreal a)
{
    return MM(roundscale)(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE vreal v_ldexp(vreal a, vreal n)
{
    return MM(scalef)(a, n);
}

INLINE vreal v_exp2i(vreal n)
{
    return MM(scalef)(MM(set1)((real)1), n);
}

/* Bits of positive reals are ordered as the reals are; clamping them takes a cycle. */
INLINE vindex v_half_octave(vreal a, real low, real high)
{
    vindex i = MMI(max)(MM_TO_INT(a), MM_TO_INT(v_set1(low)));
    return MMI(srli)(MMI(min)(i, MM_TO_INT(v_set1(high))), REAL_MANT - 1);
}

INLINE vreal v_lookup(const real table[16], vindex i)
{
#if REAL_BITS == 32
    return _mm512_permutexvar_ps(i, v_load(table));
#else
    return _mm512_permutex2var_pd(v_load(table), i, v_load(table + 8));
#endif
}

INLINE real v_reduce_add(vreal a)
{
#if REAL_BITS == 32
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
#else
    __m256d b = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
#endif
}
