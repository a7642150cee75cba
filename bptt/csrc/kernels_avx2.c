/* The kernels on AVX2 with FMA. */
#include <immintrin.h>
#include "dispatch.h"
#include "kernels.h"
#include "simd.h"

#define ISA       avx2
#define TILE_ROWS 6

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
