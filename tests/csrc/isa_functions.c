/* Compiled once per ISA, with -DISA_avx512, -DISA_avx2, -DISA_base or -DISA_scalar; the
 * first two come to nothing where they do not exist. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || !(defined(ISA_avx512) || defined(ISA_avx2))
#if defined(ISA_avx512) || defined(ISA_avx2)
#include <immintrin.h>
#endif
#include "isa_functions.h"
#include "simd.h"

#if defined(ISA_avx512)
#define ISA      avx512
#define ISA_NAME "avx512"
#define SIMD_H   "simd_avx512.h"
TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#elif defined(ISA_avx2)
#define ISA      avx2
#define ISA_NAME "avx2"
#define SIMD_H   "simd_avx2.h"
TARGET_BEGIN("avx2,fma")
#elif defined(ISA_base)
#define ISA      base
#define ISA_NAME "base"
#define SIMD_H   "simd_base.h"
#else
#define ISA      scalar
#define ISA_NAME "scalar"
#define SIMD_H   "simd_base.h"
#define BPTT_SCALAR
#endif

/* What the scalar code of simd_ops.inc.h is called per type, by SCALAR. */
#define SCALAR_SUFFIX_32 f
#define SCALAR_SUFFIX_64
#define MIN_NORMAL_f32 FLT_MIN
#define MAX_NORMAL_f32 FLT_MAX
#define MIN_NORMAL_f64 DBL_MIN
#define MAX_NORMAL_f64 DBL_MAX
#if defined(ISA_scalar) || (defined(ISA_base) && !defined(__aarch64__))
#define TEST_FMA(x, y, z)  ((x) * (y) + (z))
#define TEST_FNMA(x, y, z) ((z) - (x) * (y))
#else
#define TEST_FMA(x, y, z)  SCALAR(fma)(x, y, z)
#define TEST_FNMA(x, y, z) SCALAR(fma)(-(x), y, z)
#endif

#define REAL_BITS 32
#include SIMD_H
#include "isa_functions.inc.h"
#undef REAL_BITS
#define REAL_BITS 64
#include SIMD_H
#include "isa_functions.inc.h"
#undef REAL_BITS

#if defined(ISA_avx512) || defined(ISA_avx2)
TARGET_END
#endif
#endif
