/* The vector vocabulary: naming, target regions, and what every operation means.
 *
 * An algorithm text (*.inc.h) is compiled once per type and once per ISA. The ISA is
 * chosen by the vocabulary file included before it; the type by ONE macro, REAL_BITS,
 * from which all names follow, so that both types share a translation unit:
 *
 *     #include "simd.h"
 *     TARGET_BEGIN("avx2,fma")
 *     #define REAL_BITS 32
 *     #include "simd_avx2.h"          // then the algorithm texts
 *     #undef REAL_BITS
 *     #define REAL_BITS 64
 *     #include "simd_avx2.h"          // and again
 *     #undef REAL_BITS
 *     TARGET_END
 *
 * `v_add` in a text is NAME(v_add), that is v_add_f32 or v_add_f64. NAME looks at
 * REAL_BITS where a name is used, not where it is defined: no name is ever undefined.
 *
 * The vocabulary (a, b, c: vreal; p: pointer to real; m: vmask)
 *
 *     real, vreal, vmask, VLEN       scalar, vector of VLEN reals, comparison result
 *     v_zero() v_set1(s)
 *     v_load(p) v_store(p, a)        any alignment
 *     v_load_part(p, n)              0 <= n < VLEN lanes; the others read as +0
 *     v_store_part(p, a, n)          0 <= n < VLEN lanes; the others are not touched
 *     v_load_few(p)                  V_FEW reals, 16 bytes, over and over; or one
 *     v_few_of(a, i)                 V_FEW lanes of a from i V_FEW on, over and over
 *     v_pick(a, j)                   entry j of each V_FEW, for all of them
 *     v_add v_sub v_mul v_div        IEEE, one rounding
 *     v_fma(a, b, c)                 a*b + c \ one rounding where the ISA has FMA,
 *     v_fnma(a, b, c)                c - a*b / otherwise two, everywhere the same
 *     v_min v_max                    a < b ? a : b, a > b ? a : b: b if either is NaN
 *     v_abs v_neg v_sqrt             the first two touch the sign bit only, NaN or not
 *     v_copysign(a, b)               magnitude of a, sign of b
 *     v_lt v_le v_gt v_eq v_isnan    masks; comparisons with NaN are false
 *     v_select(m, a, b)              m ? a : b
 *     v_count(m) v_count2(m, n)      how many lanes are true, an int
 *     v_round(a)                     nearest, ties to even, for |a| < 2^22 (2^51)
 *     v_exp2i(n)                     2^n, n integral, -126 <= n <= 127 (-1022..1023)
 *     v_ldexp(a, n)                  a 2^n rounded once, denormal results included;
 *                                    n integral, 1/4 <= |a| <= 4, |n| <= 252 (2044)
 *     v_reduce_add(a)                halves folded: lane i + lane i+VLEN/2, and so on
 *     V_REGISTERS                    how many vectors the registers hold
 *     V_HAS_LOOKUP                   1: a table of 16 is permuted in registers; then
 *     v_half_octave(a, low, high)    vindex: exponent and first mantissa bit of a >= 0
 *                                    clamped to [low, high]; NaN counts as large
 *     v_lookup(t, i)                 t[i mod 16], lane by lane
 */
#ifndef BPTT_SIMD_H
#define BPTT_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SIMD_CAT_(a, b, c) a##b##c
#define SIMD_CAT(a, b, c)  SIMD_CAT_(a, b, c)
#define NAME(x)            SIMD_CAT(x, _f, REAL_BITS)

#if defined(_MSC_VER) && !defined(__clang__)
#define INLINE      static __forceinline
#define POPCOUNT(n) ((int)__popcnt(n))
#else
#define INLINE      static inline __attribute__((always_inline))
#define POPCOUNT(n) __builtin_popcount(n)
#endif

/* A target region: the functions between its ends may use the ISA that is named, the
 * rest of the file and the build do not. Include system headers before it. MSVC needs
 * no permission to use an intrinsic. */
#define SIMD_PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define TARGET_BEGIN(isa) \
    SIMD_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define TARGET_END SIMD_PRAGMA(clang attribute pop)
#elif defined(__GNUC__)
#define TARGET_BEGIN(isa) SIMD_PRAGMA(GCC push_options) SIMD_PRAGMA(GCC target(isa))
#define TARGET_END        SIMD_PRAGMA(GCC pop_options)
#else
#define TARGET_BEGIN(isa)
#define TARGET_END
#endif

#define real  NAME(real)
#define ureal NAME(ureal) /* unsigned integer as wide as a real */
typedef float real_f32;
typedef double real_f64;
typedef uint32_t ureal_f32;
typedef uint64_t ureal_f64;

/* Layout of a real, for the bit tricks: mantissa bits, exponent bias, and 1.5 times the
 * power of two above which a real has no fraction bits. */
#define REAL_MANT      NAME(REAL_MANT)
#define REAL_BIAS      NAME(REAL_BIAS)
#define REAL_MAGIC     NAME(REAL_MAGIC)
#define REAL_MANT_f32  23
#define REAL_MANT_f64  52
#define REAL_BIAS_f32  127
#define REAL_BIAS_f64  1023
#define REAL_MAGIC_f32 0x1.8p23f
#define REAL_MAGIC_f64 0x1.8p52

#define vreal  NAME(vreal)
#define vmask  NAME(vmask)
#define vindex NAME(vindex)
#define VLEN   (VBYTES * 8 / REAL_BITS)

#define v_zero        NAME(v_zero)
#define v_set1        NAME(v_set1)
#define v_load        NAME(v_load)
#define v_store       NAME(v_store)
#define v_load_part   NAME(v_load_part)
#define v_store_part  NAME(v_store_part)
#define v_load_few    NAME(v_load_few)
#define v_few_of      NAME(v_few_of)
#define v_pick        NAME(v_pick)
#define v_add         NAME(v_add)
#define v_sub         NAME(v_sub)
#define v_mul         NAME(v_mul)
#define v_div         NAME(v_div)
#define v_fma         NAME(v_fma)
#define v_fnma        NAME(v_fnma)
#define v_min         NAME(v_min)
#define v_max         NAME(v_max)
#define v_abs         NAME(v_abs)
#define v_neg         NAME(v_neg)
#define v_sqrt        NAME(v_sqrt)
#define v_copysign    NAME(v_copysign)
#define v_lt          NAME(v_lt)
#define v_le          NAME(v_le)
#define v_gt          NAME(v_gt)
#define v_eq          NAME(v_eq)
#define v_isnan       NAME(v_isnan)
#define v_select      NAME(v_select)
#define v_count       NAME(v_count)
#define v_count2      NAME(v_count2)
#define v_round       NAME(v_round)
#define v_exp2i       NAME(v_exp2i)
#define v_ldexp       NAME(v_ldexp)
#define v_reduce_add  NAME(v_reduce_add)
#define v_half_octave NAME(v_half_octave)
#define v_lookup      NAME(v_lookup)

#endif
