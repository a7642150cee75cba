/* The kernels on what the compiler offers unasked: SSE2, NEON, or nothing. */
#include "dispatch.h"
#include "kernels.h"
#include "pool.h"
#include "simd.h"

#define ISA           base
#define TILE_ROWS     6
#define FETCH_COLUMNS 0

#define REAL_BITS 32
#include "simd_base.h"
#include "kernels.inc.h"
#undef REAL_BITS

#define REAL_BITS 64
#include "simd_base.h"
#include "kernels.inc.h"
#undef REAL_BITS
