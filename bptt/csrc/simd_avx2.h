/* The vocabulary of simd.h on AVX2 with FMA. One text for both types: MM(add) is
 * _mm256_add_ps or _mm256_add_pd. No include guard: included once per REAL_BITS. */
#ifndef REAL_BITS
#error "define REAL_BITS as 32 or 64 before including this file"
#endif

#ifndef VBYTES
#define VBYTES            32
#define V_REGISTERS       16
#define V_HAS_LOOKUP      0 /* 16 entries take two permutations and a blend */
#define V_FEW             (128 / REAL_BITS)
#define MM_CAT_(op, type) _mm256_##op##_##type
#define MM_CAT(op, type)  MM_CAT_(op, type)
#define MM_TYPE           SIMD_CAT(MM_TYPE_, REAL_BITS, )
#define MM_TYPE_32        ps
#define MM_TYPE_64        pd
#define MM_INT            SIMD_CAT(MM_INT_, REAL_BITS, )
#define MM_INT_32         epi32
#define MM_INT_64         epi64
#define MM(op)            MM_CAT(op, MM_TYPE) /* _mm256_op_ps   | _mm256_op_pd    */
#define MMI(op)           MM_CAT(op, MM_INT)  /* _mm256_op_epi32 | _mm256_op_epi64 */
#define MM_TO_INT         SIMD_CAT(MM_TO_INT_, REAL_BITS, ) /* the bits of a vreal */
#define MM_TO_INT_32      _mm256_castps_si256
#define MM_TO_INT_64      _mm256_castpd_si256
#define MM_FROM_INT       MM(castsi256)
typedef __m256 vreal_f32;
typedef __m256d vreal_f64;
typedef __m128 vfew_f32;
typedef __m128d vfew_f64;
typedef __m256 vmask_f32;
typedef __m256d vmask_f64;
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
#if REAL_BITS == 32
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane));
#else
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return _mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), lane));
#endif
}

/* In halves: n is the same for a whole column of tiles, so the branches are predicted,
 * while a masked store costs tens of cycles on AMD. */
INLINE void v_store_part(real *p, vreal a, ptrdiff_t n)
{
#if REAL_BITS == 32
    __m128 b = _mm256_castps256_ps128(a);
    if (n & 4) {
        _mm_storeu_ps(p, b);
        b = _mm256_extractf128_ps(a, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_epi64((__m128i *)(void *)p, _mm_castps_si128(b));
        b = _mm_movehl_ps(b, b);
        p += 2;
    }
    if (n & 1)
        _mm_store_ss(p, b);
#else
    __m128d b = _mm256_castpd256_pd128(a);
    if (n & 2) {
        _mm_storeu_pd(p, b);
        b = _mm256_extractf128_pd(a, 1);
        p += 2;
    }
    if (n & 1)
        _mm_store_sd(p, b);
#endif
}

INLINE vreal v_load_few(const real *p)
{
    return MM(broadcast)((const NAME(vfew) *)p);
}

INLINE vreal v_few_of(vreal a, const int i)
{
    return i == 0 ? MM(permute2f128)(a, a, 0x00) : MM(permute2f128)(a, a, 0x11);
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
        return MM(permute)(a, REAL_BITS == 32 ? 0xff : 0x0f);
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
    vreal sign = MM(set1)((real)-0.0);
    return MM(or)(MM(andnot)(sign, a), MM (and)(sign, b));
}

INLINE vmask v_lt(vreal a, vreal b)
{
    return MM(cmp)(a, b, _CMP_LT_OQ);
}

INLINE vmask v_le(vreal a, vreal b)
{
    return MM(cmp)(a, b, _CMP_LE_OQ);
}

INLINE vmask v_gt(vreal a, vreal b)
{
    return MM(cmp)(a, b, _CMP_GT_OQ);
}

INLINE vmask v_eq(vreal a, vreal b)
{
    return MM(cmp)(a, b, _CMP_EQ_OQ);
}

INLINE vmask v_isnan(vreal a)
{
    return MM(cmp)(a, a, _CMP_UNORD_Q);
}

INLINE vreal v_select(vmask m, vreal a, vreal b)
{
    return MM(blendv)(b, a, m);
}

INLINE int v_count(vmask m)
{
    return POPCOUNT((unsigned)MM(movemask)(m));
}

INLINE int v_count2(vmask m, vmask n)
{
    return POPCOUNT((unsigned)MM(movemask)(m) | (unsigned)MM(movemask)(n) << VLEN);
}

INLINE vreal v_round(vreal a)
{
    return MM(round)(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* n + REAL_MAGIC holds n in the low bits of its mantissa, n + bias moves up into the
 * exponent; what is above is shifted out. */
INLINE vreal v_exp2i(vreal n)
{
    vreal biased = v_add(n, v_set1(REAL_MAGIC + REAL_BIAS));
    return MM_FROM_INT(MMI(slli)(MM_TO_INT(biased), REAL_MANT));
}

/* In two steps, for 2^n itself may not be a normal number; the first is exact. */
INLINE vreal v_ldexp(vreal a, vreal n)
{
    vreal n1 = v_round(v_mul(n, v_set1((real)0.5)));
    return v_mul(v_mul(a, v_exp2i(n1)), v_exp2i(v_sub(n, n1)));
}

INLINE real v_reduce_add(vreal a)
{
#if REAL_BITS == 32
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
#else
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
#endif
}
