/* The kernels on AVX-512 (F, DQ, BW, VL). */
#include "dispatch.h"
#include "kernels.h"
#include "pool.h"
#include "simd.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>

#define ISA           avx512
#define TILE_ROWS     12
#define FETCH_COLUMNS 1

TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,fma")
#define REAL_BITS 32
#include "simd_avx512.h"
#include "kernels.inc.h"
#undef REAL_BITS

#define REAL_BITS 64
#include "simd_avx512.h"
#include "kernels.inc.h"
#undef REAL_BITS

TARGET_END

#endif
