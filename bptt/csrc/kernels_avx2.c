/* The kernels on AVX2 with FMA. */
#include "dispatch.h"
#include "kernels.h"
#include "pool.h"
#include "simd.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>

#define ISA           avx2
#define TILE_ROWS     6
#define FETCH_COLUMNS 0

TARGET_BEGIN("avx2,fma")
#define REAL_BITS 32
#include "simd_avx2.h"
#include "kernels.inc.h"
#undef REAL_BITS

#define REAL_BITS 64
#include "simd_avx2.h"
#include "kernels.inc.h"
#undef REAL_BITS

TARGET_END

#endif
